"""Says in a few lines what a run found: for the output of a test that fails."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from conformance.report.record import Record
from conformance.report.text import could_not_run, plain_console, print_divergence

LINES, WIDTH = 24, 100
"""The part of a usual terminal that a failed test may take."""


def brief_text(records: Sequence[Record], lines: int = LINES) -> str:
    """Say what diverges, where and why, and what could not run, in so many lines at most."""
    text = StringIO()
    console = plain_console(text, WIDTH)
    for record in records:
        passed = sum(comparison["passed"] for comparison in record["comparisons"])
        console.print(f"{record['verdict']}: {passed:,} of {len(record['comparisons']):,} comparisons passed")
        for divergence in record["first_divergences"]:
            print_divergence(divergence, console)
        for failure in record["failures"]:
            console.print(could_not_run(failure))
        for line in record.get("notes", []):
            console.print(line, style="dim")
    written = text.getvalue().splitlines()
    if len(written) > lines:
        written = [*written[: lines - 1], f"... and {len(written) - lines + 1} more lines, in print(report)"]
    return "\n".join(written)


def only(record: Record, candidate: str, variant: str) -> Record:
    """Select the divergences of one candidate and variant in a record."""
    chosen = [
        each
        for each in record["first_divergences"]
        if (each["implementation"], each["variant"]) == (candidate, variant)
    ]
    return record | {"first_divergences": chosen, "failures": [], "notes": []}
