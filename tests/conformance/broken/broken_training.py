"""The NumPy network trained with a bug that the catalogue has, written by hand, and with one that it does not have."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from conformance.run.adapters.blueprint import Blueprint
from conformance.run.adapters.numpy import Oracle
from conformance.run.adapters.torch import TorchAdapter
from impls.numpy import resnet
from impls.numpy.training import Training, gradients, read_training
from impls.torch import read_weights


class AdamEpsilon(Oracle):
    """Another recipe than was asked for."""

    def training(self, recipe):
        return super().training(replace(recipe, eps=1e-7))


class InitialOfTheFramework(TorchAdapter):
    """Convolutions start as torch.nn draws them: from uniform numbers by fan-in."""

    def initial(self, seed):
        torch.manual_seed(seed)
        model = self.network()
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.Conv2d.reset_parameters(layer)
        return read_weights(model).arrays


class Coarse(Training):
    """The optimizer sees of each gradient its sign and the power of two above its size."""

    def __init__(self, model, recipe):
        super().__init__(model, recipe)
        self.gradients = coarse_gradients


def coarse_gradients(*arguments):
    value, found = gradients(*arguments)
    sizes = {name: 2 ** np.ceil(np.log2(np.abs(gradient) + 1e-300)) for name, gradient in found.items()}
    return value, {name: np.sign(found[name]) * size for name, size in sizes.items()}


class CoarseGradients(Oracle):
    def __init__(self):
        coarse = SimpleNamespace(Training=Coarse, gradients=gradients, read_training=read_training)
        super().__init__(Blueprint("numpy", resnet, coarse))


class CoarseLayer(Oracle):
    """One layer's gradient went through TF32: ten bits after the first."""

    def gradients(self, images, labels, recipe, train, activations=None):
        value, found = super().gradients(images, labels, recipe, train, activations)
        name = "stage3.0.conv2.weight"
        mantissa, exponent = np.frexp(found[name])
        return value, found | {name: np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent).astype(found[name].dtype)}


class LossIsNotANumber(Oracle):
    """The third loss of SGD overflowed."""

    def training(self, recipe):
        step, read = super().training(recipe)
        losses = iter([1.0, 1.0, np.nan] if recipe.optimizer == "sgd" and not recipe.nesterov else [])
        return lambda images, labels: step(images, labels) * next(losses, 1.0), read


class OwnActivations(Oracle):
    """Goes on with its own activations, whatever is given."""

    def gradients(self, images, labels, recipe, train, activations=None):
        return super().gradients(images, labels, recipe, train)
