"""Reproduction of a forward run: how far the oracle with causes may be from a candidate that has them.

In float64 a limit is a number. In float32 a cause may be a rounding itself. What two correct builds with such a cause
differ by is then no rounding of float32, but a share of the cause's own effect.
"""

from __future__ import annotations

from math import isfinite

import numpy as np

from conformance.diagnose.search import distance
from conformance.faults import Injection

Array = np.ndarray

EXPLAINED = {"float64": 1e-11, "float32": 5e-5}
"""Largest relative L2 error of an array that counts as explained, by precision.

In float64 right explanations leave up to 1e-15 of activations and statistics, and the least fault of the catalogue (eps
1.001e-5) changes them by 1e-9. What errs by less is not to be explained: any fault without effect would explain it. A
coarse fault may leave more, see `LEFT_BY_COARSE`."""

LEFT_BY_COARSE = 0.7
"""Largest share of its own effect on an array that a coarse fault may leave.

A coarse fault is a rounding. TF32 rounds a number that lies between two of its own to one or the other, so that a
change in the last bit of float32 becomes one of 1e-3. In 3008 arrays of small networks with TF32 everywhere (PyTorch
and Flax; four variants, four seeds) what another correct build computes differs by up to 1.9e-4, and by up to 0.55 of
TF32's effect. An error of another kind, however small, is not explained: the whole effect is left of it."""

WHOLE = {"float64": 1e-10, "float32": 5e-5}
"""Relative L2 error of an array of a whole run up to which it always counts as reproduced.

In float64 correct builds differ by up to 2e-13 at the end of a whole run. In float32 an array may err by more, where
`TIMES_NEARBY` allows it."""

NEARBY = {"float64": 0.0, "float32": 3e-6}
"""Relative change of what enters each segment of a nearby run; zero where there is none.

A nearby run is what another correct build computes. In a whole run the roundings of TF32 grow apart, until two correct
builds with it differ by as much as TF32 changes at all: by 4e-4 to 9e-4 in the last block of small networks, where TF32
changes 7e-4 to 1e-3. The change is several roundings, so that it moves more than a few of TF32's."""

TIMES_NEARBY = 3.0
"""Largest error of an array of a whole run, in multiples of its distance from that of the nearby run."""


def is_coarse(injection: Injection) -> bool:
    """Tell whether a fault is a rounding, which shows in float32 alone."""
    return injection.fault.precision == "float32"


def limit(precision: str, expected: Array | None, fine: Array | None) -> float:
    """Return the largest error of an array, fed the oracle's own input, that counts as explained.

    Args:
        precision: "float64" or "float32".
        expected: The oracle's array with faults.
        fine: The same without the coarse ones among them; None if none is.
    """
    return larger(EXPLAINED[precision], LEFT_BY_COARSE, fine, expected)


def whole_limit(precision: str, expected: Array | None, nearby: Array | None) -> float:
    """Return the largest error of an array of a whole run that counts as reproduced.

    Args:
        precision: "float64" or "float32".
        expected: The oracle's array with faults.
        nearby: That of the nearby run; None if there is none.
    """
    return larger(WHOLE[precision], TIMES_NEARBY, expected, nearby)


def larger(least: float, times: float, one: Array | None, other: Array | None) -> float:
    """Return a limit, or a multiple of the distance of two arrays where that is larger."""
    apart = 0.0 if one is None or other is None else distance(one, other)
    return max(least, times * apart if isfinite(apart) else 0.0)


def nearby(entering: Array, precision: str) -> Array | None:
    """Change what enters a segment as other roundings would; None in a precision that has no nearby run."""
    change = NEARBY[precision]
    noise = np.random.default_rng(0).standard_normal(entering.shape) if change else 0.0
    return entering * (1 + change * noise) if change else None
