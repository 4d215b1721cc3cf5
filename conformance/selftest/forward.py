"""The self-test: faults of the catalogue, injected into real implementations, must all be caught, placed and named.

Each injection is a network of its own in an ordinary job, so that one worker process runs hundreds of them and the same
code compares, localises and diagnoses as in `conformance run`. What is expected of an injection is computed by the
oracle with the same fault in it: which layer is the first to differ. A right build beside them must not be accused.
Faults of the forward pass are here, all others in `conformance.selftest.training`.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conformance.cases.case import MODES, Case, Mode
from conformance.cases.inputs import Input, noise, noise_sides
from conformance.cases.segments import input_name, promised_names, segment_names
from conformance.cases.weights import synthetic_weights
from conformance.compare.comparison import Comparison
from conformance.compare.limits import ACTIVATIONS_FLOAT64
from conformance.compare.noise import NoiseFloors, noise_floors
from conformance.compare.traces import compare_traces
from conformance.diagnose.forward import distance
from conformance.faults import Injection
from conformance.localise import examine_layers
from conformance.oracle.forward import SegmentedOracle
from conformance.outcome import Divergence
from conformance.plan import Listener, NetworkPlan, Plan, Request, make_jobs, write_network
from conformance.run.adapters import load_adapter
from conformance.run.implementations import ORACLE, REFERENCE_BUILDS, Implementation
from conformance.run.jobs import NetworkFiles, run_jobs
from conformance.run.stream import write_stream
from conformance.selftest.training import train_injections
from conformance.selftest.trials import Result, Trial, by_name, chosen_injections, faulty_networks
from conformance.trace import Origin, Trace, finish_folder
from impls.config import VARIANTS

SMALL: dict[str, Any] = {"depths": (2, 2, 2, 2), "width": 8, "num_classes": 10}
"""A network of every kind of block, twice in each stage, that runs in milliseconds."""


@dataclass(frozen=True, eq=False)
class Bench:
    """What every injection is run on: a small network, an input, and what the oracle and right builds make of them."""

    variant: str
    network: NetworkPlan
    directory: Path
    files: NetworkFiles
    plain: Mapping[Mode, Trace]
    layers: Mapping[Mode, Trace]
    plain_floors: Mapping[Mode, NoiseFloors]
    layers_floors: Mapping[Mode, NoiseFloors]

    @property
    def images(self) -> Input:
        """The input."""
        return self.network.inputs[0]

    def expected(self, injection: Injection) -> str:
        """The first layer that differs in the oracle with the fault; empty if none does."""
        config, precision = self.network.config, injection.fault.precision
        oracle = SegmentedOracle(config, self.network.weights.arrays, precision)
        right = SegmentedOracle(config, self.network.weights.arrays, precision)
        for mode in MODES:
            for segment in segment_names(config):
                source = input_name(segment, config)
                entering = self.images.images if source is None else self.layers[mode].arrays[source]
                wrong, truth = (
                    piece.run(segment, entering, mode == "train", faults)
                    for piece, faults in ((oracle, [injection]), (right, []))
                )
                for name in promised_names(segment, config, mode == "train"):
                    if name.endswith(("running_mean", "running_var")):
                        continue
                    if (name in wrong) != (name in truth) or (
                        name in wrong and distance(truth[name], wrong[name]) > self._shows(precision)
                    ):
                        return name
            if mode == "train":
                return self._expected_statistic(injection, oracle)
        return ""

    def _expected_statistic(self, injection: Injection, oracle: SegmentedOracle) -> str:
        """The first running statistic that differs, where no activation does."""
        config, layers = self.network.config, self.layers["train"].arrays
        for segment in segment_names(config):
            source = input_name(segment, config)
            entering = self.images.images if source is None else layers[source]
            wrong = oracle.run(segment, entering, True, [injection])
            for name in promised_names(segment, config, True):
                statistic = name.endswith(("running_mean", "running_var"))
                if statistic and distance(layers[name], wrong[name]) > self._shows(oracle.dtype):
                    return name
        return ""

    def _shows(self, precision: str) -> float:
        return ACTIVATIONS_FLOAT64.relative_l2 if precision == "float64" else 2e-5


def make_bench(variant: str, seed: int, directory: Path, size: Mapping[str, Any] | None = None) -> Bench:
    """Build the small network of a variant and run the oracle and the float32 builds on it, in this process."""
    config = replace(VARIANTS[variant], **(SMALL if size is None else size))
    checkpoint = synthetic_weights(config, seed)
    height, width, _ = noise_sides(config.head_pool)[1]  # even: SAME padding shows
    images = noise(height, width, 2, seed, config.in_channels)
    network = NetworkPlan(config, checkpoint, [images])
    files = write_network(network, directory, "network")
    plain: dict[Mode, Trace] = {}
    layers: dict[Mode, Trace] = {}
    plain_floors: dict[Mode, NoiseFloors] = {}
    layers_floors: dict[Mode, NoiseFloors] = {}
    for mode in MODES:
        train = mode == "train"
        for implementation, precision in ((ORACLE, "float64"), *((build, "float32") for build in REFERENCE_BUILDS)):
            adapter = load_adapter(implementation.adapter)
            adapter.prepare("cpu", precision)
            adapter.build(config, files.weights)
            folder = directory / f"{implementation.name}-{mode}"
            given = directory / f"{ORACLE.name}-{mode}" if implementation != ORACLE else None
            write_stream(adapter, images.images, train, folder, given)
            origin = Origin(Case(variant, images.name, mode), implementation.name, precision)
            finish_folder(folder, origin)
            Trace(adapter.run(images.images, train, False), origin).save(folder.with_suffix(".plain"))
        plain[mode] = Trace.load(directory / f"{ORACLE.name}-{mode}.plain")
        layers[mode] = Trace.load(directory / f"{ORACLE.name}-{mode}")
        builds = [directory / f"{build.name}-{mode}" for build in REFERENCE_BUILDS]
        plain_floors[mode] = noise_floors(plain[mode], [Trace.load(build.with_suffix(".plain")) for build in builds])
        layers_floors[mode] = noise_floors(layers[mode], [Trace.load(build) for build in builds])
    return Bench(variant, network, directory, files, plain, layers, plain_floors, layers_floors)


def selftest(
    implementations: Sequence[Implementation],
    variant: str = "v1.5",
    faults: Sequence[str] = (),
    *,
    seed: int = 0,
    everywhere: bool = False,
    notify: Listener = lambda event: None,
) -> Result:
    """Inject faults into implementations and judge what the suite makes of them.

    Args:
        implementations: Rows of the table of implementations.
        variant: Of the small network.
        faults: Ids; none means all.
        seed: Of weights and input.
        everywhere: Whether every place is tried, not three of each kind.
        notify: Hears every event of the workers.

    Raises:
        ValueError: If a fault is unknown.
    """
    started, result = time.monotonic(), Result()
    with tempfile.TemporaryDirectory(prefix="conformance-selftest-") as name:
        bench = make_bench(variant, seed, Path(name))
        for implementation in implementations:
            chosen = chosen_injections(bench.network.config, faults, implementation.name, everywhere)
            injections = [injection for injection in chosen if injection.fault.task == "forward"]
            for precision in dict.fromkeys(injection.fault.precision for injection in injections):
                own = [injection for injection in injections if injection.fault.precision == precision]
                for plain, layers, injection in run_injections(bench, implementation, precision, own, notify, result):
                    judge(bench, implementation.name, precision, injection, plain, layers, result)
            train_injections(implementation, variant, faults, seed, everywhere, Path(name), notify, result)
    result.seconds = time.monotonic() - started
    return result


def run_injections(
    bench: Bench,
    implementation: Implementation,
    precision: str,
    injections: Sequence[Injection],
    notify: Listener,
    result: Result,
) -> Iterator[tuple[dict[Mode, Trace], dict[Mode, Trace], Injection | None]]:
    """Each injection's traces, plain and fed piece by piece, as soon as they are all there; the right build's too."""
    by_key = by_name(injections)
    networks = faulty_networks(bench.files, by_key)
    cases = [Case(key, bench.images.name, mode, layers) for key in by_key for layers in (False, True) for mode in MODES]
    feed = {case: bench.layers[case.mode] for case in cases if case.layers}
    plan = Plan({}, [implementation], [], bench.directory, device="cpu", threads=1)
    jobs = make_jobs(plan, [Request(implementation, precision, cases)], networks, bench.directory, feed)
    waiting: dict[str, dict[bool, dict[Mode, Trace]]] = {}
    for event in run_jobs(jobs, parallel=1):
        notify(event)
        if event.kind == "failed":
            result.failures.append(f"{implementation.name} ({precision}) could not run: {event.facts['reason']}")
        if event.kind != "traced":
            continue
        case = event.case
        traces = waiting.setdefault(case.variant, {False: {}, True: {}})
        traces[case.layers][case.mode] = Trace.load(event.file)
        if all(len(traces[layers]) == len(MODES) for layers in (False, True)):
            plain, layers = waiting.pop(case.variant).values()
            yield plain, layers, by_key[case.variant]
            for trace in (*plain.values(), *layers.values()):
                trace.remove()


def judge(
    bench: Bench,
    implementation: str,
    precision: str,
    injection: Injection | None,
    plain: Mapping[Mode, Trace],
    layers: dict[Mode, Trace],
    result: Result,
) -> None:
    """Add what the suite makes of one injection, or of the right build, to the result."""
    compared: list[Comparison] = []
    for mode in MODES:
        oracle = like(bench.plain[mode], plain[mode])
        compared += compare_traces(
            oracle, plain[mode], bench.network.config, floors(bench.plain_floors, mode, precision)
        )
    failed = [comparison for comparison in compared if not comparison.passed]
    if injection is None:
        result.right += len(compared)
        result.false_alarms += failed
        return
    harmless = injection.fault.harmless_at(injection.place, bench.network.config)
    trial = Trial(
        implementation,
        injection.fault.id,
        injection.place.name,
        precision,
        harmless,
        "" if harmless else bench.expected(injection),
        caught=bool(failed),
    )
    if failed:
        oracle_layers = {mode: like(bench.layers[mode], layers[mode]) for mode in MODES}
        limits = {mode: bench.layers_floors[mode] for mode in MODES} if precision == "float32" else {}
        found = examine_layers(failed[0], bench.network, oracle_layers, layers, limits)
        trial = replace(trial, layer=found.layer, causes=named(found), text="; ".join(map(str, found.findings)))
    result.trials.append(trial)


def floors(by_mode: Mapping[Mode, NoiseFloors], mode: Mode, precision: str) -> NoiseFloors | None:
    """What correct builds err by, where that is the limit."""
    return by_mode[mode] if precision == "float32" else None


def like(oracle: Trace, candidate: Trace) -> Trace:
    """The oracle's trace as one of the candidate's case: injections share the oracle's numbers."""
    return replace(oracle, origin=candidate.origin)


def named(divergence: Divergence) -> tuple[str, ...]:
    """Every cause in the findings, as FAULT@PLACE."""
    causes = [cause for finding in divergence.findings for cause in finding.causes]
    return tuple(f"{cause.fault.id}@{cause.place.name}" for cause in causes)


def to_report(result: Result, variant: str) -> dict[str, Any]:
    """The whole self-test as JSON values."""
    return {
        "variant": variant,
        "seconds": round(result.seconds, 1),
        "missed": result.missed(),
        "right_comparisons": result.right,
        "false_alarms": [comparison.to_dict() for comparison in result.false_alarms],
        "trials": [
            vars(trial) | {"layer_named": trial.layer_named, "cause_named": trial.cause_named}
            for trial in result.trials
        ],
    }


def table_rows(result: Result, implementations: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """A row per fault: its id and for each implementation how many of its injections were caught, placed and named."""
    for fault in dict.fromkeys(trial.fault for trial in result.trials):
        cells = []
        for implementation in implementations:
            own = [t for t in result.trials if (t.fault, t.implementation) == (fault, implementation)]
            counts = Counter[str]()
            for trial in own:
                counts["caught"] += trial.caught
                counts["layer"] += trial.layer_named
                counts["cause"] += trial.cause_named
            if not own:
                cells.append("-")
            elif all(trial.harmless for trial in own):
                cells.append("harmless" if not counts["caught"] else f"accused {counts['caught']}/{len(own)}")
            else:
                cells.append(" ".join(f"{counts[key]}/{len(own)}" for key in ("caught", "layer", "cause")))
        yield fault, *cells
