"""Diagnosis of training: which known fault makes the oracle's gradients, or its steps, those that a port computed.

Gradients pass the network from the loss to the images, and the first wrong one in that order lies in the piece with the
fault, or in the one behind it. Every fault that can be there is put into the oracle's gradients, which are taken from
there on. Steps are taken one by one, each from the port's own state: what is wrong after one is that step's own fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np

from conformance.backward import PiecewiseGradients, StepwiseTraining, fits
from conformance.cases import MOMENTS, OFFSET, Case, Mode, expected_names
from conformance.diagnose import MOST_FAULTS, Finding, distance, newton
from conformance.faults import FAULTS, Fault, Injection
from conformance.segments import Stopped, segment_of
from impls.config import ResNetConfig

Array = np.ndarray

EXPLAINED = 1e-11
"""Largest relative L2 error of an explanation of gradients: their limit. Right ones were seen to leave up to 6e-13."""

STEP_EXPLAINED = 1e-10
"""The same of a step. AdamW divides by a gradient's own size: right ones were seen to leave up to 1.0e-11, of bn1's
offset at twice the rate. The least fault, clipping to norm / (total + 1e-6), leaves 5e-7 of a velocity."""

NEARER = 0.99
"""Share of what the right network leaves, at most, that a fault which comes nearer leaves; more is rounding."""


@dataclass(frozen=True)
class Attempt:
    """A fault tried.

    Attributes:
        injection: Which, where.
        reach: How many arrays, in order, it explains.
        error: The largest error among those.
        left: What it leaves of the first wrong array.
    """

    injection: Injection
    reach: int
    error: float
    left: float


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

    oracle: PiecewiseGradients
    port: Mapping[str, Array]
    faults: Sequence[Fault] = field(default_factory=lambda: of_task("gradients"))

    def __post_init__(self) -> None:
        self.known: list[Injection] = []
        self._expect()
        self.right = self.expected

    @cached_property
    def names(self) -> list[str]:
        """Every array in the order of computation."""
        mode: Mode = "train" if self.oracle.train else "inference"
        return expected_names(Case("-", "-", mode, task="gradients"), self.oracle.config)

    def first_wrong(self) -> str | None:
        """The first array that the faults known by now do not explain."""
        return next((name for name in self.names if self._left(name, self.expected[name]) > EXPLAINED), None)

    def findings(self) -> Iterator[Finding]:
        """The faults, one after the other, each at the array that is first unexplained by those before."""
        for _ in range(MOST_FAULTS):
            name = self.first_wrong()
            if name is None:
                return
            finding = self.explain(name)
            yield finding
            if not finding.causes:
                return
            self.known.append(finding.causes[0])
            self._expect()

    def explain(self, name: str) -> Finding:
        """The faults that explain the first wrong array, and the most of those behind it.

        An estimate must explain more than the array that it was fitted to: a loss, one number, fits any.
        """
        attempts = [self.attempt(injection, name) for injection in self.hypotheses(name, continuous=False)]
        position = self.names.index(name)
        if all(attempt.reach <= position for attempt in attempts):
            estimates = [self.estimate(injection, name) for injection in self.hypotheses(name, continuous=True)]
            attempts += [attempt for attempt in estimates if attempt is not None and attempt.reach != position + 1]
        reach = max((attempt.reach for attempt in attempts), default=0)
        segment = self.segment(name)
        if reach > position:
            best = [attempt for attempt in attempts if attempt.reach == reach]
            return Finding(name, segment, tuple(attempt.injection for attempt in best), best[0].error)
        left = self._left(name, self.expected[name])
        nearest = min(attempts, key=lambda attempt: attempt.left, default=None)
        if nearest is None or nearest.left > NEARER * left:
            return Finding(name, segment, (), left)
        return Finding(name, segment, (), nearest.left, nearest.injection)

    def hypotheses(self, name: str, continuous: bool) -> Iterator[Injection]:
        """Every fault, with a free parameter or without, that could show first at an array."""
        order = self.oracle.segments
        here = order.index(self.segment(name))
        near = order[max(0, here - 1) : here + 1]
        for fault in self.faults:
            if (fault.parameter is not None) == continuous:
                for place in fault.places(self.oracle.config):
                    if place.scope == "network" or segment_of(place.name) in near:
                        yield Injection(fault, place)

    def attempt(self, injection: Injection, first: str) -> Attempt:
        """What a fault explains."""
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
            self._run(injection, check)
        except Stopped:
            pass
        except (ValueError, IndexError):  # faults that cannot be together
            return Attempt(injection, 0, inf, inf)
        explained = [error for name, error in errors.items() if position[name] < reach]
        return Attempt(injection, reach, max(explained, default=inf), errors.get(first, inf))

    def estimate(self, injection: Injection, name: str) -> Attempt | None:
        """The same, of the value of its parameter that explains the first wrong array best."""
        parameter = injection.fault.parameter
        assert parameter is not None

        def residual(value: float) -> Array | None:
            kept: dict[str, Array] = {}
            port = self.port.get(name)

            def keep(segment: str, dy: Array, found: Mapping[str, Array]) -> None:
                kept.update(found)
                if name in found:
                    raise Stopped

            try:
                self._run(replace(injection, value=value), keep)
            except Stopped:
                return np.ravel(kept[name] - port) if fits(port, kept[name]) else None
            except ValueError:
                return None
            return None

        values = (newton(residual, parameter, start) for start in parameter.starts)
        tried = [self.attempt(replace(injection, value=value), name) for value in values if value is not None]
        return max(tried, key=lambda attempt: (attempt.reach, -attempt.left), default=None)

    def segment(self, name: str) -> str:
        """The piece of an array."""
        return "head" if name == "loss" else segment_of(name.removeprefix("gradient."))

    def _run(self, injection: Injection, see: Any) -> None:
        """The gradients with a fault and those known, from the fault's piece on."""
        order = self.oracle.segments
        start = order[0] if injection.place.scope == "network" else segment_of(injection.place.name)
        with np.errstate(all="ignore"):
            self.oracle.run([*self.known, injection], start, self.entering.get(start), see)

    def _expect(self) -> None:
        """What the oracle computes with the faults known by now."""
        self.expected: dict[str, Array] = {}
        self.entering: dict[str, Array] = {}
        order = self.oracle.segments
        behind = dict(pairwise(order))

        def keep(segment: str, dy: Array, found: Mapping[str, Array]) -> None:
            self.expected.update(found)
            if segment in behind:
                self.entering[behind[segment]] = dy

        self.oracle.run(self.known, order[0], None, keep)

    def _left(self, name: str, expected: Array) -> float:
        """How far the port's array is from another; of one that may be noise, beside the layer's weight."""
        if name not in self.port:
            return inf
        noise = self.oracle.train and OFFSET.fullmatch(name.removeprefix("gradient."))
        return distance(self.port[name], expected, self.right[name.replace(".bias", ".weight")] if noise else None)


At = tuple[str, int, str]
"""A recipe's name, a step and an array."""


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
        return {recipe: [*step_names(recipe, self.oracle.config)] for recipe in self.oracle.port}

    def findings(self) -> list[Finding]:
        """The faults that together explain every step, or the admission that none are known."""
        errors = self.errors([])
        wrong = [at for at in errors if errors[at] > STEP_EXPLAINED]
        if not wrong:
            return []
        found: list[Finding] = []
        while wrong and len(found) < MOST_FAULTS:
            best = self.best(wrong)
            if not best:
                break
            injection, explained = best[0]
            found.append(
                Finding(told_at(wrong[0]), wrong[0][0], tuple(one for one, _ in best), max(explained.values()))
            )
            self.known.append(injection)
            wrong = [at for at in wrong if at not in explained]
        return found if not wrong else [self.unexplained([at for at in errors if errors[at] > STEP_EXPLAINED])]

    def best(self, wrong: Sequence[At]) -> list[tuple[Injection, dict[At, float]]]:
        """The faults that explain the most of what is wrong and spoil nothing, with their errors there.

        Those of training come first, and those that need no estimate; where one explains all, no others are tried.
        """
        kept: list[tuple[Injection, dict[At, float]]] = []
        for faults in self.rounds():
            for injection in faults:
                for one in self.valued(injection, wrong[0]):
                    explained = self.explained(one, wrong)
                    kept += [(one, explained)] if explained else []
            if any(len(explained) == len(wrong) for _, explained in kept):
                break
        most = max((len(explained) for _, explained in kept), default=0)
        return [(one, explained) for one, explained in kept if len(explained) == most]

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

    def valued(self, injection: Injection, first: At) -> Iterator[Injection]:
        """A fault with each value that its parameter may have."""
        parameter = injection.fault.parameter
        if parameter is None:
            yield injection
            return
        recipe, number, name = first

        def residual(value: float) -> Array | None:
            found = self.step(recipe, number, replace(injection, value=value))
            port = self.oracle.port[recipe][number].get(name)
            return np.ravel(found[name] - port) if found and name in found and fits(port, found[name]) else None

        for start in parameter.starts:
            value = newton(residual, parameter, start)
            if value is not None:
                yield replace(injection, value=value)
                if self.distances(recipe, number, replace(injection, value=value)).get(first, inf) <= STEP_EXPLAINED:
                    return

    def explained(self, injection: Injection, wrong: Sequence[At]) -> dict[At, float]:
        """What a fault explains of what is wrong; nothing if it spoils what is right, or explains none of the first."""
        recipe, number, _ = wrong[0]
        here = self.distances(recipe, number, injection)
        if not any(here.get(at, inf) <= STEP_EXPLAINED for at in wrong if at[:2] == (recipe, number)):
            return {}
        try:
            errors = self.errors([injection])
        except ValueError:
            return {}
        if any(error > STEP_EXPLAINED and at not in set(wrong) for at, error in errors.items()):
            return {}
        return {at: errors[at] for at in wrong if errors[at] <= STEP_EXPLAINED}

    def unexplained(self, wrong: Sequence[At]) -> Finding:
        """No fault fits: the one that leaves the least of the first wrong array, if it leaves less than there was."""
        self.known = []
        recipe, number, _ = first = wrong[0]
        left, nearest = self.distances(recipe, number, None)[first], None
        for faults in self.rounds():
            for injection in faults:
                for one in self.valued(injection, first):
                    found = self.distances(recipe, number, one).get(first, inf)
                    if found < NEARER * left:
                        left, nearest = found, one
        return Finding(told_at(first), recipe, (), left, nearest)

    def errors(self, injections: Sequence[Injection]) -> dict[At, float]:
        """How far every array of every step is from the oracle's with the known faults and others."""
        errors: dict[At, float] = {}
        for recipe, states in self.oracle.port.items():
            with np.errstate(all="ignore"):
                steps = self.oracle.steps(recipe, [*self.known, *injections])
                for number, (found, port) in enumerate(zip(steps, states.values(), strict=True), start=1):
                    errors |= self._apart(recipe, number, found, port)
        return errors

    def distances(self, recipe: str, number: int, injection: Injection | None) -> dict[At, float]:
        """The same of one step."""
        found = self.step(recipe, number, injection)
        return {} if found is None else self._apart(recipe, number, found, self.oracle.port[recipe][number])

    def step(self, recipe: str, number: int, injection: Injection | None) -> dict[str, Array] | None:
        """The oracle's state after a step, with a fault; None where it cannot be."""
        injections = [*self.known, injection] if injection else self.known
        try:
            with np.errstate(all="ignore"):
                return next(self.oracle.steps(recipe, injections, number))
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


def statistical() -> list[Fault]:
    """The faults of running statistics that are a fact of the configuration."""
    return [fault for fault in of_task("forward") if "S" in fault.seen_in and fault.config]


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
