"""Contradictions: arrays that a candidate shows, and that its network does not go on with.

A tap may show something else than the activation whose name it has: a module returns a block's sum, and its caller
applies the ReLU in place; or the module that holds a block's layers computes the branch alone. Then the array that is
seen is wrong, and what is computed from it is right. Such an array is not judged, and nothing is fed in its place.

An array of a segment contradicts a later one that is right if the oracle, going on from the array that was shown, would
compute that later one clearly wrong. Where it would not (a flip before a global pool, say), the later one tells nothing
about the array, and the divergence stands. Two faults of which the second takes back what the first one does are a
contradiction, too: then neither is accused, and nothing is said to conform.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from conformance.cases.case import Case, Mode
from conformance.cases.names import activation_names
from conformance.cases.segments import segment_names, segment_of
from conformance.compare.comparison import Comparison
from conformance.compare.noise import NoiseFloors
from conformance.compare.traces import compare_traces
from conformance.oracle.forward import SegmentedOracle
from conformance.outcome import Failure, Outcome
from conformance.plan import NetworkPlan, Rerun
from conformance.run.implementations import Implementation
from conformance.trace import Trace
from impls.config import ResNetConfig
from impls.taps import is_layer

CLEARLY = 10.0
"""Multiple of its limit, and of its error, by which a right array would have to be wrong to contradict another one."""

OF_A_LAYER = (
    "what is seen there is not this network's, and what is computed from it is right: its layer shows something else "
    "(a norm that applies its ReLU, too, shows the ReLU's output), and is not judged"
)
"""Reason why an array of a convolution or norm is not judged."""

Key = tuple[str, str, str]
"""Candidate, variant and precision."""


@dataclass(frozen=True)
class Contradiction:
    """An array that a candidate shows, and that contradicts a later one, which is right.

    Attributes:
        key: Candidate, variant and precision.
        name: The array.
        reason: The evidence, in words.
    """

    key: Key
    name: str
    reason: str

    def concerns(self, comparison: Comparison) -> bool:
        """Tell whether a comparison is of this array in a forward run, and failed."""
        concerned = key_of(comparison) == self.key and comparison.name == self.name
        return concerned and comparison.case.task == "forward" and not comparison.passed


def key_of(comparison: Comparison) -> Key:
    """Return candidate, variant and precision of a comparison."""
    return comparison.candidate, comparison.case.variant, comparison.precision


def find_contradictions(
    comparisons: Sequence[Comparison],
    networks: Mapping[str, NetworkPlan],
    candidates: Mapping[str, Implementation],
    rerun: Rerun,
) -> list[Contradiction]:
    """Find arrays that contradict later ones.

    Candidates whose arrays are all wrong from the first wrong one on, as behind a wrong layer, are not run once more.

    Args:
        comparisons: All that was compared.
        networks: Networks by variant.
        candidates: Candidates by name.
        rerun: Runs cases once more: the smallest in which a segment's array is suspected.
    """
    of_key: dict[Key, list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.case.task == "forward":
            of_key.setdefault(key_of(comparison), []).append(comparison)
    found: list[Contradiction] = []
    for key in sorted(of_key, key=lambda key: key[2] != "float64"):
        candidate, variant, _ = key
        known = [replace(each, key=key) for each in found if each.key[:2] == key[:2]]  # a tap is wrong in any precision
        suspected = suspects(of_key[key], networks[variant].config, {each.name for each in known})
        found += known
        found += [Contradiction(key, name, OF_A_LAYER) for name in suspected if is_layer(name)]
        suspected = {name: pairs for name, pairs in suspected.items() if not is_layer(name)}
        if suspected:
            found += confirmed(key, suspected, networks[variant], candidates[candidate], rerun)
    return [each for each in found if any(map(each.concerns, comparisons))]


Pair = tuple[Comparison, Comparison]
"""The failed comparison of an array, and that of a later array of the same case, which is right."""


def suspects(
    comparisons: Iterable[Comparison], config: ResNetConfig, known: Collection[str] = ()
) -> dict[str, list[Pair]]:
    """List arrays of one candidate that are wrong although what is computed from them is right.

    Args:
        comparisons: Of forward runs in one precision, of one network. Where some cases compare every layer, which tell
            the most, the others are not looked at.
        config: The network.
        known: Arrays that are known to contradict others.

    Returns:
        By name, a pair for each case in which the array is wrong. An array behind which all is wrong in some case is
        not among them.
    """
    cases: dict[Case, dict[str, Comparison]] = {}
    for comparison in comparisons:
        cases.setdefault(comparison.case, {})[comparison.name] = comparison
    thorough = {case: compared for case, compared in cases.items() if case.layers}
    pairs: dict[str, list[Pair]] = {}
    unexplained = set(known)
    for compared in (thorough or cases).values():
        names = [name for name in activation_names(config, layers=True) if name in compared]
        for name in names:
            if not compared[name].passed:
                right = [later for later in computed_from(name, names) if compared[later].passed]
                pairs.setdefault(name, []).extend((compared[name], compared[later]) for later in right[:1])
                unexplained |= set() if right and statistics_pass(name, compared) else {name}
    return {name: found for name, found in pairs.items() if name not in unexplained}


def computed_from(name: str, names: Sequence[str]) -> list[str]:
    """List the arrays that are computed from one: for a layer, those of its branch up to the end of its segment.

    Args:
        name: An activation.
        names: All activations, in the order in which the network computes them.

    Example:
        >>> names = activation_names(ResNetConfig(depths=(1, 1, 1, 1)), layers=True)
        >>> computed_from("stage1.0.bn2", names)
        ['stage1.0.conv3', 'stage1.0.bn3', 'stage1.0']
        >>> computed_from("stage3.0", names)[0], computed_from("stage4.0", names)
        ('stage4.0.conv1', ['pool', 'logits'])
    """
    later = list(names[names.index(name) + 1 :])
    if not is_layer(name):
        return later
    shortcut = "downsample" in name
    inside = (each for each in later if segment_of(each) == segment_of(name))
    return [each for each in inside if not is_layer(each) or ("downsample" in each) == shortcut]


def statistics_pass(name: str, compared: Mapping[str, Comparison]) -> bool:
    """Tell whether the norm behind a convolution keeps the right statistics of it, in a case that compares them.

    In train mode a norm takes away what a convolution adds to all values of a channel, and keeps it as the mean.
    """
    norm = name.replace("conv", "bn")
    kept = [compared[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var") if f"{norm}.{leaf}" in compared]
    return norm == name or all(comparison.passed for comparison in kept)


def confirmed(
    key: Key,
    suspected: Mapping[str, Sequence[Pair]],
    network: NetworkPlan,
    candidate: Implementation,
    rerun: Rerun,
) -> Iterator[Contradiction]:
    """Yield the suspected arrays of segments with which the oracle would compute a later array clearly wrong."""
    smallest = {
        name: min(pairs, key=lambda pair: network.images(pair[0].case.input).size) for name, pairs in suspected.items()
    }
    cases = list(dict.fromkeys(replace(wrong.case, layers=False) for wrong, _ in smallest.values()))
    run = rerun([candidate], key[2], cases, network)[candidate.name]
    oracle = SegmentedOracle(network.config, network.weights.to("canonical").arrays)
    wanted = {*smallest, *(right.name for _, right in smallest.values())}
    expected = {
        case: right_arrays(oracle, network.images(case.input), case.mode == "train", wanted) for case in run.traces
    }
    for name, (wrong, right) in smallest.items():
        case = replace(wrong.case, layers=False)
        shown = run.traces[case].arrays.get(name) if case in run.traces else None
        if shown is None:
            continue
        would_be = error_with(oracle, name, shown, right.name, expected[case], case.mode == "train")
        if would_be > CLEARLY * max(right.limit or 0.0, right.error or 0.0):
            yield Contradiction(key, name, evidence(name, right, would_be))
    run.discard()


def right_arrays(
    oracle: SegmentedOracle, images: np.ndarray, train: bool, wanted: Collection[str]
) -> dict[str, np.ndarray]:
    """Compute the oracle's activations of these names."""
    arrays: dict[str, np.ndarray] = {}
    entering = images
    for segment in segment_names(oracle.config):
        computed = oracle.run(segment, entering, train)
        arrays |= {name: array for name, array in computed.items() if name in wanted}
        entering = computed.get(segment, entering)
    return arrays


def error_with(
    oracle: SegmentedOracle,
    name: str,
    shown: np.ndarray,
    later: str,
    expected: Mapping[str, np.ndarray],
    train: bool,
) -> float:
    """Return the relative L2 error of a later array if the oracle goes on from the array that was shown.

    It is infinite where the oracle cannot go on: the array has another shape, or numbers that are not finite.
    """
    if shown.shape != expected[name].shape or not np.isfinite(shown).all():
        return np.inf
    difference = go_on(oracle, name, shown.astype(np.float64), later, train) - expected[later]
    return float(np.linalg.norm(difference) / np.linalg.norm(expected[later]))


def go_on(oracle: SegmentedOracle, name: str, value: np.ndarray, later: str, train: bool) -> np.ndarray:
    """Compute a later array from the output of a segment, or from the pooled features."""
    if name == "pool":
        logits: np.ndarray = value @ oracle.widened["fc.weight"].T + oracle.widened["fc.bias"]
        return logits
    order = segment_names(oracle.config)
    for segment in order[order.index(name) + 1 :]:
        computed = oracle.run(segment, value, train)
        if later in computed:
            break
        value = computed[segment]
    return computed[later]


def evidence(name: str, right: Comparison, would_be: float) -> str:
    """Say how an array contradicts a later one, and what to do."""
    return (
        f"the tap at {name} contradicts {right.name}: it shows an array that the network does not go on with (with it, "
        f"{right.name} would be wrong by {would_be:.1e}, and it is right to {right.error:.1e}). What the module of "
        f"{name} returns is changed in place afterwards, or is not all that the block computes; where a module returns "
        "the block's own output, that can be compared"
    )


def set_aside(outcome: Outcome, contradictions: Sequence[Contradiction]) -> None:
    """Take contradictory arrays out of what was compared; those of segments make the run incomplete."""
    outcome.comparisons = [
        comparison
        for comparison in outcome.comparisons
        if not any(contradiction.concerns(comparison) for contradiction in contradictions)
    ]
    of_segments: dict[Key, list[Contradiction]] = {}
    for each in contradictions:
        if is_layer(each.name):
            outcome.not_shown.setdefault(each.key[0], {})[each.name] = each.reason
        else:
            of_segments.setdefault(each.key, []).append(each)
    for (candidate, _, precision), group in of_segments.items():
        arrays = ", ".join(each.name for each in group)
        outcome.failures.append(Failure(candidate, precision, group[0].reason, array=arrays))


def without_contradictory(
    candidates: Mapping[str, Implementation], contradictions: Sequence[Contradiction]
) -> dict[str, Implementation]:
    """Make candidates that do not show the arrays that contradict others, so that nothing is fed there."""
    not_shown: dict[str, dict[str, str]] = {}
    for each in contradictions:
        not_shown.setdefault(each.key[0], {})[each.name] = each.reason
    return {name: replace(each, not_shown=not_shown.get(name, {})) for name, each in candidates.items()}


def without_contradictory_layers(
    oracle: Mapping[Mode, Trace],
    candidate: Mapping[Mode, Trace],
    config: ResNetConfig,
    floors: Mapping[Mode, NoiseFloors],
) -> dict[Mode, Trace]:
    """Hide convolutions and norms that are wrong although what is computed from them is right, in runs by mode."""
    comparisons = [
        comparison
        for mode, trace in candidate.items()
        for comparison in compare_traces(oracle[mode], trace, config, floors.get(mode))
    ]
    names = dict.fromkeys(filter(is_layer, suspects(comparisons, config)), OF_A_LAYER)
    return {mode: trace.without(names) for mode, trace in candidate.items()} if names else dict(candidate)
