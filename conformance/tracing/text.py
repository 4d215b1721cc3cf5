"""Prints the comparison of two recordings: a line for each precision, the first divergence, the oracle's word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from conformance.compare.comparison import Comparison, nearest_to_limit
from conformance.compare.noise import two_digits

if TYPE_CHECKING:
    from conformance.tracing.comparison import TraceReport

PASSED = {"float64": "the same mathematics", "float32": "noise"}
FAILED = {"float64": "another function", "float32": "bug"}
"""The verdict on a precision, in words."""


def report_text(report: TraceReport) -> str:
    """Lay out a report as text of a few lines."""
    return "\n".join(lines_of(report)) + "\n"


def lines_of(report: TraceReport) -> Iterator[str]:
    """Yield the lines of a report."""
    yield f"{report.second} held against {report.first}"
    yield from (f"  {note}" for note in report.notes)
    for precision in ("float64", "float32"):
        compared = [c for c in report.comparisons if c.precision == precision and c.input_matters]
        if compared:
            yield precision_line(precision, compared)
    if report.reported:
        worst = max(c.error or 0.0 for c in report.reported)
        yield f"reported, not judged: {len(report.reported):,} arrays of float32 training, {two_digits(worst)} at most"
    if report.divergences:
        yield divergence_line(report.divergences[0], report.first)
        yield from oracle_lines(report)
    yield from (f"not judged: {line}" for line in report.not_judged)
    passed = sum(comparison.passed for comparison in report.comparisons)
    yield f"{report.verdict}: {passed:,} of {len(report.comparisons):,} comparisons passed"


def precision_line(precision: str, compared: Sequence[Comparison]) -> str:
    """Say how near the arrays of one precision came to their limits, and what that means."""
    failed = sum(not comparison.passed for comparison in compared)
    if failed:
        return f"{precision}: {FAILED[precision]}; {failed:,} of {len(compared):,} arrays exceed their limits"
    nearest = nearest_to_limit(compared)
    if nearest is None or nearest.error is None or nearest.limit is None:
        return f"{precision}: {PASSED[precision]}"
    floor = f", noise floor {two_digits(nearest.floor.worst)}" if nearest.floor else ""
    measured = f"error {two_digits(nearest.error)}, limit {two_digits(nearest.limit)}{floor}"
    return f"{precision}: {PASSED[precision]}; nearest to its limit {nearest.name} ({nearest.case.mode}): {measured}"


def divergence_line(first: Comparison, against: str) -> str:
    """Say where a recording first differs."""
    where = ", ".join(filter(None, [first.precision, first.case.words, first.case.mode, first.case.input]))
    return f"{first.candidate} diverges from {against} ({where}); first at {first.name}: {first.reason}"


def oracle_lines(report: TraceReport) -> Iterator[str]:
    """Say which of the two is right, by the oracle."""
    if not any(report.by_oracle.values()):
        yield "  which of the two is wrong cannot be told without the oracle: give --weights"
    for name, compared in report.by_oracle.items():
        failed = [comparison for comparison in compared if not comparison.passed]
        if failed:
            yield f"  by the oracle, {name} is wrong, first at {failed[0].name}: {failed[0].reason}"
        elif compared:
            yield f"  by the oracle, {name} is right"
