"""The self-test of gradients, of training and of initialisation: the same by other tasks.

Gradients and steps are those of the network that steps are diagnosed on. An injection runs only the recipes that the
oracle with the same fault shows to be another; the others are the right build's own. What is drawn is that of a wider
one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from conformance.cases.case import MOMENTS, Case
from conformance.cases.inputs import noise, noise_sides
from conformance.cases.recipes import RECIPES, STEPS
from conformance.cases.weights import synthetic_weights
from conformance.compare.comparison import Comparison
from conformance.compare.traces import compare_traces
from conformance.faults import Injection
from conformance.localise import examine_gradients, examine_initial, examine_steps, small_config
from conformance.plan import Listener, NetworkPlan, Plan, Request, make_jobs, write_network
from conformance.run.adapters import Adapter, load_adapter
from conformance.run.implementations import ORACLE, Implementation
from conformance.run.jobs import NetworkFiles, run_jobs
from conformance.run.tasks import TASKS
from conformance.selftest.faulty import FaultyAdapter
from conformance.selftest.trials import RIGHT, Result, Trial, by_name, chosen_injections, faulty_networks
from conformance.trace import Origin, Trace
from impls.config import VARIANTS, ResNetConfig

QUICKLY_COMPILED = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
"""Compiling takes Flax more time than computing here: 3.4 s, not 6 to 10, for a step of training."""

AT_A_TIME = 20
"""Networks of one worker: XLA keeps what it compiled for each, and a process of ninety of them was seen to crash."""

DRAWN_WIDTH = 32
"""Of the network whose initialisation is compared: so wide that chance does not decide which array is the first wrong
one. That normal numbers are truncated is 8.8 standard errors in 36,864 numbers (stage2.0.conv2) and 5.9 in 16,384; that
their variance is 0.77 of the right one is 8.8 in 4,704 (conv1) and 6.1 in 2,304."""

Traces = dict[str, Trace]
"""By the name of the task and recipe."""


@dataclass(frozen=True, eq=False)
class TrainingBench:
    """A small network with its files, and what the oracle makes of it.

    Attributes:
        network: With one input.
        files: Its weights and input on disk.
        directory: Where its files are.
        tasks: Whose faults are injected.
    """

    network: NetworkPlan
    files: NetworkFiles
    directory: Path
    tasks: Sequence[str]

    def cases(self, key: str) -> list[Case]:
        """Of every task, and of steps with every recipe."""
        found: list[Case] = []
        for task in self.tasks:
            case = Case(key, self.network.inputs[0].name, "train", task=task)
            by_recipe = [replace(case, recipe=name, layers=True) for name in RECIPES]
            found += by_recipe if task == "steps" else [case]
        return found

    @cached_property
    def oracle(self) -> Adapter:
        """The right one."""
        adapter = load_adapter(ORACLE.adapter)
        adapter.prepare("cpu", "float64")
        adapter.build(self.network.config, self.files.weights)
        return adapter

    @cached_property
    def truth(self) -> Traces:
        """What the right oracle computes."""
        return {case.words: self.trace(self.oracle, case) for case in self.cases(RIGHT)}

    def trace(self, adapter: Adapter, case: Case) -> Trace:
        """A case run in this process."""
        arrays = TASKS[case.task](adapter, case, self.network.inputs[0].images, self.files)
        return Trace(arrays, Origin(case, ORACLE.name, "float64"))

    def expected(self, injection: Injection) -> dict[str, Comparison]:
        """By task and recipe, the first array that is wrong in the oracle with a fault; none where nothing is."""
        wrong = FaultyAdapter(copy(self.oracle), [(injection.fault.id, injection.place.name)])
        wrong.build(self.network.config, self.files.weights)
        tasks = [case for case in self.cases(RIGHT) if case.task == injection.fault.task]
        found = {case.words: self.failures({case.words: self.trace(wrong, case)}) for case in tasks}
        return {what: failures[0] for what, failures in found.items() if failures}

    def compare(self, traces: Traces) -> list[Comparison]:
        """Every array of some cases held against the oracle's."""
        return [
            comparison
            for what, trace in traces.items()
            for comparison in compare_traces(
                replace(first_and_last(self.truth[what]), origin=trace.origin),
                first_and_last(trace),
                self.network.config,
            )
        ]

    def failures(self, traces: Traces) -> list[Comparison]:
        """Those that are out of their limits."""
        return [comparison for comparison in self.compare(traces) if not comparison.passed]


def first_and_last(trace: Trace) -> Trace:
    """The state after the first and after the last step, of a trace that has it after every one; others as they are."""
    moments = {str(number): moment for number, moment in zip((1, STEPS), MOMENTS, strict=True)}
    split = {name: name.partition(".") for name in trace.arrays}
    arrays = {
        (f"{moments[first]}.{rest}" if first in moments else name): trace.arrays[name]
        for name, (first, _, rest) in split.items()
    }
    return replace(trace, arrays=arrays)


def training_benches(variant: str, seed: int, directory: Path) -> Iterator[TrainingBench]:
    """The small networks of a variant: for gradients and steps, and for initialisation."""
    config = small_config(VARIANTS[variant])
    yield make_training_bench(config, seed, directory / "training", ("gradients", "steps"))
    wider = replace(config, width=DRAWN_WIDTH)
    yield make_training_bench(wider, seed, directory / "initialisation", ("initialisation",))


def make_training_bench(config: ResNetConfig, seed: int, directory: Path, tasks: Sequence[str]) -> TrainingBench:
    """A network with synthetic weights, which are written with its input."""
    height, width, _ = noise_sides(config.head_pool)[1]
    network = NetworkPlan(config, synthetic_weights(config, seed), [noise(height, width, 2, seed, config.in_channels)])
    return TrainingBench(network, write_network(network, directory, "network"), directory, tasks)


def train_injections(
    implementation: Implementation,
    variant: str,
    faults: Sequence[str],
    seed: int,
    everywhere: bool,
    directory: Path,
    notify: Listener,
    result: Result,
) -> None:
    """Inject all faults but the forward pass's into an implementation, and judge what the suite makes of them."""
    for bench in training_benches(variant, seed, directory):
        chosen = chosen_injections(bench.network.config, faults, implementation.name, everywhere)
        injections = [injection for injection in chosen if injection.fault.task in bench.tasks]
        if not injections:
            continue
        right: Traces = {}
        for traces, injection, expected in run_training(bench, implementation, injections, notify, result):
            if injection is None:
                right = traces
                compared = bench.compare(traces)
                result.right += len(compared)
                result.false_alarms += [comparison for comparison in compared if not comparison.passed]
            else:
                result.trials.append(judge(bench, implementation.name, injection, right, traces, expected))


def run_training(
    bench: TrainingBench,
    implementation: Implementation,
    injections: Sequence[Injection],
    notify: Listener,
    result: Result,
) -> Iterator[tuple[Traces, Injection | None, Mapping[str, Comparison]]]:
    """Each injection's traces and what is expected of it, as soon as they are all there; the right build's first."""
    by_key = by_name(injections)
    networks = faulty_networks(bench.files, by_key)
    cases: dict[str, list[Case]] = {}
    expected = {key: bench.expected(injection) if injection else {} for key, injection in by_key.items()}
    for key, injection in by_key.items():
        shown = [case for case in bench.cases(key) if not injection or case.words in expected[key]]
        cases[key] = shown or bench.cases(key)[:1]
    plan = Plan({}, [implementation], [], bench.directory, device="cpu", threads=1, variables=QUICKLY_COMPILED)
    jobs = []
    for number, keys in enumerate(batched(by_key, AT_A_TIME)):
        request = Request(implementation, "float64", [case for key in keys for case in cases[key]])
        jobs += make_jobs(plan, [request], networks, bench.directory / str(number))
    waiting: dict[str, dict[str, Trace]] = {}
    for event in run_jobs(jobs, parallel=1):
        notify(event)
        if event.kind == "failed":
            result.failures.append(f"{implementation.name} (training) could not run: {event.facts['reason']}")
        if event.kind == "traced":
            case, trace = event.case, Trace.load(event.file)
            traces = waiting.setdefault(case.variant, {})
            traces[case.words] = trace
            trace.remove()
            if len(traces) == len(cases[case.variant]):
                yield waiting.pop(case.variant), by_key[case.variant], expected[case.variant]


def batched(keys: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    """Keys, some at a time.

    Example:
        >>> list(batched("abcde", 2))
        [('a', 'b'), ('c', 'd'), ('e',)]
    """
    rest = iter(keys)
    while some := tuple(islice(rest, size)):
        yield some


def judge(
    bench: TrainingBench,
    implementation: str,
    injection: Injection,
    right: Traces,
    traces: Traces,
    expected: Mapping[str, Comparison],
) -> Trial:
    """What the suite makes of one injection."""
    failed = bench.failures(traces)
    harmless = injection.fault.harmless_at(injection.place, bench.network.config)
    first = next(iter(expected.values()), None)
    trial = Trial(
        implementation,
        injection.fault.id,
        injection.place.name,
        "float64",
        harmless,
        "" if harmless or first is None else told(first),
        caught=bool(failed),
    )
    if not failed:
        return trial
    case = bench.cases(RIGHT)[0]
    if injection.fault.task == "initialisation":
        findings = examine_initial(bench.network, traces[case.words].arrays)
    elif injection.fault.task == "gradients":
        findings = examine_gradients(bench.network, case, traces[case.words].arrays)
    else:
        ports = {case.recipe: (right | traces)[case.words].arrays for case in bench.cases(RIGHT) if case.recipe}
        findings = examine_steps(bench.network, ports)
    causes = tuple(f"{cause.fault.id}@{cause.place.name}" for finding in findings for cause in finding.causes)
    return replace(trial, layer=told(failed[0]), causes=causes, text="; ".join(map(str, findings)))


def told(comparison: Comparison) -> str:
    """Task and array."""
    return f"{comparison.case.words}: {comparison.name}"
