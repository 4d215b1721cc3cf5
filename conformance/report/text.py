"""Reporting: what agreed, how closely, against what limit, and how long it took; on a screen and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.cases.recipes import STEPS, TASKS
from conformance.compare.judge import Comparison, multiple, nearest_to_limit, short
from conformance.compare.limits import ACTIVATIONS_FLOAT64, FLOAT32, STANDARD_ERRORS
from conformance.suite import Outcome, Plan, environment

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

TRAINED = (
    "gradients and training steps have limits of their own: loss 1e-13, gradients and one step 1e-11, losses of eight "
    "steps 1e-7; in float32 gradients are taken at the oracle's activations, since a ReLU that chooses otherwise moves "
    "them by up to 6e-2 in correct builds (either limit suffices for them), and steps are not judged"
)

REPORTED = (
    "worst relative L2 errors to the oracle; correct builds are as far from it, once a ReLU has chosen otherwise: the "
    "claim for training is float64's"
)

DRAWN = (
    "initialisation: constants are equal, and the moments of what is drawn differ from those of the oracle's draw by "
    f"at most {{:.1f}} standard errors, limit {STANDARD_ERRORS:g}"
)

CLAIMS = {
    "float64": (
        f"the mathematics: worst relative L2 error to the oracle, limit {ACTIVATIONS_FLOAT64.relative_l2:.0e}, or in "
        "train mode what rounding can explain in sums of equal values, as flat parts of a picture have them"
    ),
    "float32": (
        "the arithmetic, of each network the array nearest to its limit: noise is an error of at most "
        f"{FLOAT32.times_floor:g} times what correct float32 builds of this run err by (up to twice that in "
        "arrays of a few numbers), and of no more than rounding in sums of that length can explain"
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
        "reported": [comparison.to_dict() for comparison in outcome.reported],
    }


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write a report, completely or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def print_report(plan: Plan, outcome: Outcome, left_out: Sequence[str], console: Console) -> None:
    """One screen: a table per precision, then what diverges, what could not run, what was left out, and the verdict."""
    from rich.markup import escape

    for precision in filter(plan.cases, plan.precisions):
        console.print(TABLES[precision](plan, outcome))
        console.print(f"  {CLAIMS[precision]}\n", style="dim", highlight=False)
    if outcome.reported:
        console.print(reported_table(plan, outcome))
        console.print(f"  {REPORTED}\n", style="dim", highlight=False)
    tasks = {comparison.task.partition(" ")[0] for comparison in outcome.comparisons}
    if tasks & {"gradients", "backward", "steps"}:
        console.print(f"  {TRAINED}\n", style="dim", highlight=False)
    if "initialisation" in tasks:
        drawn = [c for c in outcome.comparisons if c.task == "initialisation"]
        worst = max((c.error for c in drawn if c.error is not None), default=0.0)
        console.print(f"  {DRAWN.format(worst)}\n", style="dim", highlight=False)
    for divergence in outcome.divergences:
        where = ", ".join(
            filter(
                None,
                (divergence.variant, divergence.precision, divergence.task, divergence.mode, divergence.input),
            )
        )
        console.print(
            f"[bold red]{divergence.implementation} diverges[/] ({where}); "
            f"first at [bold]{divergence.layer}[/]{FED * divergence.fed}: {divergence.reason}",
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


def mathematics_table(plan: Plan, outcome: Outcome) -> Table:
    """float64: a row for each implementation, the worst error of each network."""
    from rich.table import Table

    table = Table(title="float64", title_justify="left", title_style="bold")
    table.add_column("implementation")
    for variant in plan.networks:
        table.add_column(variant, justify="right")
    table.add_column("compared", justify="right")
    table.add_column("seconds", justify="right")
    for implementation in plan.implementations:
        own = _of(outcome, implementation.name, "float64")
        cells = [_worst_error([c for c in own if c.variant == variant]) for variant in plan.networks]
        seconds = outcome.workers.get(f"{implementation.name} float64", {}).get("seconds")
        table.add_row(implementation.name, *cells, f"{len(own):,}", "-" if seconds is None else f"{seconds:.0f}")
    return table


def noise_table(plan: Plan, outcome: Outcome) -> Table:
    """float32: a row for each implementation and network, its error beside what correct builds make and what may be."""
    from rich.table import Table

    table = Table(title="float32: noise or bug?", title_justify="left", title_style="bold")
    table.add_column("implementation", no_wrap=True)
    table.add_column("variant", no_wrap=True)
    table.add_column("array", overflow="fold")
    for name in ("error", "correct builds\nerr by", "rounding\nexplains", "multiple\nof builds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for implementation in plan.implementations:
        for variant in plan.networks:
            own = [c for c in _of(outcome, implementation.name, "float32") if c.variant == variant]
            table.add_row(implementation.name, variant, *_noise(own), _noise_or_bug(own))
        table.add_section()
    return table


def reported_table(plan: Plan, outcome: Outcome) -> Table:
    """Training in float32: a row for each implementation and network, the worst error of each thing that was done."""
    from rich.table import Table

    table = Table(title="float32 training: reported, not judged", title_justify="left", title_style="bold")
    table.add_column("implementation", no_wrap=True)
    table.add_column("variant", no_wrap=True)
    columns = list(dict.fromkeys((c.task, moment) for c in outcome.reported if (moment := _moment(c.name))))
    for task, moment in columns:
        table.add_column(f"{task.removeprefix('steps ')}\n{moment}", justify="right", no_wrap=True)
    for implementation in plan.implementations:
        for variant in plan.networks:
            own = [c for c in outcome.reported if (c.implementation, c.variant) == (implementation.name, variant)]
            cells = [[c.error or 0.0 for c in own if (c.task, _moment(c.name)) == column] for column in columns]
            table.add_row(implementation.name, variant, *(short(max(errors)) if errors else "-" for errors in cells))
    return table


def _moment(name: str) -> str:
    """What of a training run an array belongs to; of a state after many steps, that the losses speak for it."""
    return {"first": "1 step", "losses": f"{STEPS} losses", "gradient": "of each"}.get(name.partition(".")[0], "")


TABLES = {"float64": mathematics_table, "float32": noise_table}
"""What is shown of each precision."""


def _of(outcome: Outcome, implementation: str, precision: str) -> list[Comparison]:
    return [c for c in outcome.comparisons if (c.implementation, c.precision) == (implementation, precision)]


def _worst_error(comparisons: Sequence[Comparison]) -> str:
    """The largest error of a network, and whether all of it passed."""
    if not comparisons:
        return "[dim]-[/]"
    failed = sum(not c.passed for c in comparisons)
    errors = [c.error for c in comparisons if c.error is not None and c.mode != "-"]
    worst = f"{max(errors):.1e} " if errors else ""
    return f"[red]{worst}✗ {failed}[/]" if failed else f"{worst}[green]✓[/]"


def _noise(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """Of the array nearest to its limit: name, error, what correct builds err by, what rounding explains, multiple."""
    worst = nearest_to_limit(comparisons)
    if worst is None or worst.error is None or worst.floor is None or worst.bound is None:
        return ("-",) * 5
    builds = f"{short(worst.floor.best)} to {short(worst.floor.worst)}"
    return worst.name, short(worst.error), builds, short(worst.bound), multiple(worst.error, worst.floor)


def _noise_or_bug(comparisons: Sequence[Comparison]) -> str:
    failed = sum(not c.passed for c in comparisons)
    return f"[red]bug ✗ {failed}[/]" if failed else "noise [green]✓[/]" if comparisons else "[dim]-[/]"


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
