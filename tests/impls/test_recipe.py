"""Recipes: the values they reject, their schedules, and their JSON form."""

from __future__ import annotations

import math

import pytest

from impls.recipe import Recipe


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"optimizer": "lars"}, "optimizer must be 'sgd' or 'adamw', not 'lars'"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov must be False without momentum"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"decayed": "norms"}, "decayed must be"),
        ({"schedule": "linear"}, "schedule must be"),
        ({"schedule": "cosine"}, "total_steps must be more than warmup_steps"),
        ({"milestones": (4, 3)}, "milestones must be ascending"),
        ({"warmup_steps": 5, "milestones": (3,)}, "milestones must be ascending steps after the warm-up"),
        ({"label_smoothing": 1.0}, "label_smoothing must be"),
        ({"clip_norm": 0.0}, "clip_norm must be positive or None"),
    ],
)
def test_impossible_values_are_rejected(values, problem):
    with pytest.raises(ValueError, match=problem):
        Recipe(**values)


def test_all_problems_are_reported_at_once():
    with pytest.raises(ValueError, match=r"learning_rate.*; momentum.*; eps"):
        Recipe(learning_rate=-1.0, momentum=2.0, eps=-1.0)


def test_the_warm_up_reaches_the_full_rate_in_its_last_step():
    recipe = Recipe(learning_rate=0.8, warmup_steps=4)
    assert [recipe.rate(step) for step in range(6)] == [0.2, 0.4, pytest.approx(0.6), 0.8, 0.8, 0.8]


def test_the_cosine_falls_from_the_full_rate_to_zero():
    recipe = Recipe(learning_rate=1.0, schedule="cosine", warmup_steps=2, total_steps=6)
    assert [recipe.rate(step) for step in (2, 4, 6, 9)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert recipe.rate(3) == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_a_recipe_survives_json():
    recipe = Recipe(optimizer="adamw", schedule="steps", milestones=(2, 5), clip_norm=1.0)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rate": 1}, "expected the fields"),
        ({"learning_rate": "fast"}, "of the wrong type"),
        ({"momentum": 1.5}, "momentum must be"),
    ],
)
def test_json_of_other_fields_or_values_is_rejected(change, problem):
    with pytest.raises(ValueError, match=problem):
        Recipe.from_dict(Recipe().to_dict() | change)


def test_a_missing_field_is_rejected():
    values = Recipe().to_dict()
    del values["gamma"]
    with pytest.raises(ValueError, match="expected the fields"):
        Recipe.from_dict(values)


@pytest.mark.parametrize(
    ("values", "slots"),
    [
        ({}, ("momentum_buffer",)),
        ({"momentum": 0.0}, ()),
        ({"optimizer": "adamw"}, ("exp_avg", "exp_avg_sq")),
    ],
)
def test_the_optimizer_keeps_these_slots(values, slots):
    assert Recipe(**values).slots == slots


@pytest.mark.parametrize(
    ("values", "decayed_axes"),
    [
        ({}, []),
        ({"weight_decay": 0.1}, [1, 2, 4]),
        ({"weight_decay": 0.1, "decayed": "kernels"}, [2, 4]),
    ],
)
def test_parameters_decay_by_their_number_of_axes(values, decayed_axes):
    assert [axes for axes in (1, 2, 4) if Recipe(**values).decays(axes)] == decayed_axes
