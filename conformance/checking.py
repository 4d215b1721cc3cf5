"""Checks: models as they are, held against the oracle. The function is `conformance.check`, the command `check`.

Each model is surveyed in a worker of its own first: its arrays tell its size and dialect, its configuration or the user
its variant. Models that are held against the same network are then compared in one run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from conformance.cases.case import MODES, PRECISIONS, TASKS
from conformance.cases.defaults import default_inputs
from conformance.cases.inputs import Input, noise, noise_sides
from conformance.cases.pictures import photograph, read_images
from conformance.options import trace_folder, with_pictures
from conformance.outcome import Failure, Judged, Outcome
from conformance.plan import Listener, NetworkPlan, Plan
from conformance.report.record import Record, make_record
from conformance.run.implementations import Implementation
from conformance.run.live import random_states
from conformance.suite import run_suite
from conformance.surveying import OPEN, Checked, Request, survey_models
from impls.config import ResNetConfig

USUAL_SIDE = 224
"""Height and width of the images of a model that takes any, in a run of a fixed size of batches."""


@dataclass(frozen=True, repr=False)
class Report(Judged):
    """The outcome of a check; as text, it is what the command prints.

    Attributes:
        records: A record of each run, as `conformance run --report` writes it.
    """

    records: Sequence[Record]

    @property
    def verdict(self) -> str:
        """The worst verdict: "diverges", "incomplete" or "conforms"."""
        verdicts = [record["verdict"] for record in self.records]
        return next((v for v in ("diverges", "incomplete") if v in verdicts), "conforms" if verdicts else "incomplete")

    def to_dict(self) -> Record:
        """The record of the run; of several runs, their verdict and their records."""
        if len(self.records) == 1:
            return self.records[0]
        return {"verdict": self.verdict, "runs": list(self.records)}

    def __repr__(self) -> str:
        return f"<Report: {self.verdict}>"

    def __str__(self) -> str:
        text = StringIO()
        with random_states():  # rich draws numbers when it is imported, and for its styles
            from conformance.report.text import plain_console, print_record

            for record in self.records:
                print_record(record, plain_console(text, 110))
        return text.getvalue()


def check_models(models: Sequence[Any], request: Request, notify: Listener = lambda event: None) -> Report:
    """Check models: those that targets name in workers, live objects in this process.

    Args:
        models: Targets, as text (see `conformance.run.candidates.targets`), and live objects.
        request: What is asked for.
        notify: Hears every event of the workers.

    Raises:
        ValueError: If a target is none or names nothing, its arrays or its variant cannot be told, or weights or
            pictures cannot be read or do not suit it.
    """
    with trace_folder(request.keep_traces) as folder:
        checked, failures = survey_models(models, request, folder / "surveys", notify)
        records = [
            run_group(group, request, folder / f"group-{number}", notify)
            for number, group in enumerate(grouped(checked))
        ]
    if failures:
        records.append(failed_record(failures, request, folder))
    return Report(records)


def grouped(checked: Sequence[Checked]) -> list[list[Checked]]:
    """Group models that are held against the same network with the same weights."""
    groups: dict[tuple[Any, ...], list[Checked]] = {}
    for each in checked:
        groups.setdefault((each.config, each.weights.content_hash(), each.sides, each.batch), []).append(each)
    return list(groups.values())


def run_group(group: Sequence[Checked], request: Request, folder: Path, notify: Listener) -> Record:
    """Compare models that are held against one network, and record the run."""
    plan = plan_group(group, request, folder)
    outcome = run_suite(plan, notify)
    outcome.failures += [
        Failure(candidate.name, precision, candidate.float32_only, lacks=precision)
        for candidate in plan.implementations
        for precision in plan.precisions
        if precision not in candidate.precisions
    ]
    left_out = excuse(outcome, request)
    record = make_record(plan, outcome, left_out)
    record["notes"] = [note for each in group for note in each.notes] + notes_of_workers(outcome)
    return record


def notes_of_workers(outcome: Outcome) -> list[str]:
    """List what workers noted at their first look, by candidate; a note that holds for both precisions once."""
    noted = {f"{worker.split()[0]}: {facts['note']}" for worker, facts in outcome.workers.items() if "note" in facts}
    return sorted(noted)


def plan_group(group: Sequence[Checked], request: Request, folder: Path) -> Plan:
    """Plan the run of models that are held against one network."""
    config, weights = group[0].config, group[0].weights
    pictures = read_images(request.images) if request.images else []
    if pictures and group[0].batch not in (None, 1):
        raise ValueError(f"pictures are given one by one, and {group[0].candidate.name} takes {group[0].batch} at once")
    usual = inputs_of(config, request.seed, group[0].sides, group[0].batch)
    network = NetworkPlan(config, weights, with_pictures(config, pictures, usual))
    return Plan(
        {config.variant: network},
        [each.candidate for each in group],
        request.precisions or PRECISIONS,
        folder,
        request.device,
        request.timeout,
        {name: python for name, python in request.interpreters.items() if name in {c.candidate.name for c in group}},
        request.keep_traces is not None,
        request.seed,
        request.tasks or TASKS[:1],
        modes=MODES[:1] if request.inference else MODES,
        layers=True,
    )


def inputs_of(config: ResNetConfig, seed: int, sides: tuple[int, int] | None, batch: int | None) -> list[Input]:
    """Make the usual inputs, or such as a model that is fixed to one size of images or of batches takes."""
    if sides is None and batch is None:
        return default_inputs(config, seed)
    height, width = sides or (USUAL_SIDE, USUAL_SIDE)
    pictured = height == width and config.in_channels == 3 and batch in (None, 1)
    shapes = [(height, width, 2)] if sides else [(height, width, 1), *noise_sides(config.head_pool)]
    noises = [noise(*shape[:2], batch or shape[2], seed, config.in_channels) for shape in shapes]
    return [photograph(height)] * pictured + noises


def excuse(outcome: Outcome, request: Request) -> list[str]:
    """Say what was not compared, and take away failures in what nobody asked for by name."""
    excused = [failure for failure in outcome.failures if failure.lacks and failure.precision not in request.precisions]
    outcome.failures = [failure for failure in outcome.failures if failure not in excused]
    lines = [f"{failure.candidate} is not compared in {failure.precision}: {failure.reason}" for failure in excused]
    for candidate, not_shown in outcome.not_shown.items():
        for reason, names in by_reason(not_shown).items():
            what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
            lines.append(f"{what} of {candidate}: {reason}")
    return lines


def by_reason(not_shown: Mapping[str, str]) -> dict[str, list[str]]:
    """Group names by the reason why they are not shown."""
    groups: dict[str, list[str]] = {}
    for name, reason in not_shown.items():
        groups.setdefault(reason, []).append(name)
    return groups


def failed_record(failures: Sequence[Failure], request: Request, folder: Path) -> Record:
    """Record models that could not be loaded, so that nothing was run."""
    candidates = [Implementation(failure.candidate, OPEN, ()) for failure in failures]
    plan = Plan(
        {}, candidates, request.precisions or PRECISIONS, folder, request.device, tasks=request.tasks or TASKS[:1]
    )
    return make_record(plan, Outcome(failures=list(failures)), [])
