"""The configuration of transformers' ResNet: a row for every field of `ResNetConfig`, of versions 4 and 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from impls.config import EXPANSION
from weights_convert.configurations.fields import Field, Findings, decides, neutral, read_fields, states

MODEL_TYPE = "resnet"
"""The name of this network in transformers' configurations."""

IN_BOTTLENECK = {"v1.5": False, "v1": True}
"""The variants that transformers' ResNet can be, with the value of its `downsample_in_bottleneck`."""

BOTH = tuple(IN_BOTTLENECK)

CLASSES = tuple(
    f"{framework}ResNet{head}"
    for framework in ("", "Flax", "TF")
    for head in ("ForImageClassification", "Model", "Backbone")
)
"""The classes of transformers that are built by this configuration; Flax's and TensorFlow's are of version 4."""

FIELDS: dict[str, Field] = {
    "model_type": decides("the model", (MODEL_TYPE, BOTH), default=MODEL_TYPE),
    "architectures": decides(
        "the class of the model", (None, BOTH), *(([name], BOTH) for name in CLASSES), default=None
    ),
    "auto_map": decides("code of its own, which computes anything", (None, BOTH), ({}, BOTH), default=None),
    "quantization_config": decides("how its numbers are stored and multiplied", (None, BOTH), default=None),
    "layer_type": decides("the blocks", ("bottleneck", BOTH), default="bottleneck"),
    "hidden_act": decides(
        "the activation of the stem and after each addition",
        ("relu", BOTH),
        default="relu",
    ),
    "downsample_in_first_stage": decides(
        "the stride of stage 1: 2 in its first block if true", (False, BOTH), default=False
    ),
    "downsample_in_bottleneck": decides(
        "the convolution with the stride of a strided block: the first 1x1 if true, the 3x3 if false",
        *((value, (variant,)) for variant, value in IN_BOTTLENECK.items()),
        default=False,
    ),
    "num_channels": states("the channels of the image", lambda network: [network.in_channels]),
    "embedding_size": states("the channels of the stem", lambda network: [network.width]),
    "hidden_sizes": states(
        "the channels of the stages", lambda network: [[network.width * EXPANSION * 2**stage for stage in range(4)]]
    ),
    "depths": states("the blocks of the stages", lambda network: [list(network.depths)]),
    **{
        name: states(
            "the classes", lambda network: [network.num_classes] if network.num_classes else None, measure=measure
        )
        for name, measure in {"num_labels": lambda count: count, "id2label": len}.items()
    },
    **neutral("names of classes", "label2id"),
    **neutral("where the file comes from", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash"),
    **neutral("the precision in which the library loads the weights; the file's own is kept", "dtype", "torch_dtype"),
    **neutral(
        "what a call returns beside the logits",
        *("output_hidden_states", "output_attentions", "return_dict", "torchscript"),
        *("out_features", "out_indices", "stage_names"),
    ),
    **neutral("the loss in training", "problem_type", "finetuning_task", "task_specific_params"),
    **neutral("the memory of feed-forward layers, which this network lacks", "chunk_size_feed_forward"),
    **neutral(
        "text models alone",
        *("is_encoder_decoder", "is_decoder", "add_cross_attention", "tie_encoder_decoder", "tie_word_embeddings"),
        *("cross_attention_hidden_size", "pruned_heads", "use_cache", "prefix", "tokenizer_class"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    ),
    **neutral("the hardware", "use_bfloat16", "tf_legacy_loss", "xla_device"),
}
"""Every field, by its name. Sources: `configuration_resnet.py`, `modeling_resnet.py` and `configuration_utils.py`."""

TELLING = ("model_type", "architectures", *(name for name in FIELDS if name.startswith("downsample_in_")))
"""The fields by which a configuration is recognised as one of transformers."""


def is_ours(config: Mapping[str, Any]) -> bool:
    """Return whether a `config.json` is one of transformers."""
    return any(name in config for name in TELLING)


def read(config: Mapping[str, Any], place: str, findings: Findings) -> None:
    """Add what a `config.json` of transformers says; of another model, only which it is."""
    source = findings.add_source("transformers", place)
    if config.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        config = {"model_type": config["model_type"]}
    read_fields(config, FIELDS, source, findings)
