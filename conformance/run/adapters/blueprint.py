"""Blueprints, where an adapter takes its networks and its training from, and what the project's adapters do alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from conformance.run.adapters.canonical import RunningStatistics, framework_tap
from conformance.run.capabilities import EVERYTHING, Arrays, ArrayTap, Capability, Probed, ReadState, TakeStep
from impls.config import ResNetConfig
from impls.recipe import Recipe
from impls.taps import Tap
from weights_convert.sources import Source

Tensors = Mapping[str, Any]
"""Activations by canonical name, in the framework's own type and layout."""


@dataclass(frozen=True)
class Blueprint:
    """The modules that an adapter takes its networks and its training from, and what they are given.

    A faulty candidate is an adapter with another blueprint: everything else is the correct one's.

    Attributes:
        framework: Name of the implementation under `impls`.
        resnet: Builds a network, as `impls.torch.resnet` does: from a configuration, with the weights of a file or
            checkpoint, or drawn from a `seed`.
        training: Module or namespace with the names of `impls.<framework>.training` that the adapter uses.
        images: Makes the images that the network sees of those that it is given.
        recipe: Makes the recipe that the network is trained by of the one that is asked for.
    """

    framework: str
    resnet: Callable[..., Any]
    training: Any
    images: Callable[[np.ndarray], np.ndarray] = lambda images: images
    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe


@dataclass(eq=False)
class BlueprintAdapter(Probed):
    """Base of the project's own adapters: all that they do alike, by a few functions of each framework.

    Attributes:
        read_weights: `read_weights` of the framework's implementation.
        stop_gradient: The framework's function of a tensor that lets no gradient pass.
        blueprint: Where networks and training come from.
        precision: The dtype of parameters and images, from `prepare` on.
        built_from: The configuration and the weights that `build` was given.
        model: The network that `build` made.
    """

    capabilities: ClassVar[frozenset[Capability]] = EVERYTHING
    read_weights: ClassVar[Any]
    stop_gradient: ClassVar[Any]
    blueprint: Blueprint
    precision: str = "float64"
    built_from: tuple[ResNetConfig, Source] = field(init=False)
    model: Any = field(init=False)

    @property
    @abstractmethod
    def statistics(self) -> RunningStatistics:
        """Running statistics of the network."""

    @abstractmethod
    def tensor(self, array: np.ndarray) -> Any:
        """Copy a canonical array to the device, in the framework's axis order and the precision asked for."""

    @abstractmethod
    def array(self, tensor: Any) -> np.ndarray:
        """Copy an activation into a canonical array."""

    @abstractmethod
    def activations(self, images: Any, train: bool, layers: bool) -> Tensors:
        """Return the model's activations."""

    @abstractmethod
    def differentiate(
        self, images: Any, labels: np.ndarray, recipe: Recipe, train: bool, activations: Tensors | None
    ) -> tuple[float, Arrays]:
        """Return the loss and its gradients, as `gradients` does."""

    @abstractmethod
    def run_model(self, images: Any, train: bool, tap: Tap[Any]) -> object:
        """Run the model with a tap."""

    def inputs(self, images: np.ndarray) -> Any:
        """Copy the images that the network sees to the device."""
        return self.tensor(self.blueprint.images(images))

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Load the network, its parameters in the precision asked for."""
        self.built_from = replace(config, dtype=self.precision), weights
        self.model = self.network()

    def network(self) -> Any:
        """Build another network with the weights that `build` was given."""
        return self.blueprint.resnet(*self.built_from)

    def record(self, images: np.ndarray, train: bool, layers: bool) -> Arrays:
        """Return activations, and running statistics after a train-mode run."""
        with self.statistics.put_back():
            activations = self.activations(self.inputs(images), train, layers)
            arrays = {name: self.array(value) for name, value in activations.items()}
            return arrays | (self.statistics.arrays() if train else {})

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass every activation through a tap; return the running statistics after a train-mode run."""
        with self.statistics.put_back():
            self.run_model(self.inputs(images), train, framework_tap(tap, self.array, self.tensor))
            return self.statistics.arrays() if train else {}

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, activations: Arrays | None = None
    ) -> tuple[float, Arrays]:
        """Return the loss and its gradients, at given activations if any."""
        replacements = activations and {name: self.tensor(array) for name, array in activations.items()}
        with self.statistics.put_back():
            return self.differentiate(self.inputs(images), labels, self.blueprint.recipe(recipe), train, replacements)

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """Begin a run of training from the weights of the file."""
        run = self.begin_training(self.blueprint.recipe(recipe))
        return partial(self.step, run), lambda: self.blueprint.training.read_training(run).to("canonical")

    def begin_training(self, recipe: Recipe) -> Any:
        """Build the network to train, and its optimizer."""
        return self.blueprint.training.Training(self.network(), recipe)

    def step(self, run: Any, images: np.ndarray, labels: Any) -> float:
        """Take one step of a run of training."""
        return float(run.step(self.inputs(images), labels))

    def initial(self, seed: int) -> Arrays:
        """Draw the arrays of a network without weights."""
        drawn: Arrays = self.read_weights(self.blueprint.resnet(self.built_from[0], seed=seed)).to("canonical").arrays
        return drawn
