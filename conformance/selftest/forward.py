"""The bench of forward runs: activations and running statistics, in whole runs and fed segment by segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from conformance.cases.case import MODES, Case
from conformance.cases.segments import input_name, promised_names, segment_names
from conformance.compare.comparison import Comparison
from conformance.compare.limits import ACTIVATIONS_FLOAT64
from conformance.compare.noise import NoiseFloors, noise_floors
from conformance.compare.traces import compare_traces
from conformance.diagnose.finding import Finding
from conformance.diagnose.search import distance
from conformance.faults import Injection
from conformance.localise import examine_layers, small_network
from conformance.oracle.forward import SegmentedOracle
from conformance.plan import write_network
from conformance.run.capabilities import load_adapter
from conformance.run.implementations import ORACLE, REFERENCE_BUILDS
from conformance.run.stream import write_stream
from conformance.selftest.bench import CORRECT, Bench, Traces, as_if_of
from conformance.trace import Origin, Trace, finish_folder
from impls.config import VARIANTS
from weights_convert.table import RUNNING_STATISTICS

FORWARD_SIZE: dict[str, Any] = {"depths": (2, 2, 2, 2), "width": 8, "num_classes": 10}
"""Size of the network that forward runs are tested on: every kind of block, twice in each stage, in milliseconds."""

SHOWS = {"float64": ACTIVATIONS_FLOAT64.relative_l2, "float32": 2e-5}
"""Relative L2 distance from which a fault shows in the oracle, by precision."""


@dataclass(frozen=True, eq=False)
class ForwardBench(Bench):
    """A small network, and the oracle's and the reference builds' traces of it.

    Attributes:
        oracle: The oracle's traces, of whole runs and, with `layers`, of every layer.
        floors: The noise floors of each case.
    """

    oracle: Traces
    floors: dict[Case, NoiseFloors]

    @classmethod
    def make(cls, variant: str, seed: int, directory: Path) -> Self:
        """Make the network, and run the oracle and the reference builds on it in this process."""
        network = small_network(VARIANTS[variant], seed, **FORWARD_SIZE)
        (images,) = network.inputs
        files = write_network(network, directory, "network")
        cases = [Case(CORRECT, images.name, mode, layers) for layers in (False, True) for mode in MODES]
        traces: dict[str, dict[Case, Trace]] = {}
        for build, precision in ((ORACLE, "float64"), *((build, "float32") for build in REFERENCE_BUILDS)):
            adapter = load_adapter(build.adapter)
            adapter.prepare("cpu", precision)
            adapter.build(network.config, files.weights)
            traces[build.name] = {}
            for case in cases:
                train, origin = case.mode == "train", Origin(case, build.name, precision)
                if case.layers:
                    folder, source = (directory / f"{name}-{case.mode}" for name in (build.name, ORACLE.name))
                    write_stream(adapter, images.images, train, folder, source if build != ORACLE else None)
                    traces[build.name][case] = finish_folder(folder, origin)
                else:
                    traces[build.name][case] = Trace(adapter.record(images.images, train, False), origin)
        oracle = traces.pop(ORACLE.name)
        floors = {case: noise_floors(oracle[case], [build[case] for build in traces.values()]) for case in cases}
        return cls(network, files, directory, oracle, floors)

    @property
    def cases(self) -> list[Case]:
        """Whole runs in both modes, and runs that are fed segment by segment."""
        return list(self.oracle)

    def feed(self, case: Case) -> Trace | None:
        """The oracle's layers, in the cases that record layers."""
        return self.oracle[case] if case.layers else None

    def expected(self, injection: Injection) -> str:
        """The first activation that differs in the oracle with the fault, or else the first running statistic."""
        config, precision = self.network.config, injection.fault.precision
        oracle = SegmentedOracle(config, self.network.weights.arrays, precision)
        for case in (case for case in self.cases if case.layers):
            train, statistics = case.mode == "train", []
            for segment in segment_names(config):
                source = input_name(segment, config)
                entering = self.network.inputs[0].images if source is None else self.oracle[case].arrays[source]
                right, wrong = (oracle.run(segment, entering, train, faults) for faults in ([], [injection]))
                for name in promised_names(segment, config, train):
                    if name in right and name in wrong and distance(right[name], wrong[name]) <= SHOWS[precision]:
                        continue
                    if not name.endswith(RUNNING_STATISTICS):
                        return name
                    statistics.append(name)
            if statistics:
                return statistics[0]
        return ""

    def compare(self, traces: Traces) -> list[Comparison]:
        """Compare the arrays of whole runs."""
        return [
            comparison
            for case, trace in traces.items()
            if not case.layers
            for comparison in compare_traces(
                as_if_of(self.oracle[case], trace), trace, self.network.config, self.floors[case]
            )
        ]

    def diagnose(self, failed: Comparison, traces: Traces, correct: Traces) -> tuple[str, Sequence[Finding]]:
        """Examine the layers of runs that were fed segment by segment, and whole runs."""
        fed, whole = ({c: trace for c, trace in traces.items() if c.layers == layers} for layers in (True, False))
        divergence = examine_layers(
            failed,
            self.network,
            {case.mode: as_if_of(self.oracle[case], trace) for case, trace in fed.items()},
            {case.mode: trace for case, trace in fed.items()},
            {case.mode: trace for case, trace in whole.items()},
            {case.mode: self.floors[case] for case in fed},
        )
        return divergence.layer, divergence.findings
