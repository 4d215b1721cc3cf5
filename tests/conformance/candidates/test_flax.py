"""Linen and NNX modules as they are: what they show, and what they are held against."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import linen

from conformance.cases.inputs import noise
from conformance.cases.names import parameter_names
from conformance.cases.recipes import LOSS, RECIPES
from conformance.cases.synthetic import synthetic_weights
from conformance.run.adapters.numpy import Oracle
from conformance.run.candidates.kinds import adapt
from conformance.run.candidates.options import Options
from conformance.run.candidates.survey import Unfit
from impls.config import VARIANTS
from tests.conformance.candidates import nnx_port
from tests.conformance.candidates.agreement import (
    assert_a_step_is_the_oracles,
    assert_equal_to_rounding,
    assert_every_activation_is_shown,
)
from tests.conformance.handwritten.linen_networks import ResNet

CONFIG = replace(VARIANTS["flax"], depths=(1, 1, 1, 1), width=8, num_classes=10, norm_variance="biased")
SYMMETRIC = replace(CONFIG, same_padding=False)
IMAGES = noise(64, 96, 2, 0).images
SIZE = {"stage_sizes": (1, 1, 1, 1), "num_classes": 10, "num_filters": 8}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights by the configuration that they belong to."""
    folder = tmp_path_factory.mktemp("weights")
    files = {config: folder / f"{config.variant}.safetensors" for config in (CONFIG, SYMMETRIC)}
    for config, file in files.items():
        synthetic_weights(config, seed=0).save(file)
    return files


@pytest.fixture(scope="module")
def oracle(files):
    adapter = Oracle()
    adapter.prepare("cpu", "float64")
    adapter.build(CONFIG, files[CONFIG])
    return adapter


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def candidate(files):
    def make(module, config=CONFIG, **options):
        adapter = adapt(module, Options(**options))
        adapter.prepare("cpu", "float64")
        adapter.build(config, files[config])
        return adapter

    return make


def assert_zeros_are_fed(adapter):
    """Feed zeros to three segments: convolutions without biases pass them on, and the classifier adds its bias."""
    seen = {}

    def tap(name, value):
        seen[name] = value
        return np.zeros_like(value) if name in ("stem", "stage2.0", "pool") else None

    adapter.run_tapped(IMAGES, False, tap)
    assert not seen["stage1.0.conv1"].any()
    assert not seen["stage3.0.downsample_conv"].any()
    assert np.allclose(seen["logits"], adapter.canonical_state()["fc.bias"])


def test_every_activation_is_shown_and_fed_through_intercepted_calls(candidate, oracle):
    adapter = candidate(ResNet(**SIZE))
    assert_every_activation_is_shown(adapter, oracle, IMAGES)
    assert_zeros_are_fed(adapter)


@pytest.mark.slow
def test_gradients_are_the_oracles_also_at_given_activations(candidate, oracle):
    labels, activations = np.array([3, 7]), oracle.record(IMAGES, True, layers=True)
    loss, gradients = candidate(ResNet(**SIZE)).gradients(IMAGES, labels, LOSS, True, activations)
    loss_expected, expected = oracle.gradients(IMAGES, labels, LOSS, True, activations)
    assert loss == pytest.approx(loss_expected, rel=1e-12)
    assert set(gradients) == {*parameter_names(CONFIG), "input"}
    assert_equal_to_rounding(gradients, expected, 1e-10)


@pytest.mark.slow
def test_steps_of_a_linen_module_are_the_oracles(candidate, oracle):
    assert_a_step_is_the_oracles(candidate(ResNet(**SIZE)), oracle, IMAGES, RECIPES["adamw"])


@pytest.mark.slow
def test_a_fixed_dtype_is_float32_inside(candidate):
    with pytest.raises(Unfit, match="its stem is float32 where float64 goes in"):
        candidate(ResNet(**SIZE, dtype="float32")).examine(IMAGES)


class ChannelsFirst(linen.Module):
    """A Linen module that takes NCHW images, as a port of a PyTorch model may."""

    @linen.compact
    def __call__(self, x, train=True):
        return ResNet(**SIZE, name="inner")(jax.numpy.transpose(x, (0, 2, 3, 1)), train)


@pytest.mark.slow
def test_a_linen_module_takes_images_in_the_layout_asked_for(candidate, oracle):
    assert adapt(ChannelsFirst(), Options(layout="NCHW")).survey().shapes["params.inner.conv_init.kernel"][2] == 3
    adapter = candidate(ChannelsFirst(), layout="NCHW")
    arrays, expected = (each.record(IMAGES, False, layers=False) for each in (adapter, oracle))
    assert_equal_to_rounding(arrays, expected)


class PortOfChannelsFirst(nnx_port.Port):
    """An NNX module that takes NCHW images."""

    def __call__(self, x):
        return super().__call__(jax.numpy.transpose(x, (0, 2, 3, 1)))


def test_an_nnx_module_takes_images_in_the_layout_asked_for(candidate):
    first = candidate(PortOfChannelsFirst(), SYMMETRIC, layout="NCHW").record(IMAGES, False, layers=False)
    last = candidate(nnx_port.Port(), SYMMETRIC).record(IMAGES, False, layers=False)
    assert all(np.array_equal(first[name], last[name]) for name in last)


def test_train_mode_is_asked_for_as_the_signature_tells_or_as_the_user_says():
    for call, given, train, inference in (
        (lambda self, x, train=True: x, "", {"train": True}, {"train": False}),
        (lambda self, x, deterministic: x, "", {"deterministic": False}, {"deterministic": True}),
        (lambda self, x, learning: x, "learning", {"learning": True}, {"learning": False}),
    ):
        adapter = adapt(type("Net", (linen.Module,), {"__call__": call})(), Options(train_argument=given))
        assert (adapter.mode(True), adapter.mode(False), "train" in adapter.cannot) == (train, inference, False)
    adapter = adapt(type("Net", (linen.Module,), {"__call__": lambda self, x: x})(), Options())
    assert "--train-argument names another" in adapter.cannot["train"]


@pytest.mark.slow
def test_a_module_comes_with_variables_or_without(candidate):
    module = ResNet(**SIZE)
    alone, variables = adapt(module, Options()), module.init(jax.random.key(0), np.zeros((1, 64, 64, 3)))
    together = adapt((module, variables), Options())
    assert alone.survey().shapes == together.survey().shapes
    assert alone.survey().shapes["params.conv_init.kernel"] == (7, 7, 3, 8)
    assert alone.given is None


def test_an_nnx_module_shows_and_is_fed_through_layers_that_stand_in(candidate, files):
    """The module's layers are named as in torchvision, and its arrays as in Flax."""
    module = nnx_port.Port()
    adapter, oracle = candidate(module, SYMMETRIC), Oracle()
    assert adapter.naming.dialect == "torchvision"
    oracle.prepare("cpu", "float64")
    oracle.build(SYMMETRIC, files[SYMMETRIC])
    assert_every_activation_is_shown(adapter, oracle, IMAGES)
    assert_zeros_are_fed(adapter)
    assert module.conv1.kernel.dtype == np.float32
    assert "Tapped" not in str(adapter.module)


@pytest.mark.slow
def test_gradients_of_an_nnx_module_are_the_oracles(candidate, files):
    labels, oracle = np.array([3, 7]), Oracle()
    oracle.prepare("cpu", "float64")
    oracle.build(SYMMETRIC, files[SYMMETRIC])
    activations = oracle.record(IMAGES, True, layers=True)
    loss, gradients = candidate(nnx_port.Port(), SYMMETRIC).gradients(IMAGES, labels, LOSS, True, activations)
    loss_expected, expected = oracle.gradients(IMAGES, labels, LOSS, True, activations)
    assert loss == pytest.approx(loss_expected, rel=1e-12)
    assert_equal_to_rounding(gradients, expected, 1e-10)


@pytest.mark.slow
def test_steps_of_an_nnx_module_are_the_oracles_and_leave_it_as_it_is(candidate, files):
    module, oracle = nnx_port.Port(), Oracle()
    oracle.prepare("cpu", "float64")
    oracle.build(SYMMETRIC, files[SYMMETRIC])
    assert_a_step_is_the_oracles(candidate(module, SYMMETRIC), oracle, IMAGES, RECIPES["sgd"])
