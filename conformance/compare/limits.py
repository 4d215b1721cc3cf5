"""The limits: what counts as equal, why, and on what measurement each number stands. The only place that holds them.

Two precisions make two claims. In float64, rounding is so small that any difference of the mathematics stands out: the
limits are absolute. In float32, rounding depends on weights and depth (1.4e-6 on one set of weights, 1.5e-5 on another)
far more than on the build (a factor of 1.3): the limit is relative to what correct builds err by in the same run, and
bounded from above by what the length of the dot products explains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

FLOAT32_UNIT, FLOAT64_UNIT = 2.0**-24, 2.0**-53
"""Half the distance from 1 to the next number: the relative error of one rounding."""

TIMES_ROUNDING = 2.0
"""Correct builds were seen to err by up to sqrt(sum of K) * 2^-24."""


def rounding(dot_length: int, unit: float) -> float:
    """The largest relative error that rounding in sums of that length can explain.

    Example:
        >>> rounding(10_000, FLOAT64_UNIT)
        2.220446049250313e-14
    """
    return TIMES_ROUNDING * sqrt(dot_length) * unit


SCATTER = 3.0
"""Standard deviations of luck. One image's ten logits erred by 3.3e-7 to 1.2e-6 in one correct build, and once by 2.3
times what the reference builds did; those of 64 images together by 1.1 times. In 320 runs of correct builds, the worst
multiple was 3.2 of two logits (5.0 is allowed), 1.9 of ten (3.3) and 1.5 of a thousand (2.1)."""


@dataclass(frozen=True)
class Absolute:
    """A fixed limit.

    Attributes:
        relative_l2: Of the whole array: norm of the difference over norm of the oracle's.
        largest: Of any one number: largest difference over the oracle's largest value.
        why: The measurement behind them.
    """

    relative_l2: float
    largest: float
    why: str

    def or_rounding(self, dot_length: int) -> Absolute:
        """The same, or what rounding in float64 can explain where that is more: in long sums of equal values."""
        times = max(1.0, rounding(dot_length, FLOAT64_UNIT) / self.relative_l2)
        return replace(self, relative_l2=times * self.relative_l2, largest=times * self.largest)


@dataclass(frozen=True)
class RelativeToBuilds:
    """A limit that follows the correct float32 builds of the same run.

    Attributes:
        times_floor: Error allowed, as a multiple of the worst reference build's.
        leak: From this multiple of the worst reference build's error on, a lower precision is in force.
        suspicious: Below this multiple of the best reference build's error, the numbers are no float32 computation.
        why: The measurement behind them.
    """

    times_floor: float
    leak: float
    suspicious: float
    why: str

    def bound(self, dot_length: int) -> float:
        """The largest error that rounding can explain, whatever the builds do: known before anything is run."""
        return rounding(dot_length, FLOAT32_UNIT)

    def allowed(self, floor: float, numbers: int) -> float:
        """The largest error allowed beside the worst reference build's, in an array of so many numbers.

        The error of few numbers is luck in part: the norm of n independent ones scatters by 1 / sqrt(2 n) of itself,
        and three times that is allowed for. And builds that err by less than one rounding had luck for certain.
        """
        return self.times_floor * (1 + SCATTER / sqrt(2 * numbers)) * max(floor, FLOAT32_UNIT)

    def least(self, best: float, numbers: int) -> float:
        """The smallest error that is none too small, given the best reference build's: of few numbers none is."""
        return self.suspicious * max(0.0, 1 - SCATTER / sqrt(2 * numbers)) * best

    def limit(self, floor: float, dot_length: int, numbers: int) -> float:
        """The largest error allowed: by what builds do, and by what rounding can explain."""
        return min(self.allowed(floor, numbers), self.bound(dot_length))


STANDARD_ERRORS = 6.0
"""By which moments of two draws may differ: by chance they do so once in 500 million."""

MANY = 10_000
"""Numbers from which on the fourth moment, too, scatters as if it were normal; it shows truncated and uniform ones."""

ACTIVATIONS_FLOAT64 = Absolute(
    1e-12,
    1e-11,
    "correct implementations differ by up to 1.8e-13 through 50 layers, and by 1.7e-12 of a red disc on white, whose "
    "equal values round alike in train mode (3.7e-12 is allowed there); eps 1.001e-5 for 1e-5 moves logits by 6e-7",
)
STATISTICS_FLOAT64 = Absolute(1e-11, 1e-10, "sums over a batch: correct implementations differ by up to 2e-14")
LOSS_FLOAT64 = Absolute(1e-13, 1e-13, "one number, averaged over few images: correct implementations differ by 4e-15")
GRADIENTS_FLOAT64 = Absolute(
    1e-11, 1e-10, "twice the depth of the forward pass: correct implementations differ by up to 3.5e-13 per array"
)
FIRST_STEP_FLOAT64 = Absolute(1e-11, 1e-10, "a gradient, and a few operations on each number: up to 3.5e-12, by AdamW")
LATER_STEPS_FLOAT64 = Absolute(
    1e-6,
    1e-5,
    "rounding grows with every step: correct implementations differ by up to 4.2e-8 after eight of plain SGD",
)
LATER_LOSSES_FLOAT64 = Absolute(1e-7, 1e-7, "rounding of 1e-16 grows to 1e-10 and more in eight steps")
FLOAT32 = RelativeToBuilds(
    2.0,
    100.0,
    0.1,
    "correct builds differ from each other by a factor of 1.3 at most, and stay below sqrt(sum of K) * 2^-24",
)
