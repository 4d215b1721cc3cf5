"""The operations of the NumPy model agree with their definitions, number by number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from impls.numpy import resnet, resnet50
from impls.numpy.resnet import average_pool, convolve, max_pool, moments, normalise, pad

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_a_convolution_is_a_sum_over_each_window(kernel, stride):
    x, weight = RNG.standard_normal((2, 3, 9, 12)), RNG.standard_normal((4, 3, kernel, kernel))
    y = convolve(x, weight, stride)
    assert y.shape == (2, 4, (9 - kernel) // stride + 1, (12 - kernel) // stride + 1)
    for image, channel, row, column in np.ndindex(y.shape):
        window = x[image, :, row * stride : row * stride + kernel, column * stride : column * stride + kernel]
        assert y[image, channel, row, column] == pytest.approx((window * weight[channel]).sum(), rel=1e-11)


@pytest.mark.parametrize(
    ("size", "same", "before", "after"),
    [(8, True, 0, 1), (9, True, 1, 1), (8, False, 1, 1), (9, False, 1, 1)],
)
def test_padding_for_a_strided_window(size, same, before, after):
    padded = pad(np.ones((1, 1, size, 9)), 3, 2, same, -1)
    assert padded.shape[2] == before + size + after
    assert (padded[0, 0, :before, 1] == -1).all()
    assert (padded[0, 0, before : before + size, 1] == 1).all()
    assert (padded[0, 0, before + size :, 1] == -1).all()


def test_the_max_pool_ignores_padding(small):
    x = -RNG.uniform(1, 2, (1, 2, 5, 6))
    y = max_pool(x, small)
    assert y.shape == (1, 2, 3, 3)
    assert y[0, 1, 0, 0] == x[0, 1, :2, :2].max()
    assert y[0, 1, 1, 2] == x[0, 1, 1:4, 3:6].max()
    assert max_pool(x, replace(small, same_padding=True))[0, 1, 1, 2] == x[0, 1, 1:4, 4:6].max()


def test_the_average_pool_covers_the_feature_map_or_the_heads_window(small):
    x = RNG.standard_normal((2, 3, 3, 3))
    np.testing.assert_allclose(average_pool(x, small), x.mean((2, 3)))
    np.testing.assert_allclose(average_pool(x, replace(small, head_pool=2)), x[:, :, :2, :2].mean((2, 3)))


def test_normalising_by_moments_makes_the_bias_the_mean_and_the_weight_the_deviation():
    x = RNG.standard_normal((4, 2, 8, 8)) * 3 + 5
    mean, variance = moments(x)
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)))
    np.testing.assert_allclose(variance, x.var((0, 2, 3)))
    y = normalise(x, mean, variance, np.array([2.0, 3.0]), np.array([0.5, -1.0]), eps=0.0)
    np.testing.assert_allclose(y.mean((0, 2, 3)), [0.5, -1.0])
    np.testing.assert_allclose(y.std((0, 2, 3)), [2.0, 3.0])
    assert normalise(np.ones((1, 1, 1, 1)), *np.array([[0.0], [3.0], [1.0], [0.0]]), eps=1.0) == 0.5


def test_a_block_whose_last_scale_is_zero_is_the_identity(small):
    model = resnet(replace(small, zero_init_last_scale=True), seed=0)
    activations = model.activations(RNG.standard_normal((1, 3, 64, 64)))
    np.testing.assert_array_equal(activations["stage1.1"], activations["stage1.0"])


def test_train_mode_changes_the_output_and_inference_leaves_the_model_alone(small, random_weights):
    model, images = resnet(small, random_weights(small)), RNG.standard_normal((2, 3, 64, 64))
    inference = model(images)
    np.testing.assert_array_equal(model(images), inference)
    assert not np.allclose(model.train()(images), inference)
    assert not np.array_equal(model.train(False)(images), inference)  # the running statistics have moved


def test_astype_rounds_weights_and_activations(small, random_weights):
    model, images = resnet(small, random_weights(small)), RNG.standard_normal((2, 3, 64, 64))
    exact = model(images)
    rounded = model.astype("float32").activations(images.astype("float32"), layers=True)
    assert {array.dtype for array in rounded.values()} == {np.dtype("float32")}
    assert 1e-8 < np.linalg.norm(rounded["logits"] - exact) / np.linalg.norm(exact) < 1e-4


@pytest.mark.parametrize(("variant", "arrays"), [("v1.5", 267), ("keras", 320)])
def test_layers_reach_every_array(variant, arrays):
    layers = dict(resnet50(variant, num_classes=1).layers())
    held = [value for layer in layers.values() for value in vars(layer).values() if isinstance(value, np.ndarray)]
    assert len(held) == arrays
    assert "stage3.5.bn2" in layers
