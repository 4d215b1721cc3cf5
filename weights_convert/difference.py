"""What differs between two checkpoints of any dialects, array by array, under canonical names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Difference:
    """One array that is not the same in both.

    Attributes:
        name: Its canonical name.
        what: In one line: only in one of them, or in what they differ.
        relative_l2: Norm of the difference over norm of the first's; None where that is no number.
        largest: The largest difference of two numbers; None likewise.
    """

    name: str
    what: str
    relative_l2: float | None = None
    largest: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


def differences(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> list[Difference]:
    """Every array that is not equal bit for bit, in the first one's order, then those of the second alone.

    Args:
        first: Arrays by canonical name.
        second: The same of the other.

    Example:
        >>> differences({"fc.bias": np.array([1.0, 2.0])}, {"fc.bias": np.array([1.0, 2.5])})[0].largest
        0.5
    """
    found = []
    for name, array in first.items():
        if name not in second:
            found.append(Difference(name, "only in the first"))
        elif (difference := _difference(name, array, second[name])) is not None:
            found.append(difference)
    return found + [Difference(name, "only in the second") for name in second if name not in first]


def _difference(name: str, first: np.ndarray, second: np.ndarray) -> Difference | None:
    if first.shape != second.shape:
        return Difference(name, f"shape {first.shape} and {second.shape}")
    if first.dtype == second.dtype and first.tobytes() == second.tobytes():
        return None
    with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN raises where it is widened
        wide, other = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
        distance = np.where((wide == other) | (np.isnan(wide) & np.isnan(other)), 0.0, np.abs(wide - other))
        distance[np.isnan(distance)] = np.inf
        relative = _finite(float(np.linalg.norm(distance) / np.linalg.norm(wide)) if wide.any() else np.inf)
    kinds = f"dtype {first.dtype.name} and {second.dtype.name}, " if first.dtype != second.dtype else ""
    count = int(np.count_nonzero(distance))
    what = (
        f"{kinds}{count:,} of {wide.size:,} numbers" if count else f"{kinds}equal numbers" if kinds else "NaN or sign"
    )
    return Difference(name, what, relative, _finite(distance.max(initial=0.0)))


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
