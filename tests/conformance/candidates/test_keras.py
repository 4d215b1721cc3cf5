"""A Keras model as it is: a functional one of another library, and a subclassed one of our own."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from conformance.cases.inputs import noise
from conformance.cases.names import parameter_names
from conformance.cases.recipes import LOSS, RECIPES
from conformance.cases.synthetic import synthetic_weights
from conformance.run.adapters.numpy import Oracle
from conformance.run.candidates.kinds import adapt, set_keras_dtype
from conformance.run.candidates.options import Options
from conformance.run.candidates.survey import Unfit
from impls.config import VARIANTS
from impls.keras import resnet
from tests.conformance.candidates.agreement import (
    assert_a_step_is_the_oracles,
    assert_equal_to_rounding,
    assert_every_activation_is_shown,
)
from tests.conformance.handwritten.keras_networks import network

CONFIG = replace(
    VARIANTS["keras"], depths=(1, 2, 1, 1), num_classes=10, norm_variance="biased", norm_decay=0.99, dtype="float64"
)
IMAGES = noise(64, 96, 2, 0).images


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    synthetic_weights(replace(CONFIG, dtype=None), seed=0).save(file)
    return file


@pytest.fixture(scope="module")
def oracle(weights):
    adapter = Oracle()
    adapter.prepare("cpu", "float64")
    adapter.build(replace(CONFIG, dtype=None), weights)
    return adapter


def set_dtype(dtype):
    """Set the dtype of new layers, also where a test has set a policy, which is held above floatx."""
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


@pytest.fixture(autouse=True)
def _float64():
    set_dtype("float64")
    yield
    set_dtype("float32")


def candidate(model, weights):
    adapter = adapt(model, Options())
    adapter.precision = "float64"
    adapter.build(replace(CONFIG, dtype=None), weights)
    return adapter


@pytest.mark.parametrize("make", [network, lambda config: resnet(config, seed=0)], ids=["functional", "subclassed"])
def test_every_activation_is_shown_and_fed(weights, oracle, make):
    adapter = candidate(make(CONFIG), weights)
    before = adapter.canonical_state()
    assert_every_activation_is_shown(adapter, oracle, IMAGES)
    assert all(np.array_equal(before[name], array) for name, array in adapter.canonical_state().items())
    seen = {}

    def tap(name, value):
        seen[name] = value
        return np.zeros_like(value) if name in ("stem", "stage1.0", "stage2.0", "pool") else None

    adapter.run_tapped(IMAGES, False, tap)
    state = adapter.canonical_state()
    for first in ("stage1.0.conv1", "stage2.0.downsample_conv", "stage2.1.conv1"):
        assert np.allclose(seen[first], state[f"{first}.bias"][:, None, None])
    assert np.allclose(seen["logits"], state["fc.bias"])


def test_gradients_are_the_oracles_also_at_given_activations(weights, oracle):
    labels, activations = np.array([3, 7]), oracle.record(IMAGES, False, layers=True)
    loss, gradients = candidate(network(CONFIG), weights).gradients(IMAGES, labels, LOSS, False, activations)
    loss_expected, expected = oracle.gradients(IMAGES, labels, LOSS, False, activations)
    assert loss == pytest.approx(loss_expected, rel=1e-12)
    assert set(gradients) == {*parameter_names(CONFIG), "input"}
    assert_equal_to_rounding(gradients, expected, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sgd", "adamw"])
def test_steps_are_the_oracles_and_are_taken_back(weights, oracle, recipe):
    model = network(CONFIG)
    assert_a_step_is_the_oracles(candidate(model, weights), oracle, IMAGES, RECIPES[recipe])
    assert not model.compiled


def test_frozen_norms_are_told(weights):
    model = network(CONFIG)
    model.get_layer("conv1_bn").trainable = False
    adapter = candidate(model, weights)
    assert adapter.cannot["train"] == "norms that are frozen (trainable is False) stay in inference mode in Keras"
    assert adapter.cannot["steps"] == "2 variables are frozen (trainable is False), bn1.weight among them"
    assert adapter.not_shown["gradient.bn1.weight"] == "it is frozen (trainable is False)"


def test_a_model_of_float32_is_not_compared_in_float64(weights):
    set_dtype("float32")
    model = network(CONFIG)
    set_dtype("float64")
    with pytest.raises(Unfit, match="its stem is float32 where float64 goes in"):
        candidate(model, weights).examine(IMAGES)


def test_the_survey_tells_the_size_and_the_convention():
    survey = adapt(network(CONFIG), Options()).survey()
    assert survey.sides == (64, 96)
    assert survey.decay == 0.99
    assert survey.shapes["conv1_conv.kernel"] == (7, 7, 3, 64)


def test_a_factory_builds_in_the_precision_asked_for_unless_it_has_chosen_a_policy():
    for chosen, built in (("float32", "float64"), ("mixed_bfloat16", "mixed_bfloat16")):
        keras.config.set_dtype_policy(chosen)
        assert set_keras_dtype("float64")
        assert keras.layers.Dense(2).dtype_policy.name == built
