"""Findings in words: what users read says what to think, and never calls a fault nearest that leaves nothing."""

from __future__ import annotations

import pytest

from conformance.diagnose.finding import Finding, describe, joint_findings
from conformance.faults import Injection, find_fault
from impls.config import VARIANTS

CONFIG = VARIANTS["v1.5"]


def injection(id, place):
    fault = find_fault(id)
    return Injection(fault, next(known for known in fault.places(CONFIG) if known.name == place))


BGR, STEM_BGR, SCALED = injection("bgr", "input"), injection("stem-bgr", "conv1"), injection("scale-255", "input")


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (
            Finding("conv1", "stem", (BGR,), 2e-15),
            f"likely cause: `bgr` at input ({BGR.fault.what}); with this bug the oracle reproduces your model to 2e-15",
        ),
        (
            Finding("conv1", "stem", (BGR,), 0.0),
            f"likely cause: {describe(BGR)}; with this bug the oracle reproduces your model exactly",
        ),
        (
            Finding("conv1", "stem", (BGR,), 2e-15, until="bn1"),
            f"likely cause: {describe(BGR)}; with this bug the oracle reproduces your model to 2e-15, "
            "which explains everything up to bn1; another bug begins there",
        ),
        (
            Finding("conv1", "stem", (BGR, STEM_BGR), 2e-15),
            f"likely cause: {describe(BGR)}; with this bug the oracle reproduces your model to 2e-15; "
            f"or, not distinguishable here: {describe(STEM_BGR)}",
        ),
        (
            Finding("conv1", "stem", (BGR,), 2e-15, beside=(SCALED,)),
            f"likely cause: {describe(BGR)} together with `scale-255` at input; "
            "with these bugs the oracle reproduces your model to 2e-15",
        ),
        (
            Finding("initial.fc.weight", "head", (BGR,), 2.1, unit="standard errors"),
            f"likely cause: {describe(BGR)}; with this bug the oracle reproduces your model within 2.1 standard errors",
        ),
        (Finding("conv1", "stem", (), 0.5), "no known fault explains conv1"),
        (
            Finding("conv1", "stem", (), 3e-3, BGR),
            f"no known fault explains conv1; the nearest is {describe(BGR)}, which leaves an error of 3e-3 unexplained",
        ),
        (
            Finding("conv1", "stem", (), 1e-15, BGR, until="bn1"),
            f"no known fault explains everything: {describe(BGR)} explains conv1, but not bn1",
        ),
    ],
)
def test_each_kind_of_finding_in_words(finding, text):
    assert str(finding) == text
    assert finding.to_dict()["text"] == text


def test_what_could_replace_one_of_two_is_a_further_cause_of_its_finding():
    first, second = joint_findings("conv1", "stem", [(SCALED, BGR), (SCALED, STEM_BGR)], 2e-15)
    assert (first.causes, first.beside) == ((SCALED,), (BGR,))
    assert (second.causes, second.beside) == ((BGR, STEM_BGR), (SCALED,))
