"""Judges gradients and training steps."""

from __future__ import annotations

from conformance.cases.case import is_judged
from conformance.compare.comparison import Verdict, judge_absolute, judge_arrays
from conformance.compare.limits import (
    FIRST_STEP_FLOAT64,
    FLOAT32,
    GRADIENTS_FLOAT64,
    LATER_LOSSES_FLOAT64,
    LATER_STEPS_FLOAT64,
    LOSS_FLOAT64,
    Absolute,
)
from conformance.compare.measure import Measurement
from conformance.compare.noise import NoiseFloor, NoiseFloors, explain_error
from conformance.compare.rounding import gradient_lengths
from conformance.trace import Trace
from impls.config import ResNetConfig

LIMITS: dict[str, Absolute] = {
    "losses": LATER_LOSSES_FLOAT64,
    "loss": LOSS_FLOAT64,
    "gradient": GRADIENTS_FLOAT64,
    "first": FIRST_STEP_FLOAT64,
    "last": LATER_STEPS_FLOAT64,
}
"""Limits in float64, by the first part of an array's name: "gradient" for gradient.fc.bias."""


def judge_training(oracle: Trace, candidate: Trace, config: ResNetConfig, floors: NoiseFloors) -> dict[str, Verdict]:
    """Judge every array of gradients or training steps; returns verdicts by name, in the order a fault would show.

    In float32 only gradients at the oracle's own activations have limits; all else is measured and passes, unless it
    cannot be measured.
    """
    precision = candidate.origin.precision
    judged, lengths = is_judged(candidate.origin.case, precision), gradient_lengths(config)

    def judge(name: str, measured: Measurement) -> Verdict:
        if not judged:
            return Verdict(measured.relative_l2, None, True)
        if precision == "float64":
            return judge_absolute(measured, LIMITS[name.partition(".")[0]])
        bound = FLOAT32.bound(lengths[name])
        return judge_float32_gradient(measured.relative_l2, floors.get(name), bound, measured.numbers)

    return judge_arrays(oracle, candidate, config, judge)


def judge_float32_gradient(error: float, floor: NoiseFloor | None, bound: float, numbers: int) -> Verdict:
    """Judge a float32 gradient: it may err as much as correct builds do, or as much as rounding can explain.

    Either suffices. Near the output few numbers are summed, and a framework may take another way there (the logarithm
    of the softmax, and the exponential of that) than the reference builds, which then happen to err by less.

    Args:
        error: Relative L2 error of a gradient, or of the loss.
        floor: Its noise floor; without one it cannot pass.
        bound: Its rounding bound.
        numbers: How many numbers the gradient has.
    """
    if floor is None:
        return Verdict(error, None, False, "no reference build was measured for it")
    limit = max(FLOAT32.allowed(floor.worst, numbers), bound)
    reason = explain_error(error, floor, bound, "more than both: a bug, or TF32") if error > limit else ""
    return Verdict(error, limit, not reason, reason, floor, bound)
