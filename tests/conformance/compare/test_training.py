"""Gradients in float32, at the oracle's activations: correct candidates agree to rounding, and bugs stand out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.case import Case
from conformance.cases.names import expected_names
from conformance.cases.recipes import RECIPES
from conformance.compare.limits import FLOAT32
from conformance.compare.noise import NoiseFloor
from conformance.compare.training import judge_float32_gradient
from conformance.run.tasks import keep_choices
from impls.config import VARIANTS
from tests.conformance.conftest import small

CANDIDATES = tuple(
    f"--impl={name}=broken_training:{adapter}"
    for name, adapter in {"coarse": "CoarseLayer", "own": "OwnActivations", "nan": "LossIsNotANumber"}.items()
)


TASKS = ("--task=gradients", "--task=steps", "--precision=float32")


@pytest.fixture(scope="module")
def run(reported_here, small_weights):
    """The result and the report of candidates in float32."""
    return reported_here("run", "--impl=torch", *CANDIDATES, "--weights", small_weights["v1.5"], *TASKS)


@pytest.fixture(scope="module")
def run_of(run, reported, small_weights):
    """The run in which a framework is: PyTorch's is the everyday one."""
    others = ("run", "--impl=flax", "--impl=keras", "--weights", small_weights["v1.5"], *TASKS)
    return lambda framework: run if framework == "torch" else reported(*others)


FRAMEWORKS = ["torch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("flax", "keras"))]


def of(run, implementation):
    return [c for c in run[1]["comparisons"] if c["implementation"] == implementation and c["mode"] != "-"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_correct_candidate_is_not_accused(run_of, framework):
    comparisons = of(run_of(framework), framework)
    assert all(c["passed"] for c in comparisons)
    assert {c["task"] for c in comparisons} == {"backward"}
    names = expected_names(Case("v1.5", "noise", "train", task="backward"), VARIANTS["v1.5"])
    assert {c["name"] for c in comparisons} <= set(names)
    assert {c["mode"] for c in comparisons} == {"inference", "train"}
    assert max(c["error"] for c in comparisons) < 1e-3
    assert all(c["floor"] and c["bound"] for c in comparisons)


@pytest.mark.parametrize("variant", ["v1.5", "tutorial"])
def test_the_last_relu_of_a_block_chooses_as_the_oracles_does(variant):
    """Branch and shortcut of nearly the same size, whose sum is of another sign once they are rounded."""
    config = replace(VARIANTS[variant], depths=(1, 1, 1, 1), width=4)
    random = np.random.RandomState(0)
    given, exact = {"stem": np.zeros(0, np.float32)}, {}
    for block in config.blocks():
        shortcut = random.standard_normal(1000)
        branch = -shortcut * (1 + 1e-9 * random.standard_normal(1000))
        added = np.maximum(branch, 0) if config.relu_before_addition else branch
        exact[block.name] = np.maximum(added + shortcut, 0)
        layers = {"downsample_bn": shortcut, "bn3": branch}
        given |= {f"{block.name}.{layer}": array.astype(np.float32) for layer, array in layers.items()}
        given[block.name] = exact[block.name].astype(np.float32)

    def above(name):
        branch = given[f"{name}.bn3"]
        return (np.maximum(branch, 0) if config.relu_before_addition else branch) + given[f"{name}.downsample_bn"] > 0

    before = {name: array.copy() for name, array in given.items()}
    assert any((above(name) != (exact[name] > 0)).sum() > 100 for name in exact)
    keep_choices(given, config)
    assert all(np.array_equal(above(name), exact[name] > 0) for name in exact)
    assert all(np.allclose(given[name], array, rtol=1e-6, atol=0) for name, array in before.items())


def test_one_layer_in_a_lower_precision_is_named(run):
    assert run[0].returncode == 1
    wrong = {c["name"] for c in of(run, "coarse") if not c["passed"]}
    assert wrong == {"gradient.stage3.0.conv2.weight"}
    reason = next(c["reason"] for c in of(run, "coarse") if not c["passed"])
    assert reason.endswith("more than both: a bug, or TF32")


def test_other_activations_than_those_given_are_a_difference(run):
    """A correct candidate that keeps its own activations differs: of millions of values, rounding moves some."""
    assert any(not c["passed"] for c in of(run, "own"))


def test_the_report_says_that_steps_are_not_judged(run):
    assert "and steps are not judged" in " ".join(run[0].stdout.split())


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_as_it_comes_is_reported_and_not_judged(run_of, framework):
    done, report = run_of(framework)
    reported = [c for c in report["reported"] if c["implementation"] == framework]
    cases = [Case("v1.5", "noise", "train", task="gradients")]
    cases += [Case("v1.5", "noise", "train", task="steps", recipe=recipe) for recipe in RECIPES]
    config = small("v1.5")
    assert [(c["task"], c["name"]) for c in reported] == [
        (case.words, name) for case in cases for name in expected_names(case, config)
    ]
    assert {(c["limit"], c["passed"], c["precision"]) for c in reported} == {(None, True, "float32")}
    assert min(c["error"] for c in reported if c["name"] == "losses") > 1e-9
    assert "reported, not judged" in done.stdout


def test_a_loss_that_is_no_number_is_judged(run):
    (failed,) = [c for c in of(run, "nan") if not c["passed"] and c["task"] == "steps sgd"]
    assert (failed["name"], failed["reason"]) == ("losses", "it holds NaN or infinity")


def test_an_error_may_be_what_builds_make_or_what_rounding_explains():
    floor, bound, numbers = NoiseFloor(1e-6, 2e-6), FLOAT32.bound(1000), 10**6
    assert judge_float32_gradient(0.9 * bound, NoiseFloor(1e-9, 1e-9), bound, numbers).passed
    assert judge_float32_gradient(3.9e-6, floor, FLOAT32.bound(1), numbers).passed
    assert not judge_float32_gradient(1.1 * max(bound, 4.1e-6), floor, bound, numbers).passed
    assert not judge_float32_gradient(1e-9, None, bound, numbers).passed


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_keras_takes_gradients_on_its_other_backends(backend, conformance, small_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    options = ("--weights", small_weights["v1.5"], "--task=gradients", "--precision=float32")
    done = conformance("run", "--impl=keras", *options, "--report", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (done.returncode, report["verdict"], report["failures"]) == (0, "conforms", [])
    config = small("v1.5")
    names = expected_names(Case("v1.5", "noise", "train", task="gradients"), config)
    assert {c["name"] for c in report["comparisons"] if c["task"] == "backward"} == set(names)
    assert [c["name"] for c in report["reported"]] == names
