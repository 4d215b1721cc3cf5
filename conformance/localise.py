"""Localisation: the first wrong layer of a port and, by the catalogue of faults, why it is wrong.

The oracle runs the diverging case once more and leaves every layer's activation in a folder. The port runs it too, and
after each piece (stem, block) goes on from the oracle's own activation: a piece that still diverges then is wrong by
itself, not by what came before. No process holds more than one activation beside what its forward pass needs.

A diverging case of gradients is run once more on the smallest batch, one of training steps on a small network of the
same variant: what an optimizer does wrongly, it does wrongly there too, and a hundred times as fast. Of initialisation
the moments are drawn once more, and need nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from conformance.cases.case import MODES, Case, Mode, padded
from conformance.cases.inputs import noise, noise_sides
from conformance.cases.recipes import RECIPES, STEPS
from conformance.cases.weights import synthetic_weights
from conformance.compare.comparison import Comparison
from conformance.compare.noise import NoiseFloors, noise_floors
from conformance.compare.traces import compare_traces
from conformance.diagnose.forward import Diagnosis, Exhibit, Finding
from conformance.diagnose.initial import InitialDiagnosis
from conformance.diagnose.training import GradientDiagnosis, StepsDiagnosis
from conformance.oracle.forward import SegmentedOracle
from conformance.oracle.gradients import SegmentedGradients
from conformance.oracle.steps import StepwiseTraining
from conformance.outcome import Divergence, unlocalised
from conformance.plan import Feed, Request, make_jobs, write_files
from conformance.run.implementations import ORACLE, REFERENCE_BUILDS, Implementation
from conformance.run.jobs import run_jobs
from conformance.trace import Trace
from impls.config import ResNetConfig

if TYPE_CHECKING:
    from conformance.plan import Files, Listener, NetworkPlan, Plan


def localise(plan: Plan, files: Files, firsts: Sequence[Comparison], notify: Listener) -> list[Divergence]:
    """Name the first wrong layer and the cause of each diverging implementation, given its first failures."""
    found: list[Divergence] = []
    activations = [first for first in firsts if first.input_matters and first.case.task == "forward"]
    for key in dict.fromkeys((c.precision, c.case.variant, c.case.input) for c in activations):
        group = [c for c in activations if (c.precision, c.case.variant, c.case.input) == key]
        found += _localise_group(plan, files, group, notify)
    trained = [first for first in firsts if first.case.task != "forward" and first.precision == "float64"]
    found += [localise_training(plan, files, first, notify) for first in trained]
    by_first = {(d.first.candidate, d.first.case.variant): d for d in found}
    return [by_first.get((first.candidate, first.case.variant)) or unlocalised(first) for first in firsts]


LONGEST_REASON = 160
"""Letters of what a worker says."""

SMALL: dict[str, Any] = {"depths": (2, 1, 1, 1), "width": 4, "num_classes": 10}
"""The network that steps are diagnosed on; it has both kinds of block."""


def localise_training(plan: Plan, files: Files, first: Comparison, notify: Listener) -> Divergence:
    """Name the cause of a diverging case of gradients, of training steps or of initialisation."""
    if first.case.task == "initialisation":
        return _localise_initial(plan, files, first, notify)
    if first.case.task == "gradients":
        return _localise_gradients(plan, files, first, notify)
    small = _localise_steps(plan, first, notify)
    if small.findings or "gradients" in plan.tasks:
        return small
    whole = _localise_gradients(plan, files, first, notify)
    note = f"{small.note}; diagnosed by the gradients of the whole network"
    return unlocalised(first, whole.findings, note) if whole.findings else small


def _localise_gradients(plan: Plan, files: Files, first: Comparison, notify: Listener) -> Divergence:
    """By the gradients of the smallest batch, or of the same case where only that is wrong.

    A wrong loss that no fault of training explains is explained by the forward pass.
    """
    network = plan.networks[first.case.variant]
    findings: list[Finding] = []
    for name in dict.fromkeys([network.batch.name, first.case.input]):
        case = Case(first.case.variant, name, first.case.mode, task="gradients")
        found, reason = _again(plan, files, first, [case], notify)
        if reason:
            return unlocalised(first, note=reason)
        findings = examine_gradients(network, case, found[case].arrays)
        if findings:
            break
    if first.name == "loss" and not any(finding.causes for finding in findings):
        forward = replace(first, case=replace(first.case, task="forward"))
        for divergence in _localise_group(plan, files, [forward], notify):
            if divergence.findings:
                return replace(divergence, first=first, note="the forward pass is wrong already")
    note = "" if findings else "run once more, its gradients are right"
    return unlocalised(first, findings, note=note)


def _localise_steps(plan: Plan, first: Comparison, notify: Listener) -> Divergence:
    """On a small network: by its gradients if those are wrong there, else by its steps."""
    small = small_plan(plan, first)
    network = small.networks[first.case.variant]
    gradients = Case(first.case.variant, network.batch.name, "train", task="gradients")
    steps = {recipe: replace(gradients, task="steps", recipe=recipe, layers=True) for recipe in RECIPES}
    small.directory.mkdir()
    files = write_files(small)
    found, reason = _again(small, files, first, [gradients, *steps.values()], notify)
    depths = "-".join(map(str, network.config.depths))
    note = f"diagnosed on a small network of the variant, {depths} blocks of width {network.config.width}"
    if reason:
        return unlocalised(first, note=f"{note}: {reason}")
    findings = examine_gradients(network, gradients, found[gradients].arrays)
    if not findings:
        findings = examine_steps(network, {recipe: found[case].arrays for recipe, case in steps.items()})
    elif not findings[0].causes and findings[0].layer == "loss":
        forward = replace(first, case=replace(gradients, task="forward"), name="loss")
        divergences = _localise_group(small, files, [forward], notify)
        findings = next((list(divergence.findings) for divergence in divergences if divergence.findings), findings)
    return unlocalised(first, findings, note=note if findings else f"{note}: it trains rightly there")


def _localise_initial(plan: Plan, files: Files, first: Comparison, notify: Listener) -> Divergence:
    """By what the port draws for the whole network."""
    network = plan.networks[first.case.variant]
    case = Case(first.case.variant, network.batch.name, "train", task="initialisation")
    found, reason = _again(plan, files, first, [case], notify)
    if reason:
        return unlocalised(first, note=reason)
    findings = examine_initial(network, found[case].arrays)
    return unlocalised(first, findings, note="" if findings else "drawn once more, it is right")


def small_config(config: ResNetConfig) -> ResNetConfig:
    """A small network of the same variant."""
    return replace(config, **SMALL)


def small_plan(plan: Plan, first: Comparison) -> Plan:
    """The plan of a small network of the same variant, with synthetic weights and one batch of noise."""
    config = small_config(plan.networks[first.case.variant].config)
    height, width, _ = noise_sides(config.head_pool)[1]
    network = replace(
        plan.networks[first.case.variant],
        config=config,
        weights=synthetic_weights(config, plan.seed),
        inputs=[noise(height, width, 2, plan.seed, config.in_channels)],
    )
    folder = plan.directory / f"small-{first.candidate}-{first.case.variant}"
    return replace(plan, networks={first.case.variant: network}, directory=folder)


def examine_gradients(network: NetworkPlan, case: Case, port: Mapping[str, Any]) -> list[Finding]:
    """What is wrong with a port's gradients: the faults that explain them; nothing where they are right."""
    images = padded(next(input.images for input in network.inputs if input.name == case.input))
    arrays = network.weights.to("canonical").arrays
    return GradientDiagnosis(SegmentedGradients(network.config, arrays, images, case.mode == "train"), port).findings()


def examine_steps(network: NetworkPlan, ports: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """The same of a port's steps, given for each recipe the state after each of them."""
    states = {recipe: dict(_states(arrays)) for recipe, arrays in ports.items()}
    arrays = network.weights.to("canonical").arrays
    return StepsDiagnosis(StepwiseTraining(network.config, arrays, network.inputs[0].images, states)).findings()


def examine_initial(network: NetworkPlan, port: Mapping[str, Any]) -> list[Finding]:
    """The same of what a port starts from, given the moments of each array."""
    return InitialDiagnosis(network.config, port).findings()


def _states(arrays: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """By step, the state after it and the loss before it."""
    for number in range(1, STEPS + 1):
        prefix = f"{number}."
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        losses = {"loss": arrays["losses"][number - 1 : number]} if "losses" in arrays else {}
        yield number, own | losses


def _again(
    plan: Plan, files: Files, first: Comparison, cases: Sequence[Case], notify: Listener
) -> tuple[dict[Case, Trace], str]:
    """Cases of the implementation that diverges, run once more; and why they could not all be."""
    folder = plan.directory / f"again-{cases[0].slug}"
    implementations = [one for one in plan.implementations if one.name == first.candidate]
    reasons: list[str] = []

    def hear(event: Any) -> None:
        if event.kind == "failed":
            reasons.append(event.facts["reason"])
        notify(event)

    paths = _stream(plan, files, folder, implementations, first.precision, cases, None, hear)
    traces = {case: Trace.load(path) for (_, case), path in paths.items()}
    return traces, f"it could not be run: {shorten(reasons[0], LONGEST_REASON)}" if reasons else ""


def _localise_group(plan: Plan, files: Files, group: Sequence[Comparison], notify: Listener) -> Iterator[Divergence]:
    """The implementations that diverge in one precision, network and input: they share the oracle's folders."""
    first = group[0]
    network = plan.networks[first.case.variant]
    cases = [Case(first.case.variant, first.case.input, mode, layers=True) for mode in MODES]
    folder = plan.directory / f"layers-{first.precision}-{cases[0].slug}"
    truth = _stream(plan, files, folder, [ORACLE], "float64", cases, {}, notify)
    if len(truth) < len(cases):
        return
    fed = {case: Trace.load(path) for (_, case), path in truth.items()}
    oracle = {case.mode: trace for case, trace in fed.items()}
    floors: dict[Mode, NoiseFloors] = {}
    if first.precision == "float32":
        builds = _stream(plan, files, folder, REFERENCE_BUILDS, "float32", cases, fed, notify)
        for mode in MODES:
            floors[mode] = noise_floors(oracle[mode], [Trace.load(p) for (_, c), p in builds.items() if c.mode == mode])
    names = {comparison.candidate for comparison in group}
    implementations = [implementation for implementation in plan.implementations if implementation.name in names]
    ports = _stream(plan, files, folder, implementations, first.precision, cases, fed, notify)
    divergences = [examine(c, network, oracle, _port(ports, c.candidate), floors) for c in group]
    hidden = {d.first.candidate for d in divergences if not d.fed}
    if hidden:  # an adapter that errs in a whole run alone, or by small errors that add up
        again = [implementation for implementation in implementations if implementation.name in hidden]
        recorded = _stream(plan, files, folder / "recorded", again, first.precision, cases, None, notify)
        ports |= recorded
        divergences = [
            examine(c, network, oracle, _port(recorded, c.candidate), floors) if c.candidate in hidden else d
            for c, d in zip(group, divergences, strict=True)
        ]
    for path in (*truth.values(), *ports.values()):
        if path.is_dir() and not plan.keep_traces:
            Trace.load(path).remove()
    yield from divergences


def _port(ports: Mapping[tuple[str, Case], Path], implementation: str) -> dict[Mode, Trace]:
    """An implementation's traces by mode."""
    traced = {case.mode: path for (name, case), path in ports.items() if name == implementation}
    return {mode: Trace.load(path) for mode, path in traced.items()}


def examine(
    first: Comparison,
    network: NetworkPlan,
    oracle: dict[Mode, Trace],
    port: dict[Mode, Trace],
    floors: dict[Mode, NoiseFloors],
) -> Divergence:
    """Judge every layer of a port and diagnose what is wrong.

    Args:
        first: The comparison that failed.
        network: Its network, with weights and inputs.
        oracle: By mode, the oracle's layers.
        port: By mode, the port's.
        floors: By mode, what correct float32 builds err by; empty for float64.
    """
    mode = first.case.mode
    if mode not in port:
        return unlocalised(first)
    compared = compare_traces(oracle[mode], port[mode], network.config, floors.get(mode))
    worst = next((comparison for comparison in compared if not comparison.passed), None)
    if worst is None:
        return unlocalised(first)
    images = next(input.images for input in network.inputs if input.name == first.case.input)
    fed = port[mode].origin.fed
    exhibits = [
        Exhibit(one == "train", images, oracle[one].arrays, port[one].arrays)
        for one in (MODES if fed else (mode,))
        if one in port
    ]
    piecewise = SegmentedOracle(network.config, network.weights.to("canonical").arrays, first.precision)
    findings = list(Diagnosis(piecewise, exhibits, fed=fed).findings())
    note = "" if findings else "too little to be told from rounding by any fault"
    return Divergence(first, worst.name, worst.reason, fed, findings, note=note)


def _stream(
    plan: Plan,
    files: Files,
    folder: Path,
    implementations: Sequence[Implementation],
    precision: str,
    cases: Sequence[Case],
    feed: Feed | None,
    notify: Listener,
) -> dict[tuple[str, Case], Path]:
    """Run cases layer by layer; by implementation and case, where the arrays are. What cannot run is not there."""
    requests = [Request(implementation, precision, cases) for implementation in implementations]
    jobs = make_jobs(plan, requests, files, folder, feed)
    found = {}
    for event in run_jobs(jobs, plan.parallel(len(jobs))):
        notify(event)
        if event.kind == "traced":
            found[event.job.implementation.name, event.case] = event.file
    return found
