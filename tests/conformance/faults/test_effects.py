"""The effect of each fault in the oracle: it shows first where it was put, or has none and says why."""

from __future__ import annotations

import pytest

from conformance.cases.case import Case
from conformance.cases.names import expected_names
from conformance.cases.segments import promised_names, segment_names, segment_of
from conformance.diagnose.search import distance
from conformance.faults import FAULTS, Injection, find_fault
from conformance.selftest.trials import chosen_places
from impls.config import VARIANTS
from tests.conformance.specimens import forward_specimen, training_specimen

FORWARD = [fault for fault in FAULTS.values() if fault.task == "forward"]
GRADIENTS = [fault for fault in FAULTS.values() if fault.task == "gradients"]


@pytest.mark.parametrize(
    "variant", [name if name == "v1.5" else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_every_fault_shows_first_where_it_is_or_is_harmless(variant):
    specimen, shown = forward_specimen(variant), 0
    for fault in FORWARD:
        if fault.precision != "float64":
            continue
        for place in chosen_places(fault, specimen.config):
            injection = Injection(fault, place)
            first = first_difference(specimen, specimen.faulty([injection]))
            if fault.harmless_at(place, specimen.config):
                assert first is None, str(injection)
                continue
            assert first is not None, str(injection)
            shown += 1
            if place.scope in ("conv", "norm"):
                assert first.removesuffix(".running_mean").removesuffix(".running_var") == place.name, str(injection)
            if place.scope == "block":
                assert segment_of(first) == place.name, str(injection)
    assert shown > 150


def first_difference(specimen, wrong):
    for train, activations in wrong.items():
        names = [name for s in segment_names(specimen.config) for name in promised_names(s, specimen.config, train)]
        for name in names:
            if (name in activations) != (name in specimen.right[train]):
                return name
            if name in activations and distance(specimen.right[train][name], activations[name]) > 1e-12:
                return name
    return None


def test_a_harmless_fault_has_an_effect_where_its_condition_fails():
    """Zeros around the pool win where no ReLU came before; a negative shortcut shows a missing ReLU."""
    specimen = forward_specimen()
    no_relu, zeros_too = (
        specimen.oracle().run("stem", specimen.images, False, specimen.injections(faults))["stem"]
        for faults in ("stem-relu-missing@stem", "stem-relu-missing@stem pool-zero@stem")
    )
    assert distance(no_relu, zeros_too) > 1e-3
    tutorial, fault = VARIANTS["tutorial"], find_fault("relu-after-missing")
    harmless = {place.name: bool(fault.harmless_at(place, tutorial)) for place in fault.places(tutorial)}
    assert (harmless["stage1.0"], harmless["stage1.1"], harmless["network"]) == (False, True, False)


def test_tf32_shows_in_float32():
    specimen, fault = forward_specimen(), find_fault("tf32-leak")
    for place in chosen_places(fault, specimen.config):
        right, wrong = specimen.faulty([], "float32"), specimen.faulty([Injection(fault, place)], "float32")
        segment = "stage1.0" if place.name == "network" else place.name
        assert 5e-5 < distance(right[False][segment], wrong[False][segment]) < 1e-2


@pytest.mark.parametrize("fault", GRADIENTS, ids=lambda fault: fault.id)
def test_a_fault_of_gradients_shows_first_where_it_is_or_is_harmless(fault):
    specimen = training_specimen()
    order, right = specimen.oracle().segments, specimen.gradients()
    names = expected_names(Case("-", "-", "train", task="gradients"), specimen.config)
    for place in chosen_places(fault, specimen.config):
        wrong = specimen.gradients([Injection(fault, place)])
        differing = [name for name in names if distance(right[name], wrong[name]) > 0]
        if fault.harmless_at(place, specimen.config):
            assert differing == []
            continue
        here = 0 if place.scope == "network" else order.index(segment_of(place.name))
        assert order.index(segment_of(differing[0])) in (here, here + 1)
