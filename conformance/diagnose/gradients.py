"""Diagnosis of gradients: the faults with which the oracle computes a candidate's loss and gradients.

Gradients pass the network from the loss to the images. The first wrong one in that order lies in the segment with the
fault, or in the one behind it. Every fault that can be there is put into the oracle's gradients, which are computed
from there on: it must explain that array, and leave right what is right, down to the images. Faults that alter the same
arrays hide each other, so they are tried two by two where none alone explains the first wrong array.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf

import numpy as np

from conformance.cases.case import Case, Mode
from conformance.cases.names import OFFSET, expected_names
from conformance.cases.segments import segment_of
from conformance.diagnose.finding import Combination, Finding
from conformance.diagnose.search import Attempt, Search, distance, estimates, hypotheses, pairs, subtract
from conformance.faults import Arrays, Injection
from conformance.oracle.forward import IMPOSSIBLE
from conformance.oracle.gradients import SegmentedGradients

Array = np.ndarray

EXPLAINED = 1e-11
"""Largest relative L2 error of a gradient that counts as explained; the limit of right gradients, too.

Right explanations were seen to leave up to 6e-13."""

MOST_PATHS = 12
"""Largest number of sets of faults that are followed where the likeliest faults do not explain everything.

Each takes about a second on ResNet-50 at 64x96."""


@dataclass(eq=False)
class GradientDiagnosis(Search[str]):
    """The search for the faults of a candidate's gradients, array by array.

    Attributes:
        oracle: The right gradients.
        candidate: The candidate's arrays by the names that cases give them: "loss", "gradient.fc.bias", ...
    """

    oracle: SegmentedGradients
    candidate: Arrays

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limit = EXPLAINED
        self.assume([])

    @cached_property
    def names(self) -> list[str]:
        """Every array in the order of computation."""
        mode: Mode = "train" if self.oracle.train else "inference"
        return expected_names(Case("-", "-", mode, task="gradients"), self.oracle.config)

    def findings(self) -> list[Finding]:
        """Return the faults that explain the candidate together, or else those that explain it up to some array."""
        findings = super().findings()
        return findings if all(finding.causes for finding in findings) else self.fewest() or findings

    def fewest(self) -> list[Finding]:
        """Search for the fewest faults that explain everything together.

        The fault that explains the most at first need not be one of them: a fault at one place and the same fault
        everywhere look alike up to the array that yet another fault makes wrong. So every fault that explains the first
        wrong array is followed. The list is empty if no set of faults explains everything.
        """
        paths: deque[list[Finding]] = deque([[]])
        for _ in self.in_time(range(MOST_PATHS)):
            if not paths:
                break
            path = paths.popleft()
            self.assume([finding.causes[0] for finding in path])
            first = self.first_unexplained()
            assert first is not None
            attempts, best = self.attempts(first)
            if best and len(best[0].explained) == len(self.wrong):
                return path + self.findings_for(first, best)
            standing = [attempt for attempt in attempts if attempt.stands]
            standing.sort(key=lambda attempt: len(attempt.explained), reverse=True)
            paths += [path + self.findings_for(first, [attempt]) for attempt in standing]
        return []

    def locate(self, first: str) -> tuple[str, str, float]:
        """Return the array, its segment and its error."""
        return first, segment_of(first), self._error(first, self.expected[first])

    def rounds(self, first: str) -> Iterator[Sequence[Attempt]]:
        """Try the faults that alter the first wrong array: those without a parameter, those with one, and pairs.

        Whether a fault with a parameter alters that array, and no right one before it, shows at any value of it.
        """
        _, segment, left = self.locate(first)
        here = self.oracle.segments.index(segment)
        near = self.oracle.segments[max(0, here - 1) : here + 1]
        every = hypotheses("gradients", self.oracle.config)
        possible = [i for i in every if i.place.scope == "network" or segment_of(i.place.name) in near]
        attempts = [self.attempt((injection,), first) for injection in possible]
        before = self.names[: self.names.index(first)]
        altering = [attempt for attempt in attempts if attempt.left != left and attempt.still_wrong not in before]
        yield [attempt for attempt in altering if not attempt.is_estimate]
        with_parameter = [attempt.faults for attempt in altering if attempt.is_estimate]
        yield [*filter(None, (self.estimate(faults, first) for faults in with_parameter))]
        for combinations in pairs(attempt.faults[0] for attempt in altering):
            yield [*filter(None, (self.estimate(faults, first) for faults in self.in_time(combinations)))]

    def attempt(self, faults: Combination, first: str) -> Attempt:
        """Try faults on the gradients, as long as they leave right what is right and explain the first wrong array."""
        wrong_before = {*self.wrong}

        def fails(arrays: Arrays) -> bool:
            wrong = {name for name in arrays if self._error(name, arrays[name]) > EXPLAINED}
            return first in wrong or not wrong <= wrong_before

        arrays = self._run(faults, until=fails)
        if arrays is None:
            return Attempt(faults, stands=False)
        errors = {name: self._error(name, arrays[name]) for name in self.names if name in arrays}
        wrong = [name for name, error in errors.items() if error > EXPLAINED]
        explained = tuple(name for name in self.wrong if errors.get(name, inf) <= EXPLAINED)
        spoils = not wrong_before.issuperset(wrong)
        error = max(map(errors.__getitem__, explained), default=inf)
        left, still_wrong = errors.get(first, inf), next(iter(wrong), "")
        return Attempt(faults, first in explained and not spoils, explained, error, left, still_wrong, spoils)

    def estimate(self, faults: Combination, first: str) -> Attempt | None:
        """Try faults with the value of their parameter that explains the most gradients.

        None if an estimate explains the first wrong array alone: some value of any parameter explains a loss, which is
        one number.
        """

        def residual(faults: Combination) -> Array | None:
            arrays = self._run(faults, until=lambda arrays: first in arrays) or {}
            return subtract(arrays.get(first), self.candidate.get(first))

        attempts = [self.attempt(valued, first) for valued in estimates(faults, residual)]
        best = max(attempts, key=lambda attempt: (len(attempt.explained), -attempt.left), default=None)
        return None if best and best.is_estimate and best.explained == (first,) else best

    def _run(self, faults: Combination, until: Callable[[Arrays], bool]) -> dict[str, Array] | None:
        """Compute gradients with the causes found so far and further faults, from the first segment that has one.

        The run ends with the segment whose arrays fulfil a condition. None if the faults cannot be there together.
        """
        order = self.oracle.segments
        places = (injection.place for injection in faults)
        starts = (order[0] if place.scope == "network" else segment_of(place.name) for place in places)
        start = min(starts, key=order.index)
        gradients: dict[str, Array] = {}
        try:
            with np.errstate(all="ignore"):
                for _, _, arrays in self.oracle.run([*self.causes, *faults], start, self.entering.get(start)):
                    gradients |= arrays
                    if until(arrays):
                        break
        except IMPOSSIBLE:
            return None
        return gradients

    def assume(self, causes: list[Injection]) -> None:
        """Take faults as the causes found so far; what the oracle computes with them is expected."""
        super().assume(causes)
        self.expected: dict[str, Array] = {}
        self.entering: dict[str, Array] = {}
        behind = dict(pairwise(self.oracle.segments))
        for segment, dy, arrays in self.oracle.run(causes):
            self.expected |= arrays
            if segment in behind:
                self.entering[behind[segment]] = dy
        if not causes:
            self.right = self.expected
        self.wrong = [name for name in self.names if self._error(name, self.expected[name]) > EXPLAINED]

    def _error(self, name: str, expected: Array) -> float:
        """Return the error of the candidate's array; relative to the layer's weight where the array may be noise."""
        if name not in self.candidate:
            return inf
        noise = self.oracle.train and OFFSET.fullmatch(name.removeprefix("gradient."))
        scale = self.right[name.replace(".bias", ".weight")] if noise else None
        return distance(self.candidate[name], expected, scale)
