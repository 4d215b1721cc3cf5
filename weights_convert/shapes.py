"""What a network's checkpoint must hold: the canonical name and shape of every array, and the way back from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from impls.config import EXPANSION, VARIANTS, ResNetConfig

Shape = tuple[int, ...]


def expected_shapes(config: ResNetConfig) -> dict[str, Shape]:
    """Every array of the network by canonical name, with its shape, in the order the network runs.

    Example:
        >>> shapes = expected_shapes(VARIANTS["v1.5"])
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


def infer_sizes(shapes: Mapping[str, Shape], variant: str) -> ResNetConfig:
    """The variant's network in the size that the arrays have.

    Args:
        shapes: Shape by canonical name.
        variant: One of `impls.config.VARIANTS`.

    Raises:
        ValueError: If the arrays are no bottleneck ResNet's, or the variant has other arrays than these.
    """
    stem = shapes.get("conv1.weight", ())
    depths = [
        1 + max((int(m[1]) for name in shapes if (m := re.match(rf"stage{stage}\.(\d+)\.", name))), default=-1)
        for stage in (1, 2, 3, 4)
    ]
    if len(stem) != 4 or min(depths) < 1:
        raise ValueError("no bottleneck ResNet: it needs a stem 'conv1.weight' of 4 axes and blocks in each of stage1 to stage4")
    if has_conv_bias(shapes) != VARIANTS[variant].conv_bias:
        held, wanted = ("holds", "has none") if has_conv_bias(shapes) else ("holds no", "has them")
        raise ValueError(f"it {held} biases of convolutions, and variant {variant} {wanted}")
    return replace(
        VARIANTS[variant],
        depths=tuple(depths),
        width=stem[0],
        in_channels=stem[1],
        num_classes=shapes["fc.weight"][0] if "fc.weight" in shapes else 0,
    )


def has_conv_bias(names: Mapping[str, Shape]) -> bool:
    """Whether convolutions have a bias of their own, which only variant keras gives them."""
    return "conv1.bias" in names
