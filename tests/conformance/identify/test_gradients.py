"""Gradients are measured as multiples of the right ones, and losses by their gradient for the logits."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.cases.recipes import LOSS
from conformance.identify.gradient_gates import EVERYWHERE, GATES, training_with_gate
from conformance.identify.gradients import LOSSES, MeasuredLoss, identify_gradients, measure_loss
from conformance.report.text import identification_lines
from tests.conformance.specimens import rounded_again, training_specimen


@pytest.fixture(scope="module")
def specimen():
    return training_specimen()


@pytest.fixture(scope="module")
def right(specimen):
    return rounded_again(specimen.gradients(), 1e-15)


def said(specimen, candidate):
    identification = identify_gradients(specimen.oracle(), candidate)
    return identification, "\n".join(identification_lines(identification.to_dict()))


def test_right_gradients_have_no_facts(specimen, right):
    identification, text = said(specimen, right)
    assert (list(identification.facts), text) == ([], "")


def passed(specimen, module):
    return {name: array for _, _, arrays in specimen.oracle().run([], module=module) for name, array in arrays.items()}


@pytest.mark.parametrize("words", GATES)
@pytest.mark.parametrize("place", ["stage1.0.bn2", "stage3.0", "bn1", EVERYWHERE])
def test_the_gate_of_a_relu_is_recognised(specimen, place, words):
    module = training_with_gate(place, GATES[words])
    gradients = passed(specimen, module)
    identification, text = said(specimen, rounded_again(gradients, 1e-15))
    subject = place if place == EVERYWHERE else f"the ReLU behind {place}"
    assert f"measured: {subject} {words}" in text
    assert len(identification.facts) == 1
    assert identification.reproduced < 1e-11


def test_an_unknown_gate_is_not_named(specimen):
    module = training_with_gate("stage3.0", lambda positive, dy: np.where(positive, 1.0, 0.3))
    gradients = passed(specimen, module)
    identification, _ = said(specimen, gradients)
    assert identification.reproduced is None
    assert identification.unidentified


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (2.0, "has its right gradient multiplied by 2"),
        (-1.0, "has its right gradient with the opposite sign"),
        (0.0, "has no gradient: it is zero"),
        (0.3718281828, "has its right gradient multiplied by 0.371828"),
    ],
)
def test_a_factor_is_measured_and_reproduces_the_run(specimen, right, factor, words):
    name = "gradient.stage3.0.conv2.weight"
    identification, text = said(specimen, right | {name: factor * right[name]})
    assert f"measured: stage3.0.conv2.weight {words}" in text
    assert identification.is_reproduced


def test_factors_of_all_that_follows_are_said_once(specimen, right):
    names = list(specimen.gradients())
    behind = names[names.index("gradient.stage1.1.conv3.weight") :]
    _, text = said(specimen, right | {name: 0.1 * right[name] for name in behind if name != "loss"})
    assert "everything from stage1.1.conv3.weight back to the images has its right gradient multiplied by 0.1" in text


def test_a_gradient_that_is_no_multiple_is_not_given_a_factor(specimen, right):
    name = "gradient.stage3.0.conv2.weight"
    identification, text = said(specimen, right | {name: right[name] + 1e-9 * np.sign(right[name])})
    assert "stage3.0.conv2.weight has a gradient that is no multiple of the right one" in text
    assert not identification.is_reproduced


def candidate_of(specimen, loss):
    oracle = specimen.oracle()
    return loss.gradients(oracle) | {"loss": np.array([loss.value(oracle)])}


def loss_of(specimen, name, labels, smoothing, weights):
    """A loss with its gradient for the logits, by finite differences of its value in extended precision."""
    oracle = specimen.oracle()
    logits = oracle.activations["logits"].astype(np.longdouble)
    targets = (1 - smoothing) * np.eye(logits.shape[1])[labels] + smoothing / logits.shape[1]
    form = LOSSES[name]
    by_logits, step = np.empty(logits.shape), np.longdouble(1e-6)
    for place in np.ndindex(logits.shape):
        sides = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[place] += sign * step
            sides.append(form.value(moved, targets * weights).sum() / form.count(logits))
        by_logits[place] = (sides[0] - sides[1]) / (2 * step)
    return MeasuredLoss(name, labels, smoothing, weights, by_logits, 0.0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("labels", "smoothing"), [([1, 8], 0.1), ([2, 9], 0.1), ([1, 8], 0.25), ([4, 4], 0.0)])
def test_losses_are_recovered_from_the_classifiers_gradient(specimen, name, labels, smoothing):
    oracle, made = specimen.oracle(), loss_of(specimen, name, labels, smoothing, [1.0] * 10)
    by_logits = made.by_logits
    form, logits = LOSSES[name], oracle.activations["logits"]
    targets = (1 - smoothing) * np.eye(10)[labels] + smoothing / 10
    exact = (form.likelihood(logits) - targets) / form.count(logits)
    assert exact == pytest.approx(by_logits, abs=1e-9)  # the table's gradient is that of the table's value
    measured = measure_loss(oracle, {"gradient.fc.weight": exact.T @ oracle.activations["pool"]})
    assert (measured.name, measured.labels) == (name, labels)
    assert measured.smoothing == pytest.approx(smoothing, abs=1e-9)


def test_weights_of_classes_are_recovered_and_reproduce_the_run(specimen):
    weights = np.linspace(0.5, 1.5, 10)
    oracle = specimen.oracle()
    made = loss_of(specimen, next(iter(LOSSES)), [1, 8], LOSS.label_smoothing, weights)
    logits = oracle.activations["logits"]
    targets = ((1 - LOSS.label_smoothing) * np.eye(10)[[1, 8]] + LOSS.label_smoothing / 10) * weights
    likelihood = LOSSES[made.name].likelihood(logits)
    exact = (likelihood * targets.sum(1, keepdims=True) - targets) / 2
    assert exact == pytest.approx(made.by_logits, abs=1e-9)
    identification, text = said(
        specimen, candidate_of(specimen, MeasuredLoss(made.name, [1, 8], LOSS.label_smoothing, weights, exact, 0.0))
    )
    assert "the loss weights its classes by 0.5 to 1.5; 1 each is expected" in text
    assert identification.is_reproduced
