"""Rules of training steps are measured from two states: random ones are recovered, and others are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.cases.recipes import RECIPES
from conformance.identify.fact import NotIdentified
from conformance.identify.step_facts import Place, array_words, gathered
from conformance.identify.step_noise import find_noise
from conformance.identify.step_rule import DIRECTIONS, PREDICTED, StepView, errors, measure, predict, right_rule
from conformance.identify.steps import identify_steps
from conformance.oracle.steps import StepwiseTraining
from tests.conformance.specimens import training_specimen

seeds = st.integers(0, 2**16)
factors = st.sampled_from([-1.0, 0.1, 0.37, 1.0, 128.0])
decays = st.sampled_from([0.0, 1e-4, 3e-3])
shares = st.sampled_from([0.0, 0.5, 0.9, 0.97])


def stepped(recipe, seed, *, rate, factor, coupled, decoupled, kept, squares_kept=0.0, ahead=False, after=False):
    """A step of a random array, written out once more; returns what the suite sees of it."""
    random = np.random.default_rng(seed)
    gradient, weight, velocity, squares = random.standard_normal((4, 5, 3))
    squares = squares**2
    entered = factor * gradient + coupled * weight
    if recipe.optimizer == "adamw":
        old = {"exp_avg": velocity, "exp_avg_sq": squares}
        mean = kept * velocity + (1 - kept) * entered
        squares = squares_kept * squares + (1 - squares_kept) * entered**2
        direction = mean / (1 - kept**3) / (np.sqrt(squares / (1 - squares_kept**3)) + recipe.eps)
        new = {"exp_avg": mean, "exp_avg_sq": squares}
    else:
        old = {"momentum_buffer": velocity}
        velocity = kept * velocity + entered
        direction = entered + kept * velocity if ahead else velocity
        new = {"momentum_buffer": velocity}
    moved = weight - rate * direction - (0.0 if after else rate * decoupled * weight)
    moved = moved * (1 - rate * decoupled) if after else moved
    past = [old["exp_avg_sq"], new["exp_avg_sq"]] if recipe.optimizer == "adamw" else ()
    return StepView(recipe, 3, gradient, weight, old, moved, new, past)


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from(["sgd", "nesterov"]), factors, decays, decays, shares, st.booleans(), st.booleans())
def test_the_numbers_of_sgd_are_recovered(seed, recipe, factor, coupled, decoupled, kept, ahead, after):
    recipe = RECIPES[recipe]
    rate = recipe.rate(2) if after else 0.05  # with another rate, a decay after the step is one beside it
    numbers = {"factor": factor, "coupled": coupled, "decoupled": decoupled, "kept": kept, "ahead": ahead}
    view = stepped(recipe, seed, rate=rate, after=after, **numbers)
    rule = measure(view, right_rule(recipe, 3, 2, 1.0))
    assert max(errors(view, rule)) <= PREDICTED
    assert (rule.factor, rule.kept) == (pytest.approx(factor, rel=1e-7), pytest.approx(kept, rel=1e-7, abs=1e-9))
    assert rule.coupled == pytest.approx(coupled, rel=1e-5, abs=1e-9)
    if kept and decoupled:
        assert rule.decoupled == pytest.approx(decoupled, rel=1e-5)
        assert rule.after == after
    if kept:
        assert rule.rate == pytest.approx(rate, rel=1e-7)
        assert rule.direction == ("nesterov" if ahead else "momentum")


@settings(max_examples=40, deadline=None)
@given(seeds, factors, decays, decays, shares, st.sampled_from([0.9, 0.99]))
def test_the_numbers_of_adam_are_recovered(seed, factor, coupled, decoupled, kept, squares_kept):
    recipe = RECIPES["adamw"]
    view = stepped(
        recipe,
        seed,
        rate=3e-4,
        factor=factor,
        coupled=coupled,
        decoupled=decoupled,
        kept=kept,
        squares_kept=squares_kept,
    )
    rule = measure(view, right_rule(recipe, 3, 2, 1.0))
    assert max(errors(view, rule)) <= PREDICTED
    for measured, made in ((rule.factor, factor), (rule.kept, kept), (rule.squares_kept, squares_kept)):
        assert measured == pytest.approx(made, rel=1e-6, abs=1e-9)
    assert (rule.coupled, rule.decoupled) == (
        pytest.approx(coupled, rel=1e-5, abs=1e-9),
        pytest.approx(decoupled, rel=1e-4, abs=1e-9),
    )
    assert (rule.rate, rule.direction) == (pytest.approx(3e-4, rel=1e-6), "adam")


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_step_along_another_gradient_is_refused(seed):
    recipe = RECIPES["sgd"]
    view = stepped(recipe, seed, rate=0.05, factor=1.0, coupled=0.0, decoupled=0.0, kept=0.9)
    other = replace(view, gradient=view.gradient + 1e-6 * np.sin(np.arange(15.0)).reshape(5, 3))
    with pytest.raises(NotIdentified, match="no multiple of its right gradient"):
        measure(other, right_rule(recipe, 3, 2, 1.0))


@pytest.mark.parametrize("optimizer", DIRECTIONS)
def test_a_right_step_has_the_right_rule(optimizer):
    recipe = next(recipe for recipe in RECIPES.values() if recipe.optimizer == optimizer)
    right = right_rule(recipe, 3, 2, 1.0)
    view = stepped(
        recipe,
        0,
        rate=right.rate,
        factor=1.0,
        coupled=right.coupled,
        decoupled=right.decoupled,
        kept=right.kept,
        squares_kept=right.squares_kept,
    )
    assert measure(view, right) == right


ADDED = {
    "noise": (lambda random, gradient, size: 0.01 * random.standard_normal(gradient.shape), 0.01),
    "uniform noise": (lambda random, gradient, size: random.uniform(-0.02, 0.02, gradient.shape), 0.04 / np.sqrt(12)),
    "nothing": (lambda random, gradient, size: 0 * gradient, 0.0),
    "a share of the gradient": (lambda random, gradient, size: 0.01 * gradient, 0.0),
    "a number": (lambda random, gradient, size: 0.01 + 0 * gradient, 0.0),
    "another deviation in each array": (lambda random, gradient, size: random.normal(0, size, gradient.shape), 0.0),
    "running sums": (lambda random, gradient, size: random.standard_normal(gradient.size).cumsum(), 0.0),
}


@pytest.mark.parametrize("recipe", ["sgd", "adamw"])
@pytest.mark.parametrize("words", ADDED)
def test_noise_in_gradients_is_told_from_what_is_none(words, recipe):
    (add, expected), recipe, random = ADDED[words], RECIPES[recipe], np.random.default_rng(0)
    right, views = right_rule(recipe, 3, 2, 1.0), {}
    for size in (20, 50, 700):
        gradient, weight, kept = random.standard_normal((3, 10 * size))
        slots = {slot: np.abs(kept) for slot in recipe.slots}
        right_view = StepView(recipe, 3, gradient, weight, slots, weight, slots)
        seen = replace(right_view, gradient=gradient + add(random, gradient, size))
        views[size] = replace(right_view, new_kept=predict(seen, right)[1]), right
    assert find_noise(views) == pytest.approx(expected, rel=0.05)


def test_what_differs_alike_is_said_once():
    names = ["conv1.weight", "stage1.0.conv1.weight", "bn1.weight", "fc.weight", "fc.bias"]
    rights, rules = {}, {}
    for recipe in RECIPES:
        for step in range(1, 9):
            for name in names:
                place = Place(recipe, step, name)
                rights[place] = right_rule(RECIPES[recipe], step, 1 if "bn" in name or "bias" in name else 2, 1.0)
                ratio = (1 + 1e-12) * 10 if name.startswith("fc") else 1.0
                rules[place] = replace(rights[place], rate=rights[place].rate * ratio)
    norms = {(place.recipe, place.step): 1.0 for place in rules}
    (fact,), said = gathered(rules, rights, norms)
    assert fact.text == "each of fc.weight and fc.bias is moved with 10 times the learning rate that is expected"
    assert said[Place("sgd", 1, "fc.bias")].rate == pytest.approx(0.2, rel=1e-12)
    assert said[Place("sgd", 1, "bn1.weight")] == rights[Place("sgd", 1, "bn1.weight")]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["fc.bias"], "fc.bias"),
        (["conv1.weight", "stage1.0.conv1.weight", "fc.weight"], "each kernel of a convolution or classifier"),
        (["bn1.weight"], "bn1.weight"),
        (["conv1.weight", "fc.bias"], "each of conv1.weight and fc.bias"),
    ],
)
def test_arrays_are_named_in_the_fewest_words(names, words):
    every = ["conv1.weight", "bn1.weight", "bn1.bias", "stage1.0.conv1.weight", "fc.weight", "fc.bias"]
    assert array_words(names, every) == words


@pytest.fixture(scope="module")
def right_states():
    """The state after each step of SGD, by another correct build."""
    specimen = training_specimen()
    return {"sgd": dict(enumerate(specimen.run("sgd", ()), start=1))}


def identified(states):
    specimen = training_specimen()
    return identify_steps(StepwiseTraining(specimen.config, specimen.arrays, specimen.images, states))


def test_right_steps_have_no_facts(right_states):
    identification = identified(right_states)
    assert (list(identification.facts), list(identification.unidentified)) == ([], [])


def test_an_array_that_is_not_trained_is_named_and_the_run_reproduced(right_states):
    name = "stage2.0.conv3.weight"
    specimen = training_specimen()
    kept = {name: specimen.arrays[name].astype(np.float64), f"momentum_buffer.{name}": 0 * specimen.arrays[name]}
    first = {1: right_states["sgd"][1] | kept}  # later steps go on from what it has changed
    identification = identified({"sgd": right_states["sgd"] | first})
    texts = [fact.text for fact in identification.facts]
    assert f"{name}, in step 1 of sgd, stays as it is" in texts
    assert identification.unidentified  # what follows is not what the network would have done


def test_statistics_that_no_rule_gives_are_not_passed_over(right_states):
    name = "stage2.0.bn1.running_mean"
    wrong = {1: right_states["sgd"][1] | {name: right_states["sgd"][1][name] + 1e-3}}
    identification = identified({"sgd": right_states["sgd"] | wrong})
    assert any(each.layer == name for each in identification.unidentified)
    assert identification.reproduced is None
