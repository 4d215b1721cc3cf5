"""Prints the outcome of a self-test, and of a campaign of correct builds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from conformance.cases.case import PRECISIONS
from conformance.compare.comparison import Comparison
from conformance.report.text import could_not_run
from conformance.run.implementations import Implementation
from conformance.selftest.alarms import Campaign
from conformance.selftest.trials import Result, Trial


def print_selftest(result: Result, variant: str, implementations: Sequence[Implementation], console: Console) -> None:
    """Print a row per fault: how many of its injections were caught, placed and named; then the targets missed."""
    names = [implementation.name for implementation in implementations]
    title = f"{variant}: caught, layer named, cause named, of the injections"
    table = Table("fault", *names, title=title, title_justify="left")
    for row in table_rows(result, names):
        table.add_row(*row)
    console.print(table)
    missed = result.missed()
    for message in missed:
        console.print(message)
    console.print(
        f"{len(result.trials):,} injections, {result.correct:,} comparisons of correct networks with "
        f"{len(result.false_alarms)} false alarms, in {result.seconds:.0f} s: "
        f"{'targets are missed' if missed else 'all targets are met'}"
    )


def table_rows(result: Result, implementations: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each fault: its id, and a cell for each implementation."""
    for fault in dict.fromkeys(trial.fault for trial in result.trials):
        yield fault, *(cell([t for t in result.of(name) if t.fault == fault]) for name in implementations)


def cell(trials: Sequence[Trial]) -> str:
    """Format the counts of one fault in one implementation: caught, placed and named, of all.

    Example:
        >>> cell([Trial("torch", "bgr", "input", "float64", "", "conv1", True, "conv1", ("scale-255@input",))])
        '1/1 1/1 0/1'
    """
    caught, total = sum(trial.caught for trial in trials), len(trials)
    if not trials:
        return "-"
    if all(trial.harmless for trial in trials):
        return f"accused {caught}/{total}" if caught else "harmless"
    counts = (caught, sum(trial.layer_named for trial in trials), sum(trial.cause_named for trial in trials))
    return " ".join(f"{count}/{total}" for count in counts)


def print_campaign(campaign: Campaign, implementations: Sequence[Implementation], console: Console) -> None:
    """Print a row per build and precision; then each false alarm, what could not run, and the counts."""
    names = (Column(name, no_wrap=True) for name in ("build", "precision"))
    numbers = (Column(name, justify="right") for name in ("runs", "compared", "false\nalarms", "error /\nlimit"))
    table = Table(*names, *numbers, "nearest to its limit", title="correct builds", title_justify="left")
    parts = campaign.parts()
    for implementation, precision in product(implementations, PRECISIONS):
        part = parts.get((implementation.name, precision), Campaign())
        counts = (f"{number:,}" for number in (part.runs, len(part.comparisons), len(part.alarms)))
        table.add_row(implementation.name, precision, *counts, *_nearest(part.nearest))
    console.print(table)
    for alarm in campaign.alarms:
        where = ", ".join(alarm.identity[key] for key in ("implementation", "precision", "variant", "mode", "input"))
        words = (f" ({where}) at ", (alarm.name, "bold"), f": {alarm.reason}")
        console.print(Text.assemble(("false alarm", "bold red"), *words))
    for failure in campaign.failures:
        console.print(could_not_run(failure.to_dict()))
    console.print(
        f"{campaign.runs:,} runs of correct builds, {len(campaign.comparisons):,} comparisons, "
        f"{len(campaign.alarms):,} false alarms, in {campaign.seconds:.0f} s"
    )


def _nearest(comparison: Comparison | None) -> tuple[str, str]:
    """Format the error as a share of its limit, and where it is."""
    if comparison is None:
        return "-", "-"
    return f"{comparison.share:.2g}", f"{comparison.name} ({comparison.case.variant}, {comparison.case.mode})"
