"""Localisation asks for runs by one function: what it asks for, and what it says when a candidate cannot run again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conformance.cases.case import MODES, Case
from conformance.cases.inputs import Input, noise
from conformance.compare.comparison import Comparison
from conformance.localise import LOCALISERS, Localiser, localise, small_network
from conformance.plan import TracedRun
from conformance.run.implementations import IMPLEMENTATIONS, ORACLE
from impls.config import VARIANTS

NETWORK = small_network(VARIANTS["v1.5"], seed=0)
BATCH = NETWORK.batch.name
TORCH = IMPLEMENTATIONS["torch"]


class Runs:
    """A `rerun` that notes what is asked for, and in which nothing can run."""

    def __init__(self, failure="signal 9"):
        self.asked, self.failure = [], failure

    def __call__(self, implementations, precision, cases, network, feed=None):
        self.asked.append(([i.name for i in implementations], precision, list(cases), network, feed))
        return {i.name: TracedRun(failure=self.failure) for i in implementations}


def localiser(runs, tasks=("forward",)):
    return Localiser({"v1.5": NETWORK}, {"torch": TORCH}, tasks, 0, runs)


def failed(task="forward", precision="float64", **changes):
    case = Case("v1.5", BATCH, "train", task=task, recipe="sgd" if task == "steps" else "")
    comparison = Comparison(
        error=1.0, limit=1e-12, passed=False, candidate="torch", precision=precision, case=case, name="loss"
    )
    return replace(comparison, **changes)


@pytest.mark.parametrize("task", ["gradients", "steps", "initialisation"])
def test_a_candidate_that_cannot_run_again_is_placed_where_it_failed_and_the_note_says_why(task):
    runs = Runs()
    (divergence,) = localise(localiser(runs, tasks=("gradients", task)), [failed(task)])
    assert (divergence.layer, divergence.fed, list(divergence.findings)) == ("loss", False, [])
    assert "it could not be run once more: signal 9" in divergence.note
    assert all(names == ["torch"] for names, *_ in runs.asked)


def test_forward_runs_are_streamed_by_the_oracle_first_in_both_modes():
    runs = Runs()
    (divergence,) = localise(localiser(runs), [failed(name="stem")])
    cases = [Case("v1.5", BATCH, mode, layers=True) for mode in MODES]
    assert runs.asked == [([ORACLE.name], "float64", cases, NETWORK, {})]
    assert divergence.layer == "stem"


@pytest.mark.parametrize(
    "first",
    [
        failed(name="parameters", input_matters=False),
        failed("gradients", "float32"),
        failed("steps", "float32"),
        failed("backward", "float32"),
    ],
    ids=["parameters", "gradients", "steps", "backward"],
)
def test_what_tells_nothing_further_is_not_run_again(first):
    runs = Runs()
    (divergence,) = localise(localiser(runs), [first])
    assert (divergence.layer, runs.asked) == (first.name, [])


def test_steps_are_run_on_a_small_network_with_its_gradients_in_one_worker():
    runs = Runs()
    localise(localiser(runs, tasks=("gradients", "steps")), [failed("steps")])
    ((_, _, cases, network, _),) = runs.asked
    assert [case.task for case in cases] == ["gradients", "steps", "steps", "steps"]
    assert network is not NETWORK
    assert (network.config.depths, network.config.width) == ((2, 1, 1, 1), 4)


def test_a_divergence_for_each_failure_in_order():
    firsts = [failed("gradients"), failed(name="parameters", input_matters=False, candidate="other")]
    assert [d.first for d in localise(localiser(Runs()), firsts)] == firsts
    assert set(LOCALISERS) >= {"forward", "gradients"}


def failures(**arrays):
    """Failed comparisons of inputs: the arrays that are wrong, by input."""
    return [
        failed(name=name, case=Case("v1.5", input.replace("_", "-"), "train"))
        for input, names in arrays.items()
        for name in names
    ]


@pytest.mark.parametrize(
    ("smaller", "precision", "examined"),
    [
        (["stem", "logits"], "float64", "small"),
        (["logits"], "float64", "large"),  # it does not show all
        (["stem", "logits"], "float32", "large"),  # noise floors belong to an input
    ],
)
def test_the_smallest_input_that_shows_the_same_is_examined(smaller, precision, examined):
    images = {"large": noise(64, 96, 2, 0).images, "small": noise(64, 64, 2, 0).images}
    network = replace(NETWORK, inputs=[Input(name, array, "") for name, array in images.items()])
    compared = [replace(each, precision=precision) for each in failures(large=["stem", "logits"], small=smaller)]
    localising = Localiser({"v1.5": network}, {"torch": TORCH}, ("forward",), 0, Runs(), comparisons=compared)
    assert localising.examined(compared[0]).case.input == examined
