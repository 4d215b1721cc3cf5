"""Faults of gradients and of training: each shows where it was put, or is proven harmless."""

from __future__ import annotations

import pytest

from conformance.cases.case import Case, expected_names
from conformance.cases.recipes import RECIPES
from conformance.cases.segments import segment_of
from conformance.diagnose.search import distance
from conformance.faults import FAULTS, Injection, find_fault
from conformance.selftest.trials import chosen_places
from impls.config import VARIANTS
from tests.conformance.specimens import training_specimen

OF_GRADIENTS = [fault for fault in FAULTS.values() if fault.task == "gradients"]


@pytest.mark.parametrize("fault", OF_GRADIENTS, ids=lambda fault: fault.id)
def test_a_fault_of_gradients_shows_first_where_it_is_or_is_harmless(fault):
    specimen = training_specimen()
    order = specimen.oracle().segments
    for place in chosen_places(fault, specimen.config):
        wrong = wrong_names(specimen, [Injection(fault, place)])
        if fault.harmless_at(place, specimen.config):
            assert wrong == []
            continue
        here = 0 if place.scope == "network" else order.index(segment_of(place.name))
        assert order.index(segment_of(wrong[0])) in (here, here + 1)


def wrong_names(specimen, injections):
    right, wrong = specimen.gradients(), specimen.gradients(injections)
    names = expected_names(Case("-", "-", "train", task="gradients"), specimen.config)
    return [name for name in names if distance(right[name], wrong[name]) > 0]


def test_a_parameter_takes_the_place_of_what_a_recipe_has():
    place = find_fault("clip-other").places(VARIANTS["v1.5"])[0]
    recipes = {name: Injection(find_fault("clip-other"), place).recipe(recipe) for name, recipe in RECIPES.items()}
    assert {name: recipe.clip_norm for name, recipe in recipes.items()} == {"sgd": None, "nesterov": 0.7, "adamw": None}


def test_a_fault_of_training_is_named_without_a_place():
    injections = training_specimen().injections("adam-eps statistics-detached statistics-detached@bn1")
    assert list(map(str, injections)) == ["adam-eps", "statistics-detached everywhere", "statistics-detached at bn1"]
