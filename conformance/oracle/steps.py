"""The oracle's training steps, one by one from a candidate's own states, right or with faults in them.

Taken from the state before it, a step shows its own faults and none of those of earlier steps. The gradients, which
most faults of training leave as they are, are computed once for each state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np

from conformance.cases.batches import training_batches
from conformance.cases.names import statistic_names
from conformance.cases.recipes import RECIPES, STEPS
from conformance.faults import Arrays, Injection, Seen
from conformance.oracle.forward import WidenedArrays, build_network, set_array
from conformance.oracle.gradients import recipe_with, training_with
from impls.config import ResNetConfig
from impls.numpy import training as right_training
from impls.paths import follow
from weights_convert.shapes import expected_shapes

Array = np.ndarray

State = Mapping[str, Array]
"""The state after a step: canonical arrays, the optimizer's as "SLOT.NAME", and "loss", that before the step."""


@dataclass(eq=False)
class StepwiseTraining:
    """Runs of training, each step taken from the candidate's own state before it.

    Attributes:
        config: The network.
        arrays: Its canonical arrays before the first step.
        images: Images of the first batch, (batch, channels, height, width).
        states: The candidate's states, by the recipe's name and the step, counted from 1.
    """

    config: ResNetConfig
    arrays: Arrays
    images: Array
    states: Mapping[str, Mapping[int, State]]

    def __post_init__(self) -> None:
        self._remembered: dict[tuple[str, int], tuple[float, dict[str, Array], dict[str, Array]]] = {}

    def steps(self, recipe_name: str, injections: Sequence[Injection], first: int = 1) -> Iterator[dict[str, Array]]:
        """Take the steps of one recipe with faults, and yield the state after each.

        Args:
            recipe_name: Key of `conformance.cases.recipes.RECIPES`.
            injections: Faults.
            first: The step to begin with; steps before it are taken only if a fault keeps something of them.

        Raises:
            ValueError: If the faults cannot be together, or cannot be in this recipe.
        """
        module, recipe = training_with(injections), recipe_with(RECIPES[recipe_name], injections)
        configured = {field: value for injection in injections for field, value in injection.configured.items()}
        model = build_network(replace(self.config, **configured), WidenedArrays(self.arrays, "float64"))
        training = module.Training(model, recipe)
        start = 1 if any(injection.fault.keeps for injection in injections) else first
        if not configured and all(leaves_gradients(injection) for injection in injections):
            steps = count(start)
            training.gradients = lambda model, images, labels, recipe: self._gradients(recipe_name, next(steps), model)
        for step, (images, labels) in enumerate(self.batches[start - 1 :], start=start):
            if step > 1:
                self._continue_from(self.states[recipe_name][step - 1], training)
                training.steps = step - 1
            loss = training.step(images, labels)
            if step >= first:
                yield state_of(training) | {"loss": np.array([loss])}

    def gradients_at(
        self, recipe_name: str, step: int, train: bool = True, labels: Array | None = None
    ) -> tuple[float, dict[str, Array]]:
        """Return the right loss and gradients at the candidate's own state before a step.

        Args:
            recipe_name: Key of `conformance.cases.recipes.RECIPES`.
            step: Number of the step, counted from 1.
            train: Whether norms use the batch's statistics.
            labels: Labels in place of the step's own.
        """
        model = build_network(self.config, WidenedArrays(self.arrays, "float64"))
        training = right_training.Training(model, RECIPES[recipe_name])
        if step > 1:
            self._continue_from(self.states[recipe_name][step - 1], training)
        if train and labels is None:
            return self._gradients(recipe_name, step, model.train())
        images, own = self.batches[step - 1]
        return right_training.gradients(
            model.train(train), images, own if labels is None else labels, RECIPES[recipe_name]
        )

    def statistics_after(self, recipe_name: str, step: int) -> dict[str, Array]:
        """Return the right running statistics after a step from the candidate's own state before it."""
        self.gradients_at(recipe_name, step)
        return self._remembered[recipe_name, step][2]

    @cached_property
    def batches(self) -> list[tuple[Array, Array]]:
        """Images and labels of each step."""
        return training_batches(self.images.astype(np.float64), self.config.num_classes, STEPS)

    def _continue_from(self, state: State, training: Any) -> None:
        """Set the arrays of a training from a state; those that it lacks, or has in another shape, stay."""
        for name in expected_shapes(self.config):
            if fits(state.get(name), follow(training.model, name)):
                set_array(training.model, name, state[name])
        for slot, slot_arrays in training.slots.items():
            for name, array in slot_arrays.items():
                if fits(state.get(f"{slot}.{name}"), array):
                    slot_arrays[name] = state[f"{slot}.{name}"]

    def _gradients(self, recipe_name: str, step: int, model: Any) -> tuple[float, dict[str, Array]]:
        """Return the right loss and gradients before a step, and leave the right running statistics in the model."""
        key = recipe_name, step
        if key not in self._remembered:
            loss, gradients = right_training.gradients(model, *self.batches[step - 1], RECIPES[recipe_name])
            statistics = {name: follow(model, name) for name in statistic_names(self.config)}
            self._remembered[key] = loss, gradients, statistics
        loss, gradients, statistics = self._remembered[key]
        for name, array in statistics.items():
            set_array(model, name, array)
        return loss, {name: gradient.copy() for name, gradient in gradients.items()}


def fits(array: Array | None, reference: Array) -> bool:
    """Whether an array exists and has the shape of a reference."""
    return array is not None and array.shape == reference.shape


def leaves_gradients(injection: Injection) -> bool:
    """Whether a fault leaves gradients and running statistics as they are."""
    return injection.fault.task == "steps" and Seen.STATISTICS not in injection.fault.seen_in


def state_of(training: Any) -> dict[str, Array]:
    """Collect what a step left behind: canonical arrays, and what the optimizer keeps as "SLOT.NAME"."""
    slots = {f"{slot}.{name}": array for slot, arrays in training.slots.items() for name, array in arrays.items()}
    return {name: follow(training.model, name) for name in expected_shapes(training.model.config)} | slots
