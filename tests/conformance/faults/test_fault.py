"""Faults and injections: what a fault at a place makes of recipes, of parts of a network, of a message."""

from __future__ import annotations

import pytest

from conformance.cases.recipes import RECIPES
from conformance.faults import Injection, find_fault, grafts, places
from impls.config import VARIANTS

PLACES = {place.name: place for place in places(VARIANTS["v1.5"])}


def injection(id, place="network", value=None):
    return Injection(find_fault(id), PLACES[place], value)


def test_faults_of_one_part_are_built_together():
    faults = [("eps-keras", "stage2.0.bn1"), ("relu-missing", "stage2.0"), ("stride-1x1", "stage2.0"), ("bgr", "input")]
    parts = grafts([injection(*fault) for fault in faults], "numpy")
    assert [(part.place.name, len(part.edits), dict(part.configured)) for part in parts] == [
        ("stage2.0", 1, {"strided_layer": "conv1"}),
        ("stage2.0.bn1", 0, {"norm_eps": 1e-3}),
    ]


def test_a_network_that_has_the_wrong_configuration_anyway_cannot_have_the_fault():
    assert [name for name, config in VARIANTS.items() if find_fault("pad-same").places(config)] == [
        *("tutorial", "v1", "v1.5", "keras")
    ]
    assert all(find_fault("eps-other").places(config) for config in VARIANTS.values())


def test_a_parameter_takes_the_place_of_what_a_recipe_has():
    recipes = {name: injection("clip-other").recipe(recipe) for name, recipe in RECIPES.items()}
    assert {name: recipe.clip_norm for name, recipe in recipes.items()} == {"sgd": None, "nesterov": 0.7, "adamw": None}


def test_a_text_is_filled_with_the_place_and_the_parameter():
    (edit,) = injection("branch-detached", "stage1.0").training("numpy")
    assert "(not (name == 'stage1.0'))" in edit.new
    (edit,) = injection("gradient-scaled", value=0.25).training("numpy")
    assert "difference * 0.25" in edit.new


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (("eps-keras",), "eps-keras everywhere"),
        (("eps-keras", "bn1"), "eps-keras at bn1"),
        (("statistics-detached",), "statistics-detached everywhere"),
        (("adam-eps",), "adam-eps"),
    ],
)
def test_a_fault_of_training_is_named_without_a_place(fault, text):
    assert str(injection(*fault)) == text
