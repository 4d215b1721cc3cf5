"""The limits of all comparisons, each with its reason and the measurement behind it; no other module holds one.

The two precisions make two claims. In float64, rounding is so small that any difference in the mathematics stands out:
limits are absolute. In float32, the error of a correct build depends far more on weights and depth (1.4e-6 with one set
of weights, 1.5e-5 with another) than on the build (a factor of 1.3): limits follow the noise floor of the same run, and
end at the rounding bound, which the lengths of the dot products give.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

from conformance.compare.rounding import FLOAT32_UNIT, FLOAT64_UNIT, rounding_bound

SCATTER = 3.0
"""Standard deviations of chance that are allowed for. One image's ten logits erred by 3.3e-7 to 1.2e-6 in one correct
build, and once by 2.3 times what the reference builds did; those of 64 images together by 1.1 times. In 320 runs of
correct builds, the worst multiple was 3.2 for two logits (5.0 is allowed), 1.9 for ten (3.3) and 1.5 for a thousand
(2.1)."""


@dataclass(frozen=True)
class Absolute:
    """A fixed limit.

    Attributes:
        relative_l2: For the whole array: norm of the difference over norm of the oracle's array.
        largest: For each number: largest difference over the oracle's largest value.
        why: The measurement behind both.
    """

    relative_l2: float
    largest: float
    why: str

    def __str__(self) -> str:
        return f"{self.relative_l2:.0e}".replace("e-0", "e-")

    def or_rounding(self, dot_length: int) -> Absolute:
        """Widen the limit to the rounding bound of float64 where that is larger: in long sums of equal values."""
        times = max(1.0, rounding_bound(dot_length, FLOAT64_UNIT) / self.relative_l2)
        return replace(self, relative_l2=times * self.relative_l2, largest=times * self.largest)


@dataclass(frozen=True)
class RelativeToBuilds:
    """A limit that follows the reference builds of the same run.

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
        """The rounding bound of float32, which is known before anything is run."""
        return rounding_bound(dot_length, FLOAT32_UNIT)

    def allowed(self, worst: float, numbers: int) -> float:
        """The largest error allowed in an array of that many numbers, given the worst reference build's error.

        The error of few numbers is chance in part: the norm of n independent errors scatters by 1 / sqrt(2 n) of
        itself, and `SCATTER` times that is allowed for. Builds that err by less than one rounding were lucky, too.
        """
        return self.times_floor * (1 + SCATTER / sqrt(2 * numbers)) * max(worst, FLOAT32_UNIT)

    def least(self, best: float, numbers: int) -> float:
        """The smallest error that float32 can have, given the best reference build's; 0 for arrays of few numbers."""
        return self.suspicious * max(0.0, 1 - SCATTER / sqrt(2 * numbers)) * best


STANDARD_ERRORS = 6.0
"""Largest difference between the moments of two draws: chance exceeds it once in 500 million."""

MANY = 10_000
"""Numbers from which on the fourth moment scatters as if it were normal; it shows truncated and uniform draws."""

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

REPRODUCED = 1e-11
"""Largest relative L2 error of a candidate's own run that counts as reproduced by measured facts, in float64."""
