"""Verdicts and comparisons: the judgement of one array, and what was compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from conformance.cases.case import Case
from conformance.compare.limits import Absolute
from conformance.compare.measure import Measurement
from conformance.compare.noise import NoiseFloor, explain_error


class Verdict(NamedTuple):
    """The judgement of one array.

    Attributes:
        error: Relative L2 error, or what else the judge measures; None where nothing can be measured.
        limit: The largest error allowed; None where none applies.
        passed: Whether the array is right.
        reason: Why it failed; empty where it passed.
        floor: Noise floor of the same array; in float32 alone.
        bound: Rounding bound of the same array; in float32 alone.
    """

    error: float | None
    limit: float | None
    passed: bool
    reason: str = ""
    floor: NoiseFloor | None = None
    bound: float | None = None


def failure(reason: object) -> Verdict:
    """The verdict on an array that cannot be measured."""
    return Verdict(None, None, False, str(reason))


def judge_absolute(measured: Measurement, limits: Absolute) -> Verdict:
    """Judge an array by fixed limits: both of its errors must stay within theirs."""
    reason = ""
    if measured.relative_l2 > limits.relative_l2:
        reason = f"relative L2 error {measured.relative_l2:.1e}, limit {limits.relative_l2:.2g}"
    elif measured.largest > limits.largest:
        reason = f"largest error {measured.largest:.1e} of the largest value, limit {limits.largest:.2g}"
    return Verdict(measured.relative_l2, limits.relative_l2, not reason, reason)


@dataclass(frozen=True)
class Comparison:
    """One array of a candidate beside the oracle's.

    Attributes:
        candidate: Name of what was compared.
        precision: "float64" or "float32".
        case: What was run.
        name: The array.
        error, limit, passed, reason, floor, bound: As in `Verdict`.
        input_matters: Whether the array depends on the case's input and mode. The parameters and the initial weights do
            not, and their errors are no relative L2 errors: a count of wrong arrays, and standard errors.
    """

    candidate: str
    precision: str
    case: Case
    name: str
    error: float | None
    limit: float | None
    passed: bool
    reason: str = ""
    floor: NoiseFloor | None = None
    bound: float | None = None
    input_matters: bool = True

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
