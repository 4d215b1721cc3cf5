"""Distances between arrays: how far an array of a candidate is from the oracle's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from conformance.cases.names import OFFSET
from conformance.cases.recipes import RECIPES
from conformance.trace import Trace


class Incomparable(ValueError):
    """Raised where no error can be computed between two arrays; the message says why, and the comparison fails."""


@dataclass(frozen=True)
class Measurement:
    """The distance of an array from the oracle's.

    Attributes:
        relative_l2: Norm of the difference, divided by the norm of the oracle's array or of another scale.
        largest: Largest difference, divided by the largest value of the oracle's array or of that scale.
        numbers: How many numbers the array has.
    """

    relative_l2: float
    largest: float
    numbers: int


def measure(oracle: np.ndarray, candidate: np.ndarray, scale: np.ndarray | None = None) -> Measurement:
    """Measure the error of an array, relative to the oracle's array or, where one is given, to another scale.

    Raises:
        Incomparable: If shapes differ, if either side holds NaN or infinity, or if the oracle is empty or constant or
            the scale zero.

    Example:
        >>> measure(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
        Measurement(relative_l2=0.1, largest=0.125, numbers=2)
    """
    if oracle.shape != candidate.shape:
        raise Incomparable(f"shape {candidate.shape} where {oracle.shape} is expected")
    if oracle.size == 0:
        raise Incomparable("there are no numbers to compare")
    reference = oracle.astype(np.float64, copy=False).ravel()
    difference = np.subtract(candidate.ravel(), reference, dtype=np.float64)
    lowest, highest = float(reference.min()), float(reference.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise Incomparable("the oracle holds NaN or infinity")
    if lowest == highest and (reference.size > 1 or lowest == 0):
        raise Incomparable("the oracle's numbers are all the same: equality would prove nothing")
    largest = float(max(difference.max(), -difference.min()))
    if not np.isfinite(largest):
        raise Incomparable("it holds NaN or infinity")
    # Not `vector @ vector`: BLAS would set threads on it, which fight with the workers for the processors.
    unit = reference if scale is None else scale.ravel()
    distance, norm = (float(np.sqrt(np.einsum("i,i", vector, vector))) for vector in (difference, unit))
    if norm == 0:
        raise Incomparable("the scale of the error is zero: nothing can be measured against it")
    return Measurement(distance / norm, largest / float(np.abs(unit).max()), candidate.size)


def measure_in_trace(name: str, oracle: Trace, candidate: Trace) -> Measurement:
    """Measure the error of one array of a candidate's trace.

    Raises:
        Incomparable: If either trace lacks the array, if it is not in the precision that the candidate was asked for,
            or if `measure` cannot compare it.
    """
    for owner, trace in (("the oracle has", oracle), ("it has", candidate)):
        if name not in trace.arrays:
            raise Incomparable(f"{owner} no such array")
    array, precision = candidate.arrays[name], candidate.origin.precision
    if array.dtype.name != precision:
        raise Incomparable(f"{array.dtype} where {precision} was asked for")
    if oracle.shape(name) != candidate.shape(name):
        raise Incomparable(f"shape {candidate.shape(name)} where {oracle.shape(name)} is expected")
    return measure(oracle.arrays[name], array, scale_of(name, oracle))


def scale_of(name: str, oracle: Trace) -> np.ndarray | None:
    """Return the scale of an error where the array itself is zero in theory and rounding in practice.

    In train mode a norm subtracts the mean, so an offset in front of it has no effect, and its gradient is rounding.
    The error of that gradient, and of what an optimizer keeps of it, is measured against the gradient of the layer's
    weight. AdamW divides a gradient by its own size, so an error e in it becomes a step of rate * e / eps: the bias
    itself is measured against such a step of the weight.

    Args:
        name: The array, as the trace names it.
        oracle: The oracle's trace.

    Returns:
        The array to measure the error against; None where that is the array itself.
    """
    moment, _, array = name.partition(".")
    case = oracle.origin.case
    if case.mode != "train" or not OFFSET.fullmatch(array):
        return None
    layer, path = name.removesuffix(".bias"), array.removesuffix(".bias")
    if moment == "gradient" or path.startswith(("momentum_buffer.", "exp_avg.", "exp_avg_sq.")):
        return oracle.arrays[f"{layer}.weight"]
    recipe = RECIPES.get(case.recipe)
    if recipe is None or recipe.optimizer != "adamw":
        return None
    return oracle.arrays[f"{moment}.exp_avg.{path}.weight"] * (recipe.learning_rate / (1 - recipe.beta1) / recipe.eps)
