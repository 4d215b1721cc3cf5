"""Probing: what the wrong layers of a candidate compute, asked through the function that runs candidates once more."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from conformance.cases.case import Case, Mode
from conformance.cases.names import activation_names
from conformance.cases.probe import Probe, Probed
from conformance.identify.fact import NotIdentified, relative_error
from conformance.identify.identification import Identification, identify, reproduce
from conformance.identify.link import Arrays
from conformance.identify.rows import confirmed
from conformance.plan import NetworkPlan, Rerun, TracedRun
from conformance.run.implementations import Implementation
from conformance.trace import Trace


def identify_candidate(
    rerun: Rerun,
    candidate: Implementation,
    network: NetworkPlan,
    own: Mapping[Case, Trace],
    suspects: Mapping[str, Sequence[Mode]],
) -> Identification:
    """Measure the wrong layers of a candidate, and see whether the oracle with them reproduces its own run.

    A row of the catalogue is named beside a fact only if it computes, in that run, what was measured.

    Args:
        rerun: Runs probes by a candidate.
        candidate: The candidate.
        network: Its network, with weights and inputs.
        own: The candidate's own forward runs, one for each mode, in which it was not fed.
        suspects: Layers that are known to be wrong, with the modes in which they are.
    """
    runs: list[TracedRun] = []

    def ask(probes: Sequence[Probe]) -> Mapping[str, Probed]:
        run = rerun([candidate], "float64", [], network, probes=probes)[candidate.name]
        runs.append(run)
        unanswered = Probed(failure=run.failure or "its worker ended before")
        return {probe.name: run.probed.get(probe.name, unanswered) for probe in probes}

    arrays = network.weights.to("canonical").arrays
    identification = identify(network.config, arrays, suspects, ask)
    for run in runs:
        run.discard()
    executed = [fact for fact in identification.facts if fact.law]
    unexecuted = [fact for fact in identification.facts if not fact.law and fact.kind != "running statistics"]
    again: dict[bool, Arrays] = {}
    with contextlib.suppress(NotIdentified, ValueError):  # a law cannot be executed on these images
        for case in own:
            train = case.mode == "train"
            again[train] = reproduce(network.config, arrays, identification.facts, network.images(case.input), train)
    own_arrays = {case.mode == "train": trace.arrays for case, trace in own.items()}
    if executed and not unexecuted and own and again.keys() == own_arrays.keys():
        names = activation_names(network.config)
        left = max(_left(again[train], own_arrays[train], names) for train in again)
        identification = replace(identification, reproduced=left)
    if identification.reproduced is not None and not identification.is_reproduced:
        facts = [replace(fact, fault="") for fact in identification.facts]  # a wrong name is worse than none
    else:
        facts = confirmed(identification.facts, network.config, arrays, again, own_arrays)
    return replace(identification, facts=tuple(facts))


def _left(expected: Arrays, own: Arrays, names: Sequence[str]) -> float:
    """Return the largest error that the oracle with the measured layers leaves of a candidate's own run."""
    there = [name for name in names if name in own]
    return max((relative_error(expected[name], own[name]) for name in there), default=float("inf"))
