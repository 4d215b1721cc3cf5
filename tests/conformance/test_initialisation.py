"""Initialisation: what a network that is given no weights starts from is held against what the oracle's does."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from conformance.compare import judge_initial
from conformance.trace import Trace
from impls.config import VARIANTS
from weights_convert.shapes import expected_shapes

NETWORK = replace(VARIANTS["keras"], depths=(2, 2, 2, 2), width=8, num_classes=10)
OPTIONS = ("--variant=keras", "--task=initialisation")


@pytest.fixture(scope="module")
def drawn_run(conformance, small_weights, tmp_path_factory):
    report = tmp_path_factory.mktemp("report") / "report.json"
    ports = ("--impl=torch", "--impl=flax", "--impl=keras", "--impl=broken=broken_training:InitialOfTheFramework")
    done = conformance("run", *ports, "--weights", small_weights["keras"], *OPTIONS, "--report", report)
    return done, json.loads(report.read_text())


def own(report, name):
    comparisons = [c for c in report["comparisons"] if c["task"] == "initialisation"]
    return {c["name"]: c for c in comparisons if c["implementation"] == name}


@pytest.mark.parametrize("name", ["torch", "flax", "keras"])
def test_every_array_of_each_framework_is_compared_and_conforms(drawn_run, name):
    _, report = drawn_run
    compared = own(report, name)
    assert list(compared) == [f"initial.{array}" for array in expected_shapes(NETWORK)]
    assert all(comparison["passed"] for comparison in compared.values())
    drawn = [f"initial.{array}" for array, shape in expected_shapes(NETWORK).items() if len(shape) > 1]
    assert [name for name, comparison in compared.items() if comparison["error"] is not None] == drawn


def test_another_draw_is_red(drawn_run):
    done, report = drawn_run
    assert (done.returncode, report["verdict"], report["failures"]) == (1, "diverges", [])
    (divergence,) = report["first_divergences"]
    assert (divergence["implementation"], divergence["layer"]) == ("broken", "initial.conv1.weight")
    assert divergence["reason"].startswith("drawn from something else: variance ")
    assert own(report, "broken")["initial.conv1.bias"]["reason"] == "not 0 throughout, as it should start"
    assert "broken diverges" in done.stdout
    assert "limit 6" in done.stdout


def moments(array):
    apart = array - array.mean()
    return np.array([array.mean(), np.mean(apart**2), np.mean(apart**4)])


def verdict_on(array, right):
    traces = [Trace({"initial.a": moments(np.asarray(one, float))}, {}) for one in (right, array)]
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


def test_a_missing_array_is_told():
    assert judge_initial("initial.b", Trace({}, {}), Trace({}, {}), 8).reason == "it has no such array"
