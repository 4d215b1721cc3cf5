"""Plans: what a run consists of, the files that workers read, and the jobs that workers are given.

Every run of a candidate goes through `make_jobs` and `run_jobs`: the cases of a run, the further runs that localisation
and diagnosis ask for (`Rerun`), and the injections of the self-test.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from conformance.cases.case import MODES, Case, Mode, is_judged
from conformance.cases.inputs import Input
from conformance.cases.probe import Probe, Probed
from conformance.cases.recipes import RECIPES
from conformance.run.implementations import ORACLE, REFERENCE_BUILDS, Implementation
from conformance.run.jobs import Event, Job, NetworkFiles, run_jobs
from conformance.trace import ArrayFolder, Trace
from impls.config import ResNetConfig
from weights_convert import Checkpoint

THREADS_PER_WORKER = 4
"""More threads than this gain little on one image; further processors run further workers."""

Listener = Callable[[Event], None]
"""Is told every event of every worker, to show progress."""


@dataclass(frozen=True, eq=False)
class NetworkPlan:
    """One network of a run, with its weights and its inputs."""

    config: ResNetConfig
    weights: Checkpoint
    inputs: Sequence[Input]

    @property
    def batch(self) -> Input:
        """The smallest input of several images, or of one where none has more."""
        return min(self.inputs, key=lambda input: (len(input.images) == 1, input.images.size))

    def images(self, name: str) -> np.ndarray:
        """Images of the input of that name: (batch, channels, height, width).

        Raises:
            KeyError: If there is no such input.
        """
        return {input.name: input.images for input in self.inputs}[name]


@dataclass(frozen=True)
class Plan:
    """Everything that a run is.

    Attributes:
        networks: Variant to network.
        implementations: Candidates, which are compared with the oracle.
        precisions: Of "float64", "float32".
        directory: Where workers leave their traces; the caller removes it.
        device: "cpu", "gpu" or "auto".
        timeout: Seconds that one worker may take.
        interpreters: Implementation name to a Python of another environment.
        keep_traces: Whether traces stay after they are compared.
        seed: Seed of weights and noise, for the report.
        tasks: Of `conformance.cases.recipes.TASKS`.
        threads: Number of threads of each worker; None shares the processors out.
        variables: Environment variables of the workers, beside those that precision and device need.
        modes: Modes that are compared.
        layers: Whether float64 compares every layer of the smallest input, which shows what a tap contradicts.
    """

    networks: Mapping[str, NetworkPlan]
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
    variables: Mapping[str, str] = field(default_factory=dict)
    modes: Sequence[Mode] = MODES
    layers: bool = False

    def cases(self, precision: str) -> list[Case]:
        """Every case of a candidate in that precision, in the order they run."""
        return [
            replace(case, layers=True) if self.shows_layers(case, precision) else case
            for variant, network in self.networks.items()
            for task, make_cases in CASES.items()
            if ASKED_AS.get(task, task) in self.tasks
            for case in make_cases(variant, network, precision)
            if case.mode in self.modes
        ]

    def shows_layers(self, case: Case, precision: str) -> bool:
        """Tell whether a case compares every layer."""
        smallest = min(self.networks[case.variant].inputs, key=lambda input: input.images.size)
        wanted = self.layers and precision == "float64" and case.task == "forward"
        return wanted and case.input == smallest.name

    def parallel(self, jobs: int) -> int:
        """Number of workers that run at a time, of that many jobs."""
        processors = os.cpu_count() or 1
        return max(1, min(jobs, max(2, processors // THREADS_PER_WORKER), processors))


def forward_cases(variant: str, network: NetworkPlan, precision: str) -> list[Case]:
    """Forward runs of every input in float64, of pictures alone in float32; each in both modes.

    Noise, batches and odd sizes are there to show differences of the mathematics: float64 sees them, float32 would
    only see them less well. float32 runs what its own claim is about: pictures, or one noise where there are none.
    """
    pictures = [input for input in network.inputs if input.is_picture] or network.inputs[:1]
    inputs = network.inputs if precision == "float64" else pictures
    return [Case(variant, input.name, mode) for input in inputs for mode in MODES]


def gradient_cases(variant: str, network: NetworkPlan, precision: str) -> list[Case]:
    """Gradients of the first input and the smallest batch in float64; of that batch, not to be judged, in float32."""
    if not network.config.num_classes:
        return []
    if precision == "float32":
        return [Case(variant, network.batch.name, "train", task="gradients")]
    return _differentiated(variant, network, "gradients")


def backward_cases(variant: str, network: NetworkPlan, precision: str) -> list[Case]:
    """Gradients at the oracle's activations, which float32 is judged by."""
    if not network.config.num_classes or precision != "float32":
        return []
    return _differentiated(variant, network, "backward")


def _differentiated(variant: str, network: NetworkPlan, task: str) -> list[Case]:
    inputs = dict.fromkeys([network.inputs[0].name, network.batch.name])
    return [Case(variant, name, mode, task=task) for name in inputs for mode in reversed(MODES)]


def step_cases(variant: str, network: NetworkPlan, precision: str) -> list[Case]:
    """Training steps of the smallest batch, with every recipe."""
    if not network.config.num_classes:
        return []
    return [Case(variant, network.batch.name, "train", task="steps", recipe=recipe) for recipe in RECIPES]


def initial_cases(variant: str, network: NetworkPlan, precision: str) -> list[Case]:
    """Initial weights, in float64 alone: what is drawn does not depend on the precision."""
    return [Case(variant, network.batch.name, "train", task="initialisation")] if precision == "float64" else []


CASES: dict[str, Callable[[str, NetworkPlan, str], list[Case]]] = {
    "forward": forward_cases,
    "initialisation": initial_cases,
    "backward": backward_cases,
    "gradients": gradient_cases,
    "steps": step_cases,
}
"""Task to the cases of a network in a precision, in the order they run."""

ASKED_AS = {"backward": "gradients"}
"""Task to the one that a user asks for it by, where that is another."""


Files = Mapping[str, NetworkFiles]
"""Weights and inputs of networks by variant, as files that workers read."""


def write_files(plan: Plan) -> Files:
    """Write each network's weights and inputs, once for all workers."""
    return {variant: write_network(network, plan.directory, variant) for variant, network in plan.networks.items()}


def write_network(network: NetworkPlan, directory: Path, name: str) -> NetworkFiles:
    """Write a network's weights and inputs into a directory, under file names that start with `name`."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / f"{name}.weights.safetensors"
    network.weights.to("canonical").save(weights)  # with its hash, which each worker's loading verifies
    inputs = {}
    for number, input in enumerate(network.inputs):
        inputs[input.name] = directory / f"{name}.input{number}.npy"
        np.save(inputs[input.name], input.images)
    return NetworkFiles(network.config, weights, network.weights.content_hash(), inputs)


class Assignment(NamedTuple):
    """Cases that one worker is to run: one candidate, oracle or reference build in one precision."""

    implementation: Implementation
    precision: str
    cases: Sequence[Case]


Feed = Mapping[Case, Trace]
"""The oracle's streamed activations by case: how activations of forward cases with `layers` leave a worker.

None: as return value of the candidate's own function, in one file, as in an ordinary run. A mapping: streamed one by
one into a folder, if the candidate has taps; in the cases that the mapping holds, each segment is fed the oracle's
activation from that trace (`trace.origin.fed` tells). `{}` streams without feeding, which makes the traces that other
runs are fed with."""


def make_jobs(
    plan: Plan,
    assignments: Sequence[Assignment],
    networks: Files,
    folder: Path,
    feed: Feed | None = None,
    probes: Sequence[Probe] = (),
) -> list[Job]:
    """Make the jobs of some assignments, the longest first: the only place where a `Job` is built.

    Args:
        plan: Device, timeout, threads, interpreters and variables.
        assignments: One per worker.
        networks: Variant to files, of all variants of the cases.
        folder: Each worker gets a new folder in it.
        feed: How activations of forward cases with `layers` leave the workers; see `Feed`.
        probes: Probes that each worker runs after its cases; they are written into its folder.
    """
    threads = plan.threads or usual_threads(plan.parallel(len(assignments)))
    jobs = [
        Job(
            implementation,
            precision,
            cases,
            with_faults(networks, implementation),
            folder / f"{implementation.name}-{precision}",
            device="cpu" if implementation in (ORACLE, *REFERENCE_BUILDS) else plan.device,
            python=plan.interpreters.get(implementation.name, sys.executable),
            timeout=plan.timeout,
            threads=threads,
            variables=plan.variables,
            feed=None if feed is None else {case.slug: trace.path for case, trace in feed.items() if trace.path},
            probes={probe.name: (probe.target, probe.train) for probe in probes},
        )
        for implementation, precision, cases in assignments
    ]
    for job in jobs:
        for probe in probes:
            probe.save(job.directory / probe.name)
    return sorted(jobs, key=lambda job: -job.implementation.cost * len(job.cases))


def usual_threads(workers: int) -> int:
    """Share the processors out among workers, unless OMP_NUM_THREADS says how many threads a process may have."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return int(allowed) if allowed.isdecimal() else max(1, (os.cpu_count() or 1) // workers)


def with_faults(networks: Files, implementation: Implementation) -> Files:
    """Add the faults of a faulty candidate to each network's own."""
    if not implementation.faults:
        return networks
    return {
        variant: replace(files, faults=[*files.faults, *implementation.faults]) for variant, files in networks.items()
    }


def assign_cases(plan: Plan, cases: Mapping[str, Sequence[Case]]) -> list[Assignment]:
    """Assign cases by precision: to the oracle, for float32 to the reference builds, and to the plan's candidates."""
    assignments = [Assignment(ORACLE, "float64", list(dict.fromkeys(case for some in cases.values() for case in some)))]
    if "float32" in cases:
        judged = [case for case in cases["float32"] if is_judged(case, "float32")]
        assignments += [Assignment(build, "float32", judged) for build in REFERENCE_BUILDS]
    return assignments + [
        Assignment(implementation, precision, cases[precision])
        for precision in cases
        for implementation in plan.implementations
        if precision in implementation.precisions
    ]


@dataclass
class TracedRun:
    """The result of one candidate's further run.

    Attributes:
        folder: The worker's folder; None if it stays.
        traces: Case to trace, of the cases that ran.
        failure: Why not all of them ran; empty where they did.
        probed: Name of a probe to its result, whose arrays stay on disk until they are asked for.
    """

    folder: Path | None = None
    traces: dict[Case, Trace] = field(default_factory=dict)
    failure: str = ""
    probed: dict[str, Probed] = field(default_factory=dict)

    def discard(self) -> None:
        """Remove the traces from disk, unless the plan keeps traces; streamed arrays cannot be read afterwards."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class Rerun:
    """Run cases once more, in one worker per implementation: what localisation and diagnosis ask for runs by."""

    def __init__(self, plan: Plan, files: Files, notify: Listener) -> None:
        """Prepare further runs.

        Args:
            plan: Device, timeout, threads and interpreters; where traces go and whether they stay.
            files: The plan's networks as `write_files` left them.
            notify: Hears every event of the workers.
        """
        self.plan, self.notify, self.numbers = plan, notify, count(1)
        # With its files a network is kept, so that no other one gets its id.
        self.written = {id(network): (network, files[variant]) for variant, network in plan.networks.items()}

    def __call__(
        self,
        implementations: Sequence[Implementation],
        precision: str,
        cases: Sequence[Case],
        network: NetworkPlan,
        feed: Feed | None = None,
        probes: Sequence[Probe] = (),
    ) -> dict[str, TracedRun]:
        """Run cases and probes of one network.

        Starting a worker costs the import of a framework: give all cases and probes of a question at once.

        Args:
            implementations: Candidates, `ORACLE` or `REFERENCE_BUILDS`; each runs all cases.
            precision: "float64" or "float32".
            cases: All of one variant; none where there are probes.
            network: A network of the plan, or another one (a small network of the variant), whose files are then
                written first.
            feed: How activations of forward cases with `layers` leave the worker; see `Feed`.
            probes: Runs with activations of the suite's own choice in the place of the candidate's, after the cases.

        Returns:
            Implementation name to run. Call `discard` when its traces are no longer needed.

        Example:
            Feed a candidate the oracle's activations::

                truth = rerun([ORACLE], "float64", cases, network, feed={})[ORACLE.name]
                fed = rerun([candidate], "float64", cases, network, feed=truth.traces)[candidate.name]
        """
        (variant,) = {case.variant for case in cases} or {network.config.variant}
        folder = self.plan.directory / f"rerun-{next(self.numbers)}"
        if id(network) not in self.written:
            self.written[id(network)] = network, write_network(network, folder / "network", variant)
        _, files = self.written[id(network)]
        assignments = [Assignment(implementation, precision, cases) for implementation in implementations]
        jobs = make_jobs(self.plan, assignments, {variant: files}, folder, feed, probes)
        folders = {job.implementation.name: None if self.plan.keep_traces else job.directory for job in jobs}
        runs = {name: TracedRun(folder) for name, folder in folders.items()}
        for event in run_jobs(jobs, self.plan.parallel(len(jobs))):
            self.notify(event)
            run = runs[event.job.implementation.name]
            if event.kind == "traced":
                run.traces[event.case] = Trace.load(event.file)
            elif event.kind == "probed":
                arrays = ArrayFolder(Path(event.facts["folder"]))
                run.probed[event.facts["probe"]] = Probed(arrays, event.facts["reason"])
            elif event.kind in ("failed", "skipped"):
                run.failure = event.facts["reason"]
        return runs
