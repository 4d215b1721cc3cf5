"""The rounding bound: the largest error that rounding can explain, from the lengths of the sums alone."""

from __future__ import annotations

from math import prod, sqrt

from conformance.cases.case import Case
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


def values_per_channel(case: Case, oracle: Trace, config: ResNetConfig) -> dict[str, int]:
    """Count the values that norms average over: batch * height * width of the stem's and of each block's output.

    In inference mode norms average over nothing, and the dict is empty.
    """
    names = ["stem", *(block.name for block in config.blocks())] if case.mode == "train" else []
    shapes = {name: oracle.arrays[name].shape for name in names if name in oracle.arrays}
    return {name: prod(shape) // shape[1] for name, shape in shapes.items()}
