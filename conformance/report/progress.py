"""Shows the progress of workers on standard error: a bar for each on a terminal, elsewhere a line for each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from conformance.plan import Listener


EXAMINING = "comparing, and looking for the cause of what differs"
"""Title of the bar that moves while no worker runs."""


@contextlib.contextmanager
def progress() -> Iterator[Listener]:
    """Show the progress of workers while the block runs; yields the function that is to hear their events."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    title = TextColumn("{task.description}", markup=False)
    columns = (title, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[Path, Any] = {}
        examining = bars.add_task(EXAMINING, total=None, visible=False)

        def notify(event: Any) -> None:
            job = event.job
            name = f"{job.implementation.name} {job.precision}"
            if job.directory not in tasks:
                bars.update(examining, visible=False)
                tasks[job.directory] = bars.add_task(name, total=len(job.cases))
            if event.kind in ("traced", "skipped"):
                bars.advance(tasks[job.directory])
            if event.kind in ("done", "failed"):
                bars.remove_task(tasks.pop(job.directory))
                bars.update(examining, visible=not tasks)
                if not console.is_terminal:
                    click.echo(f"{name}: {event.kind}", err=True)

        yield notify
