"""Reporting: what agreed, how closely, against what limit, and how long it took; on a screen and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.compare import Comparison
from conformance.limits import ACTIVATIONS_FLOAT64, FLOAT32
from conformance.recipes import TASKS
from conformance.suite import Outcome, Plan, environment

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

TRAINED = (
    "gradients and training steps have limits of their own: loss 1e-13, gradients and one step 1e-11, losses of eight "
    "steps 1e-7"
)

CLAIMS = {
    "float64": f"the mathematics: worst relative L2 error to the oracle, limit {ACTIVATIONS_FLOAT64.relative_l2:.0e}",
    "float32": (
        "the arithmetic: worst error as a multiple of what correct float32 builds err by, "
        f"limit {FLOAT32.times_floor:g} (and the bound of the dot lengths)"
    ),
}


FED = ", fed the oracle's own input"
"""Of a layer whose piece was given the oracle's activation, so that no error before it is in what it shows."""


def json_report(plan: Plan, outcome: Outcome, left_out: Sequence[str]) -> dict[str, Any]:
    """The whole run as JSON values."""
    return {
        "verdict": outcome.verdict,
        "seconds": round(outcome.seconds, 1),
        "environment": environment(plan, outcome),
        "left_out": list(left_out),
        "failures": [vars(failure) for failure in outcome.failures],
        "first_divergences": [divergence.to_dict() for divergence in outcome.divergences],
        "comparisons": [comparison.to_dict() for comparison in outcome.comparisons],
    }


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write a report, completely or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def print_report(plan: Plan, outcome: Outcome, left_out: Sequence[str], console: Console) -> None:
    """One screen: a table per precision, then what diverges, what could not run, what was left out, and the verdict."""
    from rich.markup import escape

    for precision in plan.precisions:
        console.print(_table(plan, outcome, precision))
        console.print(f"  {CLAIMS[precision]}\n", style="dim", highlight=False)
    if any(comparison.task for comparison in outcome.comparisons):
        console.print(f"  {TRAINED}\n", style="dim", highlight=False)
    for divergence in outcome.divergences:
        where = ", ".join(
            filter(
                None,
                (divergence.variant, divergence.precision, divergence.task, divergence.mode, divergence.input),
            )
        )
        console.print(
            f"[bold red]{divergence.implementation} diverges[/] ({where}); "
            f"first at [bold]{divergence.layer}[/]: {divergence.reason}{FED * divergence.fed}",
            highlight=False,
        )
        for finding in divergence.findings:
            console.print(f"  {escape(str(finding))}", highlight=False)
        if divergence.note:
            console.print(f"  ({escape(divergence.note)})", highlight=False)
    for failure in outcome.failures:
        console.print(
            f"[bold red]{failure.implementation} ({failure.precision}) could not run:[/] {failure.reason}",
            highlight=False,
        )
    for line in left_out:
        console.print(f"left out: {line}", highlight=False)
    console.print(_closing(plan, outcome), highlight=False)


def _table(plan: Plan, outcome: Outcome, precision: str) -> Table:
    from rich.table import Table

    table = Table(title=precision, title_justify="left", title_style="bold")
    table.add_column("implementation")
    for variant in plan.networks:
        table.add_column(variant, justify="right")
    table.add_column("compared", justify="right")
    table.add_column("seconds", justify="right")
    for implementation in plan.implementations:
        own = [c for c in outcome.comparisons if (c.implementation, c.precision) == (implementation.name, precision)]
        cells = [_cell([c for c in own if c.variant == variant], precision) for variant in plan.networks]
        seconds = outcome.workers.get(f"{implementation.name} {precision}", {}).get("seconds")
        table.add_row(implementation.name, *cells, f"{len(own):,}", "-" if seconds is None else f"{seconds:.0f}")
    return table


def _cell(comparisons: Sequence[Comparison], precision: str) -> str:
    """The worst figure of a network, and whether all of it passed."""
    if not comparisons:
        return "[dim]-[/]"
    failed = sum(not c.passed for c in comparisons)
    figures = [_figure(c, precision) for c in comparisons if c.error is not None and c.mode != "-"]
    worst = max(figures, default=math.nan)
    text = f"{worst:.1e}" if precision == "float64" else f"{worst:.2f}"
    return f"[red]{text} ✗ {failed}[/]" if failed else f"{text} [green]✓[/]"


def _figure(comparison: Comparison, precision: str) -> float:
    error = comparison.error or 0.0
    return error if precision == "float64" else error / (comparison.floor or math.inf)


def _closing(plan: Plan, outcome: Outcome) -> str:
    passed = sum(c.passed for c in outcome.comparisons)
    style = {"conforms": "bold green", "diverges": "bold red", "incomplete": "bold yellow"}[outcome.verdict]
    inputs = ", ".join(dict.fromkeys(i.name for network in plan.networks.values() for i in network.inputs))
    return (
        f"inputs: {inputs}; each in inference and train mode\n{_not_compared(plan)}"
        f"[{style}]{outcome.verdict}[/]: {passed:,} of {len(outcome.comparisons):,} comparisons passed"
        f" in {outcome.seconds:.0f} s"
    )


def _not_compared(plan: Plan) -> str:
    """Which tasks this run left out, and how to have them."""
    left = [task for task in TASKS if task not in plan.tasks]
    return f"not compared: {', '.join(left)} ({' '.join(f'--task {task}' for task in left)})\n" if left else ""
