"""Lays out records as annotations of GitHub Actions: a line of the log for each, which it shows beside the change.

Source: GitHub's page "Workflow commands for GitHub Actions"; the escapes are those of its package `@actions/core`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from conformance.report.brief import brief_text, only
from conformance.report.record import Record
from conformance.report.text import what_failed

IN_MESSAGES = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
IN_TITLES = IN_MESSAGES | str.maketrans({":": "%3A", ",": "%2C"})
"""Characters that a command is parsed by, and what stands for them in its message and in its properties."""


def annotations_of(records: Sequence[Record]) -> Iterator[str]:
    """Yield an error for what diverges or could not run, and a notice for what was left out with a reason."""
    for record in records:
        for each in record["first_divergences"]:
            candidate, variant = each["implementation"], each["variant"]
            title = f"{candidate} diverges from {variant}, first at {each['layer']}"
            yield annotation("error", title, brief_text([only(record, candidate, variant)]))
        for failure in record["failures"]:
            yield annotation("error", what_failed(failure), failure["reason"])
        for line in record["left_out"]:
            yield annotation("notice", "not compared", line)


def annotation(level: str, title: str, message: str) -> str:
    r"""Write one annotation: "error", "warning" or "notice".

    Example:
        >>> annotation("error", "mine: diverges, by 50%", "first at stem\nlimit 1e-12")
        '::error title=mine%3A diverges%2C by 50%25::first at stem%0Alimit 1e-12'
    """
    return f"::{level} title={title.translate(IN_TITLES)}::{message.translate(IN_MESSAGES)}"
