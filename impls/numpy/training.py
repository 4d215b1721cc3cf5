"""Gradients and training steps in plain NumPy: the specification that the other three frameworks are held to.

Gradients are written out layer by layer, from the loss back to the images. A test verifies them by derivatives of the
forward pass in `resnet.py` alone, to which the loss therefore applies for complex numbers, too.

Source: gradient of batch norm, Ioffe and Szegedy 2015 (arXiv:1502.03167), section 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np

from impls.config import ResNetConfig
from impls.numpy.resnet import BatchNorm, Bottleneck, Convolution, Linear, ResNet, pad, relu, windows
from impls.numpy.state import copy_arrays, read_weights, write_weights
from impls.paths import put
from impls.recipe import Recipe
from weights_convert import TrainingState, load_training

Array = np.ndarray
Gradients = dict[str, Array]
"""Gradients of the loss by canonical name of the parameter; "input" is that of the images."""


def smooth(labels: Array, classes: int, recipe: Recipe) -> Array:
    """Return the targets (batch, classes): 1 at the label, of which a share is spread evenly over all classes."""
    return (1 - recipe.label_smoothing) * np.eye(classes)[labels] + recipe.label_smoothing / classes


def loss(logits: Array, labels: Array, recipe: Recipe) -> Array:
    """Compute the cross-entropy of logits (batch, classes) with integer labels (batch,), averaged over the batch."""
    logits = logits - logits.real.max(1, keepdims=True)
    log_likelihood = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    value: Array = -(smooth(labels, logits.shape[1], recipe) * log_likelihood).sum(1).mean()
    return value


def loss_gradient(logits: Array, labels: Array, recipe: Recipe) -> Array:
    """Compute the gradient of the loss with respect to the logits: (softmax - target) / batch size."""
    likelihood = np.exp(logits - logits.max(1, keepdims=True))
    likelihood /= likelihood.sum(1, keepdims=True)
    difference: Array = likelihood - smooth(labels, logits.shape[1], recipe).astype(logits.dtype)
    return difference / len(logits)


def gradients(
    model: ResNet, images: Array, labels: Array, recipe: Recipe, activations: Mapping[str, Array] | None = None
) -> tuple[float, Gradients]:
    """Compute the loss, and its gradients with respect to all parameters and the images.

    In train mode, norms use the statistics of the batch, whose dependence on the input is part of the gradient, and
    update the running ones. In inference mode the statistics are constants.

    Args:
        model: Network with a classifier, in train or inference mode.
        images: (batch, channels, height, width).
        labels: Integers (batch,).
        recipe: Recipe, of which only the label smoothing matters.
        activations: All activations by canonical name, at which to take the gradients; None for the model's own.

    Returns:
        The loss, and the gradients by canonical name of the parameter; that of the images is "input".

    Example:
        >>> from dataclasses import replace
        >>> from impls.config import VARIANTS
        >>> from impls.numpy import resnet
        >>> model = resnet(replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=4, num_classes=10))
        >>> value, grads = gradients(model, np.random.randn(2, 3, 32, 32), np.array([3, 7]), Recipe())
        >>> grads["input"].shape, grads["fc.bias"].shape
        ((2, 3, 32, 32), (10,))
    """
    grads = Gradients()
    if activations is None:
        activations = model.activations(images, layers=True)
    value = float(loss(activations["logits"], labels, recipe))
    blocks = list(model.blocks())
    sources = ["stem", *(name for name, _ in blocks[:-1])]
    dy = head(model, activations, activations[blocks[-1][0]], labels, recipe, grads)
    for (name, block), source in reversed(list(zip(blocks, sources, strict=True))):
        dy = bottleneck(block, name, activations, activations[source], dy, grads)
    stem(model, activations, images, dy, grads)
    return value, grads


def head(
    model: ResNet, activations: Mapping[str, Array], x: Array, labels: Array, recipe: Recipe, grads: Gradients
) -> Array:
    """Differentiate the head: return the gradient for the last feature map `x`; store the classifier's in `grads`."""
    dy = _linear(model.fc, "fc", activations["pool"], loss_gradient(activations["logits"], labels, recipe), grads)
    return _average_pool(x, dy, model.config)


def stem(model: ResNet, activations: Mapping[str, Array], x: Array, dy: Array, grads: Gradients) -> None:
    """Differentiate the stem: store the gradients of its layers and of the images `x` in `grads`.

    `dy` is the gradient of the loss with respect to the stem's output.
    """
    dy = _max_pool(relu(activations["bn1"]), dy, model.config) * (activations["bn1"] > 0)
    dy = _norm(model.bn1, "bn1", activations["conv1"], dy, grads)
    grads["input"] = _convolution(model.conv1, "conv1", x, dy, grads)


def bottleneck(
    block: Bottleneck, name: str, activations: Mapping[str, Array], x: Array, dy: Array, grads: Gradients
) -> Array:
    """Differentiate a block: return the gradient for its input `x`, and store those of its layers in `grads`.

    `dy` is the gradient of the loss with respect to the block's output.
    """
    dy = dy * (activations[name] > 0)
    dx, dbranch = dy, dy
    if block.projects:
        dx = _norm(block.downsample_bn, f"{name}.downsample_bn", activations[f"{name}.downsample_conv"], dx, grads)
        dx = _convolution(block.downsample_conv, f"{name}.downsample_conv", x, dx, grads)
    if block.relu_before_addition:
        dbranch = dbranch * (activations[f"{name}.bn3"] > 0)
    inputs = [x, relu(activations[f"{name}.bn1"]), relu(activations[f"{name}.bn2"])]
    for number in (3, 2, 1):
        conv, norm = f"conv{number}", f"bn{number}"
        dbranch = _norm(getattr(block, norm), f"{name}.{norm}", activations[f"{name}.{conv}"], dbranch, grads)
        dbranch = _convolution(getattr(block, conv), f"{name}.{conv}", inputs[number - 1], dbranch, grads)
        if number > 1:
            dbranch = dbranch * (inputs[number - 1] > 0)
    return dx + dbranch


def _convolution(layer: Convolution, name: str, x: Array, dy: Array, grads: Gradients) -> Array:
    """Differentiate a convolution: return the gradient for its input `x`, and store those of its arrays in `grads`.

    Each kernel position takes two matrix products, where the forward pass takes one.
    """
    kernel, stride, (height, width) = layer.weight.shape[2], layer.stride, dy.shape[2:]
    padded = pad(x, kernel, stride, layer.same)
    dpadded, dweight = np.zeros_like(padded), np.zeros_like(layer.weight)
    for i, j in np.ndindex(kernel, kernel):
        strided = np.s_[:, :, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        dweight[:, :, i, j] = np.tensordot(dy, padded[strided], ((0, 2, 3), (0, 2, 3)))
        dpadded[strided] += np.tensordot(layer.weight[:, :, i, j], dy, (0, 1)).swapaxes(0, 1)
    grads[f"{name}.weight"] = dweight
    if layer.bias is not None:
        grads[f"{name}.bias"] = dy.sum((0, 2, 3))
    return _crop(dpadded, x)


def _crop(padded: Array, x: Array) -> Array:
    """Cut off the border that padding put around `x`."""
    # SAME puts an odd pixel behind, and symmetric padding adds an even number: half of either, rounded down, is before.
    top, left = ((padded.shape[axis] - x.shape[axis]) // 2 for axis in (2, 3))
    return padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]


def _norm(layer: BatchNorm, name: str, x: Array, dy: Array, grads: Gradients) -> Array:
    """Differentiate a batch norm: return the gradient for its input `x`, and store those of its arrays in `grads`.

    In train mode the statistics depend on the input, too; in inference mode they are constants.
    """
    axes, shape = (0, 2, 3), (-1, 1, 1)
    mean, variance = layer.moments(x) if layer.training else (layer.running_mean, layer.running_var)
    deviation = np.sqrt(variance + layer.eps).reshape(shape)
    normal = (x - mean.reshape(shape)) / deviation
    grads[f"{name}.weight"], grads[f"{name}.bias"] = (dy * normal).sum(axes), dy.sum(axes)
    if layer.training:
        count = x.size // x.shape[1]
        dscale, doffset = (grads[f"{name}.{leaf}"].reshape(shape) / count for leaf in ("weight", "bias"))
        dy = dy - doffset - normal * dscale
    return dy * layer.weight.reshape(shape) / deviation


def _linear(layer: Linear, name: str, x: Array, dy: Array, grads: Gradients) -> Array:
    """Differentiate a dense layer: return the gradient for its input `x`, and store those of its arrays in `grads`."""
    grads[f"{name}.weight"], grads[f"{name}.bias"] = dy.T @ x, dy.sum(0)
    dx: Array = dy @ layer.weight
    return dx


def _max_pool(x: Array, dy: Array, config: ResNetConfig) -> Array:
    """Differentiate the max pool: pass the gradient of each window on to its first maximum.

    Where a whole window is zero, it does not matter which pixel that is: the ReLU before the pool stops the gradient.
    """
    padded = pad(x, 3, 2, config.same_padding, -np.inf)
    largest = windows(padded, 3, 2).reshape(*dy.shape, 9).argmax(-1)
    dpadded = np.zeros_like(padded)
    for position, (i, j) in enumerate(np.ndindex(3, 3)):
        strided = np.s_[:, :, i : i + 2 * dy.shape[2] - 1 : 2, j : j + 2 * dy.shape[3] - 1 : 2]
        dpadded[strided] += dy * (largest == position)
    return _crop(dpadded, x)


def _average_pool(x: Array, dy: Array, config: ResNetConfig) -> Array:
    """Differentiate the average pool: pass the same share of the gradient on to every pixel of the window."""
    height, width = (min(size, config.head_pool or size) for size in x.shape[2:])
    dx = np.zeros_like(x)
    dx[:, :, :height, :width] = dy[:, :, None, None] / (height * width)
    return dx


class Training:
    """Training run of a model: the optimizer's state, and the number of steps taken.

    Args:
        model: Model to train, in place.
        recipe: Optimizer, schedule and loss.

    Attributes:
        slots: Arrays of the optimizer by slot, as PyTorch names it, and by parameter name.
        steps: Number of steps taken.
        gradients: Function that computes loss and gradients; a caller that has them already can replace it.

    Example:
        >>> from impls.numpy import resnet50
        >>> training = Training(resnet50("v1.5", num_classes=10), Recipe(learning_rate=0.01))
        >>> loss_before = training.step(np.random.randn(2, 3, 64, 64), np.array([3, 7]))
    """

    def __init__(self, model: ResNet, recipe: Recipe) -> None:
        self.model, self.recipe, self.steps = model, recipe, 0
        self.gradients: Callable[[ResNet, Array, Array, Recipe], tuple[float, Gradients]] = gradients
        self.slots = {
            slot: {name: np.zeros_like(array) for name, array in parameters(model).items()} for slot in recipe.slots
        }

    def step(self, images: Array, labels: Array) -> float:
        """Take one step on a batch, and return the loss before it; the model is left in train mode.

        Args:
            images: (batch, channels, height, width).
            labels: Integers (batch,).
        """
        value, grads = self.gradients(self.model.train(), images, labels, self.recipe)
        del grads["input"]
        clip(grads, self.recipe.clip_norm)
        rate = self.recipe.rate(self.steps)
        self.steps += 1
        for name, weight in parameters(self.model).items():
            decay = self.recipe.weight_decay if self.recipe.decays(weight.ndim) else 0.0
            update = {"sgd": self._sgd, "adamw": self._adamw}[self.recipe.optimizer]
            put(self.model, name, weight - rate * update(name, grads[name], weight, decay))
        return value

    def _sgd(self, name: str, gradient: Array, weight: Array, decay: float) -> Array:
        """Update the velocity of a parameter, and return its step for a learning rate of 1."""
        gradient = gradient + decay * weight
        if not self.recipe.momentum:
            return gradient
        velocities = self.slots["momentum_buffer"]
        velocities[name] = self.recipe.momentum * velocities[name] + gradient
        return gradient + self.recipe.momentum * velocities[name] if self.recipe.nesterov else velocities[name]

    def _adamw(self, name: str, gradient: Array, weight: Array, decay: float) -> Array:
        """Update the means of a parameter's gradients, and return its step for a learning rate of 1."""
        recipe, means, squares = self.recipe, self.slots["exp_avg"], self.slots["exp_avg_sq"]
        means[name] = recipe.beta1 * means[name] + (1 - recipe.beta1) * gradient
        squares[name] = recipe.beta2 * squares[name] + (1 - recipe.beta2) * gradient * gradient
        mean, square = means[name] / (1 - recipe.beta1**self.steps), squares[name] / (1 - recipe.beta2**self.steps)
        return mean / (np.sqrt(square) + recipe.eps) + decay * weight


def parameters(model: ResNet) -> dict[str, Array]:
    """Collect the arrays that are trained, by canonical name: all but the running statistics."""
    return {
        f"{path}.{leaf}": array
        for path, layer in model.layers()
        for leaf in ("weight", "bias")
        if (array := getattr(layer, leaf)) is not None
    }


def clip(grads: Gradients, norm: float | None) -> None:
    """Scale all gradients down, in place, so that their joint norm is at most `norm`; None does nothing."""
    if norm is not None:
        total = np.sqrt(sum(np.vdot(gradient, gradient) for gradient in grads.values()))
        for gradient in grads.values():
            gradient *= min(1.0, norm / total)


def read_training(training: Training) -> TrainingState:
    """Collect a training run in a state: weights, optimizer slots, number of steps and recipe.

    The state can be saved, and resumed in this or another framework.
    """
    return TrainingState.of(read_weights(training.model), training.slots, training.steps, training.recipe)


def resume(model: ResNet, source: TrainingState | str | os.PathLike[str]) -> Training:
    """Continue a training run from a state, whichever framework it comes from.

    Args:
        model: Model to train; it takes the weights of the state.
        source: A state, or a file that `TrainingState.save` wrote.

    Raises:
        ConversionError: If the state belongs to another network, or has a dtype that the model's cannot hold exactly.
    """
    state = load_training(source, model.config)
    write_weights(model, state.weights)
    training = Training(model, state.recipe)
    training.slots = {slot: copy_arrays(state.slots[slot], like=arrays) for slot, arrays in training.slots.items()}
    training.steps = state.steps
    return training
