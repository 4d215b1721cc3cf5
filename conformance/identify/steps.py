"""Identification of training steps: the rule by which each array is moved in each step, and what differs in it.

Every step of every recipe is taken from the candidate's own state, so that each shows its own rule. What differs is
gathered over arrays, steps and recipes, and said once. It counts if the right rules with these values in them reproduce
every array of every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from conformance.cases.names import OFFSET
from conformance.cases.recipes import RECIPES, STEPS
from conformance.identify.fact import Fact, NotIdentified, Unidentified, relative_error
from conformance.identify.identification import Identification
from conformance.identify.link import IMAGES, Array
from conformance.identify.statistics import identify_statistics
from conformance.identify.step_facts import Place, array_words, gathered, joined, step_words
from conformance.identify.step_gradients import NORMS, SOURCES
from conformance.identify.step_noise import find_noise, noise_facts
from conformance.identify.step_rule import PREDICTED, StepRule, StepView, errors, measure, right_rule
from conformance.oracle.forward import WidenedArrays, build_network
from conformance.oracle.steps import State, StepwiseTraining
from weights_convert.shapes import expected_shapes

LOSS = 1e-10
"""Largest relative error of a loss before a step, at the candidate's own weights, that counts as reproduced."""


def identify_steps(training: StepwiseTraining) -> Identification:
    """Measure by which rules a candidate's training steps change its arrays.

    Args:
        training: The right steps, each from the candidate's own state; `states` holds all steps of each recipe.

    Returns:
        What differs; `reproduced` is the largest relative L2 error that the measured rules leave of the change of an
        array, of what the optimizer keeps, and of a loss. It is None where something could not be measured.
    """
    measured = Measured(training)
    measured.take_all()
    if frozen := measured.frozen():
        others = (Measured(training, norm, frozen) for norm in NORMS if norm)
        measured = min((measured, *map(Measured.take_all, others)), key=Measured.unexpected_factors)
    facts, said = gathered(measured.rules, measured.rights, measured.norms)
    statistics = statistics_facts(training)
    facts = [*measured.source_facts(), *noise_facts(measured.noise), *facts, *statistics]
    unidentified = (*measured.without_rule(), *unexplained_statistics(training, statistics))
    if unidentified or measured.noise or not facts:
        return Identification(facts, unidentified, task="steps")
    left = max((max(errors(view, said[place])) for place, view in measured.views.items()), default=0.0)
    return Identification(facts, reproduced=max(left, measured.of_losses), task="steps")


MOST_FAILURES = 2
"""Steps of a recipe that may have no rule; after them the recipe is given up."""


@dataclass(eq=False)
class Measured:
    """The rules of a candidate's steps, gathered step by step.

    Attributes:
        training: The right steps.
        norm: Key of `NORMS`.
        frozen_names: Arrays that no step changes, where the norm depends on them.
        rules: The rule of each array in each step.
        rights: The right rule there.
        views: The array there.
        sources: By recipe and step, what the gradients were, where they were not the right ones.
        unidentified: By array, why it has no rule.
        norms: Norm of all gradients together, by recipe and step.
        noise: Deviation of the noise in the gradients, by recipe and step, where there is noise and no rule.
        of_losses: Largest error of a loss.
    """

    training: StepwiseTraining
    norm: str = ""
    frozen_names: tuple[str, ...] = ()
    rules: dict[Place, StepRule] = field(default_factory=dict)
    rights: dict[Place, StepRule] = field(default_factory=dict)
    views: dict[Place, StepView] = field(default_factory=dict)
    sources: dict[tuple[str, int], str] = field(default_factory=dict)
    unidentified: dict[str, str] = field(default_factory=dict)
    norms: dict[tuple[str, int], float] = field(default_factory=dict)
    noise: dict[tuple[str, int], float] = field(default_factory=dict)
    of_losses: float = 0.0

    def take_all(self) -> Measured:
        """Measure all steps of all recipes, and return itself; a recipe in which steps have no rule is given up."""
        for recipe in self.training.states:
            failures = 0
            for step in range(1, STEPS + 1):
                failures += not self.take(recipe, step)
                if failures == MOST_FAILURES:
                    break
            self._spread_directions(recipe)
        return self

    def _spread_directions(self, recipe: str) -> None:
        """Give all arrays of a recipe the direction of some, where that explains them as well as their own."""
        places = [place for place in self.rules if place.recipe == recipe]
        directions = {self.rules[place].direction for place in places} - {
            self.rights[place].direction for place in places
        }
        for direction in directions:
            others = {place: replace(self.rules[place], direction=direction) for place in places}
            if all(max(errors(self.views[place], rule)) <= PREDICTED for place, rule in others.items()):
                self.rules |= others

    def frozen(self) -> tuple[str, ...]:
        """Return the arrays that no step changes."""
        names = dict.fromkeys(place.name for place in self.rules)
        moved = {place.name for place, rule in self.rules.items() if not rule.skipped}
        return tuple(name for name in names if name not in moved)

    def unexpected_factors(self) -> int:
        """Count the places where the factor of the gradient is not the expected one."""
        return sum(rule.factor != self.rights[place].factor for place, rule in self.rules.items())

    def without_rule(self) -> tuple[Unidentified, ...]:
        """Say what has no rule, once for all arrays with the same reason."""
        by_reason: dict[str, list[str]] = {}
        for name, words in self.unidentified.items():
            by_reason.setdefault(words, []).append(name)
        every = [name for name in expected_shapes(self.training.config) if ".running_" not in name]
        return tuple(Unidentified(array_words(names, every), words) for words, names in by_reason.items())

    def take(self, recipe: str, step: int) -> bool:
        """Measure the rules of a step with the first gradients that explain it; with the right ones if none does.

        Returns:
            Whether every array has a rule.
        """
        problems: dict[str, str] | None = None
        for words, source in SOURCES.items():
            try:
                loss, gradients = source(self.training, recipe, step)
            except NotIdentified:
                continue
            error = relative_difference(loss, float(self.training.states[recipe][step]["loss"][0]))
            if error <= LOSS:
                wrong = self._measure(dict(self.views_of(recipe, step, gradients)))
            else:
                wrong = {"loss": f"is not that of its own weights, from step {step} of {recipe} on"}
            if not wrong:
                self.of_losses = max(self.of_losses, error)
                self.sources |= {(recipe, step): words} if words else {}
                return True
            problems = problems or wrong
        _, gradients = self.training.gradients_at(recipe, step)
        if deviation := find_noise(dict(self.views_of(recipe, step, gradients))):
            self.noise[recipe, step] = deviation
            return True
        for name, words in (problems or {}).items():
            self.unidentified.setdefault(name, words)
        return False

    def _measure(self, views: dict[Place, tuple[StepView, StepRule]]) -> dict[str, str]:
        """Measure the rules of some arrays; return those that have none, each with the reason.

        Of an array whose gradient is noise, no rule can be measured: one of the others' must do.
        """
        problems = {}
        found: dict[Place, StepRule] = {}
        for place, (view, right) in views.items():
            if not OFFSET.fullmatch(place.name):
                try:
                    found[place] = measure(view, right)
                except NotIdentified as reason:
                    problems[place.name] = f"{reason}, from step {place.step} of {place.recipe} on"
        for place, (view, right) in views.items():
            if OFFSET.fullmatch(place.name):
                rules = (right, replace(right, skipped=True), *dict.fromkeys(found.values()))
                rule = next((rule for rule in rules if max(errors(view, rule)) <= PREDICTED), None)
                found |= {place: rule} if rule else {}
        for place, rule in found.items():
            self.rules[place], (self.views[place], self.rights[place]) = rule, views[place]
        return problems

    def views_of(
        self, recipe: str, step: int, gradients: dict[str, Array]
    ) -> Iterator[tuple[Place, tuple[StepView, StepRule]]]:
        """Yield each array of a step, with its right rule."""
        facts, states = RECIPES[recipe], self.training.states[recipe]
        before, after = states.get(step - 1), states[step]
        total = NORMS[self.norm](self.training, recipe, step, gradients, self.frozen_names)
        self.norms[recipe, step] = total
        clipped = min(1.0, facts.clip_norm / total) if facts.clip_norm is not None else 1.0
        for name, gradient in gradients.items():
            if name == "input" or name not in after:
                continue
            weight = self.training.arrays[name].astype(np.float64) if before is None else before[name]
            kept = {slot: _kept(before, slot, name, weight) for slot in facts.slots}
            new_kept = {slot: _kept(after, slot, name, weight) for slot in facts.slots}
            taken = 1 + sum(
                not self.rules[place].skipped
                for number in range(1, step)
                if (place := Place(recipe, number, name)) in self.rules
            )
            past = [_kept(states[number], "exp_avg_sq", name, weight) for number in range(1, step + 1)]
            past_squares = past if "exp_avg_sq" in facts.slots else []
            view = StepView(facts, taken, gradient, weight, kept, after[name], new_kept, past_squares)
            yield Place(recipe, step, name), (view, right_rule(facts, step, weight.ndim, clipped))

    def source_facts(self) -> Iterator[Fact]:
        """Say by which norm gradients are clipped and which gradients are taken, where those are not the right ones."""
        if self.norm:
            words = f"the norm that gradients are clipped by {self.norm}"
            measured, expected = {"norm": self.norm}, {"norm": "of all gradients"}
            yield Fact(self.frozen_names[0], "training step", words, measured, expected, PREDICTED, subject="clipping")
        taken: dict[tuple[str, tuple[int, ...]], list[str]] = {}
        for recipe in self.training.states:
            for words in dict.fromkeys(words for (name, _), words in self.sources.items() if name == recipe):
                steps = tuple(step for (name, step), each in self.sources.items() if (name, each) == (recipe, words))
                taken.setdefault((words, steps), []).append(recipe)
        for (words, steps), recipes in taken.items():
            where = f"{step_words(steps)} of {joined(recipes)}"
            sentence = f"the gradients are not the right ones{where}, but {words}"
            measured, expected = {"gradients": words}, {"gradients": "of the step's own batch, in train mode"}
            yield Fact("loss", "training step", sentence, measured, expected, PREDICTED, subject="every array")


def _kept(state: State | None, slot: str, name: str, like: Array) -> Array:
    """Return what an optimizer keeps of an array; zeros before the first step."""
    array = None if state is None else state.get(f"{slot}.{name}")
    return np.zeros_like(like) if array is None else array


def statistics_facts(training: StepwiseTraining) -> list[Fact]:
    """Say how running statistics are updated, where that is the same in the first step of every recipe."""
    model = build_network(training.config, WidenedArrays(training.arrays, "float64"))
    images = training.batches[0][0]
    fed = model.train().activations(images, layers=True) | {IMAGES: images}
    before = {name: training.arrays[name].astype(np.float64) for name in expected_shapes(training.config)}
    found = [identify_statistics(fed, states[1], before, training.config) for states in training.states.values()]
    return [fact for fact in found[0] if all(fact in others for others in found[1:])] if found else []


def unexplained_statistics(training: StepwiseTraining, facts: Sequence[Fact]) -> Iterator[Unidentified]:
    """Say which running statistics are wrong after a step, and are those of no fact."""
    known = {layer for fact in facts for layer in fact.layers}
    wrong: dict[str, None] = {}
    for recipe, states in training.states.items():
        for step, state in states.items():
            right = training.statistics_after(recipe, step)
            for name in right.keys() - known - wrong.keys():
                if name not in state or relative_error(right[name], state[name]) > PREDICTED:
                    wrong[name] = None
    if wrong:
        first = next(name for name in expected_shapes(training.config) if name in wrong)
        others = f" and {len(wrong) - 1} other statistics" if len(wrong) > 1 else ""
        yield Unidentified(
            f"{first}{others}", "are updated by another rule" if others else "is updated by another rule"
        )


def relative_difference(expected: float, value: float) -> float:
    """Return the relative difference of two numbers; infinite where one is not finite."""
    if not np.isfinite(value):
        return float("inf")
    return abs(value - expected) / abs(expected) if expected else abs(value)
