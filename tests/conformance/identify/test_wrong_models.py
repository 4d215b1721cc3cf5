"""Hand-written wrong models on a small network: their wrong layers are measured, and the facts can be executed."""

from __future__ import annotations

import re
from unittest import mock

import numpy as np
import pytest

from conformance import plan as planning
from conformance.cases.case import MODES, Case
from conformance.identify.identification import Identification
from conformance.plan import Plan, Rerun, write_files
from conformance.probing import identify_candidate
from conformance.report.text import identification_lines
from conformance.run.implementations import Implementation
from tests.conformance.handwritten.measure import network_of, run_here

FACTS = {
    "dilated-block": "stage4.1.conv2 computes a 3x3 convolution with dilation 2 and padding 2; 1 and 1 are expected",
    "kernel-rotated": "stage2.1.conv2: its kernel is rotated by .* degrees",
    "eps-of-one-stage": "each of the .* norms of stage2 adds eps = ",
    "group-norm": "stage2.1.bn2 uses each image's own statistics in .* groups of channels",
    "leaky-everywhere": "takes leaky ReLU of slope",
    "gelu-by-tanh-after-the-addition": "stage2.1 has GELU in its tanh form after the addition",
    "residual-scaled-everywhere": "sums of branch and shortcut adds .* times the branch; once is expected",
    "relu-moved-to-the-next-branch": "each of the 9 conv1 layers of the blocks takes ReLU of its input first",
    "blocks-exchanged": "stage3.1 uses the arrays of stage3.2 in all of its layers, and stage3.2 those of stage3.1",
    "block-missing": "stage3.2 is missing",
    "branch-of-the-unrectified-sum": "stage2.1.conv1 takes of stage2.0 the sum before its last ReLU as its input",
    "pool-of-five": "stem takes the maximum of 5x5 windows at stride 2",
    "momentum-of-keras": "each of the .* norms, in train mode: its running mean and variance keep a share of 0.99",
}
"""Statements that are expected of some wrong models."""


def identified(name, folder) -> Identification:
    """Measure the wrong layers of a model of the hand-written catalogue, its workers in this process."""
    candidate, network = (
        Implementation(name, f"tests.conformance.handwritten.candidates:{name}", ()),
        network_of("torchvision", "forward", False),
    )
    plan = Plan({network.config.variant: network}, [candidate], ["float64"], folder, device="cpu", threads=1)
    cases = [Case(network.config.variant, network.batch.name, mode) for mode in MODES]
    with mock.patch.object(planning, "run_jobs", run_here):
        rerun = Rerun(plan, write_files(plan), lambda event: None)
        own = rerun([candidate], "float64", cases, network)[name].traces
        return identify_candidate(rerun, candidate, network, own, {})


@pytest.mark.parametrize("name", FACTS)
def test_what_is_measured_is_said_and_reproduces_the_model(name, tmp_path):
    identification = identified(name, tmp_path)
    assert any(re.search(FACTS[name], fact.text) for fact in identification.facts), identification
    assert not identification.unidentified
    assert not identification.others
    if any(fact.law for fact in identification.facts):
        assert identification.reproduced < 1e-11
        assert "reproduces your model's own run" in " ".join(identification_lines(identification.to_dict()))


def test_a_right_model_has_no_facts(tmp_path):
    assert identified("right-torchvision", tmp_path) == Identification()


def test_a_random_layer_is_said_to_be_random(tmp_path):
    identification = identified("dropout-left-on", tmp_path)
    assert [fact.layer for fact in identification.facts] == ["logits"]
    assert "is random" in identification.facts[0].text
    assert identification.reproduced is None


def test_facts_are_data_too(tmp_path):
    (fact,) = identified("dilated-block", tmp_path).to_dict()["facts"]
    assert fact["measured"] == {"geometry": {"dilation": "2", "padding": "2"}}
    assert fact["expected"] == {"geometry": {"dilation": "1", "padding": "1"}}
    assert fact["layers"] == ["stage4.1.conv2"]
    assert 0 <= fact["predicts_to"] <= 1e-12
    assert np.isfinite(fact["predicts_to"])
