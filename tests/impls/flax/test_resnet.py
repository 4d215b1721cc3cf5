"""The Flax model behaves like any other NNX module."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx

from impls.config import named_config
from impls.flax import Bottleneck, ResNet, resnet
from impls.flax.resnet import normal


@nnx.jit
def activations(model, images):
    return model.activations(images, layers=True)


def run(model, images):
    return activations(model, images)["logits"]


@pytest.fixture(scope="module")
def weights(small, random_weights):
    return random_weights(small, "float32")


@pytest.fixture
def model(small, weights):
    model = resnet(small, weights)
    model.eval()
    return model


@pytest.fixture(scope="module")
def images(small_images):
    return jnp.asarray(small_images.transpose(0, 2, 3, 1))


def leaves(model, kind=nnx.Variable):
    return {".".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, kind))}


def test_variant_keras_has_its_parameters_under_eval_shape():
    config = named_config("keras")
    model = nnx.eval_shape(lambda: ResNet(Bottleneck, config.depths, config=config))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == 25_583_592
    assert len(jax.tree.leaves(nnx.state(model))) == 320


def test_building_with_weights_computes_no_random_values(small, weights, monkeypatch):
    def traced_only(key, shape, dtype):
        assert isinstance(key, jax.core.Tracer)
        return jnp.zeros(shape, dtype)

    monkeypatch.setattr(jax.random, "normal", traced_only)
    arrays = leaves(resnet(small, weights))
    for name, expected in weights.to("flax").arrays.items():
        assert isinstance(arrays[name], jax.Array)
        np.testing.assert_array_equal(arrays[name], expected)


def test_the_initialiser_draws_the_same_values_when_compiled():
    initialiser, key = normal(0.5), jax.random.key(0)
    eager = initialiser(key, (3, 3, 4, 5), jnp.float32)
    np.testing.assert_array_equal(eager, jax.jit(initialiser, static_argnums=(1, 2))(key, (3, 3, 4, 5), jnp.float32))
    assert initialiser(key, (2, 3), jnp.bfloat16).dtype == jnp.bfloat16
    assert initialiser(key, (3, 3, 100, 100), jnp.float32).std() == pytest.approx(0.5, rel=0.01)


def test_it_splits_and_merges(model, images):
    graph, parameters, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    assert len(jax.tree.leaves(parameters)) + len(jax.tree.leaves(statistics)) == len(leaves(model))
    merged = nnx.merge(graph, parameters, statistics)
    np.testing.assert_array_equal(run(merged, images), run(model, images))
    for name, array in leaves(merged).items():
        np.testing.assert_array_equal(array, leaves(model)[name])  # a run in inference mode changes nothing


def test_activations_pass_through_jit(model, images):
    assert {"stem", "stage1.1", "stage4.0.downsample_bn", "pool", "logits"} <= set(activations(model, images))


def test_a_gradient_step_moves_every_parameter_and_statistic(small, random_weights):
    config = replace(small, depths=(1, 1, 1, 1))
    model = resnet(config, random_weights(config, "float32"))
    model.train()

    @nnx.jit
    def step(model, optimizer, images, labels):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    before = leaves(model)
    images = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
    value = step(model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param), images, jnp.array([1, 2]))
    after = leaves(model)
    assert np.isfinite(value)
    assert [name for name in before if np.array_equal(before[name], after[name])] == []


def test_compute_dtype_is_that_of_activations_and_not_of_parameters(small, weights, model, images):
    mixed = resnet(replace(small, compute_dtype="bfloat16"), weights)
    mixed.eval()
    logits, expected = run(mixed, images), run(model, images)
    assert logits.dtype == jnp.bfloat16
    assert {array.dtype for array in leaves(mixed).values()} == {jnp.dtype("float32")}
    assert 1e-4 < jnp.linalg.norm(logits - expected) / jnp.linalg.norm(expected) < 0.05


@pytest.mark.usefixtures("float64")
def test_running_statistics_are_float64_where_parameters_are(small, random_weights):
    model = resnet(replace(small, dtype="float64"), random_weights(small))
    model.train()
    model.stage1[0].bn1(jnp.ones((2, 3, 3, 8)))
    assert not np.array_equal(model.stage1[0].bn1.var[...], model.stage1[1].bn1.var[...])
    assert {array.dtype for array in leaves(model).values()} == {jnp.dtype("float64")}


def test_the_state_is_saved_and_restored_by_orbax(small, model, tmp_path):
    state = nnx.state(model)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        graph, abstract = nnx.split(nnx.eval_shape(lambda: resnet(small)))
        restored = checkpointer.restore(tmp_path / "state", abstract)
    arrays = leaves(nnx.merge(graph, restored))
    assert all(np.array_equal(arrays[name], array) for name, array in leaves(model).items())


def test_the_constructor_takes_rngs(small):
    first, second, other = (
        leaves(ResNet(Bottleneck, small.depths, 10, config=small, rngs=nnx.Rngs(params=seed)))["fc.kernel"]
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
