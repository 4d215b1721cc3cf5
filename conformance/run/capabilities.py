"""What the suite asks of a candidate: an adapter with a small required interface, and the capabilities it declares.

An adapter turns canonical arrays into the framework's and back, and nothing else: the network is the candidate's own.
Arrays that go in and come out are canonical: PyTorch's names, NCHW images, OIHW kernels.

Example:
    The least that an adapter of one's own must have, for `conformance run --impl mine=my_package.adapter:MyAdapter`::

        class MyAdapter:
            capabilities = frozenset()

            def prepare(self, device, precision):
                self.precision = precision
                return "cpu"

            def build(self, config, weights):
                self.model = my_package.resnet(weights_convert.load(weights).to("torchvision").arrays)

            def parameters(self):
                return {name: array.shape for name, array in self.model.arrays.items()}

            def record(self, images, train, layers):
                return self.model.activations(images)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from impls.config import ResNetConfig
from impls.recipe import Recipe
from weights_convert import TrainingState

Arrays = Mapping[str, np.ndarray]
"""Arrays by canonical name, in canonical axis order."""


class Capability(Enum):
    """Something that an adapter may declare it can do, beyond recording a forward run."""

    PROBE = "multiplying and convolving for the precision probe"
    TAP = "showing each activation and going on with another one"
    DIFFERENTIATE = "taking gradients"
    TRAIN = "training"
    DRAW = "drawing initial weights"
    EXAMINE = "a first look at what it cannot do or show"


EVERYTHING = frozenset(Capability) - {Capability.EXAMINE}
"""The capabilities of the project's own adapters, which can do and show everything that is compared."""


@dataclass(frozen=True)
class Examination:
    """Result of the first look at a network.

    Attributes:
        cannot: What the adapter cannot do, by mode or task ("train", "steps"), each with the reason.
        not_shown: Arrays that it cannot show, by canonical name, each with the reason.
        note: What is to be said about it beside its verdict; empty if nothing.
    """

    cannot: Mapping[str, str] = field(default_factory=dict)
    not_shown: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class DeviceMissing(RuntimeError):
    """A device was asked for that the framework does not see."""


ArrayTap = Callable[[str, np.ndarray], np.ndarray | None]
"""Sees an activation, by canonical name; the array that it returns, if any, takes the activation's place.

That array may have another batch, height and width, so that layers can be probed."""

TakeStep = Callable[[np.ndarray, np.ndarray], float]
"""Takes a training step on images (NCHW) and labels; returns the loss before the step."""

ReadState = Callable[[], TrainingState]
"""Reads weights and the optimizer's state."""


class Adapter(Protocol):
    """The required interface of an adapter."""

    capabilities: ClassVar[frozenset[Capability]]
    """Capabilities beyond this interface; a method of a capability that is not declared is never called."""

    def prepare(self, device: str, precision: str) -> str:
        """Set the framework's own switches, once per process, and name the device in use.

        Args:
            device: "cpu", "gpu" or "auto".
            precision: "float64" or "float32".

        Raises:
            DeviceMissing: If a GPU was asked for and none is seen.
        """

    def build(self, config: ResNetConfig, weights: Path) -> None:
        """Make the network with the weights of a canonical safetensors file, and forget the one before."""

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Canonical name and canonical shape of every array that the model itself lists."""

    def record(self, images: np.ndarray, train: bool, layers: bool) -> Arrays:
        """Return the activations of a forward run, as values of the compiled or eager function itself.

        Args:
            images: (batch, channels, height, width) float32.
            train: Whether norms use the batch's statistics.
            layers: Whether every convolution and norm is returned, not only stem, blocks, pool and logits.

        Returns:
            Arrays of the precision by canonical name; in train mode also the running statistics after the run, which
            are then put back.
        """


class Probed(Adapter, Protocol):
    """An adapter with `Capability.PROBE`: the precision in force can be measured."""

    def switches(self) -> Mapping[str, str]:
        """The framework's switches as they stand now, read back from it."""

    def multiply(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Matrix product by the framework."""

    def convolve(self, images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """Unpadded convolution of NCHW images with an OIHW kernel by the framework."""


class Tappable(Adapter, Protocol):
    """An adapter with `Capability.TAP`, which serves streaming and feeding."""

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass every layer's activation through a tap as it is computed, and keep none.

        The tap may end the run early by an exception, which is passed on.

        Returns:
            In train mode the running statistics after the run, which are then put back; else nothing.
        """


class Differentiable(Adapter, Protocol):
    """An adapter with `Capability.DIFFERENTIATE`."""

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, activations: Arrays | None = None
    ) -> tuple[float, Arrays]:
        """Return the loss and its gradients; running statistics are put back.

        Args:
            images: (batch, channels, height, width) float32.
            labels: Integers (batch,).
            recipe: Says what the loss is.
            train: Whether norms use the batch's statistics.
            activations: Every layer's activation by canonical name, at which the gradients are then taken: each
                replaces the one computed, and the gradient with respect to it is passed on to that. None takes the
                gradients at the candidate's own activations.

        Returns:
            The loss, and gradients by canonical name in canonical layout, "input" for that of the images.
        """


class Trainable(Adapter, Protocol):
    """An adapter with `Capability.TRAIN`."""

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """Begin a run of training from the weights of the file; return what takes a step and what reads its state."""


class Drawable(Adapter, Protocol):
    """An adapter with `Capability.DRAW`."""

    def initial(self, seed: int) -> Arrays:
        """Arrays of a network of the same configuration that is given no weights, by canonical name and layout."""


class Examinable(Adapter, Protocol):
    """An adapter with `Capability.EXAMINE`."""

    def examine(self, images: np.ndarray) -> Examination:
        """Look at the network that was built, before any case is run.

        Args:
            images: The smallest input, (batch, channels, height, width) float32.

        Raises:
            Unfit: If the network is none that can be compared; the message says why.
        """


REQUIRED = ("prepare", "build", "parameters", "record")
METHODS: dict[Capability, tuple[str, ...]] = {
    Capability.PROBE: ("switches", "multiply", "convolve"),
    Capability.TAP: ("run_tapped",),
    Capability.DIFFERENTIATE: ("gradients",),
    Capability.TRAIN: ("training",),
    Capability.DRAW: ("initial",),
    Capability.EXAMINE: ("examine",),
}
"""Methods of each capability; `REQUIRED` are those of every adapter."""


def load_adapter(path: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Make the adapter at "module:class".

    Args:
        path: A class, or a function that returns an adapter.
        settings: Keyword arguments to call it with.

    Returns:
        An `Adapter`, which has the methods of the capabilities that it declares.

    Raises:
        ImportError: If the module or its framework is missing.
        AttributeError: If the module has no such class.
        TypeError: If it lacks a required method, its declaration, or a method of a capability that it declares; all
            that is missing is named.
    """
    module, _, name = path.partition(":")
    adapter = getattr(importlib.import_module(module), name)(**(settings or {}))
    declared = getattr(adapter, "capabilities", None)
    problems = [] if isinstance(declared, frozenset) else ["no frozenset `capabilities` (frozenset() for none)"]
    problems += [f"no method `{method}`" for method in REQUIRED if not callable(getattr(adapter, method, None))]
    problems += [
        f"no method `{method}`, though it declares {capability}"
        for capability in declared or ()
        for method in METHODS[capability]
        if not callable(getattr(adapter, method, None))
    ]
    if problems:
        raise TypeError(f"{path} is no adapter: it has {'; '.join(problems)} (see conformance.run.capabilities)")
    return adapter
