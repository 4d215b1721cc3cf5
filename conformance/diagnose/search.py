"""The search for causes: everything that is the same whatever the evidence.

A search puts faults of the catalogue into the oracle and keeps those with which it reproduces the candidate: in float64
the right one does so to rounding, and no other does. The other modules of this package supply the evidence: which array
is the first that the oracle does not reproduce, and how far it does with faults.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from math import exp, inf, isclose, log
from time import thread_time
from typing import Any, Generic, TypeVar

import numpy as np

from conformance.diagnose.finding import Combination, Finding, joint_findings
from conformance.faults import FAULTS, Injection, Parameter
from impls.config import ResNetConfig

Array = np.ndarray
Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")

NEARER = 0.1
"""Largest share of the first wrong array's error that a fault may leave, to be named as the nearest: a fault that
explains less than nine tenths of an error is no hint, nor is one that leaves as much as the array itself."""

MOST_FAULTS = 4
"""Largest number of rounds of a search; each finds one fault, or two together."""

NEWTON_STEPS = 12
"""Largest number of steps of Newton's method for a parameter; each squares the error."""

PATIENCE = 3
"""Steps in which Newton's method must halve the residual at least once, or be given up."""

NEAR_ZERO, NO_ZERO = 1e-9, 1e-30
"""Size below which an estimate is zero, and the value that it then has. Zero itself would switch off what it is a share
of (without momentum no velocity is kept), and what rounding leaves of it may be negative, which is impossible."""

SAME_END = 1e-6
"""Relative difference of two values at which searches from different starts count as ended alike."""

SECONDS_FOR_PAIRS = 16.0
"""Time of this thread that the search for two faults at once may take, all in all; single faults are always tried.

On ResNet-50 single faults take about 4 s for each wrong segment, and two together were found within 10 s."""


@dataclass(frozen=True)
class Attempt:
    """Faults that were tried, and what the oracle reproduces of the candidate with them.

    Attributes:
        faults: One fault, or two together.
        stands: Whether they explain what is first wrong, and make nothing wrong that was right.
        explained: The arrays that they explain.
        error: The largest error of those.
        left: The error that they leave of the first wrong array.
        still_wrong: The first array that is wrong with them; empty if none is.
        spoils: Whether they are known to make a right array wrong.
    """

    faults: Combination
    stands: bool
    explained: tuple[Any, ...] = ()
    error: float = inf
    left: float = inf
    still_wrong: str = ""
    spoils: bool = False

    @property
    def is_estimate(self) -> bool:
        """Whether a fault has a parameter, so that its value is an estimate."""
        return any(injection.fault.parameter for injection in self.faults)


class Search(ABC, Generic[Key]):
    """A search for the faults of one candidate, one after the other.

    A subclass supplies the evidence: what is wrong, and what comes of trying faults. `Key` is what the search explains
    at once: an array, or a segment.

    Attributes:
        limit: Largest error of an array that counts as explained.
        causes: The faults found so far. They are in the oracle from then on.
        wrong: What the oracle does not reproduce with them, in the order of computation.
    """

    limit: float = inf

    def __post_init__(self) -> None:
        self.causes: list[Injection] = []
        self.wrong: list[Key] = []
        self.seconds_for_pairs = SECONDS_FOR_PAIRS

    @abstractmethod
    def locate(self, first: Key) -> tuple[str, str, float]:
        """Return the name of the first wrong array, its segment, and its error with the causes found so far."""

    @abstractmethod
    def rounds(self, first: Key) -> Iterator[Sequence[Attempt]]:
        """Try faults round by round; no further round is asked for once faults stand."""

    def findings(self) -> list[Finding]:
        """Return the faults of the candidate in the order in which they show; empty if the oracle reproduces it."""
        findings: list[Finding] = []
        for _ in range(MOST_FAULTS):
            first = self.first_unexplained()
            if first is None:
                break
            attempts, best = self.attempts(first)
            if best:
                findings += self.findings_for(first, best)
                self.assume([*self.causes, *best[0].faults])
            else:
                findings.append(self.without_cause(first, attempts))
                if not self.go_on_after(first):
                    break
        else:
            if (first := self.first_unexplained()) is not None:
                layer, segment, left = self.locate(first)
                findings.append(Finding(layer, segment, (), left, unexamined=True))
        return findings

    def first_unexplained(self) -> Key | None:
        """Return what is first wrong with the causes found so far; None if nothing is, or nothing can be explained."""
        return next(iter(self.wrong), None)

    def go_on_after(self, first: Key) -> bool:
        """Whether the search goes on after something that no known fault explains."""
        return False

    def assume(self, causes: list[Injection]) -> None:
        """Take faults as the causes found so far."""
        self.causes = causes

    def attempts(self, first: Key) -> tuple[list[Attempt], list[Attempt]]:
        """Try faults up to the first round in which some stand; return all attempts, and the best of that round."""
        attempts: list[Attempt] = []
        for tried in self.rounds(first):
            attempts += tried
            if best := self.best(first, tried):
                return attempts, best
        return attempts, []

    def in_time(self, combinations: Iterable[Item]) -> Iterator[Item]:
        """Iterate over combinations of faults as long as there is time for them."""
        started, spare = thread_time(), self.seconds_for_pairs
        for combination in combinations:
            if self.seconds_for_pairs <= 0:
                return
            yield combination
            self.seconds_for_pairs = spare - (thread_time() - started)

    def best(self, first: Key, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Select the attempt that explains the most arrays, and all that explain the same arrays."""
        standing = [attempt for attempt in attempts if attempt.stands]
        most = max((attempt.explained for attempt in standing), key=len, default=())
        return [attempt for attempt in standing if attempt.explained == most]

    def findings_for(self, first: Key, best: Sequence[Attempt]) -> list[Finding]:
        """Make findings for faults that explain the same arrays; those arrays are wrong no longer."""
        self.wrong = [key for key in self.wrong if key not in best[0].explained]
        layer, segment, _ = self.locate(first)
        return joint_findings(layer, segment, [attempt.faults for attempt in best], best[0].error)

    def without_cause(self, first: Key, attempts: Sequence[Attempt]) -> Finding:
        """State that no known fault explains what is first wrong, and name the one that comes nearest, if any does."""
        layer, segment, left = self.locate(first)
        single = [attempt for attempt in attempts if len(attempt.faults) == 1 and not attempt.spoils]
        nearest = min(single, key=lambda attempt: attempt.left, default=None)
        if nearest is None or nearest.left >= min(1.0, NEARER * left):
            return Finding(layer, segment, (), left, cut_short=self.seconds_for_pairs <= 0)
        until = (nearest.still_wrong or "other arrays") if nearest.left <= self.limit else ""
        return Finding(layer, segment, (), nearest.left, nearest.faults[0], until=until)


def hypotheses(task: str, config: ResNetConfig) -> list[Injection]:
    """List the faults that a task is the first to show, at every place of a network where they can be."""
    faults = [fault for fault in FAULTS.values() if fault.task == task]
    return [Injection(fault, place) for fault in faults for place in fault.places(config)]


def by_parameter(injections: Iterable[Injection]) -> tuple[list[Injection], list[Injection]]:
    """Split faults into those without a parameter and those with one, whose value is to be estimated."""
    both = list(injections)
    return [i for i in both if not i.fault.parameter], [i for i in both if i.fault.parameter]


def pairs(injections: Iterable[Injection]) -> Iterator[list[Combination]]:
    """Combine faults two by two: first those without a parameter, then each of them with each that has one."""
    fixed, estimated = by_parameter(injections)
    yield list(combinations(fixed, 2))
    yield list(product(fixed, estimated))


def estimates(faults: Combination, residual: Callable[[Combination], Array | None]) -> Iterator[Combination]:
    """Estimate the parameter among faults by what they leave of an array of the candidate.

    Args:
        faults: One fault or two; at most one has a parameter.
        residual: Returns the difference between the oracle's array with faults and the candidate's, as a vector; None
            where there is none. With the right faults it vanishes at the right value.

    Yields:
        The faults with each value that the search ends at, for the parameter's starts up to two that end alike; the
        faults as they are if none has a parameter.
    """
    estimated = next((injection for injection in faults if injection.fault.parameter), None)
    parameter = estimated.fault.parameter if estimated else None
    if parameter is None:
        yield faults
        return

    def with_value(value: float) -> Combination:
        return tuple(replace(each, value=value) if each is estimated else each for each in faults)

    ended: list[float] = []
    for start in parameter.starts:
        value = newton(lambda value: residual(with_value(value)), parameter, start)
        if value is None:
            continue
        if any(isclose(value, other, rel_tol=SAME_END) for other in ended):
            return  # the residual has one minimum, and it has been tried
        ended.append(value)
        yield with_value(value)


def newton(residual: Callable[[float], Array | None], parameter: Parameter, start: float) -> float | None:
    """Find the value at which a residual is least, by Newton's method on its norm.

    Args:
        residual: Returns a vector for a value of the parameter; None where the value is impossible.
        parameter: A positive one is searched on a logarithmic scale.
        start: The value to begin with.

    Returns:
        Where the method ends, or gains nothing in a few steps; None if it leaves the range of numbers.

    Example:
        >>> factor = Parameter("factor", 1.0, (2.0,))
        >>> round(newton(lambda value: np.array([value**2 - 9.0]), factor, start=2.0), 12)
        3.0
    """
    to, back = (log, exp) if parameter.positive else (float, float)
    at, step, sizes = to(start), 1e-4, []
    with np.errstate(all="ignore"):
        for _ in range(NEWTON_STEPS):
            here, there = residual(back(at)), residual(back(at + step))
            if here is None or there is None:
                return None
            sizes.append(float(np.linalg.norm(here)))
            slope = (there - here) / step
            steepness = float(slope @ slope)
            stuck = len(sizes) > PATIENCE and sizes[-1] > sizes[-1 - PATIENCE] / 2
            if not np.isfinite(steepness) or steepness == 0 or stuck:
                return back(at) if stuck else None
            move = float(slope @ here) / steepness
            at -= max(-2.0, min(2.0, move))
            if not parameter.positive and abs(at) < NEAR_ZERO:
                at = NO_ZERO
            if abs(move) < 1e-14 * max(1.0, abs(at)):
                break
            step = max(1e-7, min(1e-4, abs(move)))
    return back(at)


def distance(reference: Array, array: Array, scale: Array | None = None) -> float:
    """Return the L2 distance of an array from a reference, relative to the reference or to another scale.

    Unlike `conformance.compare.measure`, it accepts every array: NaN and infinity agree with their like, and zeros with
    zeros. The distance is infinite where shapes, or the places of NaN and infinity, differ.

    Example:
        >>> distance(np.array([3.0, 4.0]), np.array([3.0, 4.5])), distance(np.zeros(2), np.zeros(3))
        (0.1, inf)
    """
    if reference.shape != array.shape:
        return inf
    wide = [values.astype(np.float64, copy=False) for values in (reference, array)]
    finite, finite_too = map(np.isfinite, wide)
    if (finite != finite_too).any():
        return inf
    if not finite.all():
        wide = [values[finite] for values in wide]
    norm = float(np.linalg.norm((wide[0] if scale is None else scale).ravel()))
    difference = float(np.linalg.norm((wide[1] - wide[0]).ravel()))
    return difference / norm if norm else (inf if difference else 0.0)


def subtract(expected: Array | None, candidate: Array | None) -> Array | None:
    """Subtract the candidate's array from the oracle's, as vectors; None if one is missing or shapes differ."""
    if expected is None or candidate is None or expected.shape != candidate.shape:
        return None
    difference: Array = np.subtract(expected, candidate, dtype=np.float64)
    return difference.ravel()
