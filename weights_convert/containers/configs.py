"""The `config.json` that describes a network to transformers."""

from __future__ import annotations

from typing import Any

from impls.config import EXPANSION, ResNetConfig
from weights_convert.configurations.transformers import IN_BOTTLENECK, MODEL_TYPE
from weights_convert.errors import ConversionError


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
