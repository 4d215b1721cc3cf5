"""What a network's checkpoint must hold: the canonical name and shape of every array, and the way back from them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from impls.config import EXPANSION, ResNetConfig

Shape = tuple[int, ...]


def expected_shapes(config: ResNetConfig) -> dict[str, Shape]:
    """Every array of the network by canonical name, with its shape, in the order the network runs.

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
    """Path and weight shape (out, in, height, width) of each convolution."""
    yield "conv1", (config.width, config.in_channels, 7, 7)
    for block in config.blocks():
        yield f"{block.name}.conv1", (block.channels, block.in_channels, 1, 1)
        yield f"{block.name}.conv2", (block.channels, block.channels, 3, 3)
        yield f"{block.name}.conv3", (block.out_channels, block.channels, 1, 1)
        if block.projects:
            yield f"{block.name}.downsample_conv", (block.out_channels, block.in_channels, 1, 1)


def infer_sizes(shapes: Mapping[str, Shape], network: ResNetConfig) -> ResNetConfig:
    """The same network in the size that the arrays have.

    The width is the one that most arrays agree on, so that a few of a wrong shape do not make all others look wrong.

    Args:
        shapes: Shape by canonical name.
        network: Says everything that shapes do not tell.

    Raises:
        ValueError: If the arrays are no bottleneck ResNet's.

    Example:
        >>> infer_sizes(expected_shapes(ResNetConfig(depths=(3, 4, 23, 3))), ResNetConfig()).depths
        (3, 4, 23, 3)
    """
    depths = (_depth(shapes, 1), _depth(shapes, 2), _depth(shapes, 3), _depth(shapes, 4))
    if min(depths) < 1 or not any(name.endswith(".conv3.weight") for name in shapes):
        raise ValueError("no bottleneck ResNet: it needs blocks of three convolutions in each of stage1 to stage4")
    narrow = expected_shapes(replace(network, depths=depths, width=1, num_classes=0))
    widths = Counter(shapes[name][0] // shape[0] for name, shape in narrow.items() if name in shapes)
    return replace(
        network,
        depths=depths,
        width=widths.most_common(1)[0][0],
        in_channels=shapes["conv1.weight"][1] if "conv1.weight" in shapes else network.in_channels,
        num_classes=next((shapes[name][0] for name in ("fc.weight", "fc.bias") if name in shapes), 0),
    )


def _depth(shapes: Mapping[str, Shape], stage: int) -> int:
    """Blocks of a stage: up to the last one named, and no more than there are arrays."""
    blocks = (int(match[1]) for name in shapes if (match := re.match(rf"stage{stage}\.(\d+)\.", name)))
    return min(1 + max(blocks, default=-1), len(shapes))


def has_conv_bias(names: Mapping[str, Shape]) -> bool:
    """Whether convolutions have a bias of their own, which only variant keras gives them.

    Example:
        >>> has_conv_bias(expected_shapes(ResNetConfig(conv_bias=True))), has_conv_bias(expected_shapes(ResNetConfig()))
        (True, False)
    """
    return any(re.search(r"conv\d?\.bias$", name) for name in names)
