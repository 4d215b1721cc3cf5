"""Diagnosis of training steps: faults of the oracle are named, alone and together, and unknown ones are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conformance.faults import FAULTS
from impls.recipe import Recipe
from tests.conformance.specimens import assert_together, training_specimen

OF_STEPS = [fault for fault in FAULTS.values() if fault.task == "steps"]

EVERYDAY = {
    *("wd-decoupled", "wd-on-norm", "lr-in-velocity", "adam-eps-uncorrected", "adam-l2", "clip-one-by-one"),
    *("warmup-from-zero", "milestones-late", "sgd-momentum-other", "statistics-twice", "gradients-kept"),
}
"""The faults of steps that are not only diagnosed in the slow tests."""


@pytest.fixture(scope="module")
def specimen():
    return training_specimen()


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=fault.id, marks=[pytest.mark.slow] * (fault.id not in EVERYDAY)) for fault in OF_STEPS],
)
def test_the_cause_is_named(specimen, fault):
    (finding,) = specimen.explain_steps(specimen.steps(fault.id))
    assert fault.id in [cause.fault.id for cause in finding.causes]
    assert finding.error < 1e-11
    if fault.parameter:
        assert finding.causes[0].parameter == pytest.approx(fault.parameter.injected, rel=1e-6)
        assert f"{fault.parameter.name} = {fault.parameter.injected:g}" in str(finding)


def test_faults_that_are_not_distinguishable_are_named_together(specimen):
    """No number of these gradients is as large as the norm that they are clipped to."""
    (finding,) = specimen.explain_steps(specimen.steps("clip-by-value"))
    assert [cause.fault.id for cause in finding.causes] == ["clip-missing", "clip-by-value"]
    assert "; or, not distinguishable here: `clip-by-value`" in str(finding)


@pytest.mark.parametrize(
    ("momentum", "named"), [(1e-17, ["sgd-momentum-other"]), (0.5, ["wd-decoupled", "sgd-momentum-other"])]
)
def test_a_fault_of_a_velocity_that_no_step_depends_on_is_not_named(specimen, momentum, named):
    """Without momentum a decay that bypasses the velocity is the right one."""
    decay, other = specimen.injections("wd-decoupled sgd-momentum-other")
    injections = [decay, replace(other, value=momentum)]
    findings = specimen.explain_steps({"sgd": dict(enumerate(specimen.run("sgd", injections), start=1))})
    assert [finding.causes[0].fault.id for finding in findings] == named
    assert findings[-1].causes[0].parameter == pytest.approx(momentum, abs=1e-9)
    assert ("on which no step depends" in str(findings[-1])) == (momentum < 1e-9)


@pytest.mark.slow
def test_faults_of_several_recipes_are_found_together(specimen):
    ids = ["nesterov-missing", "adam-eps", "wd-on-norm"]
    findings = specimen.explain_steps(specimen.steps(" ".join(ids)))
    assert {finding.causes[0].fault.id for finding in findings} == set(ids)


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(pair, id="+".join(pair), marks=[pytest.mark.slow] * slow)
        for pair, slow in (
            (("adam-eps", "adam-uncorrected"), False),
            (("adamw-decay-not-times-rate", "adam-eps-other"), True),
            (("nesterov-missing", "warmup-missing"), True),
            (("wd-decoupled", "dampening"), True),
            (("adam-uncorrected", "adam-eps-other"), True),
        )
    ],
)
def test_two_faults_that_alter_the_same_arrays_are_found_together(specimen, pair):
    findings = specimen.explain_steps(specimen.steps(" ".join(pair)))
    assert_together(findings, pair)


@pytest.mark.slow
def test_two_faults_together_are_found_beside_another(specimen):
    ids = ["clip-one-by-one", "adam-eps", "adam-uncorrected"]
    findings = specimen.explain_steps(specimen.steps(" ".join(ids)))
    assert [finding.causes[0].fault.id for finding in findings] == ids
    assert [len(finding.beside) for finding in findings] == [0, 1, 1]


@pytest.mark.parametrize("id", ["adam-eps", pytest.param("wd-decoupled", marks=pytest.mark.slow)])
def test_an_unknown_fault_beside_a_known_one_is_not_given_a_name(specimen, id):
    candidate = specimen.steps(id)
    for states in candidate.values():
        states[1]["conv1.weight"] = states[1]["conv1.weight"] * 1.001
    (finding,) = specimen.explain_steps(candidate)
    assert finding.causes == ()
    assert finding.layer.startswith("conv1.weight after step 1")


@pytest.mark.parametrize(
    "id", ["var-biased", *(pytest.param(id, marks=pytest.mark.slow) for id in ("loss-sum", "statistics-detached"))]
)
def test_a_fault_of_the_network_that_only_its_training_shows_is_named(specimen, id):
    (finding,) = specimen.explain_steps(specimen.steps(id))
    assert finding.causes[0].fault.id == id


def test_an_unknown_fault_is_not_given_a_name(specimen):
    candidate = specimen.steps()
    state = candidate["adamw"][3]
    state["exp_avg.conv1.weight"] = state["exp_avg.conv1.weight"] * 1.01
    (finding,) = specimen.explain_steps(candidate)
    assert finding.causes == ()
    assert str(finding).startswith("no known fault explains exp_avg.conv1.weight after step 3 of adamw")


@pytest.mark.slow
def test_an_unknown_schedule_is_not_put_together_from_known_ones(specimen, monkeypatch):
    """A rate is one number a step, and many pairs explain one step."""
    right = Recipe.rate
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "rate", lambda recipe, step: right(recipe, step) * (0.9 + 0.02 * (step * 7 % 5)))
        candidate = specimen.steps("nesterov-missing")
    (finding,) = specimen.explain_steps(candidate)
    assert finding.causes == ()


def test_arrays_that_are_missing_or_of_another_shape_are_not_explained(specimen):
    candidate = specimen.steps()
    for states in candidate.values():
        for state in states.values():
            del state["conv1.weight"]
            state["fc.bias"] = np.zeros(3)
    (finding,) = specimen.explain_steps(candidate)
    assert (finding.causes, finding.layer) == ((), "conv1.weight after step 1 of sgd")


def test_right_steps_have_no_findings(specimen):
    assert specimen.explain_steps(specimen.steps()) == []
