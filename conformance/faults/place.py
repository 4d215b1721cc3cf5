"""The places of a network where a fault can be, and conditions that select some of them.

Example:
    >>> where = (at("conv", kernel=3, stride=2) | NETWORK) & networks(same_padding=False)
    >>> print(where)
    a convolution (kernel 3, stride 2) or the whole network, in networks with same_padding=False
    >>> [place.name for place in places(ResNetConfig()) if where.holds(place, ResNetConfig())]
    ['network', 'stage2.0.conv2', 'stage3.0.conv2', 'stage4.0.conv2']
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from impls.config import ResNetConfig

Scope = Literal["conv", "norm", "block", "stem", "head", "network", "input"]

SCOPES: dict[Scope, str] = {
    "conv": "a convolution",
    "norm": "a batch norm",
    "block": "a residual block",
    "stem": "the stem",
    "head": "the head",
    "network": "the whole network",
    "input": "the images",
}
"""Each kind of place in words."""

FACTS = {
    ("square", True): "with as many input as output channels",
    ("followed", True): "whose arrays have the same shapes in the next block",
    ("projects", True): "with a projected shortcut",
    ("projects", False): "with an identity shortcut",
}
"""Attributes of a place that are true or false, in words."""


@dataclass(frozen=True)
class Place:
    """A layer, block or larger part of a network.

    Attributes:
        name: Canonical name of the layer ("stage1.0.conv2", "fc") or block ("stage1.0"), or "stem", "head", "network",
            "input".
        scope: What kind of part it is; the classifier is of scope "head".
        kernel: Side of a convolution's kernel.
        stride: Stride of a convolution or a block.
        in_channels: Channels that enter a convolution or a block.
        out_channels: Channels that leave a convolution or a block.
        projects: Whether the shortcut of a block has a convolution.
        following: Name of the same layer or block in the next block, if its arrays have the same shapes; else empty.
    """

    name: str
    scope: Scope
    kernel: int = 0
    stride: int = 1
    in_channels: int = 0
    out_channels: int = 0
    projects: bool = False
    following: str = ""

    @property
    def square(self) -> bool:
        """Whether as many channels enter as leave."""
        return self.in_channels == self.out_channels

    @property
    def followed(self) -> bool:
        """Whether the next block has arrays of the same shapes."""
        return bool(self.following)


def places(config: ResNetConfig) -> Iterator[Place]:
    """Every place of a network, in the order it runs; the input and the whole network come first.

    Example:
        >>> [place.name for place in places(ResNetConfig())][:6]
        ['input', 'network', 'stem', 'conv1', 'bn1', 'stage1.0']
    """
    yield from (Place("input", "input"), Place("network", "network"), Place("stem", "stem"))
    yield from (Place("conv1", "conv", 7, 2, config.in_channels, config.width), Place("bn1", "norm"))
    blocks = list(config.blocks())
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        twin = ""
        if after is not None and (after.in_channels, after.channels) == (block.in_channels, block.channels):
            twin = after.name
        name, inside, outside = block.name, block.channels, block.out_channels
        yield Place(name, "block", 0, block.stride, block.in_channels, outside, block.projects, twin)
        strides = (block.stride, 1) if config.strided_layer == "conv1" else (1, block.stride)
        convolutions = [
            ("conv1", "bn1", 1, strides[0], block.in_channels, inside),
            ("conv2", "bn2", 3, strides[1], inside, inside),
            ("conv3", "bn3", 1, 1, inside, outside),
        ]
        if block.projects:
            convolutions.append(("downsample_conv", "downsample_bn", 1, block.stride, block.in_channels, outside))
        for conv, norm, kernel, stride, inputs, outputs in convolutions:
            inner = after is not None and after.channels == block.channels and not conv.startswith("downsample")
            same = [f"{after.name}.{layer}" if after and inner else "" for layer in (conv, norm)]
            if conv == "conv1" and not twin:
                same[0] = ""
            yield Place(f"{name}.{conv}", "conv", kernel, stride, inputs, outputs, following=same[0])
            yield Place(f"{name}.{norm}", "norm", following=same[1])
    yield Place("head", "head")


@dataclass(frozen=True)
class Where:
    """A condition on a place of a network, in words and as a function; conditions combine with `|` and `&`.

    Attributes:
        words: The condition in words.
        holds: Whether a place of a network meets it.
        scopes: The kinds of place that it names; empty if it is about the network alone.
    """

    words: str
    holds: Callable[[Place, ResNetConfig], bool]
    scopes: tuple[Scope, ...] = ()

    def __or__(self, other: Where) -> Where:
        return Where(
            f"{self} or {other}",
            lambda place, config: self.holds(place, config) or other.holds(place, config),
            (*self.scopes, *other.scopes),
        )

    def __and__(self, other: Where) -> Where:
        return Where(
            f"{self}, {other}",
            lambda place, config: self.holds(place, config) and other.holds(place, config),
            (*self.scopes, *other.scopes),
        )

    def __str__(self) -> str:
        return self.words


def at(scope: Scope, **facts: Any) -> Where:
    """Places of a kind whose attributes have the given values; a tuple allows each of its values.

    Example:
        >>> str(at("conv", kernel=(3, 7), square=True))
        'a convolution (kernel 3 or 7, with as many input as output channels)'
    """
    allowed = {name: value if isinstance(value, tuple) else (value,) for name, value in facts.items()}
    words = [
        FACTS.get((name, value), f"{name} {' or '.join(map(str, allowed[name]))}") for name, value in facts.items()
    ]

    def holds(place: Place, config: ResNetConfig) -> bool:
        return place.scope == scope and all(getattr(place, name) in values for name, values in allowed.items())

    return Where(f"{SCOPES[scope]} ({', '.join(words)})" if facts else SCOPES[scope], holds, (scope,))


def networks(**fields: Any) -> Where:
    """Every place of the networks whose configuration has the given values.

    Example:
        >>> str(networks(conv_bias=True))
        'in networks with conv_bias=True'
    """
    words = ", ".join(f"{name}={value}" for name, value in fields.items())
    return Where(
        f"in networks with {words}",
        lambda place, config: all(getattr(config, name) == value for name, value in fields.items()),
    )


def networks_without(**fields: Any) -> Where:
    """Every place of the networks whose configuration differs from the given values in any of them.

    Example:
        >>> str(networks_without(norm_eps=0.001))
        'in networks without norm_eps=0.001'
    """
    alike = networks(**fields)
    words = alike.words.replace("with", "without", 1)
    return Where(words, lambda place, config: not alike.holds(place, config))


NETWORK = at("network")
WITH_CLASSES = Where("in networks with more than one class", lambda place, config: config.num_classes > 1)
"""Every place of the networks that have a loss."""

TRAINING = replace(NETWORK & WITH_CLASSES, words="the training of networks with more than one class")
"""The place of faults that are in no part of the network: it is called "network", too."""
