"""Judges a forward run: activations, and in train mode the running statistics."""

from __future__ import annotations

from conformance.cases.names import statistic_names
from conformance.compare.comparison import Verdict, judge_absolute, judge_arrays
from conformance.compare.limits import ACTIVATIONS_FLOAT64, FLOAT32, STATISTICS_FLOAT64
from conformance.compare.measure import Measurement
from conformance.compare.noise import NoiseFloor, NoiseFloors, explain_error
from conformance.compare.rounding import dot_lengths, values_per_channel
from conformance.trace import Trace
from impls.config import ResNetConfig


def judge_forward(oracle: Trace, candidate: Trace, config: ResNetConfig, floors: NoiseFloors) -> dict[str, Verdict]:
    """Judge every array of a forward run; returns verdicts by name, in the order the network computes the arrays."""
    lengths = dot_lengths(config, values_per_channel(candidate.origin.case, oracle, config))
    statistics = dict.fromkeys(statistic_names(config), STATISTICS_FLOAT64)

    def judge(name: str, measured: Measurement) -> Verdict:
        length = lengths[name.rpartition(".")[0] if name in statistics else name]
        if candidate.origin.precision == "float64":
            return judge_absolute(measured, statistics.get(name, ACTIVATIONS_FLOAT64).or_rounding(length))
        return judge_noise(measured.relative_l2, floors.get(name), FLOAT32.bound(length), measured.numbers)

    return judge_arrays(oracle, candidate, config, judge)


def judge_noise(error: float, floor: NoiseFloor | None, bound: float, numbers: int) -> Verdict:
    """Judge a float32 error: noise is as large as the error of correct builds, not more and not suspiciously less.

    Args:
        error: Relative L2 error of an array.
        floor: Its noise floor; without one it cannot pass.
        bound: Its rounding bound.
        numbers: How many numbers the array has.

    Example:
        >>> judge_noise(1.2e-4, NoiseFloor(2.4e-6, 2.9e-6), 8.1e-6, 1000).reason.rpartition("8.1e-6: ")[2]
        '41 times what correct builds err by: a bug, or TF32 in some layer'
    """
    if floor is None:
        return Verdict(error, None, False, "no reference build was measured for it")
    allowed = FLOAT32.allowed(floor.worst, numbers)
    least = FLOAT32.least(floor.best, numbers) if floor.least_matters else 0.0
    times = f"{floor.multiple(error)} times what correct builds {floor.err} by"
    conclusions = {
        f"{times}: a wrong network, or TF32 or bfloat16 in force": error > max(allowed, FLOAT32.leak * floor.worst),
        f"{times}: a bug, or TF32 in some layer": error > allowed,
        "more than rounding can explain: a bug, and in the builds or the oracle another": error > bound,
        "too small for float32: float64, or the oracle compared with itself": error < least,
    }
    conclusion = next((conclusion for conclusion, holds in conclusions.items() if holds), "")
    reason = explain_error(error, floor, bound, conclusion) if conclusion else ""
    return Verdict(error, min(allowed, bound), not reason, reason, floor, bound)
