"""A tap that shows something else than the network goes on with is told as that, and no layer is accused for it."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from conformance.cases.case import MODES, Case
from conformance.cases.inputs import noise
from conformance.cases.names import activation_names, statistic_names
from conformance.cases.synthetic import synthetic_weights
from conformance.compare.comparison import Comparison
from conformance.contradictions import OF_A_LAYER, computed_from, suspects
from conformance.plan import NetworkPlan, Plan
from conformance.run.candidates.kinds import adapt
from conformance.run.candidates.options import Options
from conformance.run.implementations import Implementation
from conformance.run.live import LiveCandidate
from conformance.suite import run_suite
from impls.config import VARIANTS
from impls.taps import is_layer
from tests.conformance.candidates import tapped_ports

CONFIG = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), num_classes=10)
NAMES = activation_names(CONFIG, layers=True)
BLOCKS = ["stage1.0", "stage2.0", "stage3.0", "stage4.0"]


@pytest.fixture(scope="module")
def network():
    inputs = [noise(40, 48, 2, 0), noise(32, 40, 2, 0)]
    return NetworkPlan(CONFIG, synthetic_weights(CONFIG, seed=0), inputs)


@pytest.fixture
def outcome_of(network, tmp_path):
    """Compare a live module, as `conformance.check` does; returns the outcome."""

    folders = (tmp_path / str(number) for number in count())

    def run(module, precisions=("float64",), modes=MODES, layers=True):
        candidate = Implementation("port", "", (), here=LiveCandidate(adapt(module, Options())))
        plan = Plan({"v1.5": network}, [candidate], precisions, next(folders), "cpu", modes=modes, layers=layers)
        return run_suite(plan, lambda event: None)

    return run


@pytest.mark.parametrize(
    "make", [tapped_ports.relu_outside, pytest.param(tapped_ports.shortcut_outside, marks=pytest.mark.slow)]
)
def test_blocks_that_return_something_else_than_the_network_goes_on_with_are_not_judged(outcome_of, make):
    outcome = outcome_of(make())
    assert outcome.verdict == "incomplete"
    assert all(comparison.passed for comparison in outcome.comparisons)
    assert {"pool", "logits", "stem", "stage2.0.conv2"} <= {comparison.name for comparison in outcome.comparisons}
    (failure,) = outcome.failures
    assert failure.array == ", ".join(BLOCKS)
    assert (
        "the tap at stage1.0 contradicts stage2.0.conv1: it shows an array that the network does not" in failure.reason
    )


@pytest.mark.slow
def test_float32_is_not_judged_there_either_and_alone_by_later_blocks(outcome_of):
    both = outcome_of(tapped_ports.relu_outside(), ("float64", "float32"))
    assert (both.verdict, both.divergences) == ("incomplete", [])
    assert [(failure.precision, failure.array) for failure in both.failures] == [
        ("float64", ", ".join(BLOCKS)),
        ("float32", ", ".join(BLOCKS)),
    ]
    alone = outcome_of(tapped_ports.relu_outside(), ("float32",))
    assert (alone.verdict, alone.divergences) == ("incomplete", [])
    assert "the tap at stage1.0 contradicts pool" in alone.failures[0].reason


@pytest.mark.slow
def test_a_wrong_layer_is_named_beside_taps_that_are_wrong(outcome_of):
    outcome = outcome_of(tapped_ports.shortcut_outside(wrong=True), modes=MODES[:1])
    assert outcome.verdict == "diverges"
    assert outcome.failures[0].array == "stage1.0, stage2.0"
    (divergence,) = outcome.divergences
    assert divergence.layer == "stage3.0.bn2"


def test_a_norm_that_applies_its_relu_is_told_and_costs_nothing(outcome_of):
    outcome = outcome_of(tapped_ports.norm_with_relu(), modes=MODES[:1])
    assert outcome.verdict == "conforms"
    assert outcome.not_shown == {
        "port": dict.fromkeys([f"{b}.{n}" for b in BLOCKS for n in ("bn1", "bn2")], OF_A_LAYER)
    }


@pytest.mark.slow
def test_a_norm_that_applies_its_relu_is_not_accused_where_another_layer_is_wrong(outcome_of):
    outcome = outcome_of(tapped_ports.norm_with_relu(wrong=True), modes=MODES[:1])
    (divergence,) = outcome.divergences
    assert divergence.layer == "stage3.0.bn2"
    assert [finding.layer for finding in divergence.findings] == ["stage3.0.bn2"]


def test_a_difference_that_does_not_matter_to_what_follows_stays_a_divergence(outcome_of, monkeypatch):
    """The network goes on with a flipped map, of which the pool takes the mean: nothing later is wrong."""
    monkeypatch.setattr("conformance.suite.localise", lambda localiser, firsts: [])
    outcome = outcome_of(tapped_ports.flipped_at_the_end(), modes=MODES[:1])
    assert (outcome.verdict, outcome.failures) == ("diverges", [])
    assert {c.name for c in outcome.comparisons if not c.passed} == {"stage4.0"}


def compared(wrong, mode="inference", layers=True, names=NAMES):
    """Comparisons of a run in which some arrays are wrong."""
    names = [name for name in names if layers or not is_layer(name)]
    case = Case("v1.5", "noise", mode, layers=layers)
    return [
        Comparison(
            1.0 if name in wrong else 0.0,
            1e-12,
            name not in wrong,
            candidate="port",
            precision="float64",
            case=case,
            name=name,
        )
        for name in names
    ]


def behind(name):
    """An activation and all that are computed from it."""
    return {name, *computed_from(name, NAMES)}


@pytest.mark.parametrize(
    ("runs", "suspected"),
    [
        ([compared({"stage1.0"})], {"stage1.0": "stage2.0.conv1"}),
        (
            [compared({"stage1.0", "stage2.0"}, layers=False)],
            {"stage1.0": "stage3.0", "stage2.0": "stage3.0"},
        ),
        ([compared({"stage1.0.downsample_conv"})], {"stage1.0.downsample_conv": "stage1.0.downsample_bn"}),
        ([compared({"stage1.0.bn3", "stage1.0"})], {"stage1.0": "stage2.0.conv1"}),
        ([compared(behind("stage3.0.bn2") | behind("stage3.0"))], {}),
        ([compared({"stage4.0"}), compared(behind("stage4.0"), "train")], {}),
        ([compared({"logits"})], {}),
    ],
    ids=["one", "two", "shortcut", "wrong block", "wrong", "wrong in train mode", "logits"],
)
def test_what_is_suspected_is_wrong_while_something_computed_from_it_is_right(runs, suspected):
    found = suspects([comparison for run in runs for comparison in run], CONFIG)
    assert {name: pairs[0][1].name for name, pairs in found.items()} == suspected


def test_a_bias_that_the_norm_takes_away_in_train_mode_is_kept_as_its_mean():
    names = [*NAMES, *statistic_names(CONFIG)]
    run = compared({"stage1.0.conv1", "stage1.0.bn1.running_mean"}, "train", names=names)
    assert suspects(run, CONFIG) == {}
