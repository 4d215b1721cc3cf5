"""Runs whose traces go into a recording. The function is `conformance.record_trace`, the command `record`."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from conformance.checking import plan_group
from conformance.options import choose_networks, not_installed, trace_folder
from conformance.outcome import Failure
from conformance.plan import Assignment, Listener, Plan, make_jobs, write_files
from conformance.run.implementations import NAMED, ORACLE, Implementation, find_implementation
from conformance.run.jobs import run_jobs
from conformance.suite import failure_of
from conformance.surveying import OWN_WEIGHTS, Checked, Request, survey_models
from conformance.trace import Trace
from conformance.tracing.recording import Key, Recording, sketched


class NothingRecorded(RuntimeError):
    """Raised where a candidate could not run at all, so that there is nothing to write; the message says why."""


def record_model(model: Any, request: Request, small: bool = False, notify: Listener = lambda event: None) -> Recording:
    """Run one candidate without comparing it with anything, and keep all that it computed.

    Args:
        model: A live object; a target, as text; or the name of one of our implementations or builds, or "oracle".
        request: What is to be run.
        small: Whether the activations of blocks, too, are kept as sketches.
        notify: Hears every event of the worker.

    Raises:
        ValueError: If the text names nothing, the variant cannot be told, or weights or pictures cannot be read or do
            not suit the model.
        NothingRecorded: If the candidate could not run in any precision.
    """
    with trace_folder(None) as folder:
        chosen = choose_candidate(model, request, folder, notify)
        plan = plan_group([chosen], request, folder / "run")
        traces, failures = run_candidate(plan, small, notify)
    reasons = [could_not(failure) for failure in failures]
    if not traces:
        raise NothingRecorded("; ".join(reasons) or f"{chosen.candidate.name} computes in none of these precisions")
    network = plan.networks[chosen.config.variant]
    return Recording(
        chosen.candidate.name,
        chosen.config,
        traces,
        network.inputs,
        chosen.weights.content_hash(),
        chosen.weights.where,
        None if request.weights or chosen.weights.where == OWN_WEIGHTS else request.seed,
        {"platform": platform.platform(), "processors": str(os.cpu_count())},
        chosen.notes,
        reasons,
    )


def choose_candidate(model: Any, request: Request, folder: Path, notify: Listener) -> Checked:
    """Find the candidate, and the network that it is held against.

    Raises:
        ValueError: See `record_model`.
        NothingRecorded: If it is not installed, or cannot be loaded.
    """
    if isinstance(model, str) and (model in (*NAMED, ORACLE.name) or is_faulty(model)):
        return choose_implementation(model, request)
    checked, failures = survey_models([model], request, folder / "surveys", notify)
    if failures:
        raise NothingRecorded(could_not(failures[0]))
    return checked[0]


def is_faulty(text: str) -> bool:
    """Tell the name of a faulty candidate, as in broken=torch+pad-same@stage3.0.conv2, from a target."""
    return ":" not in text and "+" in text.partition("=")[2]


def choose_implementation(name: str, request: Request) -> Checked:
    """Make one of our own a candidate of the variant that was asked for, or that the weights are of.

    Raises:
        ValueError: If no variant is told, or weights cannot be read.
        NothingRecorded: If its framework is not installed.
    """
    candidate = ORACLE if name == ORACLE.name else find_implementation(name)
    if candidate.missing() and candidate.name not in request.interpreters:
        raise NothingRecorded(not_installed(candidate))
    if request.variant is None and request.weights is None:
        raise ValueError(f"{name} computes any variant: say which, as in --variant v1.5")
    if request.own_weights or request.names:
        raise ValueError(f"--own-weights and --names are for models of your own, and {name} is one of ours")
    variants = [] if request.variant is None else [request.variant]
    (network,) = choose_networks(variants, request.weights, request.images, request.seed).values()
    return Checked(candidate, network.config, network.weights, [])


def run_candidate(plan: Plan, small: bool, notify: Listener) -> tuple[dict[Key, Trace], list[Failure]]:
    """Run the candidate of a plan, every layer of it; returns its traces, and what it could not do."""
    (candidate,) = plan.implementations
    precisions = [precision for precision in plan.precisions if precision in precisions_of(candidate)]
    failures = [
        Failure(candidate.name, precision, candidate.float32_only or "it computes in float64 alone", lacks=precision)
        for precision in plan.precisions
        if precision not in precisions
    ]
    assignments = [
        Assignment(candidate, precision, [replace(case, layers=case.task == "forward") for case in cases])
        for precision in precisions
        if (cases := plan.cases(precision))
    ]
    traces: dict[Key, Trace] = {}
    jobs = make_jobs(plan, assignments, write_files(plan), plan.directory / "cases")
    for event in run_jobs(jobs, plan.parallel(len(jobs))):
        notify(event)
        if event.kind == "traced":
            trace = Trace.load(event.file)
            traces[Key(trace.origin.precision, trace.origin.case)] = sketched(trace, small)
            trace.remove()
        elif event.kind in ("failed", "skipped"):
            failures.append(failure_of(event))
    order = [Key(precision, case) for _, precision, cases in assignments for case in cases]
    return {key: traces[key] for key in order if key in traces}, list(dict.fromkeys(failures))


def precisions_of(candidate: Implementation) -> Sequence[str]:
    """Precisions in which a candidate can be recorded; the oracle is defined in float64."""
    return ("float64",) if candidate.adapter == ORACLE.adapter else candidate.precisions


def could_not(failure: Failure) -> str:
    """Say what could not be recorded, and why."""
    what = " ".join(filter(None, [failure.precision, failure.task])) or "it"
    return f"{failure.candidate}: {what} could not be recorded: {failure.reason}"
