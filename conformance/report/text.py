"""Prints a record on a screen: what agreed, how closely, against which limit, and why the rest did not.

Reads the record alone. Markup is off, so that names and reasons are printed as they are, with their brackets; styles
are given to `rich.text.Text`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import IO, Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from conformance.cases.case import MODES, TASKS
from conformance.cases.recipes import STEPS
from conformance.compare.limits import (
    ACTIVATIONS_FLOAT64,
    FLOAT32,
    GRADIENTS_FLOAT64,
    LATER_LOSSES_FLOAT64,
    LOSS_FLOAT64,
    REPRODUCED,
    STANDARD_ERRORS,
)
from conformance.compare.noise import NoiseFloor, two_digits
from conformance.report.record import Record

Comparisons = Sequence[dict[str, Any]]
"""Comparisons in the form that the record gives them."""

CLAIMS = {
    "float64": (
        f"the mathematics: worst relative L2 error to the oracle, limit {ACTIVATIONS_FLOAT64}; in "
        "train mode more where rounding explains it, in sums of equal values such as flat parts of a picture give"
    ),
    "float32": (
        "the arithmetic: the array nearest to its limit in each network. An error is noise up to "
        f"{FLOAT32.times_floor:g} times the noise floor, which is what correct float32 builds of this run err by (up "
        "to twice that in arrays of a few numbers), and up to what rounding in sums of that length can explain"
    ),
}

REPORTED = (
    "worst relative L2 errors to the oracle; correct builds are as far from it once a ReLU near zero has chosen "
    "otherwise, so training is judged in float64"
)

TRAINED = (
    f"limits of gradients and training steps: loss {LOSS_FLOAT64}, gradients and one step {GRADIENTS_FLOAT64}, losses "
    f"of {STEPS} steps {LATER_LOSSES_FLOAT64}; in float32 "
    "gradients are taken at the oracle's activations, since a ReLU that chooses otherwise moves them by up to 6e-2 in "
    "correct builds (noise floor or rounding bound, either suffices), and steps are not judged"
)

FED = ", fed the oracle's own input"
"""Words for a layer whose segment was fed the oracle's activation, so that its error is its own."""


titled_table = partial(Table, title_justify="left", title_style="bold")
name_column = partial(Column, no_wrap=True)
number_column = partial(Column, justify="right", no_wrap=True)


def plain_console(file: IO[str] | None = None, width: int | None = None) -> Console:
    """Make a console that prints strings as they are: without markup, highlighting and emoji.

    Args:
        file: Where it prints; standard output by default.
        width: Columns; by default those of the terminal, or 110 where there is none.
    """
    columns = width or (None if (file or sys.stdout).isatty() else 110)
    return Console(file=file, width=columns, markup=False, highlight=False, emoji=False)


def print_record(record: Record, console: Console) -> None:
    """Print a table for each precision, what diverges and why, what could not run or was left out, and the verdict."""
    for precision in record["plan"]["precisions"]:
        console.print(TABLES[precision](record))
        _print_note(CLAIMS[precision], console)
    if record["reported"]:
        console.print(reported_table(record))
        _print_note(REPORTED, console)
    for note in notes(record["comparisons"]):
        _print_note(note, console)
    for line in record.get("notes", []):
        console.print(line)
    for divergence in record["first_divergences"]:
        print_divergence(divergence, console)
    for failure in record["failures"]:
        console.print(could_not_run(failure))
    for line in record["left_out"]:
        console.print(f"left out: {line}")
    _print_closing(record, console)


def _print_note(note: str, console: Console) -> None:
    console.print(f"  {note}\n", style="dim")


def print_divergence(divergence: Record, console: Console) -> None:
    """Print where a candidate first goes wrong and by how much; then each finding of the diagnosis."""
    facts = (divergence[key] for key in ("variant", "precision", "task", "mode", "input"))
    where = ", ".join(fact for fact in facts if fact not in ("", "-"))
    console.print(
        Text.assemble(
            (f"{divergence['implementation']} diverges", "bold red"),
            f" ({where}); first at ",
            (divergence["layer"], "bold"),
            f"{fed_words(divergence)}: {divergence['reason']}",
        )
    )
    identification = divergence.get("identification")
    measured = identification is not None and is_reproduced(identification)
    if divergence.get("arrays"):
        console.print(f"  its arrays: {divergence['arrays']}")
    for finding in divergence["diagnosis"]:
        if finding["causes"] or not measured:  # what was measured explains the whole run: no fault need be known
            console.print(f"  {finding['text']}")
    if divergence["note"]:
        console.print(f"  ({divergence['note']})")
    faults = dict.fromkeys(cause["fault"] for finding in divergence["diagnosis"] for cause in finding["causes"][:1])
    if identification:
        for line in identification_lines(identification):
            console.print(f"  {line}")
        faults |= dict.fromkeys(fact["fault"] for fact in identification["facts"] if fact["fault"])
    if faults:
        console.print(f"  what to do: {', '.join(f'conformance explain {fault}' for fault in faults)}")


def fed_words(divergence: Record) -> str:
    """Say that a layer was fed the oracle's own input, and that of which images if not of those that failed first."""
    examined = divergence.get("examined") or divergence["input"]
    of = f" of {examined}" if examined != divergence["input"] else ""
    return f"{FED}{of}" if divergence["fed"] else ""


def is_reproduced(identification: Record) -> bool:
    """Tell whether the oracle with the measured layers reproduces the candidate's own run."""
    reproduced = identification["reproduced_to"]
    return reproduced is not None and reproduced <= REPRODUCED


def identification_lines(identification: Record) -> Iterable[str]:
    """Say what was measured of wrong layers, and how nearly the oracle with these layers reproduces the candidate."""
    for fact in identification["facts"]:
        row = f" (`{fact['fault']}`)" if fact["fault"] else ""
        yield f"measured: {fact['text']}{row}"
    for each in identification["unidentified"]:
        yield f"not identified: {each['text']}"
    if identification["others"]:
        yield f"wrong too, and not measured: {', '.join(identification['others'])}"
    reproduced = identification["reproduced_to"]
    if reproduced is not None:
        several = sum(len(fact["layers"]) for fact in identification["facts"]) > 1
        one, more = IN_PLACE.get(identification.get("task", "forward"), IN_PLACE["forward"])
        what = f"with {more if several else one}, the oracle"
        if is_reproduced(identification):
            yield f"{what} reproduces your model's own run to {reproduced:.0e}"
        else:
            yield f"{what} still differs from your model's own run by {reproduced:.0e}: this is not all"


IN_PLACE = {
    "forward": ("this layer", "these layers in place of its own"),
    "gradients": ("this", "these factors"),
    "steps": ("this rule", "these rules of training"),
}
"""Words for a measured fact, and for several, that take the place of the oracle's own, by task."""


def could_not_run(failure: Record) -> Text:
    """Make the line about a candidate that could not run, or not do a task."""
    return Text.assemble((f"{what_failed(failure)}:", "bold red"), f" {failure['reason']}")


def what_failed(failure: Record) -> str:
    """Say which candidate could not run, do a task or show an array, without the reason."""
    part = failure["task"] or failure.get("array")
    what = f"{part} not compared" if part else "could not run"
    if failure.get("lacks"):
        what = "is not compared"
    if layer := failure.get("layer"):
        what = f"diverges before anything is compared; first at {layer}"
    precision = f" ({failure['precision']})" if failure["precision"] else ""
    return f"{failure['implementation']}{precision} {what}"


def mathematics_table(record: Record) -> Table:
    """Make the table of float64: a row for each candidate, with the worst error in each network."""
    numbers = (Column(name, justify="right") for name in (*record["plan"]["variants"], "compared", "seconds"))
    table = titled_table("candidate", *numbers, title="float64")
    for candidate in record["plan"]["implementations"]:
        compared = _select(record["comparisons"], implementation=candidate, precision="float64")
        cells = [_worst_error(_select(compared, variant=variant)) for variant in record["plan"]["variants"]]
        seconds = record["environment"]["workers"].get(f"{candidate} float64", {}).get("seconds")
        table.add_row(candidate, *cells, f"{len(compared):,}", "-" if seconds is None else f"{seconds:.0f}")
    return table


def noise_table(record: Record) -> Table:
    """Make the table of float32: for each candidate and network, the array nearest to its limit, and the verdict."""
    names = name_column("candidate"), name_column("variant"), Column("array", overflow="fold")
    numbers = map(number_column, ("error", "noise floor", "rounding\nbound", "times\nthe floor"))
    table = titled_table(*names, *numbers, name_column("verdict"), title="float32: noise or bug?")
    for candidate in record["plan"]["implementations"]:
        for variant in record["plan"]["variants"]:
            compared = _select(record["comparisons"], implementation=candidate, precision="float32", variant=variant)
            table.add_row(candidate, variant, *_nearest(compared), _noise_or_bug(compared))
        table.add_section()
    return table


def reported_table(record: Record) -> Table:
    """Make the table of float32 training: for each candidate and network, the worst error of each kind of array."""
    kinds = [(comparison["task"], _kind(comparison["name"])) for comparison in record["reported"]]
    columns = [(task, kind) for task, kind in dict.fromkeys(kinds) if kind]
    names, numbers = ("candidate", "variant"), (f"{task.removeprefix('steps ')}\n{kind}" for task, kind in columns)
    table = titled_table(
        *map(name_column, names), *map(number_column, numbers), title="float32 training: reported, not judged"
    )
    for candidate in record["plan"]["implementations"]:
        for variant in record["plan"]["variants"]:
            compared = _select(record["reported"], implementation=candidate, variant=variant)
            cells = [
                [c["error"] or 0.0 for c in compared if (c["task"], _kind(c["name"])) == column] for column in columns
            ]
            table.add_row(candidate, variant, *(two_digits(max(errors)) if errors else "-" for errors in cells))
    return table


TABLES: dict[str, Callable[[Record], Table]] = {"float64": mathematics_table, "float32": noise_table}
"""The table that is printed, by precision."""


def notes(comparisons: Comparisons) -> Iterable[str]:
    """List the notes on the tasks that were judged, each once, in the order of the table of tasks."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for comparison in comparisons:
        by_task.setdefault(comparison["task"].partition(" ")[0] or "forward", []).append(comparison)
    return dict.fromkeys(filter(None, (note(by_task[task]) for task, note in NOTES.items() if task in by_task)))


def note_on_draws(comparisons: Comparisons) -> str:
    """Say how far the moments of initial weights are apart."""
    worst = max((c["error"] for c in comparisons if c["error"] is not None), default=0.0)
    return (
        "initialisation: constants are equal, and the moments of what is drawn differ from those of the oracle's draw "
        f"by at most {worst:.1f} standard errors, limit {STANDARD_ERRORS:g}"
    )


NOTES: dict[str, Callable[[Comparisons], str]] = {
    "forward": lambda comparisons: "",  # the claims below the tables are about it
    "gradients": lambda comparisons: TRAINED,
    "backward": lambda comparisons: TRAINED,
    "steps": lambda comparisons: TRAINED,
    "initialisation": note_on_draws,
}
"""The note on each task, made from its comparisons; it is printed below the tables, unless it is empty."""


def _kind(name: str) -> str:
    """Name the column of an array of a training run; empty for the state after many steps: see the losses."""
    return {"first": "1 step", "losses": f"{STEPS} losses", "gradient": "of each"}.get(name.partition(".")[0], "")


def _select(comparisons: Comparisons, **facts: str) -> list[dict[str, Any]]:
    """Select the comparisons with these facts."""
    return [comparison for comparison in comparisons if all(comparison[key] == facts[key] for key in facts)]


def _worst_error(comparisons: Comparisons) -> str | Text:
    """Format the largest relative L2 error, and how many comparisons failed."""
    if not comparisons:
        return Text("-", "dim")
    failed = sum(not comparison["passed"] for comparison in comparisons)
    errors = [c["error"] for c in comparisons if c["error"] is not None and c["mode"] != "-"]
    worst = f"{max(errors):.1e} " if errors else ""
    return Text(f"{worst}✗ {failed}", "red") if failed else Text.assemble(worst, ("✓", "green"))


def _nearest(comparisons: Comparisons) -> tuple[str, ...]:
    """Format the array nearest to its limit: name, error, noise floor, rounding bound, multiple of the floor."""
    limited = [c for c in comparisons if c["error"] is not None and c["limit"] and c["floor"]]
    if not limited:
        return ("-",) * 5
    nearest = max(limited, key=lambda comparison: comparison["error"] / comparison["limit"])
    floor = NoiseFloor(**nearest["floor"])
    builds = f"{two_digits(floor.best)} to {two_digits(floor.worst)}"
    error, bound = nearest["error"], nearest["bound"]
    return nearest["name"], two_digits(error), builds, two_digits(bound), floor.multiple(error)


def _noise_or_bug(comparisons: Comparisons) -> Text:
    """Format the verdict on a network in float32."""
    failed = sum(not comparison["passed"] for comparison in comparisons)
    if failed:
        return Text(f"bug ✗ {failed}", "red")
    return Text.assemble("noise ", ("✓", "green")) if comparisons else Text("-", "dim")


def _print_closing(record: Record, console: Console) -> None:
    """Print what the run covered, what it left out and how to have that, and the verdict."""
    names = [name for inputs in record["environment"]["inputs"].values() for name in inputs]
    modes = " and ".join(record["plan"]["modes"])
    console.print(f"inputs: {', '.join(dict.fromkeys(names))}; each in {modes} mode")
    for mode in MODES:
        if mode not in record["plan"]["modes"]:
            console.print(f"not compared: {mode} mode; what this run says holds for {modes} mode alone")
    if absent := [task for task in TASKS if task not in record["plan"]["tasks"]]:
        console.print(f"not compared: {', '.join(absent)} ({' '.join(f'--task {task}' for task in absent)})")
    verdict, comparisons = record["verdict"], record["comparisons"]
    style = {"conforms": "bold green", "diverges": "bold red", "incomplete": "bold yellow"}[verdict]
    passed = sum(comparison["passed"] for comparison in comparisons)
    counts = f": {passed:,} of {len(comparisons):,} comparisons passed in {record['seconds']:.0f} s"
    console.print(Text.assemble((verdict, style), counts))
