"""Diagnosis of training: which known fault makes the oracle's gradients, or its steps, those that a port computed.

Gradients pass the network from the loss to the images, and the first wrong one in that order lies in the piece with the
fault, or in the one behind it. Every fault that can be there is put into the oracle's gradients, which are taken from
there on. Steps are taken one by one, each from the port's own state: what is wrong after one is that step's own fault.

Two faults that alter the same arrays hide each other. So where no single one explains the first wrong array, those that
alter it are tried two by two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, pairwise, product
from math import inf
from typing import Any

import numpy as np

from conformance.cases.case import MOMENTS, OFFSET, Case, Mode, expected_names
from conformance.cases.segments import segment_of
from conformance.diagnose.forward import MOST_FAULTS, NEARER, Finding, Together, distance, newton, told, told_together
from conformance.faults import FAULTS, Fault, Injection, Seen
from conformance.oracle.forward import Stopped
from conformance.oracle.gradients import SegmentedGradients
from conformance.oracle.steps import StepwiseTraining, fits
from impls.config import ResNetConfig

Array = np.ndarray

EXPLAINED = 1e-11
"""Largest relative L2 error of an explanation of gradients: their limit. Right ones were seen to leave up to 6e-13."""

STEP_EXPLAINED = 1e-10
"""The same of a step. AdamW divides by a gradient's own size: right ones were seen to leave up to 1.0e-11, of bn1's
offset at twice the rate. The least fault, clipping to norm / (total + 1e-6), leaves 5e-7 of a velocity."""

MOST_PATHS = 12
"""Sets of faults of gradients that are followed where the likeliest lead nowhere: a second each on ResNet-50, 64x96."""


@dataclass(frozen=True)
class Attempt:
    """A fault tried, or two together.

    Attributes:
        together: Which, where.
        reach: How many arrays, in order, they explain.
        error: The largest error among those.
        left: What they leave of the first wrong array.
    """

    together: Together
    reach: int
    error: float
    left: float


def pairs(injections: Sequence[Injection]) -> Iterator[list[Together]]:
    """Two of the faults together: of those that need no estimate, then each of these with each that needs one."""
    fixed = [one for one in injections if not one.fault.parameter]
    yield list(combinations(fixed, 2))
    yield list(product(fixed, (one for one in injections if one.fault.parameter)))


def of_task(task: str) -> list[Fault]:
    """The catalogue's faults of a task."""
    return [fault for fault in FAULTS.values() if fault.task == task]


@dataclass(eq=False)
class GradientDiagnosis:
    """One port's gradients under examination.

    Attributes:
        oracle: The right ones.
        port: The port's, by the names of cases: "loss", "gradient.fc.bias", ...
        faults: The catalogue's of gradients.
    """

    oracle: SegmentedGradients
    port: Mapping[str, Array]
    faults: Sequence[Fault] = field(default_factory=lambda: of_task("gradients"))

    def __post_init__(self) -> None:
        self.remembered: dict[tuple[str, ...], list[Attempt]] = {}
        self.know([])
        self.right = self.expected

    @cached_property
    def names(self) -> list[str]:
        """Every array in the order of computation."""
        mode: Mode = "train" if self.oracle.train else "inference"
        return expected_names(Case("-", "-", mode, task="gradients"), self.oracle.config)

    def first_wrong(self) -> str | None:
        """The first array that the faults known by now do not explain."""
        return next((name for name in self.names if self._left(name, self.expected[name]) > EXPLAINED), None)

    def findings(self) -> list[Finding]:
        """The faults that explain the port, or those of them that are known."""
        found = self.one_by_one()
        return found if all(finding.causes for finding in found) else self.fewest() or found

    def one_by_one(self) -> list[Finding]:
        """The faults, one after the other, each at the array that is first unexplained by those before."""
        found: list[Finding] = []
        while len(found) < MOST_FAULTS and (name := self.first_wrong()):
            found += self.explain(name)
            if not found[-1].causes:
                break
            self.know([finding.causes[0] for finding in found])
        return found

    def fewest(self) -> list[Finding]:
        """The fewest faults that explain everything, though others explain as much or more of what is wrong first.

        Nothing if there are none. Faults here and everywhere, for one, are alike up to what another fault spoils.
        """
        paths: deque[list[Finding]] = deque([[]])
        for _ in range(MOST_PATHS):
            if not paths:
                break
            path = paths.popleft()
            self.know([finding.causes[0] for finding in path])
            name = self.first_wrong()
            assert name is not None
            ways = sorted(self.explaining(name), key=lambda attempt: attempt.reach, reverse=True)
            if ways and ways[0].reach == len(self.names):
                return path + self.named(name, ways)
            paths += [path + self.named(name, [way]) for way in ways]
        return []

    def explain(self, name: str) -> list[Finding]:
        """The faults that explain the first wrong array, and the most of those behind it: one, or else two together."""
        explaining, left = self.explaining(name), self._left(name, self.expected[name])
        if explaining:
            return self.named(name, explaining)
        singles = (attempt for attempt in self.tried(name) if len(attempt.together) == 1)
        nearest = min(singles, key=lambda attempt: attempt.left, default=None)
        if nearest is None or nearest.left > NEARER * left:
            return [Finding(name, segment_of(name), (), left)]
        return [Finding(name, segment_of(name), (), nearest.left, nearest.together[0])]

    def named(self, name: str, attempts: Sequence[Attempt]) -> list[Finding]:
        """The attempts that explain the most."""
        reach = max(attempt.reach for attempt in attempts)
        best = [attempt for attempt in attempts if attempt.reach == reach]
        return told_together(name, segment_of(name), [attempt.together for attempt in best], best[0].error)

    def explaining(self, name: str) -> list[Attempt]:
        """What explains the first wrong array."""
        return [attempt for attempt in self.tried(name) if attempt.reach > self.names.index(name)]

    def tried(self, name: str) -> list[Attempt]:
        """What may explain the first wrong array, up to the first round in which something does; tried once only."""
        known = tuple(map(told, self.known))
        if known not in self.remembered:
            self.remembered[known] = []
            for attempts in self.rounds(name):
                self.remembered[known] += attempts
                if any(attempt.reach > self.names.index(name) for attempt in attempts):
                    break
        return self.remembered[known]

    def rounds(self, name: str) -> Iterator[list[Attempt]]:
        """Faults that alter the first wrong array: without a parameter, with one, and pairs of them.

        Whether one with a parameter alters that array, and none that is right before it, is seen at any value.
        """
        position, left = self.names.index(name), self._left(name, self.expected[name])
        attempts = [self.attempt((injection,), name) for injection in self.hypotheses(name)]
        altering = [attempt for attempt in attempts if attempt.reach >= position and attempt.left != left]
        yield [attempt for attempt in altering if not attempt.together[0].fault.parameter]
        injections = [attempt.together[0] for attempt in altering]
        free: list[Together] = [(one,) for one in injections if one.fault.parameter]
        for hypotheses in (free, *pairs(injections)):
            yield [attempt for together in hypotheses if (attempt := self.valued(together, name))]

    def hypotheses(self, name: str) -> Iterator[Injection]:
        """Every fault that could show first at an array."""
        order = self.oracle.segments
        here = order.index(segment_of(name))
        near = order[max(0, here - 1) : here + 1]
        for fault in self.faults:
            for place in fault.places(self.oracle.config):
                if place.scope == "network" or segment_of(place.name) in near:
                    yield Injection(fault, place)

    def attempt(self, together: Together, first: str) -> Attempt:
        """What faults explain."""
        position = {name: number for number, name in enumerate(self.names)}
        errors: dict[str, float] = {}
        reach = len(self.names)

        def check(segment: str, dy: Array, found: Mapping[str, Array]) -> None:
            nonlocal reach
            errors.update({name: self._left(name, found[name]) for name in found if name in position})
            wrong = [position[name] for name in found if errors.get(name, 0.0) > EXPLAINED]
            if wrong:
                reach = min(wrong)
                raise Stopped

        try:
            self._run(together, check)
        except Stopped:
            pass
        except (ValueError, IndexError):  # faults that cannot be together
            return Attempt(together, 0, inf, inf)
        explained = [error for name, error in errors.items() if position[name] < reach]
        return Attempt(together, reach, max(explained, default=inf), errors.get(first, inf))

    def valued(self, together: Together, name: str) -> Attempt | None:
        """The same, with the value of the last one's parameter, if any, that explains the first wrong array best.

        Nothing, if it explains that array alone: a loss, one number, is explained by some value of any.
        """
        *beside, last = together
        parameter = last.fault.parameter
        if parameter is None:
            return self.attempt(together, name)

        def residual(value: float) -> Array | None:
            kept: dict[str, Array] = {}
            port = self.port.get(name)

            def keep(segment: str, dy: Array, found: Mapping[str, Array]) -> None:
                kept.update(found)
                if name in found:
                    raise Stopped

            try:
                self._run((*beside, replace(last, value=value)), keep)
            except Stopped:
                return np.ravel(kept[name] - port) if fits(port, kept[name]) else None
            except (ValueError, IndexError):
                return None
            return None

        values = (newton(residual, parameter, start) for start in parameter.starts)
        found = [(*beside, replace(last, value=value)) for value in values if value is not None]
        best = max((self.attempt(one, name) for one in found), key=lambda one: (one.reach, -one.left), default=None)
        return best if best and best.reach != self.names.index(name) + 1 else None

    def _run(self, together: Together, see: Any) -> None:
        """The gradients with faults and those known, from the first fault's piece on."""
        order = self.oracle.segments
        places = (injection.place for injection in together)
        start = min((order[0] if one.scope == "network" else segment_of(one.name) for one in places), key=order.index)
        with np.errstate(all="ignore"):
            self.oracle.run([*self.known, *together], see, start, self.entering.get(start))

    def know(self, known: list[Injection]) -> None:
        """Take faults as known; what the oracle computes with them is expected."""
        self.known = known
        self.expected: dict[str, Array] = {}
        self.entering: dict[str, Array] = {}
        order = self.oracle.segments
        behind = dict(pairwise(order))

        def keep(segment: str, dy: Array, found: Mapping[str, Array]) -> None:
            self.expected.update(found)
            if segment in behind:
                self.entering[behind[segment]] = dy

        self.oracle.run(self.known, keep)

    def _left(self, name: str, expected: Array) -> float:
        """How far the port's array is from another; of one that may be noise, beside the layer's weight."""
        if name not in self.port:
            return inf
        noise = self.oracle.train and OFFSET.fullmatch(name.removeprefix("gradient."))
        return distance(self.port[name], expected, self.right[name.replace(".bias", ".weight")] if noise else None)


At = tuple[str, int, str]
"""A recipe's name, a step and an array."""

Explaining = list[tuple[Together, dict[At, float]]]
"""Faults, one or two together, with what they explain of steps and the errors there."""


@dataclass(eq=False)
class StepsDiagnosis:
    """One port's steps under examination.

    Attributes:
        oracle: The right ones, from the port's own states.
        faults: The catalogue's of training, and after them those of gradients and of running statistics that can be
            everywhere.
    """

    oracle: StepwiseTraining
    faults: Sequence[Fault] = field(default_factory=lambda: [*of_task("steps"), *of_task("gradients"), *statistical()])

    def __post_init__(self) -> None:
        self.known: list[Injection] = []

    @cached_property
    def names(self) -> Mapping[str, list[str]]:
        """By recipe, every array of a step in order."""
        return {recipe: [*step_names(recipe, self.oracle.config)] for recipe in self.oracle.states}

    def findings(self) -> list[Finding]:
        """The faults that together explain every step, or the admission that none are known."""
        errors = self.errors([])
        left = wrong = [at for at in errors if errors[at] > STEP_EXPLAINED]
        found: list[Finding] = []
        while left and len(found) < MOST_FAULTS:
            best = self.best(left) or self.best_together(left)
            if not best:
                break
            together, explained = best[0]
            error = max(explained.values())
            found += told_together(told_at(left[0]), left[0][0], [others for others, _ in best], error)
            self.known += together
            left = [at for at in left if at not in explained]
        return found if not left else [self.unexplained(wrong)]

    def best(self, wrong: Sequence[At]) -> Explaining:
        """The faults that explain the most of what is wrong and spoil nothing, with their errors there.

        Those of training come first, and those that need no estimate; where one explains all, no others are tried.
        """
        kept: Explaining = []
        for faults in self.rounds():
            kept += self.kept([(injection,) for injection in faults], wrong)
            if any(len(explained) == len(wrong) for _, explained in kept):
                break
        return most(kept)

    def best_together(self, wrong: Sequence[At]) -> Explaining:
        """The same of two together; those that need no estimate come first."""
        tried = (self.kept(hypotheses, wrong) for hypotheses in pairs(self.altering(wrong)))
        return next((most(kept) for kept in tried if kept), [])

    def kept(self, hypotheses: Sequence[Together], wrong: Sequence[At]) -> Explaining:
        """Of some hypotheses, those that explain something."""
        valued = (one for together in hypotheses for one in self.valued(together, wrong[0]))
        return [(one, explained) for one in valued if (explained := self.explained(one, wrong))]

    def altering(self, wrong: Sequence[At]) -> list[Injection]:
        """The faults that alter the first wrong step, and nothing that is right there.

        Those of gradients, which are diagnosed before, are not among them.
        """
        recipe, number, _ = wrong[0]
        right, wrongs = self.distances(recipe, number), set(wrong)
        every = (one for faults in self.rounds() for one in faults if one.fault.task != "gradients")
        found = [(one, self.distances(recipe, number, one) or right) for one in every]
        return [
            one
            for one, here in found
            if here != right and all(at in wrongs for at, error in here.items() if error > STEP_EXPLAINED)
        ]

    def rounds(self) -> Iterator[list[Injection]]:
        """The hypotheses: of training without and with a parameter, then all others."""
        every = [Injection(fault, place) for fault in self.faults for place in fault.places(self.oracle.config)]
        every = [injection for injection in every if injection.place.scope == "network"]
        for training in (True, False):
            for continuous in (False, True):
                yield [
                    injection
                    for injection in every
                    if (injection.fault.task == "steps") == training
                    and (injection.fault.parameter is not None) == continuous
                ]

    def valued(self, together: Together, first: At) -> Iterator[Together]:
        """Faults with each value that the last one's parameter may have."""
        *beside, last = together
        parameter = last.fault.parameter
        if parameter is None:
            yield together
            return
        recipe, number, name = first

        def residual(value: float) -> Array | None:
            found = self.step(recipe, number, *beside, replace(last, value=value))
            port = self.oracle.states[recipe][number].get(name)
            return np.ravel(found[name] - port) if found and name in found and fits(port, found[name]) else None

        for start in parameter.starts:
            value = newton(residual, parameter, start)
            if value is not None:
                found = (*beside, replace(last, value=value))
                yield found
                if self.distances(recipe, number, *found).get(first, inf) <= STEP_EXPLAINED:
                    return

    def explained(self, together: Together, wrong: Sequence[At]) -> dict[At, float]:
        """What faults explain of what is wrong; nothing if they spoil what is right, or explain none of the first step.

        Two must explain all that they alter in that step, and more than the one array that a value may be fitted to.
        """
        recipe, number, _ = wrong[0]
        wrongs = set(wrong)
        here = self.distances(recipe, number, *together)
        explained = [at for at in wrong if here.get(at, inf) <= STEP_EXPLAINED]
        if not explained:
            return {}
        if len(together) > 1:
            right = self.distances(recipe, number)
            altered = [at for at in here if here[at] != right[at]]
            if len(explained) == 1 or any(here[at] > STEP_EXPLAINED for at in altered):
                return {}
        try:
            errors = self.errors(together)
        except (ValueError, IndexError):
            return {}
        if any(error > STEP_EXPLAINED and at not in wrongs for at, error in errors.items()):
            return {}
        return {at: errors[at] for at in wrong if errors[at] <= STEP_EXPLAINED}

    def unexplained(self, wrong: Sequence[At]) -> Finding:
        """No fault fits: the one that leaves the least of the first wrong array, if it leaves less than there was."""
        self.known = []
        recipe, number, _ = first = wrong[0]
        left, nearest = self.distances(recipe, number)[first], None
        for faults in self.rounds():
            for injection in faults:
                for (one,) in self.valued((injection,), first):
                    found = self.distances(recipe, number, one).get(first, inf)
                    if found < NEARER * left:
                        left, nearest = found, one
        return Finding(told_at(first), recipe, (), left, nearest)

    def errors(self, injections: Sequence[Injection]) -> dict[At, float]:
        """How far every array of every step is from the oracle's with the known faults and others."""
        errors: dict[At, float] = {}
        for recipe, states in self.oracle.states.items():
            with np.errstate(all="ignore"):
                steps = self.oracle.steps(recipe, [*self.known, *injections])
                for number, (found, port) in enumerate(zip(steps, states.values(), strict=True), start=1):
                    errors |= self._apart(recipe, number, found, port)
        return errors

    def distances(self, recipe: str, number: int, *injections: Injection) -> dict[At, float]:
        """The same of one step."""
        found = self.step(recipe, number, *injections)
        return {} if found is None else self._apart(recipe, number, found, self.oracle.states[recipe][number])

    def step(self, recipe: str, number: int, *injections: Injection) -> dict[str, Array] | None:
        """The oracle's state after a step, with faults; None where they cannot be."""
        try:
            with np.errstate(all="ignore"):
                return next(self.oracle.steps(recipe, [*self.known, *injections], number))
        except (ValueError, IndexError):
            return None

    def _apart(
        self, recipe: str, number: int, found: Mapping[str, Array], port: Mapping[str, Array]
    ) -> dict[At, float]:
        names = self.names[recipe]
        return {
            (recipe, number, name): distance(port[name], found[name]) if name in port and name in found else inf
            for name in names
        }


def most(kept: Explaining) -> Explaining:
    """Those that explain the most, and the same."""
    largest = max((explained for _, explained in kept), key=len, default={})
    return [(together, explained) for together, explained in kept if explained.keys() == largest.keys()]


def statistical() -> list[Fault]:
    """The faults of running statistics that are a fact of the configuration."""
    return [fault for fault in of_task("forward") if Seen.STATISTICS in fault.seen_in and fault.config]


def step_names(recipe: str, config: ResNetConfig) -> Iterator[str]:
    """Every array of a step, in the order in which a fault would show; without those that are noise."""
    names = expected_names(Case("-", "-", "train", task="steps", recipe=recipe), config)
    yield "loss"
    for name in names:
        moment, _, array = name.partition(".")
        if moment == MOMENTS[0] and not OFFSET.fullmatch(array):
            yield array


def told_at(at: At) -> str:
    """Where, in words.

    Example:
        >>> told_at(("adamw", 3, "conv1.weight"))
        'conv1.weight after step 3 of adamw'
    """
    recipe, number, name = at
    return f"{name} after step {number} of {recipe}"
