"""Initialisation: what a network that is given no weights starts from is held against what the oracle's does."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.sketch import draw_moments
from conformance.compare.initial import judge_initial
from conformance.diagnose.initial import InitialDiagnosis
from conformance.faults import FAULTS, Injection, edited_module, initial_edits
from impls.config import VARIANTS
from impls.numpy import read_weights
from tests.conformance.conftest import small
from weights_convert.shapes import expected_shapes

NETWORK = replace(VARIANTS["keras"], depths=(2, 2, 2, 2), width=8, num_classes=10)
OPTIONS = ("--variant=keras", "--task=initialisation")


@pytest.fixture(scope="module")
def drawn_run(reported_here, small_weights):
    candidates = ("--impl=torch", "--impl=broken=broken_training:InitialOfTheFramework")
    two = "--impl=two=torch+init-he-normal@network+init-classifier-keras@network"
    return reported_here("run", *candidates, two, "--weights", small_weights["keras"], *OPTIONS)


def causes(divergence):
    return [[cause["fault"] for cause in finding["causes"]] for finding in divergence["diagnosis"]]


def compared_arrays(report, name):
    comparisons = [c for c in report["comparisons"] if c["task"] == "initialisation"]
    return {c["name"]: c for c in comparisons if c["implementation"] == name}


def compare_every_array(report, name):
    """Every array of the network is compared, and conforms; those that are drawn have an error."""
    compared, shapes = compared_arrays(report, name), expected_shapes(small("keras"))
    assert list(compared) == [f"initial.{array}" for array in shapes]
    assert all(comparison["passed"] for comparison in compared.values())
    drawn = [f"initial.{array}" for array, shape in shapes.items() if len(shape) > 1]
    assert [name for name, comparison in compared.items() if comparison["error"] is not None] == drawn


def test_every_array_is_compared_and_conforms(drawn_run):
    compare_every_array(drawn_run[1], "torch")


@pytest.mark.slow
def test_every_array_of_the_other_frameworks_is_compared_and_conforms(reported, small_weights):
    _, report = reported("run", "--impl=flax", "--impl=keras", "--weights", small_weights["keras"], *OPTIONS)
    for name in ("flax", "keras"):
        compare_every_array(report, name)


def test_another_draw_is_red(drawn_run):
    done, report = drawn_run
    assert (done.returncode, report["verdict"], report["failures"]) == (1, "diverges", [])
    divergence, two = report["first_divergences"]
    assert (divergence["implementation"], divergence["layer"]) == ("broken", "initial.conv1.weight")
    assert divergence["reason"].startswith("drawn from something else: variance ")
    assert causes(divergence) == [["init-torch"], []]  # its norms start from what a file holds
    assert causes(two) == [["init-he-normal"], ["init-classifier-keras"]]
    text = " ".join(done.stdout.split())
    assert "likely cause: `init-torch` (convolutions are left as torch.nn draws them" in text
    assert re.search(r"the oracle reproduces your model within \d\.\d standard errors", text)
    assert compared_arrays(report, "broken")["initial.conv1.bias"]["reason"] == "not 0 throughout, as it should start"
    assert "broken diverges" in done.stdout
    assert "limit 6" in done.stdout


def verdict_on(array, right):
    traces = [{"initial.a": draw_moments(np.asarray(numbers, float))} for numbers in (right, array)]
    return judge_initial("initial.a", *traces, np.size(right))


NORMAL = np.random.RandomState(0).standard_normal(100_000)
OTHER = np.random.RandomState(1)


@pytest.mark.parametrize(
    ("array", "moment"),
    [
        (OTHER.standard_normal(100_000) + 0.05, "mean"),
        (OTHER.standard_normal(100_000) * 1.05, "variance"),
        (OTHER.uniform(-(3**0.5), 3**0.5, 100_000), "fourth moment"),
    ],
)
def test_each_moment_is_looked_at(array, moment):
    verdict = verdict_on(array, NORMAL)
    assert not verdict.passed
    assert f": {moment} " in verdict.reason


def test_another_draw_of_the_same_passes():
    for seed in range(100):
        assert verdict_on(np.random.RandomState(seed).standard_normal(400), NORMAL[:400]).passed


def test_what_is_not_a_number_never_passes():
    assert not verdict_on(np.full(100, np.nan), NORMAL[:100]).passed
    assert not verdict_on(np.full(100, np.nan), np.ones(100)).passed


def test_a_constant_must_be_that_constant():
    assert verdict_on(np.ones(8), np.ones(8)).passed
    assert not verdict_on(np.zeros(8), np.ones(8)).passed


def test_a_missing_array_is_a_reason():
    assert judge_initial("initial.b", {}, {}, 8).reason == "it has no such array"


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["flax", "keras"])
def test_a_fault_of_each_framework_is_red_and_named(conformance, small_weights, tmp_path, framework):
    candidate, report = f"--impl=broken={framework}+init-torch@network", tmp_path / "report.json"
    done = conformance("run", candidate, "--weights", small_weights["keras"], *OPTIONS, "--report", report)
    (divergence,) = json.loads(report.read_text())["first_divergences"]
    assert (done.returncode, divergence["layer"], divergence["note"]) == (1, "initial.conv1.weight", "")
    assert causes(divergence) == [["init-torch"]]


OF_INITIALISATION = [fault for fault in FAULTS.values() if fault.task == "initialisation"]


def drawn(*ids, value=None, seed=0, network=NETWORK):
    """Moments of what the oracle draws with faults, by the names of cases."""
    injections = [Injection(FAULTS[id], FAULTS[id].places(network)[0], value) for id in ids]
    module = edited_module("impls.numpy.resnet", initial_edits(injections, "numpy"))
    arrays = read_weights(module.resnet(network, seed=seed)).to("canonical").arrays
    return {f"initial.{name}": draw_moments(array) for name, array in arrays.items()}


def explain(candidate, network=NETWORK):
    return InitialDiagnosis(network, candidate).findings()


def named(findings):
    return [[cause.fault.id for cause in finding.causes] for finding in findings]


@pytest.mark.parametrize("fault", OF_INITIALISATION, ids=lambda fault: fault.id)
def test_each_fault_is_caught_and_named(fault):
    (finding,) = explain(drawn(fault.id, seed=1))
    assert named([finding]) == [[fault.id]]
    assert finding.error < 6
    assert "; with this bug the oracle reproduces your model " in str(finding)
    if fault.parameter:
        assert f"{fault.parameter.name} = {fault.parameter.injected:g})" in str(finding)


@pytest.mark.parametrize(
    ("id", "value"), [("init-fixed", 0.03), ("init-scaled", 1.7), ("init-classifier-other", 0.0012)]
)
def test_a_value_has_as_few_digits_as_explain(id, value):
    (finding,) = explain(drawn(id, value=value))
    assert named([finding]) == [[id]]
    assert finding.causes[0].parameter == pytest.approx(value, rel=0.1)
    assert finding.causes[0].parameter in (value, float(f"{value:.1g}"))


@pytest.mark.parametrize(
    "ids",
    [
        ("init-torch", "init-classifier-torch"),
        ("init-fixed", "init-classifier-keras", "init-last-scale-zero"),
        ("init-scaled", "init-classifier-other"),
    ],
)
def test_faults_of_several_layers_are_found_one_after_the_other(ids):
    assert sorted(named(explain(drawn(*ids)))) == sorted([id] for id in ids)


def test_faults_that_are_not_distinguishable_are_named_together():
    """No array of so narrow a network has the numbers in which a distribution of equal variance shows."""
    narrow = replace(NETWORK, depths=(1, 1, 1, 1), width=4)
    assert set(named(explain(drawn("init-he-uniform", network=narrow), narrow))[0]) == {
        "init-fan-in",
        "init-he-normal",
        "init-he-uniform",
    }


def stretched(candidate, name):
    candidate[f"initial.{name}"][2] *= 3


def missing(candidate, name):
    del candidate[f"initial.{name}"]


def not_a_number(candidate, name):
    candidate[f"initial.{name}"][:] = np.nan


@pytest.mark.parametrize("change", [stretched, missing, not_a_number])
def test_an_unknown_draw_is_not_given_a_name(change):
    candidate = drawn("init-last-scale-zero")
    change(candidate, "stage4.0.conv2.weight")
    known, unknown = explain(candidate)
    assert named([known, unknown]) == [["init-last-scale-zero"], []]
    assert str(unknown) == "no known fault explains initial.stage4.0.conv2.weight"


def test_a_right_draw_has_no_findings():
    assert [explain(drawn(seed=seed)) for seed in range(5)] == [[]] * 5


def test_faults_of_other_arrays_are_not_said_to_be_alike():
    """Both explain as many arrays here."""
    network = replace(NETWORK, depths=(1, 1, 1, 1), width=8)
    injections = [
        Injection(FAULTS[id], FAULTS[id].places(network)[0], value)
        for id, value in (("init-scaled", 0.97), ("init-classifier-other", 0.03))
    ]
    module = edited_module("impls.numpy.resnet", initial_edits(injections, "numpy"))
    arrays = read_weights(module.resnet(network, seed=0)).to("canonical").arrays
    names = named(explain({f"initial.{name}": draw_moments(array) for name, array in arrays.items()}, network))
    assert all(len(causes) <= 1 for causes in names), names
    assert ["init-classifier-other"] in names
