"""Localisation: the first wrong layer of a candidate and, by the catalogue of faults, why it is wrong.

Forward runs: the oracle runs the diverging case once more and leaves every layer's activation in a folder. The
candidate runs it too, and after each segment goes on from the oracle's own activation: a segment that still diverges is
wrong by itself, not by what came before. No process holds more than one activation beside what its forward pass needs.

Gradients are taken once more of the smallest batch. Training steps are taken once more on a small network of the same
variant: what an optimizer does wrongly, it does wrongly there too, in a hundredth of the time. Initial weights are
drawn once more.

Nothing here starts a worker: candidates run through the function `rerun` that localisation is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import Any

from conformance.cases.batches import padded
from conformance.cases.case import MODES, Case, Mode, is_judged
from conformance.cases.inputs import noise, noise_sides
from conformance.cases.recipes import RECIPES, STEPS
from conformance.cases.segments import segment_of
from conformance.cases.synthetic import synthetic_weights
from conformance.compare.comparison import Comparison
from conformance.compare.noise import NoiseFloors, noise_floors
from conformance.compare.traces import compare_traces
from conformance.diagnose.finding import Finding
from conformance.diagnose.forward import Exhibit, ForwardDiagnosis
from conformance.diagnose.gradients import GradientDiagnosis
from conformance.diagnose.initial import InitialDiagnosis
from conformance.diagnose.steps import StepsDiagnosis
from conformance.oracle.forward import SegmentedOracle
from conformance.oracle.gradients import SegmentedGradients
from conformance.oracle.steps import StepwiseTraining
from conformance.outcome import Divergence, unlocalised
from conformance.plan import Feed, NetworkPlan, Rerun, TracedRun
from conformance.probing import identify_candidate
from conformance.run.implementations import ORACLE, REFERENCE_BUILDS, Implementation
from conformance.trace import Trace
from impls.config import ResNetConfig

LONGEST_REASON = 160
"""Characters of a worker's message that a note repeats."""

TRAINED_SIZE: dict[str, Any] = {"depths": (2, 1, 1, 1), "width": 4, "num_classes": 10}
"""Size of the network that training steps are diagnosed on; it has both kinds of block."""


@dataclass(frozen=True)
class Localiser:
    """The facts of a run that localisation needs, and the function through which candidates run once more.

    Attributes:
        networks: The run's networks by variant.
        candidates: The run's candidates by name.
        tasks: The tasks of the run.
        seed: Seed of the small network's weights and input.
        rerun: Runs cases once more.
        modes: Modes of the run.
    """

    networks: Mapping[str, NetworkPlan]
    candidates: Mapping[str, Implementation]
    tasks: Sequence[str]
    seed: int
    rerun: Rerun
    modes: Sequence[Mode] = MODES

    def network(self, first: Comparison) -> NetworkPlan:
        """The network in which a comparison failed."""
        return self.networks[first.case.variant]

    def run_again(self, first: Comparison, cases: Sequence[Case], network: NetworkPlan) -> TracedRun:
        """Run cases once more by the candidate of a failed comparison, in its precision."""
        candidate = self.candidates[first.candidate]
        run = self.rerun([candidate], first.precision, cases, network)[candidate.name]
        run.discard()
        return run


def localise(localiser: Localiser, firsts: Sequence[Comparison]) -> list[Divergence]:
    """Name the first wrong layer and the cause of each divergence.

    Args:
        localiser: What is known of the run.
        firsts: The first failed comparison of each candidate and variant that diverges.

    Returns:
        A divergence for each of them, in their order. What has no limit (training in float32, which fails where it is
        NaN or infinite alone) and what does not depend on the input is not examined further.
    """
    by_task: dict[str, list[Comparison]] = {}
    for first in firsts:
        if first.name != "parameters" and is_judged(first.case, first.precision):
            by_task.setdefault(first.case.task, []).append(first)
    divergences = [d for task, failed in by_task.items() for d in LOCALISERS[task](localiser, failed)]
    by_first = {(d.first.candidate, d.first.case.variant): d for d in divergences}
    return [by_first.get((first.candidate, first.case.variant)) or unlocalised(first) for first in firsts]


def localise_forward(localiser: Localiser, firsts: Sequence[Comparison]) -> Iterator[Divergence]:
    """Localise in forward runs; candidates that diverge in one precision, network and input share one oracle's run."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for first in firsts:
        groups.setdefault((first.precision, first.case.variant, first.case.input), []).append(first)
    for group in groups.values():
        yield from localise_layers(localiser, localiser.network(group[0]), group)


def localise_layers(localiser: Localiser, network: NetworkPlan, group: Sequence[Comparison]) -> list[Divergence]:
    """Localise in the layers of one network and input: each segment is fed the oracle's own activation.

    Beside that the candidate runs as a whole: its faults must explain that, too. A candidate that is right segment by
    segment, or that cannot be fed, is judged by the layers of a whole run: it errs by small errors that add up, or its
    adapter errs in a whole run alone.
    """
    case, precision = group[0].case, group[0].precision
    cases = [Case(case.variant, case.input, mode, layers=True) for mode in localiser.modes]
    whole_cases = [replace(case, layers=False) for case in cases]
    truth = localiser.rerun([ORACLE], "float64", cases, network, feed={})[ORACLE.name]
    runs, floors = [truth], {}
    if precision == "float32" and not truth.failure:
        builds = list(localiser.rerun(REFERENCE_BUILDS, precision, cases, network, truth.traces).values())
        runs += builds
        if not any(build.failure for build in builds):
            floors = {
                case.mode: noise_floors(trace, [build.traces[case] for build in builds])
                for case, trace in truth.traces.items()
            }
    if truth.failure or (precision == "float32" and not floors):
        return [unlocalised(first) for first in group]

    def run(feed: Feed | None, names: Sequence[str], cases: Sequence[Case]) -> dict[str, TracedRun]:
        """Run candidates by name."""
        candidates = [localiser.candidates[name] for name in names]
        again = localiser.rerun(candidates, precision, cases, network, feed) if candidates else {}
        runs.extend(again.values())
        return again

    oracle, fed, divergences = _by_mode(truth), {}, {}
    for name, traced in run(truth.traces, [first.candidate for first in group], [*cases, *whole_cases]).items():
        (first,) = [first for first in group if first.candidate == name]
        fed[name] = _by_mode(traced)
        whole = _by_mode(traced, layers=False)
        divergences[name] = examine_layers(first, network, oracle, fed[name], floors, whole)
    for name, traced in run(None, [name for name, d in divergences.items() if not d.fed], cases).items():
        layers = _by_mode(traced)
        divergences[name] = examine_layers(divergences[name].first, network, oracle, layers, floors, layers)
    for name, divergence in divergences.items():
        if precision == "float64" and divergence.fed and not all(finding.causes for finding in divergence.findings):
            suspects = first_wrong_layers(network, oracle, fed[name])
            candidate = localiser.candidates[name]
            identification = identify_candidate(localiser.rerun, candidate, network, whole_cases, suspects)
            divergences[name] = replace(divergence, identification=identification)
    for traced in runs:
        traced.discard()
    return list(divergences.values())


def first_wrong_layers(
    network: NetworkPlan, oracle: Mapping[Mode, Trace], candidate: Mapping[Mode, Trace]
) -> dict[str, list[Mode]]:
    """Return the first wrong layer of each segment that was fed the oracle's own input, with the modes."""
    found: dict[str, list[Mode]] = {}
    for mode, trace in candidate.items():
        segments: set[str] = set()
        for comparison in compare_traces(oracle[mode], trace, network.config):
            segment = segment_of(comparison.name)
            if not comparison.passed and segment not in segments:
                segments.add(segment)
                found.setdefault(comparison.name, []).append(mode)
    return found


def _by_mode(run: TracedRun, layers: bool = True) -> dict[Mode, Trace]:
    return {case.mode: trace for case, trace in run.traces.items() if case.layers == layers}


def diagnose_gradients(localiser: Localiser, first: Comparison) -> Divergence:
    """Diagnose gradients; where no fault of training explains a wrong loss, examine the forward pass."""
    network = localiser.network(first)
    findings: list[Finding] = []
    for name in dict.fromkeys([network.batch.name, first.case.input]):
        case = Case(first.case.variant, name, first.case.mode, task="gradients")
        run = localiser.run_again(first, [case], network)
        if run.failure:
            return unlocalised(first, note=_could_not_run(run))
        findings = examine_gradients(network, case, run.traces[case].arrays)
        if findings:
            break
    if first.name == "loss" and not any(finding.causes for finding in findings):
        forward = replace(first, case=replace(first.case, task="forward"))
        (divergence,) = localise_layers(localiser, network, [forward])
        if divergence.findings:
            return replace(divergence, first=first, note="the forward pass is wrong already")
    return unlocalised(first, findings, note="" if findings else "when it is run once more, its gradients are right")


def diagnose_steps(localiser: Localiser, first: Comparison) -> Divergence:
    """Diagnose training steps on a small network; where that trains as it should, by the gradients of the whole one.

    Gradients that are compared, too, are diagnosed already.
    """
    divergence = diagnose_small_network(localiser, first)
    if not divergence.findings and "gradients" not in localiser.tasks:
        whole = diagnose_gradients(localiser, first)
        note = f"{divergence.note}; diagnosed by the gradients of the whole network"
        divergence = unlocalised(first, whole.findings, note) if whole.findings else divergence
    return divergence


def diagnose_small_network(localiser: Localiser, first: Comparison) -> Divergence:
    """Diagnose a small network of the variant: by its gradients if they are wrong there, else by its steps."""
    network = small_network(localiser.network(first).config, localiser.seed)
    gradients = Case(first.case.variant, network.batch.name, "train", task="gradients")
    steps = {recipe: replace(gradients, task="steps", recipe=recipe, layers=True) for recipe in RECIPES}
    run = localiser.run_again(first, [gradients, *steps.values()], network)
    depths = "-".join(map(str, network.config.depths))
    note = f"diagnosed on a small network of the variant, {depths} blocks of width {network.config.width}"
    if run.failure:
        return unlocalised(first, note=f"{note}: {_could_not_run(run)}")
    findings = examine_gradients(network, gradients, run.traces[gradients].arrays)
    if not findings:
        findings = examine_steps(network, {recipe: run.traces[case].arrays for recipe, case in steps.items()})
    elif not findings[0].causes and findings[0].layer == "loss":
        forward = replace(first, case=replace(gradients, task="forward"))
        (divergence,) = localise_layers(localiser, network, [forward])
        findings = list(divergence.findings) or findings
    return unlocalised(first, findings, note=note if findings else f"{note}, where it trains as it should")


def diagnose_initialisation(localiser: Localiser, first: Comparison) -> Divergence:
    """Diagnose the initial weights of the whole network, drawn once more."""
    network = localiser.network(first)
    case = Case(first.case.variant, network.batch.name, "train", task="initialisation")
    run = localiser.run_again(first, [case], network)
    if run.failure:
        return unlocalised(first, note=_could_not_run(run))
    findings = examine_initial(network, run.traces[case].arrays)
    return unlocalised(first, findings, note="" if findings else "when they are drawn once more, they are right")


Localise = Callable[[Localiser, Sequence[Comparison]], Iterator[Divergence]]
"""A function that localises the failures in a task."""


def one_by_one(diagnose: Callable[[Localiser, Comparison], Divergence]) -> Localise:
    """Localise each divergence by itself."""
    return lambda localiser, firsts: (diagnose(localiser, first) for first in firsts)


LOCALISERS: dict[str, Localise] = {
    "forward": localise_forward,
    "gradients": one_by_one(diagnose_gradients),
    # Rounding hides what a fault does to gradients in float32; float64 has named the fault by then.
    "backward": one_by_one(lambda localiser, first: unlocalised(first)),
    "steps": one_by_one(diagnose_steps),
    "initialisation": one_by_one(diagnose_initialisation),
}
"""The function that localises in each task, given the failures in it."""


def _could_not_run(run: TracedRun) -> str:
    return f"it could not be run once more: {shorten(run.failure, LONGEST_REASON)}"


def small_config(config: ResNetConfig) -> ResNetConfig:
    """Make the configuration of a small network of the same variant."""
    return replace(config, **TRAINED_SIZE)


def small_network(config: ResNetConfig, seed: int, **size: Any) -> NetworkPlan:
    """Make a small network of the same variant, with synthetic weights and one batch of noise.

    Args:
        config: Any network of the variant.
        seed: Seed of weights and noise.
        size: Fields of the configuration that are to differ from `TRAINED_SIZE`.
    """
    config = replace(small_config(config), **size)
    height, width, _ = noise_sides(config.head_pool)[1]  # even: SAME padding shows
    images = noise(height, width, 2, seed, config.in_channels)
    return NetworkPlan(config, synthetic_weights(config, seed), [images])


def examine_layers(
    first: Comparison,
    network: NetworkPlan,
    oracle: Mapping[Mode, Trace],
    candidate: Mapping[Mode, Trace],
    floors: Mapping[Mode, NoiseFloors],
    whole: Mapping[Mode, Trace],
) -> Divergence:
    """Judge every layer of a candidate's forward run and diagnose what is wrong.

    Args:
        first: The comparison that failed.
        network: Its network, with weights and inputs.
        oracle: The oracle's layers, by mode.
        candidate: The candidate's layers, by mode; a mode may be missing.
        floors: The noise floors of the layers, by mode; empty for float64.
        whole: The candidate's runs of the same input in which nothing was fed, by mode.
    """
    mode = first.case.mode
    if mode not in candidate:
        return unlocalised(first)
    compared = compare_traces(oracle[mode], candidate[mode], network.config, floors.get(mode))
    wrong = next((comparison for comparison in compared if not comparison.passed), None)
    if wrong is None:
        return unlocalised(first)
    fed = candidate[mode].origin.fed
    images = network.images(first.case.input)
    exhibits, confirming = (
        [
            Exhibit(shown == "train", images, oracle[shown].arrays, traces[shown].arrays, hidden(traces[shown]))
            for shown in (MODES if fed else (mode,))
            if shown in traces
        ]
        for traces in (candidate, whole)
    )
    piecewise = SegmentedOracle(network.config, network.weights.to("canonical").arrays, first.precision)
    findings = ForwardDiagnosis(piecewise, exhibits, fed, confirming).findings()
    note = "" if findings else "the difference is too small to tell a fault from rounding"
    if not fed and hidden(candidate[mode]):
        findings = [finding for finding in findings if finding.causes]
        note = "" if findings else "its layers are not shown, so that the first wrong one cannot be told"
    return Divergence(first, wrong.name, wrong.reason, fed, findings, note=note)


def hidden(trace: Trace) -> set[str]:
    """Names of the arrays that a candidate cannot show."""
    return set(trace.origin.not_shown) - set(trace.arrays)


def examine_gradients(network: NetworkPlan, case: Case, candidate: Mapping[str, Any]) -> list[Finding]:
    """Diagnose a candidate's gradients: the faults that explain them; none where they are right."""
    arrays, images = network.weights.to("canonical").arrays, padded(network.images(case.input))
    oracle = SegmentedGradients(network.config, arrays, images, case.mode == "train")
    return GradientDiagnosis(oracle, candidate).findings()


def examine_steps(network: NetworkPlan, candidate: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Diagnose a candidate's training steps: the faults that explain them; none where they are right.

    Args:
        network: A small network.
        candidate: By recipe, the arrays of a case of steps with `layers`: the state after each step, and the losses.
    """
    states = {recipe: dict(_states(arrays)) for recipe, arrays in candidate.items()}
    arrays = network.weights.to("canonical").arrays
    return StepsDiagnosis(StepwiseTraining(network.config, arrays, network.inputs[0].images, states)).findings()


def examine_initial(network: NetworkPlan, candidate: Mapping[str, Any]) -> list[Finding]:
    """Diagnose a candidate's initial weights, given the moments of each array; no findings where they are right."""
    return InitialDiagnosis(network.config, candidate).findings()


def _states(arrays: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each step's number, with the state after it and the loss before it."""
    for number in range(1, STEPS + 1):
        prefix = f"{number}."
        state = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        losses = {"loss": arrays["losses"][number - 1 : number]} if "losses" in arrays else {}
        yield number, state | losses
