"""The oracle's gradients agree with derivatives of the forward pass along random directions, by the complex step.

Source: Squire and Trapp 1998 (SIAM Review 40, 110-112).
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.pictures import photograph
from conformance.cases.synthetic import DEAD, synthetic_weights
from impls.config import VARIANTS
from impls.numpy import resnet
from impls.numpy.resnet import BatchNorm
from impls.numpy.training import gradients, loss, loss_gradient, parameters
from impls.paths import follow, put
from impls.recipe import Recipe

SIDES = {"tutorial": (193, 200)}
LABELS = np.array([1, 7])


def small(variant):
    return replace(VARIANTS[variant], depths=(2, 1, 1, 1), width=4, num_classes=10)


def directional_derivative(model, images, labels, recipe, direction):
    """Compute the derivative of the loss along a direction, from the forward pass alone.

    The direction lies in the space of parameters and images. The complex step is exact to rounding, since it subtracts
    nothing: for an analytic function f, f'(x) d is the imaginary part of f(x + i h d) / h. ReLU and max pool choose by
    the real part.

    Args:
        model: Network with a classifier, in train or inference mode; it is not changed.
        images: (batch, channels, height, width).
        labels: Integers (batch,).
        recipe: Recipe, of which only the label smoothing matters.
        direction: Components by canonical name, "input" for the images; those left out are zero.
    """
    step = 1e-30
    shifted = copy.deepcopy(model).astype("complex128")
    for _, layer in shifted.layers():
        if isinstance(layer, BatchNorm):
            layer.moments = complex_moments
    for name, component in direction.items():
        if name != "input":
            put(shifted, name, follow(shifted, name) + 1j * step * component)
    logits = shifted.activations(images + 1j * step * direction.get("input", np.zeros(1)))["logits"]
    return float(loss(logits, labels, recipe).imag / step)


def complex_moments(x):
    """Compute mean and biased variance of each channel as analytic functions: the square has no conjugate."""
    values = x.swapaxes(0, 1).reshape(x.shape[1], -1)
    mean = values.mean(1)
    return mean, ((values - mean[:, None]) ** 2).mean(1)


@pytest.fixture(params=VARIANTS)
def network(request, random_weights):
    config = small(request.param)
    model = resnet(config, random_weights(replace(config, dtype=None)))
    images = np.random.default_rng(1).standard_normal((2, 3, *SIDES.get(request.param, (40, 43))))
    return model, images


def balanced_direction(random, grads):
    """Draw a direction in which every array has about the same share of the derivative.

    The exception is an array whose gradient is zero in theory, and so noise in practice.
    """
    norms = {name: np.linalg.norm(gradient) for name, gradient in grads.items()}
    least = 1e-6 * max(norms.values())
    return {name: random.standard_normal(grads[name].shape) / max(norm, least) for name, norm in norms.items()}


@pytest.mark.parametrize("train", [True, False])
def test_gradients_agree_with_the_forward_pass(network, train):
    model, images = network
    model.train(train)
    recipe, random = Recipe(label_smoothing=0.1), np.random.default_rng(2)
    _, grads = gradients(model, images, LABELS, recipe)
    assert set(grads) == {*parameters(model), "input"}
    for _ in range(3):
        direction = balanced_direction(random, grads)
        expected = directional_derivative(model, images, LABELS, recipe, direction)
        shares = [float((grads[name] * direction[name]).sum()) for name in grads]
        assert abs(sum(shares) - expected) < 1e-9 * np.linalg.norm(shares)


@pytest.mark.parametrize("name", ["input", "conv1.weight", "stage1.0.bn3.bias", "stage2.0.downsample_conv.weight"])
def test_a_wrong_gradient_disagrees(name, random_weights):
    config = small("v1.5")
    model = resnet(config, random_weights(replace(config, dtype=None))).train()
    images, recipe = np.random.default_rng(1).standard_normal((2, 3, 40, 43)), Recipe()
    _, grads = gradients(model, images, LABELS, recipe)
    direction = balanced_direction(np.random.default_rng(2), grads)
    wrong = grads | {name: grads[name] * (1 + 1e-7)}
    expected = directional_derivative(model, images, LABELS, recipe, direction)
    shares = [float((wrong[key] * direction[key]).sum()) for key in wrong]
    assert abs(sum(shares) - expected) > 1e-9 * np.linalg.norm(shares)


def test_every_array_alone(random_weights):
    """One derivative per array, so that no array can hide behind another."""
    config = replace(small("tutorial"), head_pool=None)
    model = resnet(config, random_weights(replace(config, dtype=None))).train()
    images, recipe, random = (
        np.random.default_rng(1).standard_normal((2, 3, 32, 33)),
        Recipe(),
        np.random.default_rng(2),
    )
    _, grads = gradients(model, images, LABELS, recipe)
    for name, gradient in grads.items():
        direction = {name: random.standard_normal(gradient.shape)}
        expected = directional_derivative(model, images, LABELS, recipe, direction)
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction[name])
        assert abs((gradient * direction[name]).sum() - expected) < 1e-12 * scale, name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("train", [True, False])
def test_every_array_of_the_full_network(train):
    """ResNet-50 on a photograph: a dozen directions, each array with about the same share in one of them.

    Dead channels are revived first, since there is no derivative where a ReLU meets an exact zero.
    """
    config = VARIANTS["v1.5"]
    model = resnet(config, synthetic_weights(config, seed=0)).train(train)
    for _, layer in model.layers():
        if isinstance(layer, BatchNorm):
            layer.weight[DEAD], layer.bias[DEAD] = 0.5, 0.2
    images, labels, recipe = photograph(224).images.astype("float64"), np.array([11]), Recipe(label_smoothing=0.1)
    _, grads = gradients(copy.deepcopy(model), images, labels, recipe)
    assert len(grads) == 162
    assert min(np.linalg.norm(gradient) for gradient in grads.values()) > 1e-6  # far from rounding
    random, names = np.random.default_rng(0), list(grads)
    for start in range(12):
        chosen = {name: grads[name] for name in names[start::12]}
        direction = balanced_direction(random, chosen)
        expected = directional_derivative(model, images, labels, recipe, direction)
        assert abs(sum(np.vdot(chosen[name], direction[name]) for name in chosen) - expected) < 1e-12 * len(chosen)


def test_the_loss_is_the_cross_entropy_of_smoothed_labels():
    logits, recipe = np.array([[2.0, 0.0, -1.0]]), Recipe(label_smoothing=0.3)
    likelihood = np.exp(logits[0]) / np.exp(logits[0]).sum()
    expected = -(0.8 * np.log(likelihood[0]) + 0.1 * np.log(likelihood[1]) + 0.1 * np.log(likelihood[2]))
    assert float(loss(logits, np.array([0]), recipe)) == pytest.approx(expected, rel=1e-14)
    assert loss_gradient(logits, np.array([0]), recipe).sum() == pytest.approx(0, abs=1e-15)


def test_gradients_can_be_taken_at_other_activations(network):
    model, images = network
    recipe = Recipe()
    activations = dict(model.activations(images, layers=True))
    _, grads = gradients(model, images, LABELS, recipe)
    _, again = gradients(model, images, LABELS, recipe, activations)
    assert all(np.array_equal(grads[name], again[name]) for name in grads)
    _, others = gradients(model, images, LABELS, recipe, activations | {"pool": 2 * activations["pool"]})
    assert not np.allclose(others["fc.weight"], grads["fc.weight"])


def test_single_precision_stays_single(network):
    model, images = network
    value, grads = gradients(model.astype("float32"), images.astype("float32"), LABELS, Recipe(label_smoothing=0.1))
    assert {gradient.dtype.name for gradient in grads.values()} == {"float32"}
    assert np.isfinite(value)
