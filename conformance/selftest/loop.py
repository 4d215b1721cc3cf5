"""The self-test: faults of the catalogue, injected into real implementations, must all be caught, placed and named.

Each injection is a network of its own in an ordinary job, so that one worker runs many of them, and the same code
compares, localises and diagnoses as in `conformance run`. What is expected of an injection is computed by the oracle
with the same fault in it: which array is the first to differ. A correct network beside them must not be accused.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from conformance.cases.case import Case
from conformance.faults import Injection
from conformance.plan import Assignment, Listener, Plan, make_jobs
from conformance.run.implementations import Implementation
from conformance.run.jobs import run_jobs
from conformance.selftest.bench import CORRECT, Bench, Traces
from conformance.selftest.forward import ForwardBench
from conformance.selftest.training import GradientsBench, InitialBench, StepsBench
from conformance.selftest.trials import Result, Trial, chosen_injections, injection_name
from conformance.trace import Trace

BENCHES: dict[str, type[Bench]] = {
    "forward": ForwardBench,
    "gradients": GradientsBench,
    "steps": StepsBench,
    "initialisation": InitialBench,
}
"""The bench of each task; a fault is injected into the bench of its own task."""


def run_selftest(
    implementations: Sequence[Implementation],
    variant: str = "v1.5",
    faults: Sequence[str] = (),
    *,
    seed: int = 0,
    everywhere: bool = False,
    device: str = "cpu",
    notify: Listener = lambda event: None,
) -> Result:
    """Inject faults into implementations and judge what the suite makes of them.

    Args:
        implementations: Rows of the table of implementations.
        variant: Variant of the small networks.
        faults: Ids of faults; none means all.
        seed: Seed of weights and inputs.
        everywhere: Whether every place is tried, not three of each kind.
        device: "cpu", "gpu" or "auto": where the implementations run.
        notify: Hears every event of the workers.

    Raises:
        ValueError: If a fault is unknown.
    """
    started, result = time.monotonic(), Result()
    with tempfile.TemporaryDirectory(prefix="conformance-selftest-") as directory:
        benches = {task: bench.make(variant, seed, Path(directory) / task) for task, bench in BENCHES.items()}
        for implementation in implementations:
            for task, bench in benches.items():
                chosen = chosen_injections(bench.network.config, faults, implementation.name, everywhere)
                injections = [injection for injection in chosen if injection.fault.task == task]
                for precision in dict.fromkeys(injection.fault.precision for injection in injections):
                    group = [injection for injection in injections if injection.fault.precision == precision]
                    run_injections(bench, implementation, precision, group, device, notify, result)
    result.seconds = time.monotonic() - started
    return result


def run_injections(
    bench: Bench,
    implementation: Implementation,
    precision: str,
    injections: Sequence[Injection],
    device: str,
    notify: Listener,
    result: Result,
) -> None:
    """Run a correct network and one with each injection, and add what the suite makes of them to the result."""
    named = {CORRECT: None} | {injection_name(injection): injection for injection in injections}
    correct: Traces = {}
    for name, traces in run_networks(bench, implementation, precision, named, device, notify, result):
        injection = named[name]
        if injection is None:
            correct, compared = traces, bench.compare(traces)
            result.correct += len(compared)
            result.false_alarms += [comparison for comparison in compared if not comparison.passed]
        else:
            result.trials.append(judge_injection(bench, implementation.name, injection, traces, correct))
        for trace in traces.values():
            trace.remove()


def run_networks(
    bench: Bench,
    implementation: Implementation,
    precision: str,
    named: Mapping[str, Injection | None],
    device: str,
    notify: Listener,
    result: Result,
) -> Iterator[tuple[str, Traces]]:
    """Run networks in a few workers; yields each one's name and traces as soon as these are complete.

    Args:
        bench: The network, its cases, and what they are fed.
        implementation: What runs them.
        precision: In which precision.
        named: By name of a network, the injection in it; the first has none.
        device: Where it runs.
        notify: Hears every event of the workers.
        result: Gets a message about everything that could not run.
    """
    cases = {name: bench.cases_of(injection) if injection else bench.cases for name, injection in named.items()}
    networks = {
        name: replace(bench.files, faults=[(injection.fault.id, injection.place.name)] if injection else [])
        for name, injection in named.items()
    }
    plan = Plan({}, [implementation], [], bench.directory, device, threads=1, variables=bench.variables)
    jobs = []
    for number, names in enumerate(batched(named, bench.networks_per_worker)):
        sources = {replace(case, variant=name): bench.feed(case) for name in names for case in cases[name]}
        feed = {case: trace for case, trace in sources.items() if trace is not None}
        assignment = Assignment(implementation, precision, list(sources))
        jobs += make_jobs(plan, [assignment], networks, bench.directory / str(number), feed or None)
    waiting: dict[str, dict[Case, Trace]] = {name: {} for name in named}
    for event in run_jobs(jobs, parallel=1):
        notify(event)
        if event.kind == "ready":
            result.devices.add(event.facts["device"])
        if event.kind in ("failed", "skipped"):
            message = f"{implementation.name} ({precision}) could not run: {event.facts['reason']}"
            result.failures += [message] if message not in result.failures else []
        if event.kind == "traced":
            name = event.case.variant
            waiting[name][replace(event.case, variant=CORRECT)] = Trace.load(event.file)
            if len(waiting[name]) == len(cases[name]):
                yield name, waiting.pop(name)


def judge_injection(bench: Bench, implementation: str, injection: Injection, traces: Traces, correct: Traces) -> Trial:
    """Judge what the suite makes of one injection: whether it is caught, what is placed and what is named."""
    harmless = injection.fault.harmless_at(injection.place, bench.network.config)
    trial = Trial(
        implementation,
        injection.fault.id,
        injection.place.name,
        injection.fault.precision,
        harmless,
        expected="" if harmless else bench.expected(injection),
    )
    failed = [comparison for comparison in bench.compare(traces) if not comparison.passed]
    if not failed:
        return trial
    layer, findings = bench.diagnose(failed[0], traces, correct)
    causes = tuple(injection_name(cause) for finding in findings for cause in finding.causes)
    return replace(trial, caught=True, layer=layer, causes=causes, text="; ".join(map(str, findings)))


def batched(names: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    """Split names into batches of at most that size.

    Example:
        >>> list(batched("abcde", 2))
        [('a', 'b'), ('c', 'd'), ('e',)]
    """
    rest = iter(names)
    while batch := tuple(islice(rest, size)):
        yield batch
