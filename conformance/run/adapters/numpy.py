"""The oracle, and the float32 builds that show what rounding costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conformance.run.adapters import DeviceMissing, Given, ReadState, See, TakeStep, running_statistics
from conformance.run.precision import multiply_as_convolution
from impls.config import ResNetConfig
from impls.numpy import read_training, read_weights, resnet, training
from impls.numpy.resnet import BatchNorm, Convolution, Linear, ResNet, convolve, moments, multiply, normalise, windows
from impls.paths import follow
from impls.recipe import Recipe

Array = np.ndarray


@dataclass(frozen=True)
class Arithmetic:
    """The order in which sums are taken; in exact arithmetic all orders agree."""

    convolve: Callable[[Array, Array, int], Array] = convolve
    moments: Callable[[Array], tuple[Array, Array]] = moments
    normalise: Callable[[Array, Array, Array, Array, Array, float], Array] = normalise
    multiply: Callable[[Array, Array], Array] = multiply


class Oracle:
    """impls.numpy in the precision asked for: in float64 the oracle, in float32 one correct build."""

    arithmetic = Arithmetic()
    resnet, trainer = staticmethod(resnet), training

    def prepare(self, device: str, precision: str) -> str:
        """Remember the precision; NumPy has no switches and no devices."""
        if device == "gpu":
            raise DeviceMissing("NumPy runs on the CPU only")
        self.dtype = self.precision = precision
        return "cpu"

    def switches(self) -> Mapping[str, str]:
        """None."""
        return {}

    def multiply(self, left: Array, right: Array) -> Array:
        """NumPy's product."""
        product: Array = left @ right
        return product

    def convolve(self, images: Array, kernel: Array) -> Array:
        """NumPy's einsum over windows."""
        return multiply_as_convolution(images, kernel)

    def build(self, config: ResNetConfig, weights: Path) -> None:
        """Load the network and give its layers this build's arithmetic."""
        self.model, self.built_from = self.resnet(config, weights).astype(self.dtype), (config, weights)
        for _, layer in self.model.layers():
            if isinstance(layer, Convolution):
                layer.convolve = self.arithmetic.convolve
            if isinstance(layer, BatchNorm):
                layer.moments, layer.normalise = self.arithmetic.moments, self.arithmetic.normalise
            if isinstance(layer, Linear):
                layer.multiply = self.arithmetic.multiply

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of every array."""
        return {name: array.shape for name, array in read_weights(self.model).arrays.items()}

    def run(self, images: Array, train: bool, layers: bool) -> Mapping[str, Array]:
        """Activations, and running statistics after a train-mode run."""
        before = running_statistics(self.model, self.model.config, "canonical")
        arrays = self.model.train(train).activations(images.astype(self.dtype), layers)
        if train:
            arrays |= running_statistics(self.model, self.model.config, "canonical")
            for name, array in before.items():
                path, _, leaf = name.rpartition(".")
                setattr(follow(self.model, path), leaf, array)
        return arrays

    def gradients(
        self, images: Array, labels: Array, recipe: Recipe, train: bool, given: Given = None
    ) -> tuple[float, Mapping[str, Array]]:
        """By the formulas of `impls.numpy.training`; running statistics are put back."""
        before = running_statistics(self.model, self.model.config, "canonical")
        taps = given and {name: array.astype(self.dtype) for name, array in given.items()}
        found = self.trainer.gradients(self.model.train(train), images.astype(self.dtype), labels, recipe, taps)
        for name, array in before.items():
            path, _, leaf = name.rpartition(".")
            setattr(follow(self.model, path), leaf, array)
        return found

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """A run of training from the weights of the file."""
        run = self.trainer.Training(self.fresh(), recipe)
        return lambda images, labels: run.step(images.astype(self.dtype), labels), lambda: read_training(run)

    def fresh(self) -> ResNet:
        """Another network like the one that was built."""
        return self.resnet(*self.built_from).astype(self.dtype)

    def initial(self, seed: int) -> Mapping[str, Array]:
        """What another network like it starts from."""
        return read_weights(self.resnet(self.built_from[0], seed=seed)).to("canonical").arrays

    def stream(self, images: Array, train: bool, see: See) -> Mapping[str, Array]:
        """Every activation shown, none kept; the running statistics after a train-mode run."""

        def tap(name: str, value: Array) -> Array:
            given = see(name, value)
            return value if given is None else given.astype(self.dtype)

        before = running_statistics(self.model, self.model.config, "canonical")
        self.model.train(train)(images.astype(self.dtype), tap=tap)
        after = running_statistics(self.model, self.model.config, "canonical")
        for name, array in before.items():
            path, _, leaf = name.rpartition(".")
            setattr(follow(self.model, path), leaf, array)
        return after if train else {}


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
