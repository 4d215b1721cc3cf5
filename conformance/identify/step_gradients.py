"""Gradients that a candidate may take a step with, and norms that it may clip them by, the right ones first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from conformance.cases.recipes import RECIPES
from conformance.identify.fact import NotIdentified
from conformance.identify.link import Array
from conformance.oracle.steps import StepwiseTraining

Gradients = tuple[float, dict[str, Array]]
"""A loss, and the gradients by the name of the array."""


def _labels_before(training: StepwiseTraining, recipe: str, step: int) -> Gradients:
    if step == 1:
        raise NotIdentified("has no step before it")
    return training.gradients_at(recipe, step, labels=training.batches[step - 2][1])


def _mean_of_two(training: StepwiseTraining, recipe: str, step: int) -> Gradients:
    """Average the gradients of a step and of the one before it: two batches for one update."""
    if step == 1:
        raise NotIdentified("has no step before it")
    (_, before), (loss, here) = (training.gradients_at(recipe, each) for each in (step - 1, step))
    return loss, {name: (before[name] + gradient) / 2 for name, gradient in here.items()}


Source = Callable[[StepwiseTraining, str, int], Gradients]

SOURCES: dict[str, Source] = {
    "": lambda training, recipe, step: training.gradients_at(recipe, step),
    "with norms in inference mode": lambda training, recipe, step: training.gradients_at(recipe, step, train=False),
    "with the labels of the batch before": _labels_before,
    "the mean of this step's and the last one's": _mean_of_two,
}
"""The gradients that a step may be taken with, by what is said of them; the right ones first."""


def joint_norm(gradients: Mapping[str, Array]) -> float:
    """Compute the norm of the gradients of all parameters together."""
    return float(np.sqrt(sum(np.vdot(gradient, gradient) for name, gradient in gradients.items() if name != "input")))


def _frozen_added_up(
    training: StepwiseTraining, recipe: str, step: int, gradients: Mapping[str, Array], frozen: Collection[str]
) -> float:
    """Compute the norm where nothing sets gradients of what is not trained to zero, and clipping scales them, too."""
    norm, largest = joint_norm(gradients), RECIPES[recipe].clip_norm or np.inf
    left = {name: np.zeros_like(gradients[name]) for name in frozen}
    for each in range(1, step + 1):
        here = gradients if each == step else training.gradients_at(recipe, each)[1]
        left = {name: array + here[name] for name, array in left.items()}
        norm = joint_norm({**here, **left})
        left = {name: array * min(1.0, largest / norm) for name, array in left.items()}
    return norm


Norm = Callable[[StepwiseTraining, str, int, Mapping[str, Array], Collection[str]], float]
"""Takes right steps, a recipe, a step, its gradients and the names of arrays that are not trained to a norm."""

NORMS: dict[str, Norm] = {
    "": lambda training, recipe, step, gradients, frozen: joint_norm(gradients),
    "leaves out the gradients of what is not trained": lambda training, recipe, step, gradients, frozen: joint_norm(
        {name: gradient for name, gradient in gradients.items() if name not in frozen}
    ),
    "counts the gradients of what is not trained, which add up from step to step": _frozen_added_up,
}
"""The norm that gradients are clipped by, by what is said of it; the right one first."""
