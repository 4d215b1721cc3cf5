"""Judges initial weights by their moments: two draws from one distribution differ by chance alone."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt

import numpy as np

from conformance.cases.names import expected_names
from conformance.compare.comparison import Verdict
from conformance.compare.limits import MANY, STANDARD_ERRORS
from conformance.compare.noise import NoiseFloors
from conformance.trace import Trace
from impls.config import ResNetConfig
from weights_convert.shapes import expected_shapes

MOMENTS = {"mean": (1, 1.0), "variance": (2, 2.0), "fourth moment": (4, 96.0)}
"""Moments by name: the power of the deviation that is averaged, and n times the variance of the moment itself in a draw
of n standard normal numbers."""


def judge_initialisation(
    oracle: Trace, candidate: Trace, config: ResNetConfig, floors: NoiseFloors
) -> dict[str, Verdict]:
    """Judge every array of a network without given weights; returns verdicts by name, in the order of the layers."""
    sizes = [prod(shape) for shape in expected_shapes(config).values()]
    names = expected_names(candidate.origin.case, config)
    return {
        name: judge_initial(name, oracle.arrays, candidate.arrays, size)
        for name, size in zip(names, sizes, strict=True)
    }


def judge_initial(
    name: str, oracle: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray], numbers: int
) -> Verdict:
    """Judge whether an array may come from the same distribution as the oracle's; constants must be equal.

    Two draws of n normal numbers of variance v have means that differ by about sqrt(2 v / n), variances by
    sqrt(4 v^2 / n) and fourth moments by sqrt(192 v^4 / n) (Kendall and Stuart, The Advanced Theory of Statistics 1,
    ch. 10). The error is the largest of the three differences, in these standard errors.

    Args:
        name: The array.
        oracle: Mean, variance and fourth moment of the oracle's arrays, by name.
        candidate: The same moments of the candidate's arrays.
        numbers: How many numbers the array itself has.
    """
    if name not in candidate:
        return Verdict(None, None, False, "it has no such array")
    right, drawn = (dict(zip(MOMENTS, moments[name], strict=True)) for moments in (oracle, candidate))
    if right["variance"] == 0:
        equal = drawn == right
        return Verdict(None, None, equal, "" if equal else f"not {right['mean']:g} throughout, as it should start")
    variance = (right["variance"] + drawn["variance"]) / 2
    errors = {
        moment: abs(drawn[moment] - right[moment]) / sqrt(2 * own_variance * variance**power / numbers)
        for moment, (power, own_variance) in MOMENTS.items()
        if power < 4 or numbers >= MANY
    }
    worst = max(errors, key=lambda moment: errors[moment])
    passed = all(error <= STANDARD_ERRORS for error in errors.values())  # a moment that is NaN does not pass
    reason = f"drawn from something else: {worst} {drawn[worst]:.2e} where {right[worst]:.2e} is expected"
    return Verdict(errors[worst], STANDARD_ERRORS, passed, "" if passed else reason)
