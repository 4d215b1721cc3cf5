"""Noise in training steps: numbers that look random and are added to every gradient alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt

import numpy as np

from conformance.identify.fact import Fact, number
from conformance.identify.link import Array
from conformance.identify.step_facts import joined, step_words
from conformance.identify.step_rule import PREDICTED, StepRule, StepView, predict

MANY = 64
"""Numbers that an array must have, for its moments to tell anything."""

STANDARD_ERRORS = 6.0
"""Largest distance of a moment from that of noise, in standard errors of a sample of normal numbers."""


def find_noise(views: Mapping[object, tuple[StepView, StepRule]]) -> float:
    """Measure the deviation of the noise in one step; 0 where what is added to gradients is no noise.

    Noise has the same deviation in all arrays, the mean 0, and nothing to do with the gradient or with its neighbours.

    Args:
        views: Every array of the step with its right rule.
    """
    added = [(entered_beside(view, right), view.gradient.ravel()) for view, right in views.values()]
    added = [(values, gradient) for values, gradient in added if values.size >= MANY]
    together = np.concatenate([values for values, _ in added]) if added else np.zeros(0)
    deviation = sqrt(np.mean(together**2)) if together.size and np.all(np.isfinite(together)) else 0.0
    alike = deviation > 0 and all(looks_random(values / deviation, gradient) for values, gradient in added)
    return deviation if alike else 0.0


def entered_beside(view: StepView, right: StepRule) -> Array:
    """Compute what entered the optimizer beside what should, as a vector."""
    slot, share = ("exp_avg", 1 - right.kept) if view.recipe.optimizer == "adamw" else ("momentum_buffer", 1.0)
    _, kept = predict(view, right)
    beside: Array = ((view.new_kept[slot] - kept[slot]) / share).ravel()
    return beside


def looks_random(values: Array, gradient: Array) -> bool:
    """Tell whether numbers look like independent ones of mean 0 and deviation 1."""
    allowed = STANDARD_ERRORS / sqrt(len(values))
    size = float(np.linalg.norm(gradient) * np.linalg.norm(values)) or 1.0
    moments = (np.mean(values), (np.std(values) - 1) * sqrt(2), np.mean(values[1:] * values[:-1]))
    return max(*map(abs, map(float, moments)), abs(float(values @ gradient)) / size) <= allowed


def noise_facts(deviations: Mapping[tuple[str, int], float]) -> Iterator[Fact]:
    """Say by how much noise is added to gradients, given the deviation by recipe and step."""
    if not deviations:
        return
    recipes = list(dict.fromkeys(recipe for recipe, _ in deviations))
    steps = tuple(dict.fromkeys(step for _, step in deviations))
    deviation = float(f"{np.median([*deviations.values()]):.2g}")
    noise = f"noise of mean 0 and deviation {number(deviation)}"
    sentence = f"the gradients are the right ones with {noise} added{step_words(steps)} of {joined(recipes)}"
    measured, expected = {"noise": deviation}, {"noise": 0.0}
    yield Fact("loss", "training step", sentence, measured, expected, PREDICTED, subject="every array")
