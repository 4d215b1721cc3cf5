"""The oracle's training in pieces: its gradients from the loss backwards, piece by piece, and its steps, one by one.

A fault is tried where it can be, and only what lies behind it is computed anew: of gradients the pieces from its own on
towards the images, of steps the update, since the gradients are those that the port's own state has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, permutations
from typing import Any

import numpy as np

from conformance.cases.case import labels_for, statistic_names, training_batches
from conformance.cases.recipes import LOSS, RECIPES, STEPS
from conformance.faults import Arrays, EditError, Injection, edited_module, training_edits
from conformance.oracle.forward import input_name, segment_names
from impls.config import BLANK, ResNetConfig
from impls.numpy import training as right_training
from impls.numpy.resnet import Bottleneck, ResNet
from impls.paths import follow
from impls.recipe import Recipe
from weights_convert.shapes import expected_shapes

Array = np.ndarray
TRAINING_MODULE = "impls.numpy.training"


def filled(config: ResNetConfig, arrays: Arrays) -> ResNet:
    """The oracle's network with some arrays, widened."""
    model = ResNet(Bottleneck, config.depths, config.num_classes, config=config, rng=BLANK)
    for name in expected_shapes(config):
        put(model, name, arrays[name].astype(np.float64))
    return model


def put(model: Any, name: str, array: Array) -> None:
    """Set one array of a model by its canonical name."""
    path, _, leaf = name.rpartition(".")
    setattr(follow(model, path), leaf, array)


def training_with(injections: Sequence[Injection]) -> Any:
    """The oracle's module of training, with faults in its text, put in in any order in which each finds its place.

    Raises:
        EditError: If there is none.
    """
    for order in permutations(injections):
        try:
            return edited_module(TRAINING_MODULE, training_edits(order, "numpy"))
        except EditError as error:
            clash = error
    raise clash


def recipe_with(recipe: Recipe, injections: Sequence[Injection]) -> Recipe:
    """What faults make of a recipe, one after the other."""
    for injection in injections:
        recipe = injection.recipe(recipe)
    return recipe


See = Callable[[str, Array, Mapping[str, Array]], None]
"""Is shown a piece, the gradient that leaves it towards the images, and its own gradients by the names of cases."""


@dataclass(eq=False)
class PiecewiseGradients:
    """The gradients of the loss of a network, piece by piece, from the head to the stem.

    Attributes:
        config: The network, with a classifier.
        arrays: Its canonical arrays.
        images: (batch, channels, height, width).
        train: Whether norms use the batch's statistics.
    """

    config: ResNetConfig
    arrays: Arrays
    images: Array
    train: bool

    @cached_property
    def segments(self) -> list[str]:
        """The pieces in the order that gradients pass them."""
        return segment_names(self.config)[::-1]

    @cached_property
    def model(self) -> ResNet:
        """The right network: faults of gradients leave its forward pass as it is."""
        return filled(self.config, self.arrays).train(self.train)

    @cached_property
    def taps(self) -> Mapping[str, Array]:
        """Its activations, of every layer."""
        return self.model.activations(self.images.astype(np.float64), layers=True)

    def run(self, injections: Sequence[Injection], start: str, entering: Array | None, see: See) -> None:
        """Take the gradients from a piece on.

        Args:
            injections: Faults.
            start: The first piece.
            entering: The gradient with respect to its output; None for the head, whose output is the loss.
            see: Is shown each piece; what it raises ends the run.
        """
        module, recipe = training_with(injections), recipe_with(LOSS, injections)
        labels = labels_for(len(self.images), self.config.num_classes)
        dy: Array = np.empty(0) if entering is None else entering
        for segment in self.segments[self.segments.index(start) :]:
            found: dict[str, Array] = {}
            source = input_name(segment, self.config)
            x = self.images.astype(np.float64) if source is None else self.taps[source]
            if segment == "head":
                value = module.loss(self.taps["logits"], labels, recipe)
                dy = module.head(self.model, self.taps, x, labels, recipe, found)
            elif segment == "stem":
                module.stem(self.model, self.taps, x, dy, found)
            else:
                dy = module.bottleneck(follow(self.model, segment), segment, self.taps, x, dy, found)
            shown = {f"gradient.{name}": array for name, array in found.items()}
            see(segment, dy, shown | ({"loss": np.array([value])} if segment == "head" else {}))


@dataclass(eq=False)
class StepwiseTraining:
    """Runs of training, each step taken from the port's own state before it.

    So no error before a step is in what it shows, and the gradients, which most faults of training leave as they are,
    are computed once.

    Attributes:
        config: The network.
        arrays: Its canonical arrays before the first step.
        images: Of the first batch, (batch, channels, height, width).
        port: By recipe's name and step, counted from 1, the port's state after that step: canonical arrays, what the
            optimizer keeps under "SLOT.NAME", and "loss", that before the step.
    """

    config: ResNetConfig
    arrays: Arrays
    images: Array
    port: Mapping[str, Mapping[int, Mapping[str, Array]]]

    def __post_init__(self) -> None:
        self.remembered: dict[tuple[str, int], tuple[float, dict[str, Array], dict[str, Array]]] = {}

    def steps(self, name: str, injections: Sequence[Injection], first: int = 1) -> Iterator[dict[str, Array]]:
        """The states after each step with a recipe of some name, with faults.

        Args:
            name: Of the recipe.
            injections: Faults.
            first: The step to begin with; none before it is taken, unless a fault keeps something of it.

        Raises:
            ValueError: If the faults cannot be together, or cannot be in this recipe.
        """
        module, recipe = training_with(injections), recipe_with(RECIPES[name], injections)
        configured = {field: value for injection in injections for field, value in injection.configured.items()}
        training = module.Training(filled(replace(self.config, **configured), self.arrays), recipe)
        start = 1 if any(injection.fault.keeps for injection in injections) else first
        if not configured and all(leaves_gradients(injection) for injection in injections):
            steps = count(start)
            training.gradients = lambda model, images, labels, recipe: self._gradients(name, next(steps), model)
        for number, (images, labels) in enumerate(self.batches[start - 1 :], start=start):
            if number > 1:
                self._put(training, self.port[name][number - 1])
                training.steps = number - 1
            value = training.step(images, labels)
            if number >= first:
                yield state_of(training) | {"loss": np.array([value])}

    @cached_property
    def batches(self) -> list[tuple[Array, Array]]:
        """Images and labels of each step."""
        return training_batches(self.images.astype(np.float64), self.config.num_classes, STEPS)

    def _put(self, training: Any, state: Mapping[str, Array]) -> None:
        """Go on from a state; what it lacks, or has in another shape, stays."""
        for name in expected_shapes(self.config):
            if fits(state.get(name), follow(training.model, name)):
                put(training.model, name, state[name])
        for slot, held in training.slots.items():
            held |= {name: state[f"{slot}.{name}"] for name in held if fits(state.get(f"{slot}.{name}"), held[name])}

    def _gradients(self, name: str, number: int, model: Any) -> tuple[float, dict[str, Array]]:
        """The right gradients at the state before a step, and the right statistics left in the model."""
        if (name, number) not in self.remembered:
            value, found = right_training.gradients(model, *self.batches[number - 1], RECIPES[name])
            statistics = {statistic: follow(model, statistic) for statistic in statistic_names(self.config)}
            self.remembered[name, number] = value, found, statistics
        value, found, statistics = self.remembered[name, number]
        for statistic, array in statistics.items():
            put(model, statistic, array)
        return value, {parameter: gradient.copy() for parameter, gradient in found.items()}


def fits(array: Array | None, other: Array) -> bool:
    """Whether an array is there and has the shape of another."""
    return array is not None and array.shape == other.shape


def leaves_gradients(injection: Injection) -> bool:
    """Whether a fault leaves gradients and running statistics as they are."""
    return injection.fault.task == "steps" and "S" not in injection.fault.seen_in


def state_of(training: Any) -> dict[str, Array]:
    """What a step left behind: canonical arrays, and what the optimizer keeps under "SLOT.NAME"."""
    slots = {f"{slot}.{name}": array for slot, held in training.slots.items() for name, array in held.items()}
    return {name: follow(training.model, name) for name in expected_shapes(training.model.config)} | slots
