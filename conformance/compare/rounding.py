"""The rounding bound: the largest error that rounding can explain, from the lengths of the sums alone."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt

from conformance.cases.case import Case
from conformance.cases.names import parameter_names
from conformance.trace import Trace
from impls.config import ResNetConfig

FLOAT32_UNIT, FLOAT64_UNIT = 2.0**-24, 2.0**-53
"""Half the distance from 1 to the next number: the relative error of one rounding."""

TIMES_ROUNDING = 2.0
"""Factor of safety: correct builds were seen to err by up to sqrt(sum of K) * 2^-24, K being the dot lengths."""


def rounding_bound(dot_length: int, unit: float) -> float:
    """The largest relative error that rounding can explain in sums of that many products.

    Example:
        >>> rounding_bound(10_000, FLOAT64_UNIT)
        2.220446049250313e-14
    """
    return TIMES_ROUNDING * sqrt(dot_length) * unit


def dot_lengths(config: ResNetConfig, values: Mapping[str, int] | None = None) -> dict[str, int]:
    """Count, for each activation, the products that are summed into one of its numbers by the layers up to there.

    The rounding error of a dot product of length K grows like sqrt(K), and the errors of successive layers add up
    likewise: the sum of K so far is what an error is compared with. In train mode a norm's mean and variance are sums
    as well, over all N values of a channel. Where a picture is flat, these are equal and round to the same side, and
    the error grows like N: they count as N**2 (Higham 2002, Accuracy and Stability of Numerical Algorithms, ch. 4).

    Args:
        config: The network.
        values: In train mode, what `values_per_channel` returned. A norm in a block averages over at most as many as
            the block's input has, the stem's norm over four times as many as the pool's output.
    """
    values = values or {}
    total = config.in_channels * 7 * 7
    lengths = {"conv1": total}
    averaged = values.get("stem", 0)
    total += (4 * averaged) ** 2
    lengths |= {"bn1": total, "stem": total}
    for block in config.blocks():
        for number, products in {"1": block.in_channels, "2": block.channels * 9, "3": block.channels}.items():
            total += products
            lengths[f"{block.name}.conv{number}"] = total
            total += averaged**2
            lengths[f"{block.name}.bn{number}"] = total
        if block.projects:
            lengths |= {f"{block.name}.downsample_{layer}": total for layer in ("conv", "bn")}
        lengths[block.name] = total
        averaged = values.get(block.name, 0)
    lengths["pool"] = total
    if config.num_classes:
        lengths["logits"] = total + block.out_channels
    return lengths


def gradient_lengths(config: ResNetConfig) -> dict[str, int]:
    """Count, for the loss and each gradient, the products that are summed into one number on the way back to there.

    Example:
        >>> from impls.config import VARIANTS
        >>> lengths = gradient_lengths(VARIANTS["v1.5"])
        >>> lengths["gradient.fc.bias"], lengths["gradient.stage4.2.conv3.weight"] - lengths["gradient.fc.bias"]
        (1000, 2048)
    """
    forward = dot_lengths(config)
    total = forward["logits"] + config.num_classes
    lengths = {"loss": config.num_classes, "gradient.input": total}
    for name in parameter_names(config):
        layer = name.rpartition(".")[0]
        lengths[f"gradient.{name}"] = total - forward["logits" if layer == "fc" else layer]
    return lengths


def values_per_channel(case: Case, oracle: Trace, config: ResNetConfig) -> dict[str, int]:
    """Count the values that norms average over: batch * height * width of the stem's and of each block's output.

    In inference mode norms average over nothing, and the dict is empty.
    """
    names = ["stem", *(block.name for block in config.blocks())] if case.mode == "train" else []
    shapes = {name: oracle.shape(name) for name in names if name in oracle.arrays}
    return {name: prod(shape) // shape[1] for name, shape in shapes.items()}
