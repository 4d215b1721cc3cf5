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
    executable = [fact for fact in identification.facts if fact.kind != "running statistics"]
    if executable and all(fact.law for fact in executable) and own:
        with contextlib.suppress(NotIdentified, ValueError):  # a law cannot be executed on these images
            errors = [_left(identification, network, case, trace) for case, trace in own.items()]
            identification = replace(identification, reproduced=max(errors))
    for run in runs:
        run.discard()
    return identification


def _left(identification: Identification, network: NetworkPlan, case: Case, trace: Trace) -> float:
    """Return the largest error that the oracle with the measured layers leaves of a candidate's own run."""
    images, arrays = network.images(case.input), network.weights.to("canonical").arrays
    expected = reproduce(network.config, arrays, identification.facts, images, case.mode == "train")
    names = [name for name in activation_names(network.config) if name in trace.arrays]
    return max(
        (relative_error(expected[name], trace.arrays[name]) for name in names),
        default=float("inf"),
    )
