"""The arrays of a network: the canonical name and shape of each, and the network that given shapes belong to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from impls.config import EXPANSION, ResNetConfig
from weights_convert.naming import Topology

Shape = tuple[int, ...]


def expected_shapes(config: ResNetConfig) -> dict[str, Shape]:
    """Return the shape of every array of a network by canonical name, in the order in which the network runs.

    Example:
        >>> shapes = expected_shapes(ResNetConfig())
        >>> len(shapes), shapes["stage1.0.conv2.weight"]
        (267, (64, 64, 3, 3))
    """
    shapes: dict[str, Shape] = {}
    for path, shape in _convolutions(config):
        shapes[f"{path}.weight"] = shape
        if config.conv_bias:
            shapes[f"{path}.bias"] = shape[:1]
        norm_path = re.sub(r"conv(\d)$", r"bn\1", path).replace("downsample_conv", "downsample_bn")
        shapes |= {f"{norm_path}.{leaf}": shape[:1] for leaf in ("weight", "bias", "running_mean", "running_var")}
    if config.num_classes:
        shapes["fc.weight"] = (config.num_classes, config.width * 8 * EXPANSION)
        shapes["fc.bias"] = (config.num_classes,)
    return shapes


def _convolutions(config: ResNetConfig) -> Iterator[tuple[str, Shape]]:
    """Yield the canonical path and the OIHW kernel shape of each convolution."""
    yield "conv1", (config.width, config.in_channels, 7, 7)
    for block in config.blocks():
        yield f"{block.name}.conv1", (block.channels, block.in_channels, 1, 1)
        yield f"{block.name}.conv2", (block.channels, block.channels, 3, 3)
        yield f"{block.name}.conv3", (block.out_channels, block.channels, 1, 1)
        if block.projects:
            yield f"{block.name}.downsample_conv", (block.out_channels, block.in_channels, 1, 1)


def infer_sizes(shapes: Mapping[str, Shape], network: ResNetConfig) -> ResNetConfig:
    """Return a network with depths, width, classes and input channels taken from the shapes of its arrays.

    The width is the one that most arrays agree on, so that a few arrays of a wrong shape are reported as wrong rather
    than all others.

    Args:
        shapes: Shape of each array by canonical name.
        network: The network that provides every other field.

    Raises:
        ValueError: If the arrays are not those of a bottleneck ResNet.

    Example:
        >>> infer_sizes(expected_shapes(ResNetConfig(depths=(3, 4, 23, 3))), ResNetConfig()).depths
        (3, 4, 23, 3)
    """
    depths = tuple(
        min(depth, len(shapes)) for depth in Topology.from_names(shapes).depths
    )  # a name may claim any number
    if min(depths) < 1 or not any(name.endswith(".conv3.weight") for name in shapes):
        raise ValueError("not a bottleneck ResNet: stage1 to stage4 must each have blocks of three convolutions")
    narrow = expected_shapes(replace(network, depths=depths, width=1, num_classes=0))
    widths = Counter(shapes[name][0] // shape[0] for name, shape in narrow.items() if name in shapes)
    return replace(
        network,
        depths=depths,
        width=widths.most_common(1)[0][0],
        in_channels=shapes["conv1.weight"][1] if "conv1.weight" in shapes else network.in_channels,
        num_classes=next((shapes[name][0] for name in ("fc.weight", "fc.bias") if name in shapes), 0),
    )


def has_conv_bias(names: Iterable[str]) -> bool:
    """Return whether convolutions have a bias, as only variant keras has, given all canonical names.

    Example:
        >>> has_conv_bias(expected_shapes(ResNetConfig(conv_bias=True))), has_conv_bias(expected_shapes(ResNetConfig()))
        (True, False)
    """
    return any(re.search(r"conv\d?\.bias$", name) for name in names)
