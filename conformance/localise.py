"""Localisation: the first wrong layer of a port and, by the catalogue of faults, why it is wrong.

The oracle runs the diverging case once more and leaves every layer's activation in a folder. The port runs it too, and
after each piece (stem, block) goes on from the oracle's own activation: a piece that still diverges then is wrong by
itself, not by what came before. No process holds more than one activation beside what its forward pass needs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.cases import MODES, Case, Mode
from conformance.compare import Comparison, Floors, compare_traces, error_floors
from conformance.diagnose import Diagnosis, Exhibit, Finding
from conformance.implementations import ORACLE, REFERENCE_BUILDS, Implementation
from conformance.run import Job, run_jobs
from conformance.segments import PiecewiseOracle
from conformance.stream import Stored, read_stream
from conformance.trace import Trace

if TYPE_CHECKING:
    from conformance.suite import Files, Network, Notify, Plan


@dataclass(frozen=True)
class Divergence:
    """Where a port first goes wrong, and why.

    Attributes:
        implementation, variant, precision, mode, input: Where it was seen.
        layer: The first array, in the order of computation, that is out of its limit.
        reason: How far.
        fed: Whether it is out of it even where its piece is fed the oracle's own input.
        findings: The faults that explain it, one after the other.
        task: What was done, where it was no forward run.
    """

    implementation: str
    variant: str
    precision: str
    mode: str
    input: str
    layer: str
    reason: str
    fed: bool = False
    findings: Sequence[Finding] = field(default_factory=list)
    task: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        facts = {name: value for name, value in vars(self).items() if name != "findings"}
        return facts | {"diagnosis": [finding.to_dict() for finding in self.findings]}


def localise(plan: Plan, files: Files, firsts: Sequence[Comparison], notify: Notify) -> list[Divergence]:
    """Name the first wrong layer and the cause of each diverging implementation, given its first failures."""
    found: list[Divergence] = []
    activations = [first for first in firsts if first.mode != "-" and not first.task]
    for key in dict.fromkeys((c.precision, c.variant, c.input) for c in activations):
        group = [c for c in activations if (c.precision, c.variant, c.input) == key]
        found += _localise_group(plan, files, group, notify)
    by_first = {(d.implementation, d.variant): d for d in found}
    return [by_first.get((first.implementation, first.variant)) or unlocalised(first) for first in firsts]


def unlocalised(first: Comparison) -> Divergence:
    """A divergence of which no more is known than the comparison that failed."""
    where = (first.implementation, first.variant, first.precision, first.mode, first.input)
    return Divergence(*where, first.name, first.reason, task=first.task)


def _localise_group(plan: Plan, files: Files, group: Sequence[Comparison], notify: Notify) -> Iterator[Divergence]:
    """The implementations that diverge in one precision, network and input: they share the oracle's folders."""
    first = group[0]
    network = plan.networks[first.variant]
    cases = [Case(first.variant, first.input, mode, layers=True) for mode in MODES]
    folder = plan.directory / f"layers-{first.precision}-{cases[0].slug}"
    truth = _stream(plan, files, folder, [ORACLE], "float64", cases, {}, notify)
    if len(truth) < len(cases):
        return
    fed = {case.slug: str(path) for (_, case), path in truth.items()}
    oracle = {case.mode: read_stream(path) for (_, case), path in truth.items()}
    floors: dict[Mode, Floors] = {}
    if first.precision == "float32":
        builds = _stream(plan, files, folder, REFERENCE_BUILDS, "float32", cases, fed, notify)
        for mode in MODES:
            floors[mode] = error_floors(
                oracle[mode], [read_stream(p) for (_, c), p in builds.items() if c.mode == mode]
            )
    names = {comparison.implementation for comparison in group}
    implementations = [implementation for implementation in plan.implementations if implementation.name in names]
    ports = _stream(plan, files, folder, implementations, first.precision, cases, fed, notify)
    divergences = [examine(c, network, oracle, _port(ports, c.implementation), floors) for c in group]
    hidden = {d.implementation for d in divergences if not d.fed}
    if hidden:  # an adapter that errs in a whole run alone, or by small errors that add up
        again = [implementation for implementation in implementations if implementation.name in hidden]
        recorded = _stream(plan, files, folder / "recorded", again, first.precision, cases, None, notify)
        ports |= recorded
        divergences = [
            examine(c, network, oracle, _port(recorded, c.implementation), floors) if c.implementation in hidden else d
            for c, d in zip(group, divergences, strict=True)
        ]
    for path in (*truth.values(), *ports.values()):
        if path.is_dir() and not plan.keep_traces:
            Stored(path).remove()
    yield from divergences


def _port(ports: Mapping[tuple[str, Case], Path], implementation: str) -> dict[Mode, Trace]:
    """An implementation's traces by mode."""
    traced = {case.mode: path for (name, case), path in ports.items() if name == implementation}
    return {mode: read_stream(path) if path.is_dir() else Trace.load(path) for mode, path in traced.items()}


def examine(
    first: Comparison, network: Network, oracle: dict[Mode, Trace], port: dict[Mode, Trace], floors: dict[Mode, Floors]
) -> Divergence:
    """Judge every layer of a port and diagnose what is wrong.

    Args:
        first: The comparison that failed.
        network: Its network, with weights and inputs.
        oracle: By mode, the oracle's layers.
        port: By mode, the port's.
        floors: By mode, what correct float32 builds err by; empty for float64.
    """
    mode: Mode = "train" if first.mode == "train" else "inference"
    if mode not in port:
        return unlocalised(first)
    compared = compare_traces(oracle[mode], port[mode], network.config, floors.get(mode))
    worst = next((comparison for comparison in compared if not comparison.passed), None)
    if worst is None:
        return unlocalised(first)
    images = next(input.images for input in network.inputs if input.name == first.input)
    fed = bool(port[mode].about.get("fed"))
    exhibits = [
        Exhibit(one == "train", images, oracle[one].arrays, port[one].arrays)
        for one in (MODES if fed else (mode,))
        if one in port
    ]
    piecewise = PiecewiseOracle(network.config, network.weights.to("canonical").arrays, first.precision)
    findings = list(Diagnosis(piecewise, exhibits, fed=fed).findings())
    where = (first.implementation, first.variant, first.precision, first.mode, first.input)
    return Divergence(*where, worst.name, worst.reason, fed, findings)


def _stream(
    plan: Plan,
    files: Files,
    folder: Path,
    implementations: Sequence[Implementation],
    precision: str,
    cases: Sequence[Case],
    truth: dict[str, str] | None,
    notify: Notify,
) -> dict[tuple[str, Case], Path]:
    """Run cases layer by layer; by implementation and case, where the arrays are. What cannot run is not there."""
    jobs = [
        Job(
            implementation,
            precision,
            cases,
            files.networks,
            files.inputs,
            folder / f"{implementation.name}-{precision}",
            "cpu" if implementation in (ORACLE, *REFERENCE_BUILDS) else plan.device,
            timeout=plan.timeout,
            truth=truth,
            python=plan.interpreters.get(implementation.name, sys.executable),
        )
        for implementation in implementations
    ]
    found = {}
    for event in run_jobs(jobs, parallel=2):
        notify(event)
        if event.kind == "traced":
            found[event.job.implementation.name, Case(**event.facts["case"])] = Path(event.facts["file"])
    return found
