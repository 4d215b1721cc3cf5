"""Adapters of the oracle and of the float32 reference builds, which show what rounding costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from conformance.run.adapters.blueprint import Blueprint, BlueprintAdapter, Tensors
from conformance.run.adapters.canonical import RunningStatistics
from conformance.run.capabilities import Arrays, DeviceMissing
from conformance.run.precision import multiply_as_convolution
from impls.config import ResNetConfig
from impls.numpy import read_weights, resnet, training
from impls.numpy.resnet import BatchNorm, Convolution, Linear, ResNet, convolve, moments, multiply, normalise, windows
from impls.recipe import Recipe
from impls.taps import Tap
from weights_convert.sources import Source

Array = np.ndarray


@dataclass(frozen=True)
class Arithmetic:
    """The order in which sums are taken; in exact arithmetic all orders agree."""

    convolve: Callable[[Array, Array, int], Array] = convolve
    moments: Callable[[Array], tuple[Array, Array]] = moments
    normalise: Callable[[Array, Array, Array, Array, Array, float], Array] = normalise
    multiply: Callable[[Array, Array], Array] = multiply


CORRECT = Blueprint("numpy", resnet, training)


@dataclass(eq=False)
class Oracle(BlueprintAdapter):
    """The NumPy implementation in the precision asked for: in float64 the oracle, in float32 one correct build."""

    read_weights = staticmethod(read_weights)
    arithmetic: ClassVar[Arithmetic] = Arithmetic()
    blueprint: Blueprint = CORRECT

    def prepare(self, device: str, precision: str) -> str:
        """Remember the precision; NumPy has no switches and no devices."""
        if device == "gpu":
            raise DeviceMissing("NumPy runs on the CPU only")
        self.precision = precision
        return "cpu"

    def switches(self) -> Mapping[str, str]:
        """None."""
        return {}

    def multiply(self, left: Array, right: Array) -> Array:
        """Multiply by NumPy's operator."""
        product: Array = left @ right
        return product

    def convolve(self, images: Array, kernel: Array) -> Array:
        """Convolve by NumPy's einsum over windows."""
        return multiply_as_convolution(images, kernel)

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Load the network and give its layers this build's arithmetic."""
        super().build(config, weights)
        for _, layer in self.model.layers():
            if isinstance(layer, Convolution):
                layer.convolve = self.arithmetic.convolve
            if isinstance(layer, BatchNorm):
                layer.moments, layer.normalise = self.arithmetic.moments, self.arithmetic.normalise
            if isinstance(layer, Linear):
                layer.multiply = self.arithmetic.multiply

    def network(self) -> ResNet:
        """Build another network with the weights that `build` was given, in NumPy's own arithmetic."""
        network: ResNet = super().network().astype(self.precision)
        return network

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of every array."""
        return {name: array.shape for name, array in read_weights(self.model).arrays.items()}

    @property
    def statistics(self) -> RunningStatistics:
        """Running statistics of the network."""
        return RunningStatistics(self.model, "canonical", np.array, np.copyto)

    def activations(self, images: Array, train: bool, layers: bool) -> Any:
        """Return the model's activations."""
        return self.model.train(train).activations(images, layers)

    def run_model(self, images: Array, train: bool, tap: Tap[Array]) -> object:
        """Run the model with a tap."""
        return self.model.train(train)(images, tap=tap)

    def differentiate(
        self, images: Array, labels: Array, recipe: Recipe, train: bool, activations: Tensors | None
    ) -> tuple[float, Arrays]:
        """Differentiate by the formulas of `impls.numpy.training`."""
        differentiate = self.blueprint.training.gradients
        value, gradients = differentiate(self.model.train(train), images, labels, recipe, activations)
        return value, gradients

    def tensor(self, array: Array) -> Array:
        """Copy an array into the precision asked for."""
        return array.astype(self.precision)

    def array(self, tensor: Array) -> Array:
        """Return an activation as it is."""
        return tensor


def convolve_tap_by_tap(x: Array, weight: Array, stride: int) -> Array:
    """One small product per kernel position, added up."""
    views = windows(x, weight.shape[2], stride).transpose(4, 5, 0, 2, 3, 1)
    taps = (views[i, j] @ weight[:, :, i, j].T for i in range(weight.shape[2]) for j in range(weight.shape[3]))
    total = next(taps)
    for product in taps:
        total = total + product
    summed: Array = total.transpose(0, 3, 1, 2)
    return summed


def convolve_in_blocks(x: Array, weight: Array, stride: int, block: int = 64) -> Array:
    """One product per 64 input channels, added up: libraries that block for their caches do so."""
    starts = range(0, weight.shape[1], block)
    total = convolve(x[:, :block], weight[:, :block], stride)
    for start in starts[1:]:
        total = total + convolve(x[:, start : start + block], weight[:, start : start + block], stride)
    return total


def moments_in_double(x: Array) -> tuple[Array, Array]:
    """Sums in float64, rounded once: PyTorch's CPU kernel does so."""
    mean, variance = moments(x.astype(np.float64))
    return mean.astype(x.dtype), variance.astype(x.dtype)


def moments_in_sequence(x: Array) -> tuple[Array, Array]:
    """One running sum per channel, value by value: PyTorch does so where channels are last in memory."""
    values = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(-1, x.shape[1])  # NumPy sums columns in sequence
    mean = values.sum(0) / len(values)
    return mean, ((values - mean) ** 2).sum(0) / len(values)


def moments_by_welford(x: Array) -> tuple[Array, Array]:
    """Mean and squared deviations carried along (Welford 1962, Technometrics 4, 419-420): torch.compile does so."""
    values = x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])
    mean = squares = np.zeros(x.shape[1], x.dtype)
    for count, value in enumerate(values, start=1):
        deviation = value - mean
        mean = mean + deviation / count
        squares = squares + deviation * (value - mean)
    return mean, squares / len(values)


def normalise_folded(x: Array, mean: Array, variance: Array, weight: Array, bias: Array, eps: float) -> Array:
    """One multiplication and one addition per value: scale and offset are computed per channel before."""
    scale = weight / np.sqrt(variance + eps)
    return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]


def multiply_in_sequence(x: Array, weight: Array) -> Array:
    """One input feature after the other, into one running sum: XLA and Eigen do so for a single row."""
    total = np.zeros((len(x), len(weight)), x.dtype)
    for feature in range(x.shape[1]):
        total += x[:, feature, None] * weight[:, feature]
    return total


class OneProduct(Oracle):
    """All products of a number in one matrix product; moments summed in sequence."""

    arithmetic = Arithmetic(moments=moments_in_sequence)


class TapByTap(Oracle):
    """Sums by kernel position, moments in float64, norms folded, the classifier summed feature by feature."""

    arithmetic = Arithmetic(convolve_tap_by_tap, moments_in_double, normalise_folded, multiply_in_sequence)


class BlockedSums(Oracle):
    """Sums by blocks of channels; moments by Welford's method."""

    arithmetic = Arithmetic(convolve_in_blocks, moments_by_welford)
