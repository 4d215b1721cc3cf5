"""Measure what the suite says of the hand-written wrong models: caught, placed, named, stated, named wrongly.

    python -m tests.conformance.handwritten.measure                        # all of them
    python -m tests.conformance.handwritten.measure dilated-block --text   # one, with everything that is said of it
    python -m tests.conformance.handwritten.measure --report report.jsonl  # go on where an earlier run ended

Every model goes through the suite as a user's candidate does; its workers are run in this process, since most of a
small network's time is the import of its framework.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from unittest import mock

import click

from conformance import plan as planning
from conformance import suite
from conformance.cases.inputs import noise
from conformance.cases.synthetic import synthetic_weights
from conformance.compare.limits import REPRODUCED
from conformance.localise import small_network
from conformance.outcome import Outcome
from conformance.plan import NetworkPlan, Plan
from conformance.report.text import identification_lines
from conformance.run.implementations import Implementation
from conformance.run.jobs import Event, Job
from conformance.run.switches import switches
from conformance.run.worker import work
from impls.config import VARIANTS
from tests.conformance.handwritten.catalogue import catalogue
from tests.conformance.handwritten.wrong_model import WrongModel

CONFIGS = {
    "torchvision": VARIANTS["v1.5"],
    "linen": replace(VARIANTS["flax"], norm_variance="biased"),
    "keras": replace(VARIANTS["keras"], norm_variance="biased", norm_decay=0.99),
}
"""Configurations of each library's own ResNet-50, its running statistics included."""

SIZES = {
    "torchvision": {"depths": (2, 2, 3, 2), "width": 8, "num_classes": 10},
    "linen": {"depths": (2, 2, 3, 2), "width": 8, "num_classes": 10},
    "keras": {"depths": (1, 2, 1, 1), "num_classes": 10},
}
"""Small networks by library; keras.applications has 64 channels in its stem, whatever is asked for."""


@dataclass(frozen=True)
class Verdict:
    """The verdict of the suite on a wrong model.

    Attributes:
        id: The row.
        caught: Whether anything was out of its limit.
        layer: The first wrong array that was named.
        placed: Whether it is the expected one.
        named: Whether a fault that was named is one of the row's.
        stated: Whether what was said holds the expected fact.
        wrong: Faults that were named though the row has none of them.
        text: Everything that was said.
        seconds: Duration of the run and its diagnosis.
    """

    id: str
    caught: bool
    layer: str
    placed: bool
    named: bool
    stated: bool
    wrong: tuple[str, ...]
    text: str
    seconds: float


def run_here(jobs: Sequence[Job], parallel: int) -> Iterator[Event]:
    """Do the work of workers in this process, one job after the other."""
    for job in jobs:
        job.write()
        events: list[Event] = []
        ending = Event(job, "done", {"seconds": 0.0})

        def say(event: str, job: Job = job, events: list[Event] = events, **facts: object) -> None:
            events.append(Event(job, event, facts))

        try:
            work(job, say)
        except Exception as error:
            ending = Event(job, "failed", {"reason": f"{type(error).__name__}: {error}"})
        gc.enable()  # a worker switches it off, because it ends soon
        yield from [*events, ending]


@cache
def network_of(library: str, task: str, full: bool) -> NetworkPlan:
    """The network that a row's model is an edit of, with synthetic weights and a batch of noise."""
    config = CONFIGS[library]
    if task != "forward":
        return small_network(config, seed=0)
    config = config if full else replace(config, **SIZES[library])
    return NetworkPlan(config, synthetic_weights(config, 0), [noise(64, 96, 2, 0)])


def run_model(name: str, library: str, task: str = "forward", full: bool = False) -> Outcome:
    """Run one candidate of the catalogue through the suite, in float64."""
    implementation = Implementation(name, f"tests.conformance.handwritten.candidates:{name}", ())
    network = network_of(library, task, full)
    with tempfile.TemporaryDirectory(prefix="handwritten-") as folder:
        plan = Plan(
            {network.config.variant: network},
            [implementation],
            ["float64"],
            Path(folder),
            device="cpu",
            tasks=(task,),
            threads=1,
        )
        in_process, in_reruns = (mock.patch.object(module, "run_jobs", run_here) for module in (suite, planning))
        with in_process, in_reruns, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of some of these scripts
            return suite.run_suite(plan, lambda event: None)


def judge(row: WrongModel) -> Verdict:
    """Run a row's model, and judge what is said of it."""
    started = time.perf_counter()
    outcome = run_model(row.id, row.library, row.task, row.full)
    seconds = time.perf_counter() - started
    if not outcome.divergences:
        said = "; ".join(failure.reason for failure in outcome.failures)
        return Verdict(row.id, False, "", False, False, False, (), said, seconds)
    (divergence,) = outcome.divergences
    causes = [{cause.fault.id for cause in finding.causes} for finding in divergence.findings if finding.causes]
    statements = [text for text in map(str, divergence.findings) if not text.startswith("no known fault")]
    measured = divergence.identification
    facts = list(measured.facts) if measured else []
    named = causes + [{fact.fault} for fact in facts if fact.fault]
    is_reproduced = measured is not None and measured.reproduced is not None and measured.reproduced <= REPRODUCED
    accused = causes if is_reproduced else named  # facts with which the whole run is reproduced are right
    statements += [fact.text for fact in facts]
    others = list(identification_lines(measured.to_dict())) if measured else []
    text = "\n".join(filter(None, [divergence.reason, *map(str, divergence.findings), divergence.note, *others]))
    said = "\n".join([*statements, divergence.note])
    return Verdict(
        row.id,
        True,
        divergence.layer,
        divergence.layer == row.layer,
        any(ids & row.rows for ids in named),
        all(re.search(pattern, said, re.IGNORECASE) for pattern in row.says),
        tuple(sorted("|".join(sorted(ids)) for ids in accused if not ids & row.rows)),
        text,
        seconds,
    )


def shares(verdicts: Sequence[Verdict], rows: Sequence[WrongModel]) -> str:
    """Count verdicts, those on rows of the catalogue of faults and all others apart."""
    lines = [f"{'':24}{'models':>7}{'caught':>8}{'placed':>8}{'named or stated':>17}{'named wrongly':>15}"]
    by_id = {row.id: row for row in rows}
    for title, kind in (("rows of the catalogue", True), ("others", False)):
        some = [verdict for verdict in verdicts if bool(by_id[verdict.id].rows) == kind]
        counts = (
            len(some),
            sum(v.caught for v in some),
            sum(v.placed for v in some),
            sum((v.named or v.stated) and not v.wrong for v in some),
            sum(bool(v.wrong) for v in some),
        )
        lines.append("{:24}{:>7}{:>8}{:>8}{:>17}{:>15}".format(title, *counts))
    return "\n".join(lines)


def line_of(verdict: Verdict, row: WrongModel) -> str:
    """Tell a verdict in one line."""
    outcome = "named" if verdict.named else "stated" if verdict.stated else "-"
    place = "placed" if verdict.placed else f"at {verdict.layer or 'nothing'}, not {row.layer}"
    caught = "caught" if verdict.caught else "NOT CAUGHT"
    return f"{row.id:38} {verdict.seconds:6.1f} s  {caught}  {place:8} {outcome:7} {' '.join(verdict.wrong)}"


def read_report(path: Path) -> dict[str, Verdict]:
    """Read the verdicts of an earlier run, by row; the last one of a row counts."""
    records = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {record["id"]: Verdict(**{**record, "wrong": tuple(record["wrong"])}) for record in records}


def main() -> None:
    """Measure rows, print a line for each and the shares."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ids", nargs="*")
    parser.add_argument("--task", action="append", help="only rows of this task")
    parser.add_argument("--library", action="append", help="only rows of this library")
    parser.add_argument("--text", action="store_true", help="print everything that is said")
    parser.add_argument(
        "--report",
        type=Path,
        help="append each verdict to this file of JSON lines; rows that it holds are not run again",
    )
    arguments = parser.parse_args()
    os.environ.update(switches("float64", "cpu", 1))
    rows = [
        row
        for row in catalogue().values()
        if (not arguments.ids or row.id in arguments.ids)
        and (not arguments.task or row.task in arguments.task)
        and (not arguments.library or row.library in arguments.library)
    ]
    known = read_report(arguments.report) if arguments.report else {}
    verdicts = []
    for row in rows:
        verdict = known.get(row.id) or judge(row)
        verdicts.append(verdict)
        if arguments.report and row.id not in known:
            with arguments.report.open("a") as report:
                report.write(json.dumps(asdict(verdict)) + "\n")
        click.echo(line_of(verdict, row))
        if arguments.text or not verdict.caught:
            click.echo("    " + verdict.text.replace("\n", "\n    "))
    click.echo(shares(verdicts, rows))


if __name__ == "__main__":
    main()
