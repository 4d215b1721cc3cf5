"""Compares two recordings. The function is `conformance.compare_traces`, the command `compare`.

In float64 the second recording is held against the first by the limits of the suite. In float32 their distance is held
against that of the reference builds from each other, which are run here, on the recorded images: they are NumPy, and no
framework is needed. Where the two differ, the oracle, run here as well, says which of them is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import weights_convert
from conformance.cases.case import Case, is_judged
from conformance.cases.synthetic import synthetic_weights
from conformance.compare.comparison import Comparison
from conformance.compare.noise import NoiseFloors, noise_floors, pair_floors
from conformance.compare.traces import compare_parameters, compare_traces
from conformance.options import trace_folder
from conformance.outcome import Judged
from conformance.plan import Assignment, Listener, NetworkPlan, Plan, make_jobs, write_files
from conformance.run.implementations import ORACLE, REFERENCE_BUILDS
from conformance.run.jobs import run_jobs
from conformance.trace import Trace, TraceError
from conformance.tracing.modules import ModuleRecording, ModuleReport, compare_modules, holds_modules, read_map
from conformance.tracing.recording import Key, Recording, sketched
from conformance.tracing.text import report_text
from weights_convert import Checkpoint


@dataclass(frozen=True)
class TraceReport(Judged):
    """The outcome of comparing two recordings.

    Attributes:
        first: Name of the recording that the other is held against.
        second: Name of the other.
        comparisons: Everything that was judged: arrays of the second recording, with those of the first as the oracle.
        reported: Comparisons without a limit.
        by_oracle: Name of a recording to its comparisons with the oracle, of the cases that the oracle ran.
        not_judged: What could not be judged, and why; a line for each.
        notes: What is to be said about the recordings, a line for each.
    """

    first: str
    second: str
    comparisons: Sequence[Comparison]
    reported: Sequence[Comparison] = ()
    by_oracle: Mapping[str, Sequence[Comparison]] = field(default_factory=dict)
    not_judged: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def divergences(self) -> list[Comparison]:
        """Comparisons that failed, in the order of the cases and, in each, of the network's computation."""
        return [comparison for comparison in self.comparisons if not comparison.passed]

    @property
    def verdict(self) -> str:
        """The verdict: "diverges", "incomplete" where something could not be judged, or "conforms"."""
        if self.divergences:
            return "diverges"
        return "incomplete" if self.not_judged or not self.comparisons else "conforms"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "verdict": self.verdict,
            "first": self.first,
            "second": self.second,
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "reported": [comparison.to_dict() for comparison in self.reported],
            "by_oracle": {name: [c.to_dict() for c in compared] for name, compared in self.by_oracle.items()},
            "not_judged": list(self.not_judged),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return report_text(self)


def compare_files(
    first: Path,
    second: Path,
    weights: str | Path | None = None,
    names: Path | None = None,
    noise: Path | None = None,
    notify: Listener = lambda event: None,
) -> TraceReport | ModuleReport:
    """Compare two files, both of a ResNet-50 or both of any network; see `conformance.compare_traces`.

    Raises:
        ValueError: If a file cannot be read, or the two cannot be compared.
    """
    kinds = [holds_modules(path) for path in (first, second)]
    if not any(kinds):
        if names or noise:
            raise TraceError("names and noise are for recordings of any network, and these are of a ResNet-50")
        return compare_recordings(Recording.load(first), Recording.load(second), weights, notify)
    if weights:
        raise TraceError("weights are for recordings of a ResNet-50, and these are of any network")
    float32 = None if noise is None else ModuleRecording.load(noise)
    return compare_modules(ModuleRecording.load(first), ModuleRecording.load(second), read_map(names), float32)


def compare_recordings(
    first: Recording, second: Recording, weights: str | Path | None = None, notify: Listener = lambda event: None
) -> TraceReport:
    """Compare two recordings, array by array.

    Args:
        first: The recording that the other is held against.
        second: The other.
        weights: The checkpoint that both candidates were given; None for synthetic weights.
        notify: Hears every event of the workers.

    Raises:
        TraceError: If they are of different networks, weights or inputs, or have no case in common.
        ValueError: If weights cannot be read, or are not those of the recordings.
    """
    check_comparable(first, second)
    keys = [key for key in first.traces if key in second.traces]
    network, reason = rebuild_network(first, weights)
    float32 = [key for key in keys if key.precision == "float32" and is_judged(key.case, key.precision)]
    truth = Truth.run(network, float32, notify) if network and float32 else Truth()
    judged, not_judged = keys, []
    if float32 and not network:
        judged = [key for key in keys if key not in float32]
        not_judged.append(f"float32: noise is told from bugs by reference builds, which need the weights; {reason}")
    compared = list(compare_pairs(first, second, judged, truth))
    failed = [comparison for comparison in compared if not comparison.passed]
    if failed and network and failed[0].input_matters and failed[0].case not in truth.oracle:
        truth = truth.with_oracle(network, failed[0].case, notify)
    return TraceReport(
        first.name,
        second.name,
        [c for c in compared if is_judged(c.case, c.precision) or not c.passed],
        [c for c in compared if not is_judged(c.case, c.precision) and c.passed],
        {each.name: list(compare_with_oracle(each, keys, truth)) for each in (first, second)} if failed else {},
        not_judged,
        list(notes_on(first, second)),
    )


def check_comparable(first: Recording, second: Recording) -> None:
    """Check that two recordings are of the same network, weights and images.

    Raises:
        TraceError: If they are not; the message lists all that differs.
    """
    problems = []
    ours, theirs = first.config.to_dict(), second.config.to_dict()
    for name in ours:
        if ours[name] != theirs[name]:
            problems.append(f"{name} is {ours[name]} in the first and {theirs[name]} in the second")
    if first.weights != second.weights:
        problems.append(
            f"the weights differ: {first.weights_from} ({first.weights[:12]}) and {second.weights_from} "
            f"({second.weights[:12]}); give both the same file by --weights, since synthetic weights may differ in the "
            "last bit from one machine to another"
        )
    hashes = [
        {trace.origin.case.input: trace.origin.input for trace in each.traces.values()} for each in (first, second)
    ]
    for name in hashes[0].keys() & hashes[1].keys():
        if hashes[0][name] != hashes[1][name]:
            problems.append(f"the images called {name!r} differ: give both the same --images or --seed")
    if not problems and not first.traces.keys() & second.traces.keys():
        problems.append(
            f"they have no case in common: {', '.join(map(str, first.traces))}; {', '.join(map(str, second.traces))}"
        )
    if problems:
        raise TraceError(f"{first.name} and {second.name} cannot be compared: {'; '.join(problems)}")


def rebuild_network(recording: Recording, weights: str | Path | None) -> tuple[NetworkPlan | None, str]:
    """Rebuild the network of a recording, so that oracle and reference builds can be run here.

    Returns:
        The network, or None and what to do.

    Raises:
        ValueError: If the weights cannot be read, or are not those of the recording.
    """
    config = recording.config
    if weights is not None:
        loaded = weights_convert.load(weights, variant=config.variant, config=config)
        if loaded.content_hash() != recording.weights:
            raise ValueError(f"{weights}: these are not the weights of {recording.name} ({recording.weights_from})")
        return NetworkPlan(config, replace(loaded, config=config), recording.inputs), ""
    if recording.seed is None:
        return None, f"give --weights: they are {recording.weights_from}"
    drawn: Checkpoint = synthetic_weights(config, recording.seed)
    if drawn.content_hash() != recording.weights:
        return None, "this machine draws synthetic weights that differ in the last bit: record both with --weights FILE"
    return NetworkPlan(config, drawn, recording.inputs), ""


@dataclass(frozen=True, eq=False)
class Truth:
    """Sketches of what the oracle and the reference builds computed on this machine.

    Attributes:
        oracle: Case to the oracle's trace.
        floors: Case to the noise floors of one candidate in float32.
        pair_floors: Case to the noise floors of two candidates in float32.
    """

    oracle: Mapping[Case, Trace] = field(default_factory=dict)
    floors: Mapping[Case, NoiseFloors] = field(default_factory=dict)
    pair_floors: Mapping[Case, NoiseFloors] = field(default_factory=dict)

    @classmethod
    def run(cls, network: NetworkPlan, keys: Sequence[Key], notify: Listener) -> Truth:
        """Run the oracle and the reference builds on cases."""
        cases = [key.case for key in keys]
        assignments = [
            Assignment(ORACLE, "float64", cases),
            *(Assignment(build, "float32", cases) for build in REFERENCE_BUILDS),
        ]
        traces = run_numpy(network, assignments, notify)
        builds = {case: [traces[build.name, case] for build in REFERENCE_BUILDS] for case in cases}
        oracle = {case: traces[ORACLE.name, case] for case in cases}
        floors = {case: noise_floors(oracle[case], builds[case]) for case in cases}
        return cls(oracle, floors, {case: pair_floors(builds[case]) for case in cases})

    def with_oracle(self, network: NetworkPlan, case: Case, notify: Listener) -> Truth:
        """Run the oracle on a further case."""
        traces = run_numpy(network, [Assignment(ORACLE, "float64", [case])], notify)
        return replace(self, oracle={**self.oracle, case: traces[ORACLE.name, case]})


def run_numpy(
    network: NetworkPlan, assignments: Sequence[Assignment], notify: Listener
) -> dict[tuple[str, Case], Trace]:
    """Run oracle or reference builds; returns sketched traces by name and case.

    Raises:
        RuntimeError: If one of them could not run.
    """
    traces = {}
    with trace_folder(None) as folder:
        plan = Plan({network.config.variant: network}, [], (), folder, device="cpu")
        jobs = make_jobs(plan, assignments, write_files(plan), folder / "cases")
        for event in run_jobs(jobs, plan.parallel(len(jobs))):
            notify(event)
            if event.kind == "traced":
                trace = Trace.load(event.file)
                traces[event.job.implementation.name, event.case] = sketched(trace, small=True)
                trace.remove()
            elif event.kind in ("failed", "skipped"):
                raise RuntimeError(f"{event.job.implementation.name} could not run: {event.facts['reason']}")
    return traces


def compare_pairs(first: Recording, second: Recording, keys: Sequence[Key], truth: Truth) -> Iterator[Comparison]:
    """Compare the traces of two recordings that have these keys, and the arrays that both models list."""
    for recording in (first, second):
        trace = next(iter(recording.traces.values()))
        comparison = compare_parameters(trace, recording.config)
        yield replace(comparison, candidate=recording.name)
    for key in keys:
        small = bool(first.traces[key].origin.sketched or second.traces[key].origin.sketched)
        one, other = alike(first.traces[key], second.traces[key], small or key.precision == "float32")
        other = without(other, one.origin.not_shown)
        for comparison in compare_traces(one, other, first.config, truth.pair_floors.get(key.case)):
            reason = comparison.reason.replace("the oracle", first.name)  # which plays its part here
            yield replace(comparison, candidate=second.name, reason=reason)


def alike(one: Trace, other: Trace, sketches: bool) -> tuple[Trace, Trace]:
    """Keep as sketches in each of two traces what is a sketch in the other, or all that is large."""
    if not sketches:
        return one, other
    return sketched(one, small=True), sketched(other, small=True)


def without(trace: Trace, not_shown: Mapping[str, str]) -> Trace:
    """Leave out of a trace what the other one does not show."""
    if not not_shown:
        return trace
    arrays = {name: trace.arrays[name] for name in trace.arrays if name not in not_shown}
    return Trace(arrays, replace(trace.origin, not_shown={**trace.origin.not_shown, **not_shown}), trace.path)


def compare_with_oracle(recording: Recording, keys: Sequence[Key], truth: Truth) -> Iterator[Comparison]:
    """Compare the traces of a recording with the oracle's, of those cases that it ran."""
    for key in keys:
        if key.case not in truth.oracle or (key.precision == "float32" and key.case not in truth.floors):
            continue
        candidate = sketched(recording.traces[key], small=True)
        for comparison in compare_traces(
            truth.oracle[key.case], candidate, recording.config, truth.floors.get(key.case)
        ):
            yield replace(comparison, candidate=recording.name)


def notes_on(first: Recording, second: Recording) -> Iterator[str]:
    """Say where the recordings come from, and what one of them lacks."""
    for recording in (first, second):
        origin = next(iter(recording.traces.values())).origin
        versions = ", ".join(f"{package} {version}" for package, version in origin.versions.items())
        yield f"{recording.name}: {', '.join(filter(None, [versions, origin.device]))}"
        yield from recording.notes
        yield from (f"not recorded: {line}" for line in recording.not_recorded)
        for name, reason in origin.not_shown.items():
            yield f"not compared: {name} of {recording.name}: {reason}"
    for here, there in ((first, second), (second, first)):
        if lacking := [str(key) for key in here.traces if key not in there.traces]:
            yield f"not compared, since {there.name} lacks it: {', '.join(lacking)}"
