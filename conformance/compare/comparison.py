"""Verdicts and comparisons: the judgement of one array, and what was compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from conformance.cases.case import Case
from conformance.cases.names import expected_names
from conformance.compare.limits import Absolute
from conformance.compare.measure import Incomparable, Measurement, measure_in_trace
from conformance.compare.noise import NoiseFloor, explain_error
from conformance.trace import Trace
from impls.config import ResNetConfig


@dataclass(frozen=True)
class Verdict:
    """The judgement of one array.

    Attributes:
        error: Relative L2 error, or what else the judge measures; None where nothing can be measured.
        limit: The largest error allowed; None where none applies.
        passed: Whether the array is right.
        reason: Why it failed; empty where it passed.
        floor: Noise floor of the array; in float32 alone.
        bound: Rounding bound of the array; in float32 alone.
    """

    error: float | None
    limit: float | None
    passed: bool
    reason: str = ""
    floor: NoiseFloor | None = None
    bound: float | None = None

    @property
    def explanation(self) -> str:
        """Why the array failed or, in float32, passed: its error beside noise floor and rounding bound."""
        if self.reason or self.error is None or self.floor is None or self.bound is None:
            return self.reason
        return explain_error(self.error, self.floor, self.bound, "noise")

    @property
    def share(self) -> float | None:
        """The error as a share of its limit; None where there is no error, or none is allowed."""
        return self.error / self.limit if self.error is not None and self.limit else None


def judge_arrays(
    oracle: Trace, candidate: Trace, config: ResNetConfig, judge: Callable[[str, Measurement], Verdict]
) -> dict[str, Verdict]:
    """Judge every array that the candidate's case promises; one that cannot be measured fails.

    An array that the candidate cannot show, and says so, is left out.

    Args:
        oracle: The oracle's trace.
        candidate: The candidate's trace of the same case.
        config: The network.
        judge: From the name of an array and its distance from the oracle's to the verdict.
    """
    verdicts = {}
    for name in expected_names(candidate.origin.case, config):
        if name in candidate.origin.not_shown and name not in candidate.arrays:
            continue
        try:
            verdicts[name] = judge(name, measure_in_trace(name, oracle, candidate))
        except Incomparable as error:
            verdicts[name] = Verdict(None, None, False, str(error))
    return verdicts


def judge_absolute(measured: Measurement, limits: Absolute) -> Verdict:
    """Judge an array by fixed limits: both of its errors must stay within theirs."""
    reason = ""
    if measured.relative_l2 > limits.relative_l2:
        reason = f"relative L2 error {measured.relative_l2:.1e}, limit {limits.relative_l2:.2g}"
    elif measured.largest > limits.largest:
        reason = f"largest error {measured.largest:.1e} of the largest value, limit {limits.largest:.2g}"
    return Verdict(measured.relative_l2, limits.relative_l2, not reason, reason)


@dataclass(frozen=True, kw_only=True)
class Comparison(Verdict):
    """A verdict, and what it is about.

    Attributes:
        candidate: Name of what was compared.
        precision: "float64" or "float32".
        case: What was run.
        name: The array.
        input_matters: Whether the array depends on the case's input and mode. The parameters and the initial weights do
            not, and their errors are no relative L2 errors: a count of wrong arrays, and standard errors.
    """

    candidate: str
    precision: str
    case: Case
    name: str
    input_matters: bool = True

    @property
    def identity(self) -> dict[str, str]:
        """Candidate, precision and case as JSON values; "-" for input and mode where they do not matter."""
        mode, input = (self.case.mode, self.case.input) if self.input_matters else ("-", "-")
        return {
            "implementation": self.candidate,
            "variant": self.case.variant,
            "precision": self.precision,
            "mode": mode,
            "input": input,
            "task": self.case.words,
        }

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        facts = self.identity | {
            "name": self.name,
            "error": self.error,
            "limit": self.limit,
            "passed": self.passed,
            "reason": self.reason,
            "floor": asdict(self.floor) if self.floor else None,
            "bound": self.bound,
        }
        return facts | ({"explanation": self.explanation} if self.floor else {})


def nearest_to_limit(comparisons: Iterable[Comparison]) -> Comparison | None:
    """The comparison whose error is the largest share, or multiple, of its limit; None if none has a limit."""
    limited = [comparison for comparison in comparisons if comparison.share is not None]
    return max(limited, key=lambda comparison: comparison.share or 0.0, default=None)
