"""Candidates that are broken on purpose diverge, and the first wrong layer is named."""

from __future__ import annotations

import pytest

CANDIDATES = {
    "padding": ("broken_ports:PaddingOfStage3", "stage3.0.conv2"),
    "swapped": ("broken_ports:SwappedKernels", "stage1.0.conv3"),
    "variance": ("broken_oracles:BiasedVariance", "bn1.running_var"),
    "extra": ("broken_oracles:ExtraParameter", "parameters"),
}
"""Adapter and first wrong layer."""

SLOW = {
    "flax": ("broken_flax:PaddingOfStem", "conv1"),
    "keras": ("broken_keras:DefaultEpsilon", "bn1"),
    "stride": ("broken_ports:StrideOfStage2", "stage2.0.conv1"),
    "epsilon": ("broken_ports:EpsilonOfStage4", "stage4.0.bn2"),
    "leak": ("broken_oracles:ReducedPrecision", "conv1"),  # no known fault: every one is tried
}
"""Further candidates, of the slow tests."""


def arguments_of(candidates, weights):
    """The command that runs candidates, by name and adapter, beside the PyTorch implementation."""
    adapters = [f"--impl={name}={adapter}" for name, adapter in candidates.items()]
    return ("run", *adapters, "--impl=torch", "--weights", weights["v1.5"], "--precision=float64")


@pytest.fixture(scope="module")
def red_run(reported_here, small_weights):
    candidates = {f"broken-{name}": adapter for name, (adapter, _) in CANDIDATES.items()}
    return reported_here(*arguments_of(candidates, small_weights))


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


@pytest.fixture(scope="module")
def slow_run(reported, small_weights):
    candidates = {f"broken-{name}": adapter for name, (adapter, _) in SLOW.items()}
    return reported(*arguments_of(candidates, small_weights))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_the_first_wrong_layer_of_further_candidates_is_named(slow_run, name):
    _, report = slow_run
    (divergence,) = [d for d in report["first_divergences"] if d["implementation"] == f"broken-{name}"]
    assert divergence["layer"] == SLOW[name][1]


@pytest.mark.slow
def test_a_leak_of_precision_has_no_known_cause(slow_run):
    _, report = slow_run
    (divergence,) = [d for d in report["first_divergences"] if d["implementation"] == "broken-leak"]
    assert divergence["diagnosis"]
    assert not any(finding["causes"] for finding in divergence["diagnosis"])
