"""The configuration of timm's ResNets: a row for every field of `config.json`, `model_args` and `pretrained_cfg`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from impls.config import ResNetConfig
from weights_convert.configurations.fields import Field, Findings, decides, neutral, read_fields, states

ARCHITECTURES: dict[str, tuple[int, ...]] = {
    "resnet26": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "resnet200": (3, 24, 36, 3),
    "tv_resnet50": (3, 4, 6, 3),
    "tv_resnet101": (3, 4, 23, 3),
    "tv_resnet152": (3, 8, 36, 3),
    "ssl_resnet50": (3, 4, 6, 3),
    "swsl_resnet50": (3, 4, 6, 3),
    "gluon_resnet50_v1b": (3, 4, 6, 3),
    "gluon_resnet101_v1b": (3, 4, 23, 3),
    "gluon_resnet152_v1b": (3, 8, 36, 3),
}
"""The models of timm that are variant v1.5, with their depths; the last eight names are those of older releases."""

V15 = ("v1.5",)


def _classes(network: ResNetConfig) -> list[Any] | None:
    return [network.num_classes] if network.num_classes else None


POOLING = decides("the pooling before the classifier", *((name, V15) for name in ("avg", "")), default="avg")
"""The empty name leaves out pooling and classifier; the body is the same."""

MODEL_ARGS: dict[str, Field] = {
    "output_stride": decides("the stride of the whole network; below 32, stages are dilated", (32, V15), default=32),
    "act_layer": decides("every activation", ("relu", V15), default="relu"),
    "norm_layer": decides("every norm", ("batchnorm2d", V15), ("batchnorm", V15), default="batchnorm2d"),
    "aa_layer": decides("the blur beside each stride", (None, V15), default=None),
    "global_pool": POOLING,
    "cardinality": decides("the groups of the 3x3 convolutions", (1, V15), default=1),
    "base_width": decides("the width of the 3x3 convolutions", (64, V15), default=64),
    "stem_width": decides("the width of a stem of several layers", (64, V15), default=64),
    "stem_type": decides("the layers of the stem", ("", V15), default=""),
    "replace_stem_pool": decides("the pooling of the stem", (False, V15), default=False),
    "block_reduce_first": decides("the width of the first 1x1 convolutions", (1, V15), default=1),
    "down_kernel_size": decides("the kernel of the shortcut's convolution", (1, V15), default=1),
    "avg_down": decides("the pooling in the shortcut", (False, V15), default=False),
    "block_args": decides("further layers of the blocks", (None, V15), ({}, V15), default=None),
    "pruned": decides("the widths of pruned layers", (False, V15), default=False),
    "in_chans": states("the channels of the image", lambda network: [network.in_channels]),
    "num_classes": states("the classes", _classes),
    "layers": states("the blocks of the stages", lambda network: [list(network.depths)]),
    "channels": states("the width of the stages", lambda network: [[network.width * 2**stage for stage in range(4)]]),
    **neutral("training alone", "drop_rate", "drop_path_rate", "drop_block_rate", "drop_connect_rate"),
    **neutral("initial weights", "zero_init_last", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
    **neutral("initial weights", "pretrained_strict", "checkpoint_path", "cache_dir"),
    **neutral("which activations a call returns", "features_only", "out_indices", "feature_cls"),
    **neutral("where and how it runs", "device", "dtype", "scriptable", "exportable", "no_jit"),
}
"""The fields of `model_args`: the arguments of `timm.models.resnet.ResNet` and of timm's factory."""

PRETRAINED_CFG: dict[str, Field] = {
    "architecture": decides(
        "the model that the weights were made for", *((name, V15) for name in (*ARCHITECTURES, None)), default=None
    ),
    "label_offset": decides("classes that timm drops when it loads the file", (None, V15), (0, V15), default=None),
    "custom_load": decides("a format of its own", (False, V15), default=False),
    "global_pool": POOLING,
    **neutral("where the weights come from", "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source"),
    **neutral("where the weights come from", "tag", "license", "description", "origin_url"),
    **neutral("where the weights come from", "paper_name", "paper_ids", "notes"),
    **neutral(
        "the images, which are prepared before the network",
        *("input_size", "test_input_size", "min_input_size", "fixed_input_size"),
        *("interpolation", "crop_pct", "test_crop_pct", "crop_mode", "mean", "std"),
    ),
    **neutral("the size of the last feature map, which follows from the image", "pool_size", "test_pool_size"),
    **neutral("the classes that timm's own weights have; num_classes beside it states the model's", "num_classes"),
    **neutral("names of classes", "label_names", "label_descriptions", "labels"),
    **neutral("names of layers, which the arrays have themselves", "first_conv", "classifier"),
}
"""The fields of `pretrained_cfg`; in files of older releases they stand at the top."""

TOP: dict[str, Field] = {
    "architecture": decides(
        "the model",
        *((name, V15) for name in ARCHITECTURES),
        sizes=lambda network: [name for name, depths in ARCHITECTURES.items() if depths == tuple(network.depths)],
    ),
    "num_classes": states("the classes", _classes),
    "global_pool": POOLING,
    **neutral("the length of the features, which the arrays have themselves", "num_features"),
    **neutral("names of classes", "label_names", "label_descriptions", "labels"),
}
"""The fields at the top of `config.json`."""

FIELDS: dict[str, Field] = {
    **TOP,
    **{f"model_args.{name}": row for name, row in MODEL_ARGS.items()},
    **{f"pretrained_cfg.{name}": row for name, row in PRETRAINED_CFG.items()},
}
"""Every field, by its name; a field of an object within is joined by a dot.

Sources: `timm/models/resnet.py`, `_builder.py`, `_hub.py` and `_pretrained.py`.
"""


def is_ours(config: Mapping[str, Any]) -> bool:
    """Return whether a `config.json` is one of timm."""
    return "architecture" in config or "pretrained_cfg" in config


def read(config: Mapping[str, Any], place: str, findings: Findings) -> None:
    """Add what a `config.json` of timm says; of another architecture, only which it is."""
    source = findings.add_source("timm", place)
    if config.get("architecture") not in ARCHITECTURES:
        config = {"architecture": config.get("architecture")}
    elif "pretrained_cfg" not in config:
        old = {name: value for name, value in config.items() if name in PRETRAINED_CFG and name not in TOP}
        config = {name: value for name, value in config.items() if name not in old} | {"pretrained_cfg": old}
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name in ("model_args", "pretrained_cfg") and isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": content for inner, content in value.items()}
        else:
            flat[name] = value
    table = FIELDS
    if "model_args.layers" in flat:  # these are the depths, whatever the architecture has
        table = FIELDS | {"architecture": replace(FIELDS["architecture"], sizes=None)}
    read_fields(flat, table, source, findings)
