"""The suite: plans the jobs, has them run, compares what comes, and finds the first wrong layer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from conformance.cases.case import MODES, Case, is_judged
from conformance.cases.inputs import Input
from conformance.cases.recipes import RECIPES
from conformance.compare.comparison import Comparison
from conformance.compare.noise import NoiseFloors, noise_floors
from conformance.compare.traces import compare_parameters, compare_traces
from conformance.localise import localise
from conformance.outcome import Failure, Outcome
from conformance.run.implementations import ORACLE, REFERENCE_BUILDS, Implementation
from conformance.run.jobs import Event, Job, run_jobs
from conformance.trace import Trace
from impls.config import ResNetConfig
from weights_convert import Checkpoint

THREADS_PER_WORKER = 4
"""More threads than this gain little on one image; further processors run further workers."""

Notify = Callable[[Event], None]


@dataclass(frozen=True)
class Network:
    """One network of the run, with its weights and its inputs."""

    config: ResNetConfig
    weights: Checkpoint
    inputs: Sequence[Input]

    @property
    def batch(self) -> Input:
        """The smallest input of several images, or of one where none has more."""
        return min(self.inputs, key=lambda input: (len(input.images) == 1, input.images.size))


@dataclass(frozen=True)
class Plan:
    """Everything that a run is.

    Attributes:
        networks: By variant.
        implementations: That are held against the oracle.
        precisions: Of "float64", "float32".
        directory: Where workers leave their traces; the caller removes it.
        device: "cpu", "gpu" or "auto".
        timeout: Seconds that one worker may take.
        interpreters: Implementation name to a Python of another environment.
        keep_traces: Whether traces stay after they are compared.
        seed: Of weights and noise, for the report.
        tasks: Of `conformance.cases.recipes.TASKS`.
        threads: Of each worker; None shares the processors out.
    """

    networks: Mapping[str, Network]
    implementations: Sequence[Implementation]
    precisions: Sequence[str]
    directory: Path
    device: str = "auto"
    timeout: float = 900.0
    interpreters: Mapping[str, str] = field(default_factory=dict)
    keep_traces: bool = False
    seed: int = 0
    tasks: Sequence[str] = ("forward",)
    threads: int | None = None

    def cases(self, precision: str) -> list[Case]:
        """Every run of an implementation in that precision, in order.

        Noise, batches and odd sizes are there to show differences of the mathematics: float64 sees them, float32 would
        only see them less well. float32 runs what its own claim is about: pictures, or one noise where there are none.
        """
        cases = []
        for variant, network in self.networks.items():
            pictures = [input for input in network.inputs if input.is_picture] or network.inputs[:1]
            inputs = network.inputs if precision == "float64" else pictures
            if "forward" in self.tasks:
                cases += [Case(variant, input.name, mode) for input in inputs for mode in MODES]
            if "initialisation" in self.tasks and precision == "float64":
                cases.append(Case(variant, network.batch.name, "train", task="initialisation"))
            if network.config.num_classes:
                cases += self._training_cases(variant, network, precision)
        return cases

    def _training_cases(self, variant: str, network: Network, precision: str) -> list[Case]:
        """Gradients of the first input and of the smallest batch, and steps of that batch with every recipe.

        In float32 gradients are those at the oracle's activations; those of the batch as they come, and the steps, are
        reported and not judged.
        """
        batch = network.batch.name
        inputs = list(dict.fromkeys([network.inputs[0].name, batch]))
        task = {"float64": "gradients", "float32": "backward"}[precision]
        cases = [Case(variant, name, mode, task=task) for name in inputs for mode in reversed(MODES)]
        if precision == "float32":
            cases.append(Case(variant, batch, "train", task="gradients"))
        if "gradients" not in self.tasks:
            cases = []
        if "steps" in self.tasks:
            cases += [Case(variant, batch, "train", task="steps", recipe=recipe) for recipe in RECIPES]
        return cases


def run_suite(plan: Plan, notify: Notify) -> Outcome:
    """Run a plan: every case in every implementation; then, where one diverges, the layers of its first such case."""
    started = time.monotonic()
    files = write_files(plan)
    cases = {precision: some for precision in plan.precisions if (some := plan.cases(precision))}
    outcome = run_cases(plan, files, cases, plan.implementations, "cases", notify)
    outcome.divergences = localise(plan, files, first_failures(outcome.comparisons), notify)
    outcome.seconds = time.monotonic() - started
    return outcome


@dataclass(frozen=True)
class Files:
    """The weights and inputs of a plan as workers find them."""

    networks: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, Mapping[str, str]]


def write_files(plan: Plan) -> Files:
    """Write each network's weights and inputs, once for all workers."""
    networks: dict[str, Mapping[str, Any]] = {}
    inputs: dict[str, dict[str, str]] = {}
    for variant, network in plan.networks.items():
        weights = plan.directory / f"{variant}.weights.safetensors"
        network.weights.to("canonical").save(weights)  # with its hash, which each worker's loading verifies
        sha256 = network.weights.content_hash()
        networks[variant] = {"config": network.config.to_dict(), "weights": str(weights), "sha256": sha256}
        inputs[variant] = {}
        for number, input in enumerate(network.inputs):
            file = plan.directory / f"{variant}.input{number}.npy"
            np.save(file, input.images)
            inputs[variant][input.name] = str(file)
    return Files(networks, inputs)


def run_cases(
    plan: Plan,
    files: Files,
    cases: Mapping[str, Sequence[Case]],
    implementations: Sequence[Implementation],
    folder: str,
    notify: Notify,
) -> Outcome:
    """Run cases, given by precision, in the oracle, in the reference builds for float32, and in the implementations."""
    every_case = list(dict.fromkeys(case for some in cases.values() for case in some))
    builds = REFERENCE_BUILDS if "float32" in cases else ()
    pairs = [(ORACLE, "float64"), *((build, "float32") for build in builds)]
    pairs += [
        (implementation, precision)
        for precision in cases
        for implementation in implementations
        if precision in implementation.precisions
    ]
    processors = os.cpu_count() or 1
    parallel = max(1, min(len(pairs), max(2, processors // THREADS_PER_WORKER), processors))
    jobs = [
        Job(
            implementation,
            precision,
            every_case if implementation == ORACLE else _cases_of(implementation, cases[precision]),
            files.networks,
            files.inputs,
            plan.directory / folder / f"{implementation.name}-{precision}",
            "cpu" if implementation in (ORACLE, *REFERENCE_BUILDS) else plan.device,
            timeout=plan.timeout,
            threads=plan.threads or max(1, processors // parallel),
            python=plan.interpreters.get(implementation.name, sys.executable),
        )
        for implementation, precision in pairs
    ]
    jobs.sort(key=lambda job: -job.implementation.cost * len(job.cases))
    judging = Judging(plan, {job.directory.name: job for job in jobs}, len(builds))
    for event in run_jobs(jobs, parallel):
        judging.take(event)
        notify(event)
    order = {case: number for number, case in enumerate(every_case)}
    judging.outcome.comparisons.sort(key=lambda c: (c.candidate, c.precision, order[c.case] if c.input_matters else -1))
    return judging.outcome


def _cases_of(implementation: Implementation, cases: Sequence[Case]) -> Sequence[Case]:
    """Reference builds run what is judged beside them."""
    return [case for case in cases if is_judged(case, "float32") or implementation not in REFERENCE_BUILDS]


class Judging:
    """Takes events as they come and compares traces as soon as all that a comparison needs is there."""

    def __init__(self, plan: Plan, jobs: Mapping[str, Job], builds: int) -> None:
        self.plan, self.builds = plan, builds
        self.candidates = [job for job in jobs.values() if job.implementation not in (ORACLE, *REFERENCE_BUILDS)]
        self.outcome = Outcome()
        self.oracle: dict[Case, Path] = {}
        self.build_traces: dict[Case, list[Path]] = {}
        self.floors: dict[Case, NoiseFloors] = {}
        self.waiting: dict[Case, list[Path]] = {}
        self.unsettled: dict[Case, int] = {}
        self.checked_parameters: set[tuple[str, str, str]] = set()
        self.load_oracle = lru_cache(maxsize=2)(Trace.load)

    def take(self, event: Event) -> None:
        """Note an event; compare what it makes comparable."""
        name = f"{event.job.implementation.name} {event.job.precision}"
        record = self.outcome.workers.setdefault(name, {"seconds": None})
        if event.kind == "traced":
            self._take_trace(event.job, Case(**event.facts["case"]), Path(event.facts["file"]))
        elif event.kind == "failed":
            self.outcome.failures.append(
                Failure(event.job.implementation.name, event.job.precision, event.facts["reason"])
            )
        else:
            record.update(event.facts)

    def _take_trace(self, job: Job, case: Case, file: Path) -> None:
        if job.implementation == ORACLE:
            self.oracle[case] = file
        elif job.implementation in REFERENCE_BUILDS:
            self.build_traces.setdefault(case, []).append(file)
        else:
            self.waiting.setdefault(case, []).append(file)
        if case not in self.oracle:
            return
        if case not in self.floors and self.builds and len(self.build_traces.get(case, [])) == self.builds:
            builds = self.build_traces.pop(case)
            self.floors[case] = noise_floors(
                self.load_oracle(self.oracle[case]), [Trace.load(build) for build in builds]
            )
            self._forget(builds)
        self._compare(case)

    def _compare(self, case: Case) -> None:
        config = self.plan.networks[case.variant].config
        ready: list[Path] = []
        later: list[Path] = []
        for file in self.waiting.pop(case, []):
            float32 = file.parent.name.endswith("float32")
            waits = float32 and case not in self.floors and is_judged(case, "float32")
            (later if waits else ready).append(file)
        if later:
            self.waiting[case] = later
        if not ready:
            return
        oracle = self.load_oracle(self.oracle[case])
        for file in ready:
            candidate = Trace.load(file)
            for comparison in compare_traces(oracle, candidate, config, self.floors.get(case)):
                judged = is_judged(case, comparison.precision) or not comparison.passed
                (self.outcome.comparisons if judged else self.outcome.reported).append(comparison)
            network = (candidate.origin.candidate, candidate.origin.precision, case.variant)
            if network not in self.checked_parameters:
                self.checked_parameters.add(network)
                self.outcome.comparisons.append(compare_parameters(candidate, config))
        self._forget(ready)
        self.unsettled[case] = self.unsettled.get(case, sum(case in job.cases for job in self.candidates)) - len(ready)
        if self.unsettled[case] == 0:
            self._forget([self.oracle[case]])

    def _forget(self, files: Iterable[Path]) -> None:
        if not self.plan.keep_traces:
            for file in files:
                file.unlink()


def first_failures(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The first failed comparison of each implementation and variant, float64 before float32, activations first."""
    failed = [comparison for comparison in comparisons if not comparison.passed]
    failed.sort(key=lambda c: (c.precision != "float64", not c.input_matters, c.case.task != "forward"))
    firsts: dict[tuple[str, str], Comparison] = {}
    for comparison in failed:
        firsts.setdefault((comparison.candidate, comparison.case.variant), comparison)
    return list(firsts.values())
