"""Adapters: one small class per framework, so that a worker can run any of them without knowing which.

An adapter turns canonical arrays into the framework's and back, and nothing else: the network is the implementation's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from conformance.cases.case import statistic_names
from impls.config import ResNetConfig
from impls.paths import follow
from impls.recipe import Recipe
from weights_convert import TrainingState
from weights_convert.dialects import find_dialect
from weights_convert.table import permutation, reorder


class DeviceMissing(RuntimeError):
    """A device was asked for that the framework does not see."""


TakeStep = Callable[[np.ndarray, np.ndarray], float]
"""From images (NCHW) and labels to the loss before the step."""

ReadState = Callable[[], TrainingState]

Given = Mapping[str, np.ndarray] | None
"""Every activation of a network by canonical name, NCHW; or none."""

See = Callable[[str, np.ndarray], np.ndarray | None]
"""Is shown an activation, canonical name and NCHW array; what it gives back, if anything, takes its place."""


class Adapter(Protocol):
    """What a worker asks of an implementation."""

    def prepare(self, device: str, precision: str) -> str:
        """Set the framework's own switches for a device ("cpu", "gpu", "auto") and a precision; name the device in use.

        Raises:
            DeviceMissing: If a GPU was asked for and none is seen.
        """

    def switches(self) -> Mapping[str, str]:
        """The framework's switches as they stand now, read back from it."""

    def multiply(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """A matrix product by the framework, for the precision probe."""

    def convolve(self, images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """An unpadded NCHW, OIHW convolution by the framework, for the precision probe."""

    def build(self, config: ResNetConfig, weights: Path) -> None:
        """Make the network, with the weights of a canonical file, and forget the one before."""

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Canonical name and canonical shape of every array that the model itself says it has."""

    def run(self, images: np.ndarray, train: bool, layers: bool) -> Mapping[str, np.ndarray]:
        """Activations by canonical name, NCHW; in train mode also the running statistics afterwards, then put back."""

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, given: Given = None
    ) -> tuple[float, Mapping[str, np.ndarray]]:
        """The loss, and its gradients by canonical name in canonical layout, "input" for the images (NCHW).

        Where activations are given, the gradients are taken there: each takes the place of the one computed, and what
        comes back to it is passed on to that.
        """

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """A run of training from the weights of the file: what takes a step on a batch, and what reads its state."""

    def initial(self, seed: int) -> Mapping[str, np.ndarray]:
        """The arrays of a network of that configuration that is given no weights, by canonical name in that layout."""

    def stream(self, images: np.ndarray, train: bool, see: See) -> Mapping[str, np.ndarray]:
        """Show every layer's activation as it is computed, and keep none; in train mode return the statistics."""


def load_adapter(path: str) -> Adapter:
    """The adapter at "module:class".

    Raises:
        ImportError: If the module or its framework is missing.
        AttributeError: If the module has no such class.
    """
    module, _, name = path.partition(":")
    adapter: Adapter = getattr(importlib.import_module(module), name)()
    return adapter


def channels_first(array: np.ndarray) -> np.ndarray:
    """NHWC to NCHW; arrays of fewer axes as they are."""
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def channels_last(images: np.ndarray) -> np.ndarray:
    """NCHW to NHWC."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def nhwc(array: np.ndarray) -> np.ndarray:
    """NCHW to NHWC; arrays of fewer axes as they are."""
    return channels_last(array) if array.ndim == 4 else array


def running_statistics(model: Any, config: ResNetConfig, dialect: str) -> dict[str, Any]:
    """The framework's own variables that training updates without a gradient, by canonical name."""
    spoken = find_dialect(dialect)
    return {name: follow(model, spoken.write_name(name)[0]) for name in statistic_names(config)}


def canonical_shapes(shapes: Mapping[str, tuple[int, ...]], dialect: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes as a dialect has them, made canonical; a name that it does not know is kept."""
    spoken, found = find_dialect(dialect), {}
    for name, shape in shapes.items():
        reading = spoken.read_name(name)
        if reading is None:
            found[name] = shape
        else:
            canonical, rule = reading
            order = permutation(rule.leaf(spoken.framework).axes, rule.leaf("torch").axes)
            found[canonical] = tuple(shape[axis] for axis in order)
    return found


def canonical_arrays(arrays: Mapping[str, np.ndarray], dialect: str) -> dict[str, np.ndarray]:
    """Arrays by a dialect's names of parameters, under canonical names in canonical layout."""
    spoken, found = find_dialect(dialect), {}
    for name, (canonical, rule) in spoken.read_names(arrays).items():
        found[canonical] = reorder(arrays[name], rule, spoken.framework, "torch")
    return found
