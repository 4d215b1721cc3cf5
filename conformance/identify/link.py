"""Links: the steps between one named activation and the next, each with what the right network computes there.

A link takes one or more named activations and makes another one. What stands between two names without a name of its
own, such as the ReLU before a convolution, belongs to the link behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from impls.config import ResNetConfig
from impls.numpy.resnet import average_pool, convolve, max_pool, moments, normalise, pad, relu

Array = np.ndarray
Arrays = Mapping[str, Array]

IMAGES = "images"
"""Name of the input of a network among the inputs of links."""

Kind = Literal["convolution", "norm", "sum", "stem pool", "head pool", "classifier"]


@dataclass(frozen=True)
class Link:
    """A step of a network, from named activations to the next one.

    Attributes:
        name: The activation that it makes ("stage1.0.conv2", "stage1.0", "logits").
        kind: What it is.
        inputs: The activations that it is made from; of a sum, branch and shortcut.
        layer: Path of the layer whose arrays it uses ("fc" for the logits); empty for sums and pools.
        kernel: Side of a convolution's kernel.
        stride: Stride of a convolution.
        same: Whether a convolution pads as TensorFlow's SAME does.
        after_relu: Whether a ReLU stands before a convolution, or on the branch of a sum.
        channels: Number of channels of each input.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    layer: str = ""
    kernel: int = 1
    stride: int = 1
    same: bool = False
    after_relu: bool = False
    channels: tuple[int, ...] = ()

    @property
    def role(self) -> str:
        """The name of the link within its block, which other blocks have too ("conv2", "sum"); else its own name."""
        if self.kind == "sum":
            return "sum"
        return self.name.rpartition(".")[2]


def links(config: ResNetConfig) -> Iterator[Link]:
    """Yield the links of a network in the order it runs.

    Example:
        >>> [link.name for link in links(ResNetConfig())][:5]
        ['conv1', 'bn1', 'stem', 'stage1.0.conv1', 'stage1.0.bn1']
    """
    same, width = config.same_padding, config.width
    yield Link("conv1", "convolution", (IMAGES,), "conv1", 7, 2, channels=(config.in_channels,))
    yield Link("bn1", "norm", ("conv1",), "bn1", channels=(width,))
    yield Link("stem", "stem pool", ("bn1",), channels=(width,))
    before = "stem"
    for block in config.blocks():
        strides = (block.stride, 1) if config.strided_layer == "conv1" else (1, block.stride)
        inside, outside, name = block.channels, block.out_channels, block.name
        layers = [
            ("conv1", "bn1", before, 1, strides[0], block.in_channels, inside),
            ("conv2", "bn2", f"{name}.bn1", 3, strides[1], inside, inside),
            ("conv3", "bn3", f"{name}.bn2", 1, 1, inside, outside),
        ]
        if block.projects:
            layers.append(("downsample_conv", "downsample_bn", before, 1, block.stride, block.in_channels, outside))
        for conv, norm, source, kernel, stride, entering, leaving in layers:
            path = f"{name}.{conv}"
            after_relu = source != before
            pads_same = same and kernel == 3 and stride == 2
            yield Link(path, "convolution", (source,), path, kernel, stride, pads_same, after_relu, (entering,))
            yield Link(f"{name}.{norm}", "norm", (path,), f"{name}.{norm}", channels=(leaving,))
        shortcut = f"{name}.downsample_bn" if block.projects else before
        yield Link(
            name, "sum", (f"{name}.bn3", shortcut), after_relu=config.relu_before_addition, channels=(outside, outside)
        )
        before = name
    features = config.width * 32
    yield Link("pool", "head pool", (before,), channels=(features,))
    if config.num_classes:
        yield Link("logits", "classifier", ("pool",), "fc", channels=(features,))


def expected_output(link: Link, inputs: Arrays, arrays: Arrays, config: ResNetConfig, train: bool = False) -> Array:
    """Compute what the right network makes of a link's inputs.

    Args:
        link: The link.
        inputs: At least its inputs by name; convolutions and norms take maps of any size.
        arrays: Canonical arrays of the network, in float64.
        config: The network.
        train: Whether norms use the batch's statistics.
    """
    return RIGHT[link.kind](link, [inputs[name] for name in link.inputs], arrays, config, train)


def _convolution(link: Link, inputs: list[Array], arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
    x = relu(inputs[0]) if link.after_relu else inputs[0]
    y = convolve(pad(x, link.kernel, link.stride, link.same), arrays[f"{link.layer}.weight"], link.stride)
    return y + arrays[f"{link.layer}.bias"][:, None, None] if config.conv_bias else y


def _norm(link: Link, inputs: list[Array], arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
    weight, bias, mean, variance = (arrays[f"{link.layer}.{leaf}"] for leaf in NORM_LEAVES)
    if train:
        mean, variance = moments(inputs[0])
    return normalise(inputs[0], mean, variance, weight, bias, config.norm_eps)


def _sum(link: Link, inputs: list[Array], arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
    branch, shortcut = inputs
    return relu((relu(branch) if link.after_relu else branch) + shortcut)


def _stem_pool(link: Link, inputs: list[Array], arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
    return max_pool(relu(inputs[0]), config)


def _head_pool(link: Link, inputs: list[Array], arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
    return average_pool(inputs[0], config)


def _classifier(link: Link, inputs: list[Array], arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
    return inputs[0] @ arrays["fc.weight"].T + arrays["fc.bias"]


NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")
"""The arrays of a norm: scale, offset, running mean and running variance."""

Right = Callable[[Link, list[Array], Arrays, ResNetConfig, bool], Array]

RIGHT: dict[Kind, Right] = {
    "convolution": _convolution,
    "norm": _norm,
    "sum": _sum,
    "stem pool": _stem_pool,
    "head pool": _head_pool,
    "classifier": _classifier,
}
"""The function that computes each kind of link."""
