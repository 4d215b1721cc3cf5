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
from conformance.contradictions import without_contradictory_layers
from conformance.diagnose.finding import Finding
from conformance.diagnose.forward import Exhibit, ForwardDiagnosis
from conformance.diagnose.gradients import GradientDiagnosis
from conformance.diagnose.initial import InitialDiagnosis
from conformance.diagnose.steps import StepsDiagnosis
from conformance.identify.gradients import identify_gradients
from conformance.identify.identification import Identification
from conformance.identify.steps import identify_steps
from conformance.oracle.forward import SegmentedOracle
from conformance.oracle.gradients import SegmentedGradients
from conformance.oracle.steps import StepwiseTraining
from conformance.outcome import Divergence, unlocalised
from conformance.plan import Feed, NetworkPlan, Rerun, TracedRun
from conformance.probing import identify_candidate
from conformance.run.implementations import ORACLE, REFERENCE_BUILDS, Implementation
from conformance.trace import Trace
from impls.config import ResNetConfig
from impls.taps import is_layer

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
        comparisons: All that was compared: it tells which inputs show the same as the first that failed.
    """

    networks: Mapping[str, NetworkPlan]
    candidates: Mapping[str, Implementation]
    tasks: Sequence[str]
    seed: int
    rerun: Rerun
    modes: Sequence[Mode] = MODES
    comparisons: Sequence[Comparison] = ()

    def examined(self, first: Comparison) -> Comparison:
        """Return the failure to examine: the same of the smallest input that shows all that the first one shows."""
        if first.precision != "float64":
            return first  # noise floors are those of the first input
        network = self.network(first)
        wrong: dict[str, set[tuple[Mode, str]]] = {first.case.input: set()}
        for each in self.comparisons:
            of_first = (each.candidate, each.precision, each.case.variant, each.case.task)
            alike = of_first == (first.candidate, first.precision, first.case.variant, first.case.task)
            if alike and not each.passed and not is_layer(each.name):  # layers are compared of one input alone
                wrong.setdefault(each.case.input, set()).add((each.case.mode, each.name))
        same = [name for name, arrays in wrong.items() if arrays == wrong[first.case.input]]
        smallest = min(same, key=lambda name: network.images(name).size)
        return replace(first, case=replace(first.case, input=smallest))

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
        examined = localiser.examined(first)
        groups.setdefault((first.precision, first.case.variant, examined.case.input), []).append(examined)
    original = {(first.candidate, first.case.variant): first for first in firsts}
    for group in groups.values():
        for divergence in localise_layers(localiser, localiser.network(group[0]), group):
            first = original[divergence.first.candidate, divergence.first.case.variant]
            input = divergence.first.case.input
            yield replace(divergence, first=first, examined=input if input != first.case.input else "")


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

    oracle, evidence, divergences = _by_mode(truth), {}, {}
    for name, traced in run(truth.traces, [first.candidate for first in group], [*cases, *whole_cases]).items():
        (first,) = [first for first in group if first.candidate == name]
        layers = without_contradictory_layers(oracle, _by_mode(traced), network.config, floors)
        evidence[name] = layers, _by_mode(traced, layers=False)
        thorough = precision != "float64"  # in float64, what is measured may make the rest of the search needless
        divergences[name] = examine_layers(first, network, oracle, *evidence[name], floors, thorough)
    for name, traced in run(None, [name for name, d in divergences.items() if not d.fed], cases).items():
        layers = without_contradictory_layers(oracle, _by_mode(traced), network.config, floors)
        divergences[name] = examine_layers(divergences[name].first, network, oracle, layers, layers, floors)
    for name, divergence in divergences.items():
        if precision == "float64" and divergence.fed and not explained(divergence.findings):
            divergences[name] = identify_layers(localiser, network, divergence, oracle, *evidence[name])
    for traced in runs:
        traced.discard()
    return list(divergences.values())


def identify_layers(
    localiser: Localiser,
    network: NetworkPlan,
    divergence: Divergence,
    oracle: Mapping[Mode, Trace],
    fed: Mapping[Mode, Trace],
    whole: Mapping[Mode, Trace],
) -> Divergence:
    """Measure what wrong layers compute; only where that leaves questions, search for known faults further."""
    first, candidate = divergence.first, localiser.candidates[divergence.first.candidate]
    own = {replace(first.case, mode=mode): trace for mode, trace in whole.items()}
    suspects = first_wrong_layers(network, oracle, fed)
    identification = identify_candidate(localiser.rerun, candidate, network, own, suspects)
    if not identification.is_settled:
        divergence = examine_layers(first, network, oracle, fed, whole, {})
    return replace(divergence, identification=identification)


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
    identification = None
    for name in dict.fromkeys([network.batch.name, first.case.input]):
        case = Case(first.case.variant, name, first.case.mode, task="gradients")
        run = localiser.run_again(first, [case], network)
        if run.failure:
            return unlocalised(first, note=_could_not_run(run))
        oracle, arrays = segmented_gradients(network, case), run.traces[case].arrays
        findings = examine_gradients(oracle, arrays)
        if findings:
            identification = None if explained(findings) else identify_gradients(oracle, arrays)
            break
    if first.name == "loss" and not any(finding.causes for finding in findings) and not is_settled(identification):
        forward = replace(first, case=replace(first.case, task="forward"))
        (divergence,) = localise_layers(localiser, network, [forward])
        if divergence.findings:
            return replace(divergence, first=first, note="the forward pass is wrong already")
    note = "" if findings else "when it is run once more, its gradients are right"
    divergence = unlocalised(first, findings, note=note)
    return replace(divergence, identification=identification)


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
    oracle, arrays = segmented_gradients(network, gradients), run.traces[gradients].arrays
    findings = examine_gradients(oracle, arrays)
    identification = identify_gradients(oracle, arrays) if not explained(findings) else None
    if not findings:
        training = stepwise_training(network, {recipe: run.traces[case].arrays for recipe, case in steps.items()})
        findings = examine_steps(training, thorough=False)
        if not explained(findings):
            identification = identify_steps(training)
            findings = findings if identification.is_settled else examine_steps(training)
    elif not findings[0].causes and findings[0].layer == "loss" and not is_settled(identification):
        forward = replace(first, case=replace(gradients, task="forward"))
        (divergence,) = localise_layers(localiser, network, [forward])
        findings = list(divergence.findings) or findings
    divergence = unlocalised(first, findings, note=note if findings else f"{note}, where it trains as it should")
    return replace(divergence, identification=identification)


def explained(findings: Sequence[Finding]) -> bool:
    """Tell whether known faults explain everything that is wrong."""
    return all(finding.causes for finding in findings)


def is_settled(identification: Identification | None) -> bool:
    """Tell whether what was measured explains everything that is wrong."""
    return identification is not None and identification.is_settled


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
    whole: Mapping[Mode, Trace],
    floors: Mapping[Mode, NoiseFloors],
    thorough: bool = True,
) -> Divergence:
    """Judge every layer of a candidate's forward run and diagnose what is wrong.

    Args:
        first: The comparison that failed.
        network: Its network, with weights and inputs.
        oracle: The oracle's layers, by mode.
        candidate: The candidate's layers, by mode; a mode may be missing.
        whole: The candidate's runs of the same input in which nothing was fed, by mode.
        floors: The noise floors of the layers, by mode; empty for float64.
        thorough: Whether the search for known faults goes on where no single one explains a segment.
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
    findings = ForwardDiagnosis(piecewise, exhibits, fed, confirming, thorough).findings()
    note = "" if findings else "the difference is too small to tell a fault from rounding"
    if not fed and hidden(candidate[mode]):
        findings = [finding for finding in findings if finding.causes]
        note = "" if findings else "its layers are not shown, so that the first wrong one cannot be told"
    return Divergence(first, wrong.name, wrong.reason, fed, findings, note=note)


def hidden(trace: Trace) -> set[str]:
    """Names of the arrays that a candidate cannot show."""
    return set(trace.origin.not_shown) - set(trace.arrays)


def segmented_gradients(network: NetworkPlan, case: Case) -> SegmentedGradients:
    """Make the right gradients of a case, which are computed segment by segment."""
    arrays, images = network.weights.to("canonical").arrays, padded(network.images(case.input))
    return SegmentedGradients(network.config, arrays, images, case.mode == "train")


def examine_gradients(oracle: SegmentedGradients, candidate: Mapping[str, Any]) -> list[Finding]:
    """Diagnose a candidate's gradients: the faults that explain them; none where they are right."""
    return GradientDiagnosis(oracle, candidate).findings()


def stepwise_training(network: NetworkPlan, candidate: Mapping[str, Mapping[str, Any]]) -> StepwiseTraining:
    """Make the right training steps of a small network, each from a candidate's own state.

    Args:
        network: A small network.
        candidate: By recipe, the arrays of a case of steps with `layers`: the state after each step, and the losses.
    """
    states = {recipe: dict(_states(arrays)) for recipe, arrays in candidate.items()}
    arrays = network.weights.to("canonical").arrays
    return StepwiseTraining(network.config, arrays, network.inputs[0].images, states)


def examine_steps(training: StepwiseTraining, thorough: bool = True) -> list[Finding]:
    """Diagnose a candidate's training steps: the faults that explain them; none where they are right.

    A thorough search tries two faults together where no single one explains what is first wrong.
    """
    return StepsDiagnosis(training, thorough).findings()


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
