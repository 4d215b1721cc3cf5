"""The differences between two checkpoints, array by array, under canonical names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """An array that two checkpoints do not share bit for bit.

    Attributes:
        name: The canonical name of the array.
        what: The difference in one line, for example "only in the first" or "3 of 64 numbers".
        relative_l2: The norm of the difference divided by the norm of the first array; None where it is not finite, or
            the arrays cannot be compared.
        largest: The largest absolute difference of two numbers; None as above.
    """

    name: str
    what: str
    relative_l2: float | None = None
    largest: float | None = None


def differences(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> list[Difference]:
    """Compare two sets of arrays bit for bit.

    Args:
        first: Arrays by canonical name.
        second: Arrays by canonical name.

    Returns:
        The arrays that differ, in the order of `first`, followed by those that only `second` has.

    Example:
        >>> differences({"fc.bias": np.array([1.0, 2.0])}, {"fc.bias": np.array([1.0, 2.5])})[0].largest
        0.5
    """
    differing = []
    for name, array in first.items():
        if name not in second:
            differing.append(Difference(name, "only in the first"))
        elif (difference := _difference(name, array, second[name])) is not None:
            differing.append(difference)
    return differing + [Difference(name, "only in the second") for name in second if name not in first]


def _difference(name: str, first: np.ndarray, second: np.ndarray) -> Difference | None:
    if first.shape != second.shape:
        return Difference(name, f"shape {first.shape} and {second.shape}")
    if first.dtype == second.dtype and first.tobytes() == second.tobytes():
        return None
    with np.errstate(invalid="ignore", over="ignore"):  # for signalling NaNs and numbers near the largest
        wide, other = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
        distance = np.where((wide == other) | (np.isnan(wide) & np.isnan(other)), 0.0, np.abs(wide - other))
        distance[np.isnan(distance)] = np.inf
        relative = _finite(float(np.linalg.norm(distance) / np.linalg.norm(wide)) if wide.any() else np.inf)
    dtypes = f"dtype {first.dtype.name} and {second.dtype.name}, " if first.dtype != second.dtype else ""
    count = int(np.count_nonzero(distance))
    if count:
        what = f"{dtypes}{count:,} of {wide.size:,} numbers"
    else:
        what = f"{dtypes}equal numbers" if dtypes else "bits of NaNs or signs of zeros"
    return Difference(name, what, relative, _finite(distance.max(initial=0.0)))


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
