"""Small networks on which the oracle, faults and the diagnosis are tried, with candidates made by the oracle itself."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest

from conformance.cases.batches import padded, training_batches
from conformance.cases.inputs import noise, noise_sides
from conformance.cases.recipes import RECIPES, STEPS
from conformance.cases.segments import input_name, segment_names
from conformance.cases.synthetic import synthetic_weights
from conformance.diagnose.forward import Exhibit, ForwardDiagnosis
from conformance.diagnose.gradients import GradientDiagnosis
from conformance.diagnose.steps import StepsDiagnosis
from conformance.faults import Injection, find_fault, places
from conformance.localise import small_config
from conformance.oracle.forward import SegmentedOracle, WidenedArrays, build_network, set_array
from conformance.oracle.gradients import SegmentedGradients, recipe_with, training_with
from conformance.oracle.steps import StepwiseTraining, state_of
from impls.config import VARIANTS
from weights_convert.shapes import expected_shapes


def injections_in(config, faults):
    """Faults as `conformance run --impl` takes them: "bgr@input eps-keras@bn1"; the place is the network if none is."""
    known = {place.name: place for place in places(config)}
    pairs = [fault.partition("@") for fault in faults.split()]
    return [Injection(find_fault(id), known[place or "network"]) for id, _, place in pairs]


def rounded_again(arrays, relative):
    """Arrays as another correct build would have computed them: with other relative errors of this size."""
    random = np.random.default_rng(0)
    return {name: array * (1 + relative * random.standard_normal(np.shape(array))) for name, array in arrays.items()}


def bent(array):
    """An array with an error that no fault of the catalogue makes."""
    return array + 0.01 * np.sin(np.arange(array.size)).reshape(array.shape)


def assert_together(findings, pair):
    """Each of two faults is named with the other beside it, and what was estimated is the injected value."""
    assert [finding.causes[0].fault.id for finding in findings] == list(pair)
    assert [[other.fault.id for other in finding.beside] for finding in findings] == [[pair[1]], [pair[0]]]
    for finding, other in zip(findings, reversed(pair), strict=True):
        fault = finding.causes[0].fault
        assert finding.error < 1e-11
        assert f" together with `{other}`; with these bugs " in str(finding)
        assert [facts["fault"] for facts in finding.to_dict()["beside"]] == [other]
        if fault.parameter:
            assert finding.causes[0].parameter == pytest.approx(fault.parameter.injected, rel=1e-6)


class ForwardSpecimen:
    """A small network of a variant, its input, and the oracle's activations and statistics segment by segment."""

    def __init__(self, variant):
        self.config = replace(VARIANTS[variant], depths=(2, 2, 2, 2), width=8, num_classes=10)
        self.weights = synthetic_weights(self.config, seed=0)
        height, width, _ = noise_sides(self.config.head_pool)[1]
        self.images = noise(height, width, 2, 0).images
        self.oracle = cache(partial(SegmentedOracle, self.config, self.weights.arrays))
        self.right = {False: {}, True: {}}
        for train, arrays in self.right.items():
            for segment in segment_names(self.config):
                arrays |= self.oracle().run(segment, self.entering(segment, train), train)

    def entering(self, segment, train):
        source = input_name(segment, self.config)
        return self.images if source is None else self.right[train][source]

    def injections(self, faults):
        return injections_in(self.config, faults)

    def faulty(self, injections, dtype="float64"):
        """Arrays of a network with faults in either mode, each segment fed the oracle's input."""
        arrays = {False: {}, True: {}}
        with np.errstate(all="ignore"):
            for train in arrays:
                for segment in segment_names(self.config):
                    arrays[train] |= self.oracle(dtype).run(segment, self.entering(segment, train), train, injections)
        return arrays

    def candidate(self, injections):
        """Arrays of another correct build with faults."""
        return {train: rounded_again(arrays, 3e-16) for train, arrays in self.faulty(injections).items()}

    def whole(self, injections, dtype="float64", change=lambda segment, array: array):
        """Arrays of a network with faults in either mode, which goes on from its own activations, each one changed."""
        arrays = {False: {}, True: {}}
        for train in arrays:
            entering = self.images
            for segment in segment_names(self.config):
                arrays[train] |= self.oracle(dtype).run(segment, entering, train, injections)
                if segment in arrays[train]:
                    entering = arrays[train][segment] = change(segment, arrays[train][segment])
        return arrays

    def explain(self, candidate, whole=None, dtype="float64"):
        fed, confirming = (
            [Exhibit(train, self.images, self.right[train], arrays[train]) for train in arrays or ()]
            for arrays in (candidate, whole)
        )
        return ForwardDiagnosis(self.oracle(dtype), fed, whole=confirming).findings()


class TrainingSpecimen:
    """The small network of a variant on which training is diagnosed, and its batch."""

    def __init__(self, variant):
        self.config = small_config(VARIANTS[variant])
        self.arrays = synthetic_weights(self.config, seed=0).arrays
        height, width, _ = noise_sides(self.config.head_pool)[1]
        self.images = noise(height, width, 2, 0).images

    def injections(self, faults):
        return injections_in(self.config, faults)

    def oracle(self):
        return SegmentedGradients(self.config, self.arrays, padded(self.images), train=True)

    def gradients(self, injections=()):
        """The loss and gradients of the oracle with faults, by the names of cases."""
        return {name: array for _, _, arrays in self.oracle().run(injections) for name, array in arrays.items()}

    def explain_gradients(self, candidate):
        return GradientDiagnosis(self.oracle(), candidate).findings()

    def explain_faulty_gradients(self, faults):
        """The findings on another correct build with faults."""
        return self.explain_gradients(rounded_again(self.gradients(self.injections(faults)), 1e-15))

    def steps(self, faults=""):
        """Runs of every recipe by another correct build of the training with faults."""
        injections = self.injections(faults)
        return {recipe: dict(enumerate(self.run(recipe, injections), start=1)) for recipe in RECIPES}

    def run(self, recipe, injections):
        configured = {field: value for each in injections for field, value in each.configured.items()}
        model = build_network(replace(self.config, **configured), WidenedArrays(self.arrays, "float64"))
        training = training_with(injections).Training(model, recipe_with(RECIPES[recipe], injections))
        for images, labels in training_batches(self.images.astype(np.float64), self.config.num_classes, STEPS):
            loss = training.step(images, labels)
            state = rounded_again(state_of(training), 1e-15)
            for name in expected_shapes(self.config):
                set_array(model, name, state[name].copy())
            for slot, arrays in training.slots.items():
                arrays |= {name: state[f"{slot}.{name}"].copy() for name in arrays}
            yield state | {"loss": np.array([loss])}

    def explain_steps(self, states):
        return StepsDiagnosis(StepwiseTraining(self.config, self.arrays, self.images, states)).findings()


@cache
def forward_specimen(variant="v1.5"):
    return ForwardSpecimen(variant)


@cache
def training_specimen(variant="v1.5"):
    return TrainingSpecimen(variant)
