"""Numbers that no trained network has. They are told, and still converted bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from weights_convert.errors import listed

UNTOUCHED = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
"""The number that fills each array of a norm before any training."""


class UnlikelyNumbers(UserWarning):
    """A checkpoint has numbers that no trained network has."""


def _is_norm(name: str) -> bool:
    return ".bn" in f".{name}" or "downsample_bn" in name


KINDS: dict[str, Callable[[str, np.ndarray], int]] = {
    "NaN or infinite": lambda name, array: int(array.size - np.count_nonzero(np.isfinite(array))),
    "negative running variances": lambda name, array: (
        int(np.count_nonzero(array < 0)) if name.endswith("running_var") else 0
    ),
    "scales of a norm that are all zero": lambda name, array: (
        array.size if _is_norm(name) and name.endswith("weight") and not array.any() else 0
    ),
}
"""Counts of each array, by what is counted: a function of its canonical name and its numbers."""


def unlikely_numbers(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return a line for each kind of number that no trained network has: how many, and where.

    Args:
        arrays: Arrays by canonical name.

    Example:
        >>> unlikely_numbers({"bn1.running_var": np.array([-1.0, np.nan])})
        ["1 NaN or infinite: 'bn1.running_var'", "1 negative running variances: 'bn1.running_var'"]
    """
    lines = []
    with np.errstate(invalid="ignore"):  # comparisons with NaN
        for kind, count in KINDS.items():
            counts = {name: number for name, array in arrays.items() if (number := count(name, array))}
            if counts:
                lines.append(f"{sum(counts.values()):,} {kind}: {listed(map(repr, counts))}")
        norms = {name: array for name, array in arrays.items() if _is_norm(name)}
        if norms and all(np.all(array == UNTOUCHED[name.rpartition(".")[2]]) for name, array in norms.items()):
            lines.append("all norms are as before training: scales and variances of 1, offsets and means of 0")
    return lines
