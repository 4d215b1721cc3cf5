"""Diagnosis of training steps: the faults with which the oracle's steps end in the states of a candidate.

Steps are taken one by one, each from the candidate's own state before it: what is wrong after a step is that step's own
fault. Faults that alter the same arrays hide each other, so they are tried two by two where none alone explains the
first wrong array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import NamedTuple

import numpy as np

from conformance.cases.case import Case
from conformance.cases.names import KEPT_STATES, OFFSET, expected_names
from conformance.cases.recipes import RECIPES, STEPS
from conformance.diagnose.finding import Combination, Finding
from conformance.diagnose.search import Attempt, Search, by_parameter, distance, estimates, hypotheses, pairs, subtract
from conformance.faults import Injection, Seen
from conformance.oracle.forward import IMPOSSIBLE
from conformance.oracle.steps import State, StepwiseTraining
from impls.config import ResNetConfig
from weights_convert.shapes import expected_shapes

Array = np.ndarray

EXPLAINED = 1e-10
"""Largest relative L2 error of an array after a step that counts as explained.

AdamW divides by a gradient's own size: right explanations were seen to leave up to 1.0e-11, of bn1's offset at twice
the rate. The least fault, clipping to norm / (total + 1e-6), leaves 5e-7 of a velocity."""


class StepArray(NamedTuple):
    """An array of the state after a step.

    Example:
        >>> str(StepArray("adamw", 3, "conv1.weight"))
        'conv1.weight after step 3 of adamw'
    """

    recipe: str
    step: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} after step {self.step} of {self.recipe}"


Errors = dict[StepArray, float]


@dataclass(eq=False)
class StepsDiagnosis(Search[StepArray]):
    """The search for the faults of a candidate's training steps.

    Attributes:
        oracle: The right steps, from the candidate's own states.
        thorough: Whether two faults together are tried where no single one explains what is first wrong.
    """

    oracle: StepwiseTraining
    thorough: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limit = EXPLAINED
        self.wrong = [array for array, error in self.errors(()).items() if error > EXPLAINED]

    @cached_property
    def names(self) -> Mapping[str, list[str]]:
        """Names of the arrays of a step in the order in which a fault would show, by recipe."""
        return {recipe: [*step_names(recipe, self.oracle.config)] for recipe in self.oracle.states}

    def findings(self) -> list[Finding]:
        """Return the faults that explain every step together, or the statement that none are known."""
        every_wrong = self.wrong
        findings = super().findings()
        if self.wrong and self.causes:
            self.assume([])
            self.wrong = every_wrong
            return [self.without_cause(self.wrong[0], self.attempts(self.wrong[0])[0])]
        idle = self.idle() if all(finding.causes for finding in findings) else []
        needed = [finding for finding in findings if not {*map(str, idle)} & {*map(str, finding.causes[:1])}]
        return [replace(finding, remark=IDLE) for finding in needed] if idle else findings

    def idle(self) -> list[Injection]:
        """Return the causes that explain nothing but kept arrays on which, with the other causes, no step depends.

        Whatever a candidate shows there, it does not train by it: a cause of that would be a wrong name.
        """
        every, idle = self.causes, list[Injection]()
        for cause in every if len(every) > 1 else ():
            self.assume([other for other in every if other is not cause and other not in idle])
            left = [array for array, error in self.errors(()).items() if error > EXPLAINED]
            if left and all(is_kept(array) for array in left) and all(map(self.forgets, {a.recipe for a in left})):
                idle.append(cause)
        self.assume(every)
        return idle

    def forgets(self, recipe: str) -> bool:
        """Tell whether the steps of a recipe, with the causes found so far, do not depend on what was kept before."""
        states = {
            step: {
                name: 0 * array if is_kept(StepArray(recipe, step, name)) else array for name, array in state.items()
            }
            for step, state in self.oracle.states[recipe].items()
        }
        emptied = replace(self.oracle, states={recipe: states})
        after, other = (next(oracle.steps(recipe, self.causes, STEPS)) for oracle in (self.oracle, emptied))
        return all(distance(after[name], other[name]) <= EXPLAINED for name in expected_shapes(self.oracle.config))

    def locate(self, first: StepArray) -> tuple[str, str, float]:
        """Return the array in words, its recipe, and its error."""
        return str(first), first.recipe, self.errors_after(first, ())[first]

    def rounds(self, first: StepArray) -> Iterator[Sequence[Attempt]]:
        """Try single faults, up to one that explains all, then two together, if possible without a parameter.

        Faults of training are tried first, and those without a parameter.
        """
        attempts: list[Attempt] = []
        for injections in self.faults():
            attempts += [attempt for injection in injections for attempt in self.valued((injection,), first)]
            if any(len(attempt.explained) == len(self.wrong) for attempt in attempts):
                break
        yield attempts
        for round_of_pairs in pairs(self.altering(first)) if self.thorough else ():
            yield [attempt for pair in self.in_time(round_of_pairs) for attempt in self.valued(pair, first)]

    def faults(self) -> Iterator[list[Injection]]:
        """Iterate over the faults, without and with a parameter: those of training, then all others.

        The others are the faults of gradients, and of running statistics by the configuration, that are everywhere.
        """
        steps, gradients, forward = (hypotheses(task, self.oracle.config) for task in ("steps", "gradients", "forward"))
        statistics = [i for i in forward if Seen.STATISTICS in i.fault.seen_in and i.fault.config]
        yield from by_parameter(steps)
        yield from by_parameter(i for i in [*gradients, *statistics] if i.place.scope == "network")

    def altering(self, first: StepArray) -> list[Injection]:
        """List the faults that alter the step of the first wrong array, but none of its right arrays.

        Faults of gradients, which are diagnosed before, are not among them.
        """
        right, wrong = self.errors_after(first, ()), set(self.wrong)

        def alters(injection: Injection) -> bool:
            errors = self.errors_after(first, (injection,)) or right
            return errors != right and wrong.issuperset(array for array in errors if errors[array] > EXPLAINED)

        every = (injection for injections in self.faults() for injection in injections)
        return [injection for injection in every if injection.fault.task != "gradients" and alters(injection)]

    def valued(self, faults: Combination, first: StepArray) -> Iterator[Attempt]:
        """Try faults with each estimate of their parameter, up to one that explains the first wrong array."""

        def residual(faults: Combination) -> Array | None:
            state = self.state_after(first, faults) or {}
            return subtract(state.get(first.name), self.oracle.states[first.recipe][first.step].get(first.name))

        for estimated in estimates(faults, residual):
            attempt = self.attempt(estimated, first)
            yield attempt
            if attempt.left <= EXPLAINED:
                return

    def attempt(self, faults: Combination, first: StepArray) -> Attempt:
        """Try faults on the step of the first wrong array and, if they explain any of it, on all steps.

        Two faults must explain all that they alter in that step, and more than the one array that a value may be fitted
        to.
        """
        after = self.errors_after(first, faults)
        left = after.get(first, inf)
        explained = [array for array in self.wrong if after.get(array, inf) <= EXPLAINED]
        if len(faults) > 1 and explained:
            right = self.errors_after(first, ())
            altered = [array for array in after if after[array] != right[array]]
            if len(explained) == 1 or any(after[array] > EXPLAINED for array in altered):
                explained = []
        errors = self.errors(faults) if explained else {}
        wrong = dict.fromkeys(array for array, error in errors.items() if error > EXPLAINED)
        still_wrong = str(next(iter(wrong), "" if errors else "other recipes"))
        if not errors or not wrong.keys() <= set(self.wrong):
            return Attempt(faults, stands=False, left=left, still_wrong=still_wrong)
        explained = [array for array in self.wrong if array not in wrong]
        return Attempt(faults, True, tuple(explained), max(map(errors.__getitem__, explained)), left, still_wrong)

    def errors(self, faults: Combination) -> Errors:
        """Return the errors of every array of every step, with faults beside the causes found so far.

        Empty if the faults cannot be there.
        """
        errors: Errors = {}
        try:
            for recipe in self.oracle.states:
                with np.errstate(all="ignore"):
                    steps = self.oracle.steps(recipe, [*self.causes, *faults])
                    for step, state in enumerate(steps, start=1):
                        errors |= self._errors(recipe, step, state)
        except IMPOSSIBLE:
            return {}
        return errors

    def errors_after(self, array: StepArray, faults: Combination) -> Errors:
        """Return the errors of every array after one step; empty if the faults cannot be there."""
        state = self.state_after(array, faults)
        return {} if state is None else self._errors(array.recipe, array.step, state)

    def state_after(self, array: StepArray, faults: Combination) -> State | None:
        """Return the oracle's state after the step of an array, with faults; None if they cannot be there."""
        try:
            with np.errstate(all="ignore"):
                return next(self.oracle.steps(array.recipe, [*self.causes, *faults], array.step))
        except IMPOSSIBLE:
            return None

    def _errors(self, recipe: str, step: int, expected: State) -> Errors:
        candidate = self.oracle.states[recipe][step]
        return {
            StepArray(recipe, step, name): (
                distance(candidate[name], expected[name]) if name in candidate and name in expected else inf
            )
            for name in self.names[recipe]
        }


IDLE = "; what your model shows of its optimizer is another array, on which no step depends"
"""Remark on causes where others were left out, because they explain arrays alone that nothing depends on."""


def is_kept(array: StepArray) -> bool:
    """Tell whether an array is one that the optimizer keeps."""
    return array.name.partition(".")[0] in RECIPES[array.recipe].slots


def step_names(recipe: str, config: ResNetConfig) -> Iterator[str]:
    """Iterate over the arrays of a step in the order in which a fault would show, without those that are noise."""
    yield "loss"
    for name in expected_names(Case("-", "-", "train", task="steps", recipe=recipe), config):
        moment, _, array = name.partition(".")
        if moment == KEPT_STATES[0] and not OFFSET.fullmatch(array):
            yield array
