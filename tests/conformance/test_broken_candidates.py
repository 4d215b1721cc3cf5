"""Candidates that are broken on purpose diverge, and the first wrong layer is named."""

from __future__ import annotations

import json

import pytest

CANDIDATES = {
    "padding": ("broken_ports:PaddingOfStage3", "stage3.0.conv2"),
    "stride": ("broken_ports:StrideOfStage2", "stage2.0.conv1"),
    "epsilon": ("broken_ports:EpsilonOfStage4", "stage4.1.bn2"),
    "swapped": ("broken_ports:SwappedKernels", "stage1.0.conv3"),
    "variance": ("broken_oracles:BiasedVariance", "bn1.running_var"),
    "extra": ("broken_oracles:ExtraParameter", "parameters"),
    "leak": ("broken_oracles:ReducedPrecision", "conv1"),
    "flax": ("broken_flax:PaddingOfStem", "conv1"),
    "keras": ("broken_keras:DefaultEpsilon", "bn1"),
}


@pytest.fixture(scope="module")
def red_run(conformance, small_weights, tmp_path_factory):
    report = tmp_path_factory.mktemp("report") / "report.json"
    adapters = [f"--impl=broken-{name}={adapter}" for name, (adapter, _) in CANDIDATES.items()]
    done = conformance(
        *("run", *adapters, "--impl=torch", "--weights", small_weights["v1.5"], "--precision=float64"),
        *("--report", report),
    )
    return done, json.loads(report.read_text())


def test_the_run_is_red(red_run):
    done, report = red_run
    assert (done.returncode, report["verdict"], report["failures"]) == (1, "diverges", [])


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_first_wrong_layer_is_named(red_run, name):
    done, report = red_run
    (divergence,) = [d for d in report["first_divergences"] if d["implementation"] == f"broken-{name}"]
    assert divergence["layer"] == CANDIDATES[name][1]
    assert f"broken-{name} diverges" in done.stdout


def test_the_correct_one_beside_them_is_not_accused(red_run):
    _, report = red_run
    own = [comparison for comparison in report["comparisons"] if comparison["implementation"] == "torch"]
    assert len(own) > 100
    assert all(comparison["passed"] for comparison in own)
