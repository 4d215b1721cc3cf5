"""The `config.json` files that transformers, timm and Keras Hub put beside their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from impls.config import EXPANSION, ResNetConfig
from weights_convert.errors import ConversionError
from weights_convert.metadata import KNOWN_BY

CONFIG = "config.json"

MODEL_TYPE = "resnet"
"""The name of this network in transformers' configs."""

IN_BOTTLENECK = {"v1.5": False, "v1": True}
"""The variants that transformers' ResNet can be, with the value of its `downsample_in_bottleneck`."""

TIMM_ARCHITECTURES = ("resnet50", "resnet101", "resnet152")
"""The models of timm that are variant v1.5: the stride is on the 3x3 convolution (timm/models/resnet.py)."""

KERAS_HUB_BACKBONE = "keras_hub>ResNetBackbone"
"""The name of this network in Keras Hub's configs; its blocks are those of variant v1.5."""


def variant_from_config(folder: Path) -> dict[str, str]:
    """Return the variant that a library's config tells, and how it is known.

    Args:
        folder: The folder that may hold a config.

    Returns:
        A dictionary with the keys "variant" and `KNOWN_BY`; empty if there is no config, or it is of another model.
    """
    path = folder / CONFIG
    config = json.loads(path.read_bytes()) if path.is_file() else {}
    if not isinstance(config, dict):
        return {}
    if (architecture := config.get("architecture")) in TIMM_ARCHITECTURES:
        return {"variant": "v1.5", KNOWN_BY: f"timm's {architecture}, named in its config.json, is v1.5"}
    if config.get("registered_name") == KERAS_HUB_BACKBONE:
        return {"variant": "v1.5", KNOWN_BY: "Keras Hub's ResNetBackbone, named in its config.json, is v1.5"}
    if config.get("model_type") != MODEL_TYPE:
        return {}
    in_bottleneck = bool(config.get("downsample_in_bottleneck", False))
    variant = next(variant for variant, value in IN_BOTTLENECK.items() if value == in_bottleneck)
    return {
        "variant": variant,
        KNOWN_BY: f"downsample_in_bottleneck is {str(in_bottleneck).lower()} in its config.json",
    }


def transformers_config(network: ResNetConfig, dtype: str, where: str) -> dict[str, Any]:
    """Return the config that describes a network to transformers.

    Args:
        network: The network.
        dtype: The dtypes of its arrays, separated by commas; several are not stated.
        where: The target, for messages.

    Raises:
        ConversionError: If transformers has no such network.

    Example:
        >>> transformers_config(ResNetConfig(num_classes=0), "float32", "a.transformers")["architectures"]
        ['ResNetModel']
    """
    if network.variant not in IN_BOTTLENECK:
        problem = f"transformers' ResNet is variant {' or '.join(IN_BOTTLENECK)}; it cannot be {network.variant}"
        raise ConversionError(where, [problem], "Write a file of arrays, such as .transformers.safetensors.")
    config: dict[str, Any] = {
        "architectures": ["ResNetForImageClassification" if network.num_classes else "ResNetModel"],
        "model_type": MODEL_TYPE,
        "num_channels": network.in_channels,
        "embedding_size": network.width,
        "hidden_sizes": [network.width * EXPANSION * 2**stage for stage in range(4)],
        "depths": list(network.depths),
        "layer_type": "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": IN_BOTTLENECK[network.variant],
    }
    if network.num_classes:
        labels = {number: f"LABEL_{number}" for number in range(network.num_classes)}
        config["num_labels"] = network.num_classes
        config["id2label"] = {str(number): label for number, label in labels.items()}
        config["label2id"] = {label: number for number, label in labels.items()}
    if "," not in dtype:
        config |= {"dtype": dtype, "torch_dtype": dtype}  # the names in version 5 and in version 4
    return config
