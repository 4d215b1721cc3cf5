"""The Keras model behaves like any other `keras.Model`."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from impls.config import ResNetConfig, named_config
from impls.keras import resnet, resnet50

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def weights(small, random_weights):
    return random_weights(small, "float32")


@pytest.fixture(scope="module")
def model(small, weights):
    return resnet(small, weights)


@pytest.fixture(scope="module")
def images(small_images):
    return np.ascontiguousarray(small_images.transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def logits(model, images):
    return model.predict(images, verbose=0)


def python(*arguments, backend="tensorflow"):
    """Run code in a fresh process, and return what it prints."""
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-c", *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def variant_keras():
    return resnet50("keras", seed=0)


def test_variant_keras_has_its_parameters_right_after_construction(variant_keras):
    lines = []
    variant_keras.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert "Trainable params: 25,583,592" in text
    assert "Non-trainable params: 53,120" in text
    assert "?" not in text
    assert variant_keras.count_params() == 25_583_592 + 53_120
    assert len(variant_keras.weights) == 320


def test_without_a_classifier_the_model_returns_features():
    config = replace(named_config("v1", num_classes=0), depths=(1, 1, 1, 1))
    assert resnet(config)(np.zeros((1, 64, 64, 3), np.float32)).shape == (1, 2048)


def test_all_its_layers_are_built(model):
    assert [layer.name for layer in model._flatten_layers() if not layer.built] == []


def test_predict_agrees_with_a_call(model, images, logits):
    np.testing.assert_allclose(model(images), logits, rtol=1e-4, atol=1e-5)


def test_fit_moves_every_parameter_and_statistic(small, weights, images):
    model = resnet(small, weights)
    before = [np.array(variable) for variable in model.weights]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(images, np.array([1, 2]), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert [
        variable.path for variable, old in zip(model.weights, before, strict=True) if np.array_equal(variable, old)
    ] == []


def test_a_frozen_model_keeps_its_statistics(small, weights, images):
    model = resnet(small, weights)
    model.trainable = False
    before = np.array(model.bn1.moving_variance)
    model(images, training=True)
    np.testing.assert_array_equal(model.bn1.moving_variance, before)


def test_a_keras_file_loads_without_custom_objects(model, images, logits, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.config == replace(model.config, dtype="float32", compute_dtype="float32")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), logits)


def test_a_keras_file_loads_in_a_fresh_process_that_knows_the_model(model, images, logits, tmp_path):
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    code = "import sys, numpy, impls.keras, keras; folder = sys.argv[1] + '/'"
    code += "; model = keras.models.load_model(folder + 'model.keras')"
    code += "; numpy.save(folder + 'logits.npy', model.predict(numpy.load(folder + 'images.npy'), verbose=0))"
    python(code, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), logits)


def test_a_weights_file_loads_into_a_new_model(model, small, images, logits, tmp_path):
    model.save_weights(tmp_path / "model.weights.h5")
    other = resnet(small, seed=5)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(images, verbose=0), logits)


@pytest.mark.parametrize("sizes", [(64, 81), (None, None)])
def test_it_can_be_a_layer_of_a_functional_model(model, images, logits, sizes):
    inputs = keras.Input((*sizes, 3))
    outputs = model(inputs)
    assert outputs.shape == (None, 10)
    np.testing.assert_array_equal(keras.Model(inputs, outputs).predict(images, verbose=0), logits)


def test_the_head_pool_works_in_a_functional_model_of_unknown_size(small):
    model = resnet(replace(small, head_pool=2))
    assert model(keras.Input((None, None, 3))).shape == (None, 10)
    with pytest.raises(ValueError, match="use height and width from 33 to 96"):
        model(keras.Input((128, 128, 3)))


def test_copies_and_clones_share_no_variables(model, images, logits):
    for other in (copy.deepcopy(model), keras.models.clone_model(model)):
        other.set_weights(model.get_weights())
        np.testing.assert_array_equal(other.predict(images, verbose=0), logits)
        other.conv1.kernel.assign(np.zeros(other.conv1.kernel.shape))
    np.testing.assert_array_equal(model.predict(images, verbose=0), logits)


@pytest.fixture
def global_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


def assert_mixed(model, weights, images, logits):
    assert {keras.backend.standardize_dtype(variable.dtype) for variable in model.weights} == {"float32"}
    activations = model.activations(images, layers=True)
    assert activations["stage2.0.conv2"].dtype == activations["logits"].dtype == "bfloat16"
    distance = np.linalg.norm(np.float32(activations["logits"]) - logits) / np.linalg.norm(logits)
    assert 1e-4 < distance < 0.05


def test_compute_dtype_is_that_of_activations_and_not_of_parameters(small, weights, images, logits):
    assert_mixed(resnet(replace(small, compute_dtype="bfloat16"), weights), weights, images, logits)


def test_a_global_policy_is_followed_and_saved_with_the_model(small, weights, images, logits, global_policy, tmp_path):
    model = resnet(small, weights)
    assert_mixed(model, weights, images, logits)
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    assert_mixed(keras.models.load_model(tmp_path / "model.keras"), weights, images, logits)


def test_low_precision_needs_float32_parameters(small):
    with pytest.raises(ValueError, match="with float32 parameters only, not with float64"):
        resnet(replace(small, dtype="float64", compute_dtype="bfloat16"))


def test_activations_pass_through_tf_function(model, images):
    import tensorflow as tf

    compiled, eager = tf.function(model.activations)(images, True), model.activations(images, True)
    assert set(compiled) == set(eager)
    np.testing.assert_allclose(compiled["stage4.0"], eager["stage4.0"], rtol=1e-4, atol=1e-4)


def test_the_global_seed_decides_unless_a_seed_is_given():
    config = ResNetConfig(depths=(1, 1, 1, 1), width=4, num_classes=10)

    def initial(global_seed, seed=None):
        keras.utils.set_random_seed(global_seed)
        return np.array(resnet(config, seed=seed).fc.kernel)

    assert np.array_equal(initial(1), initial(1))
    assert not np.array_equal(initial(1), initial(2))
    assert np.array_equal(initial(1, seed=0), initial(2, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_other_backends_compute_the_same(backend, weights, images, logits, tmp_path):
    weights.save(tmp_path / "weights.safetensors")
    np.save(tmp_path / "images.npy", images)
    code = "import sys, numpy, impls.keras, keras; folder = sys.argv[1] + '/'; from impls.config import *"
    # On JAX, each shape of random values takes a second to compile; weights are loaded anyway.
    code += "; keras.initializers.VarianceScaling = keras.initializers.RandomNormal = lambda *_, **__: 'zeros'"
    code += "; config = ResNetConfig(depths=(2, 1, 1, 1), width=8, num_classes=10)"
    code += "; model = impls.keras.resnet(config, folder + 'weights.safetensors')"
    code += "; numpy.save(folder + 'logits.npy', model.predict(numpy.load(folder + 'images.npy'), verbose=0))"
    code += "; print(keras.backend.backend())"
    assert python(code, tmp_path, backend=backend).split()[-1] == backend
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), logits, rtol=1e-4, atol=1e-4)
