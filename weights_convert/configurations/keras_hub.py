"""The configuration of Keras Hub's ResNets: a row for every field of `ResNetBackbone` and `ResNetImageClassifier`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from impls.config import STAGE_STRIDES
from weights_convert.configurations.fields import Field, Findings, decides, neutral, read_fields, states
from weights_convert.configurations.keras_layers import DTYPE, HEAD_ACTIVATION

BACKBONE, CLASSIFIER = "keras_hub>ResNetBackbone", "keras_hub>ResNetImageClassifier"
"""The names of this network in Keras Hub's configurations."""

V15 = ("v1.5",)

BACKBONE_FIELDS: dict[str, Field] = {
    "block_type": decides("the blocks", ("bottleneck_block", V15)),
    "use_pre_activation": decides("the order of norm, ReLU and convolution", (False, V15), default=False),
    "stackwise_num_strides": decides("the strides of the stages", (list(STAGE_STRIDES), V15)),
    "input_conv_kernel_sizes": decides("the kernels of the stem", ([7], V15)),
    "input_conv_filters": states("the channels of the stem", lambda network: [[network.width]]),
    "stackwise_num_filters": states(
        "the width of the stages", lambda network: [[network.width * 2**stage for stage in range(4)]]
    ),
    "stackwise_num_blocks": states("the blocks of the stages", lambda network: [list(network.depths)]),
    "data_format": decides(
        "the axis of the channels", *((name, V15) for name in ("channels_last", "channels_first", None)), default=None
    ),
    "dtype": DTYPE,
    **neutral("the size of the image; the arrays have its channels themselves", "image_shape"),
    **neutral("training alone", "trainable"),
    **neutral("a name", "name"),
}
"""Every field of `ResNetBackbone`. Source: `keras_hub/src/models/resnet/resnet_backbone.py`."""

CLASSIFIER_FIELDS: dict[str, Field] = {
    "pooling": decides("the pooling before the classifier", ("avg", V15), default="avg"),
    "activation": HEAD_ACTIVATION,
    "num_classes": states("the classes", lambda network: [network.num_classes] if network.num_classes else None),
    "dtype": DTYPE,
    "head_dtype": DTYPE,
    **neutral("training alone", "dropout", "trainable"),
    **neutral("the images, which are prepared before the network", "preprocessor"),
    **neutral("a name", "name"),
}
"""Every field of `ResNetImageClassifier` but its backbone. Source: `keras_hub/src/models/image_classifier.py`."""

TABLES = {BACKBONE: BACKBONE_FIELDS, CLASSIFIER: CLASSIFIER_FIELDS}
"""The fields of each class, by its registered name."""

MODEL_FIELDS = (
    "module",
    "class_name",
    "registered_name",
    "config",
    "build_config",
    "compile_config",
    "shared_object_id",
)
"""The parts of a serialised model. All but its config say which class it is, and how it was built and trained."""


def is_ours(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is of a model of Keras Hub."""
    return str(config.get("registered_name")).startswith("keras_hub>")


def read(config: Mapping[str, Any], place: str, findings: Findings) -> None:
    """Add what the configuration of a backbone or of a classifier with its backbone says."""
    _read_model(config, findings.add_source("Keras Hub", place), findings)


def _read_model(config: Mapping[str, Any], source: str, findings: Findings) -> None:
    name = config["registered_name"]
    known = decides("the model", *((known, V15) for known in TABLES))
    read_fields({"registered_name": name}, {"registered_name": known}, source, findings)
    if name not in TABLES:
        return
    findings.unclassified += [(source, key, value) for key, value in config.items() if key not in MODEL_FIELDS]
    fields = dict(config["config"])
    backbone = fields.pop("backbone", None) if name == CLASSIFIER else None
    read_fields(fields, TABLES[name], source, findings)
    if backbone is not None:
        _read_model(backbone, f"{source} (backbone)", findings)
    elif name == CLASSIFIER:
        findings.problems.append(f"{source}: it names no backbone")
