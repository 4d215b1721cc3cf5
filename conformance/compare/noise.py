"""Noise: the errors of reference builds, which are correct and differ from the oracle by rounding alone."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import ClassVar

from conformance.compare.measure import Incomparable, measure, scale_of
from conformance.trace import Trace


@dataclass(frozen=True)
class NoiseFloor:
    """Relative L2 errors of the best and of the worst reference build, on one array."""

    best: float
    worst: float

    err: ClassVar[str] = "err"
    least_matters: ClassVar[bool] = True

    def multiple(self, error: float) -> str:
        """Format an error as a multiple of the worst reference build's.

        Example:
            >>> floor = NoiseFloor(2.4e-6, 2.9e-6)
            >>> floor.multiple(3.1e-6), floor.multiple(2.9e-3)
            ('1.07', '1,000')
        """
        times = error / self.worst if self.worst else inf
        return f"{times:.2f}" if times < 10 else f"{times:,.0f}"


@dataclass(frozen=True)
class PairFloor(NoiseFloor):
    """Relative L2 distances of the two reference builds that are nearest, and of the two that are farthest apart.

    Two candidates in float32 are compared with it. They may be equal, so that there is no smallest error.
    """

    err = "differ from each other"
    least_matters = False


NoiseFloors = Mapping[str, NoiseFloor]
"""Noise floors by name of the array."""


def noise_floors(oracle: Trace, builds: Sequence[Trace]) -> NoiseFloors:
    """Measure the reference builds of a case.

    An array on which they cannot be compared gets no floor, so that no candidate can pass on it.

    Args:
        oracle: The oracle's trace of a case.
        builds: The traces of all reference builds of the same case.
    """
    floors = {}
    for name, array in oracle.arrays.items():
        with contextlib.suppress(Incomparable):
            errors = [measure(array, build.arrays[name], scale_of(name, oracle)).relative_l2 for build in builds]
            floors[name] = NoiseFloor(min(errors), max(errors))
    return floors


def pair_floors(builds: Sequence[Trace]) -> NoiseFloors:
    """Measure how far the reference builds of a case are from each other; see `noise_floors`.

    Args:
        builds: The traces of all reference builds of the case, two or more.
    """
    floors = {}
    for name in builds[0].arrays:
        with contextlib.suppress(Incomparable):
            distances = [
                measure(one.arrays[name], other.arrays[name], scale_of(name, one)).relative_l2
                for one, other in combinations(builds, 2)
            ]
            floors[name] = PairFloor(min(distances), max(distances))
    return floors


def explain_error(error: float, floor: NoiseFloor, bound: float, conclusion: str) -> str:
    """Put an error beside the noise floor and the rounding bound, with what follows from them, in one sentence.

    Example:
        >>> explain_error(3.1e-6, NoiseFloor(2.4e-6, 2.9e-6), 8.1e-6, "noise")[:80]
        'error 3.1e-6; correct float32 builds of this run err by 2.4e-6 to 2.9e-6; roundi'
    """
    return (
        f"error {two_digits(error)}; correct float32 builds of this run {floor.err} by {two_digits(floor.best)} to "
        f"{two_digits(floor.worst)}; rounding in sums of this length can explain {two_digits(bound)}: {conclusion}"
    )


def two_digits(number: float) -> str:
    """Format a number in two digits, its exponent without a leading zero.

    Example:
        >>> two_digits(3.14e-6), two_digits(0.0), two_digits(2.0e-12)
        ('3.1e-6', '0', '2.0e-12')
    """
    return f"{number:.1e}".replace("e-0", "e-") if number else "0"
