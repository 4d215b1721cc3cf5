"""Diagnosis of the forward pass: the faults with which the oracle computes a candidate's activations and statistics.

A candidate that was fed the oracle's own input, segment by segment, errs in each segment by that segment's own faults.
Every fault of the catalogue that can be there is put into the oracle's segment. Faults that explain the same arrays
equally well, everywhere, cannot be told apart and are named together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, groupby, product
from math import inf, isclose, isinf
from types import MappingProxyType

import numpy as np

from conformance.cases.segments import input_name, promised_names, segment_names, segment_of
from conformance.diagnose.finding import Combination, Finding, one_digit
from conformance.diagnose.reproduction import EXPLAINED, is_coarse, limit, nearby, whole_limit
from conformance.diagnose.search import Attempt, Search, by_parameter, distance, estimates, hypotheses, subtract
from conformance.faults import FAULTS, Arrays, Fault, Injection, Place
from conformance.oracle.forward import IMPOSSIBLE, SegmentedOracle, Stopped, Watch

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A run of a candidate, each segment fed the oracle's own input, or the candidate's.

    Attributes:
        train: Whether norms used the batch's statistics.
        images: The input, (batch, channels, height, width).
        oracle: The oracle's activations, of every layer, and its running statistics after a train-mode run.
        candidate: The candidate's.
        hidden: Names of arrays that the candidate cannot show, and that nothing is concluded from.
    """

    train: bool
    images: Array
    oracle: Arrays
    candidate: Arrays
    hidden: Collection[str] = ()


@dataclass(frozen=True)
class Match:
    """How far the oracle reproduces a segment in one run of a candidate, array by array in the order of computation.

    Attributes:
        count: How many arrays, in order, it reproduces; -1 if it cannot be run with the faults.
        error: The largest error of those.
        left: The error of the next; 0 if there is none.
        right: Every array that it reproduces, those behind a wrong one included.
    """

    count: int
    error: float
    left: float
    right: frozenset[str] = frozenset()


@dataclass(eq=False)
class ForwardDiagnosis(Search[str]):
    """The search for the faults of a candidate's forward pass, segment by segment.

    Attributes:
        oracle: The right network, in the candidate's precision.
        exhibits: Runs of the candidate, in one or more modes.
        fed: Whether the candidate's segments were fed the oracle's input; else only the first wrong one is explained.
        whole: Runs in which the candidate went on from its own activations, by which an explanation is confirmed.
        thorough: Whether two faults together are tried where no single one explains a segment, and the search goes on
            after a segment that none explains.
    """

    oracle: SegmentedOracle
    exhibits: Sequence[Exhibit]
    fed: bool = True
    whole: Sequence[Exhibit] = ()
    thorough: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limit = EXPLAINED[self.oracle.dtype]
        self.given_up: set[str] = set()
        self._remembered: dict[tuple[str, int], list[Match]] = {}

    @cached_property
    def segments(self) -> Sequence[str]:
        """The segments that can be explained."""
        names = segment_names(self.oracle.config)
        return names if self.fed else [name for name in names if self.first_wrong(name)[1]][:1]

    def findings(self) -> list[Finding]:
        """Return the faults of the candidate; none is a cause if with all of them a whole run of the oracle differs."""
        findings = super().findings()
        differing = self.first_differing(findings[0].segment) if self.causes else ""
        return [self.demoted(finding, differing) for finding in findings] if differing else findings

    def first_differing(self, start: str) -> str:
        """Return the first array that differs between the candidate's whole runs and the oracle's with the causes.

        Args:
            start: The first wrong segment; before it, the candidate is right.

        Returns:
            The array and its error in words; empty if nothing differs, up to a segment that no known fault explains.
        """
        order = segment_names(self.oracle.config)
        for exhibit in self.whole:
            entering = near = self._entering(exhibit, start)
            for segment in order[order.index(start) :]:
                if segment in self.given_up:
                    break
                arrays = self._run(exhibit, segment, (), entering=entering) or {}
                changed = nearby(near, self.oracle.dtype)
                others = (self._run(exhibit, segment, (), entering=changed) if changed is not None else {}) or {}
                for name in filter(exhibit.candidate.__contains__, self._names(exhibit, segment)):
                    error = self._error(arrays, exhibit, name)
                    if error > whole_limit(self.oracle.dtype, arrays.get(name), others.get(name)):
                        return f"{name} of a whole run (error {one_digit(error)})"
                entering, near = arrays.get(segment, entering), others.get(segment, near)
        return ""

    @staticmethod
    def demoted(finding: Finding, differing: str) -> Finding:
        """Take the name of a cause from a fault that explains each segment by itself, and not the whole run."""
        return replace(finding, causes=(), nearest=finding.causes[0], until=differing) if finding.causes else finding

    def first_unexplained(self) -> str | None:
        """Return the first segment with a wrong array, but for those that no known fault explains.

        A segment behind a missing one was not fed the oracle's input.
        """
        can_be_examined = (
            name for name in self.segments if name not in self.given_up and not self._follows_missing(name)
        )
        return next((name for name in can_be_examined if self.first_wrong(name)[1]), None)

    def is_missing(self, segment: str) -> bool:
        """Tell whether the candidate computes nothing of a segment."""
        return not any(name in exhibit.candidate for exhibit in self.exhibits for name in self._names(exhibit, segment))

    def _follows_missing(self, segment: str) -> bool:
        before = input_name(segment, self.oracle.config)
        return self.fed and before is not None and self.is_missing(before)

    def go_on_after(self, first: str) -> bool:
        """Go on with the other segments in a thorough search: each was fed the oracle's own input."""
        self.given_up.add(first)
        return self.thorough

    def first_wrong(self, segment: str) -> tuple[int, str]:
        """Return the number of the exhibit, counted from 0, and the array in which a segment is first wrong.

        If nothing is wrong, the number of exhibits and an empty name are returned.
        """
        for number, (exhibit, match) in enumerate(zip(self.exhibits, self.matches(segment), strict=True)):
            if match.left:
                return number, self._names(exhibit, segment)[match.count]
        return len(self.exhibits), ""

    def locate(self, first: str) -> tuple[str, str, float]:
        """Return the first wrong array of a segment, the segment, and the error of that array."""
        number, layer = self.first_wrong(first)
        return layer, first, self.matches(first)[number].left

    def rounds(self, first: str) -> Iterator[Sequence[Attempt]]:
        """Try every fault that could show first at the first wrong array, then two together.

        A parameter is estimated only if no fault without one explains the whole segment. Where one mode is right, the
        faults are tried in the other alone before two are.
        """
        if self.is_missing(first):
            return
        _, layer = self.first_wrong(first)
        every = [
            injection
            for injection in hypotheses("forward", self.oracle.config)
            if can_show_at(layer, first, injection.place)
        ]
        attempts = self.try_each(first, every)
        yield attempts
        wrong = [exhibit for exhibit, match in zip(self.exhibits, self.matches(first), strict=True) if match.left]
        if len(wrong) < len(self.exhibits):
            mode = "train" if wrong[0].train else "inference"
            yield self.try_each(first, [replace(injection, mode=mode) for injection in every])
        if self.thorough:
            yield [*self.try_pairs(first, attempts)]

    def try_each(self, first: str, every: Iterable[Injection]) -> list[Attempt]:
        """Try faults one by one; those with a parameter only if no other explains the whole segment."""
        fixed, estimated = by_parameter(every)
        attempts = [self.attempt(first, (injection,)) for injection in fixed]
        if not any(attempt.stands and not attempt.still_wrong for attempt in attempts):
            attempts += filter(None, (self.estimate(first, (injection,)) for injection in estimated))
        return attempts

    def best(self, first: str, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Select the attempts that explain the most arrays of a segment.

        Of those, attempts without an estimate are preferred, then those that explain the most arrays elsewhere.
        """
        ranked: dict[tuple[int, bool, int], list[Attempt]] = {}
        for attempt in attempts:
            if attempt.stands and (spread := self.spread(attempt, first)) is not None:
                ranked.setdefault((len(attempt.explained), not attempt.is_estimate, spread), []).append(attempt)
        best = ranked[max(ranked)] if ranked else []
        return sorted(best, key=lambda attempt: [*map(unlikelihood, attempt.faults)])

    def findings_for(self, first: str, best: Sequence[Attempt]) -> list[Finding]:
        """Make findings for faults that explain the same arrays, and say where the explanation ends."""
        return [replace(finding, until=best[0].still_wrong) for finding in super().findings_for(first, best)]

    def without_cause(self, first: str, attempts: Sequence[Attempt]) -> Finding:
        """State that no known fault explains a segment; one that would make other segments wrong is not the nearest."""
        if self.is_missing(first):
            return Finding(self.first_wrong(first)[1], first, (), inf, missing=True)
        return super().without_cause(first, [attempt for attempt in attempts if not attempt.stands])

    def try_pairs(self, segment: str, attempts: Sequence[Attempt]) -> Iterator[Attempt]:
        """Try pairs of faults, each of which changes the first wrong array and none before it.

        Two faults of the images, or of the weights, are tried in either order: scaled and then shifted is not shifted
        and then scaled. If none explains the array, a fault with a parameter is estimated beside one without, where
        both change the same thing.
        """
        fixed, estimated = self._changing(segment, attempts)
        any_stands = False
        for pair in self.in_time(combinations(fixed, 2)):
            ordered = change_alike(*(places[0].fault for places in pair))
            for first, second in [pair, pair[::-1]][: 1 + ordered]:
                if self.attempt(segment, (first[0], second[0])).stands:
                    any_stands = True
                    yield from (self.attempt(segment, both) for both in product(first, second))
        for (known, *_), (unknown, *_) in self.in_time(product(fixed, [] if any_stands else estimated)):
            if change_alike(known.fault, unknown.fault):
                orders = ((known, unknown), (unknown, known))
                yield from filter(None, (self.estimate(segment, both) for both in orders))

    def _changing(self, segment: str, attempts: Sequence[Attempt]) -> list[list[list[Injection]]]:
        """List the faults that change the first wrong array and none before it, those without a parameter first.

        Each fault is a list of its places. Where shapes differ, it cannot be seen whether a fault changes anything.
        """
        _, _, right = self.locate(segment)
        failed = [attempt for attempt in attempts if not attempt.stands and not attempt.spoils]
        changing = (a for a in failed if isinf(a.left) or not isclose(a.left, right, rel_tol=1e-9))
        split = by_parameter(attempt.faults[0] for attempt in changing)
        return [[[*places] for _, places in groupby(part, key=lambda injection: injection.fault.id)] for part in split]

    def matches(self, segment: str) -> list[Match]:
        """Return how far the oracle with the causes found so far reproduces a segment in each exhibit."""
        key = segment, len(self.causes)
        if key not in self._remembered:
            self._remembered[key] = []
            for exhibit in self.exhibits:
                expected = self._run(exhibit, segment, ()) if self.causes else exhibit.oracle
                fine = self._without_coarse(exhibit, segment, ())
                self._remembered[key].append(self._match(exhibit, segment, expected or {}, fine))
        return self._remembered[key]

    def attempt(self, segment: str, faults: Combination) -> Attempt:
        """Try faults on a segment; the attempt ends with the first exhibit in which they fail."""
        first_wrong, _ = self.first_wrong(segment)
        explained: list[str] = []
        error, still_wrong = 0.0, ""
        for number, (exhibit, right) in enumerate(zip(self.exhibits, self.matches(segment), strict=True)):
            match = self._try(exhibit, segment, faults)
            names = self._names(exhibit, segment)
            explained += names[: max(0, match.count)]
            ends_at = next(iter(names[max(0, match.count) :]), "")
            error, still_wrong = max(error, match.error), still_wrong or ends_at
            spoils = match.count < right.count or ends_at in right.right
            if spoils or (number == first_wrong and match.count == right.count):
                return Attempt(faults, False, tuple(explained), error, match.left, still_wrong, spoils)
        return Attempt(faults, True, tuple(explained), error, match.left, still_wrong)

    def _try(self, exhibit: Exhibit, segment: str, faults: Combination) -> Match:
        """Return how far the oracle with faults reproduces a segment; it is run no farther."""
        names, errors = self._names(exhibit, segment), dict[str, float]()
        fine = self._without_coarse(exhibit, segment, faults)

        def check(name: str, value: Array) -> None:
            if name in names:
                errors[name] = self._error({name: value}, exhibit, name)
                if errors[name] > limit(self.oracle.dtype, value, fine.get(name)):
                    raise Stopped

        arrays = self._run(exhibit, segment, faults, check)
        return Match(-1, inf, inf) if arrays is None else self._match(exhibit, segment, arrays, fine, errors)

    def _match(
        self,
        exhibit: Exhibit,
        segment: str,
        expected: Arrays,
        fine: Arrays,
        known: Mapping[str, float] = MappingProxyType({}),
    ) -> Match:
        """Return how far the candidate's arrays agree with the expected ones; some errors may be known already."""
        names = self._names(exhibit, segment)
        errors = {name: known[name] if name in known else self._error(expected, exhibit, name) for name in names}
        limits = {name: limit(self.oracle.dtype, expected.get(name), fine.get(name)) for name in names}
        right = [name for name in names if errors[name] <= limits[name]]
        first = next((name for name in names if name not in right), None)
        count = len(names) if first is None else names.index(first)
        largest = max((errors[name] for name in names[:count]), default=0.0)
        return Match(count, largest, 0.0 if first is None else errors[first], frozenset(right))

    def _without_coarse(self, exhibit: Exhibit, segment: str, faults: Combination) -> Arrays:
        """Run a segment with the causes found so far and faults but for coarse ones; empty if none is coarse."""
        if not any(map(is_coarse, [*self.causes, *faults])):
            return {}
        return self._run(exhibit, segment, faults, coarse=False) or {}

    def spread(self, attempt: Attempt, segment: str) -> int | None:
        """Count the arrays of other segments that faults explain; None if they would make a right one wrong.

        A fault of a layer or block reaches other segments only where it moves arrays between them.
        """
        explained = 0
        for other in self.segments if self.fed and any(map(is_wide, attempt.faults)) else []:
            if other != segment:
                elsewhere = self.attempt(other, attempt.faults)
                if elsewhere.spoils:
                    return None
                right = sum(match.count for match in self.matches(other))
                explained += len(elsewhere.explained) - right if elsewhere.stands else 0
        return explained

    def estimate(self, segment: str, faults: Combination) -> Attempt | None:
        """Try faults on a segment with the value of their parameter that explains its first wrong array best."""
        number, layer = self.first_wrong(segment)
        exhibit = self.exhibits[number]

        def until_layer(name: str, value: Array) -> None:
            if name == layer:
                raise Stopped

        def residual(faults: Combination) -> Array | None:
            arrays = self._run(exhibit, segment, faults, until_layer) or {}
            return subtract(arrays.get(layer), exhibit.candidate.get(layer))

        best: Attempt | None = None
        for valued in estimates(faults, residual):
            attempt = self.attempt(segment, valued)
            if best is None or (attempt.stands, -attempt.left) > (best.stands, -best.left):
                best = attempt
            if best.stands:
                break
        return best

    def _names(self, exhibit: Exhibit, segment: str) -> list[str]:
        names = promised_names(segment, self.oracle.config, exhibit.train)
        return [name for name in names if name not in exhibit.hidden]

    def _entering(self, exhibit: Exhibit, segment: str) -> Array:
        """The oracle's own activation that enters a segment."""
        source = input_name(segment, self.oracle.config)
        return exhibit.images if source is None else exhibit.oracle[source]

    def _run(
        self,
        exhibit: Exhibit,
        segment: str,
        faults: Combination,
        watch: Watch | None = None,
        entering: Array | None = None,
        coarse: bool = True,
    ) -> Arrays | None:
        """Run a segment with the causes found so far and further faults; None if they cannot be there."""
        if entering is None:
            entering = self._entering(exhibit, segment)
        injections = [each for each in [*self.causes, *faults] if coarse or not is_coarse(each)]
        try:
            with np.errstate(all="ignore"):
                return self.oracle.run(segment, entering, exhibit.train, injections, watch)
        except (*IMPOSSIBLE, AttributeError):  # a layer is missing where another text looks for it
            return None

    def _error(self, expected: Arrays, exhibit: Exhibit, name: str) -> float:
        """Return the error of the candidate's array; zero for an array that neither side has."""
        if name not in expected or name not in exhibit.candidate:
            return inf if (name in expected) != (name in exhibit.candidate) else 0.0
        return distance(expected[name], exhibit.candidate[name])


def can_show_at(layer: str, segment: str, place: Place) -> bool:
    """Tell whether a fault at a place can show first at a layer of a segment.

    A fault of a convolution or norm shows in its output, in its running statistics, or not before the segment's output.
    """
    layer = layer.removesuffix(".running_mean").removesuffix(".running_var")
    if place.scope == "network":
        return True
    if place.scope in ("input", "stem", "head", "block"):
        return segment == {"input": "stem", "block": place.name}.get(place.scope, place.scope)
    return segment_of(place.name) == segment and layer in (place.name, segment, "stem", "logits")


def unlikelihood(injection: Injection) -> tuple[bool, int, bool]:
    """Rank faults without a parameter before others, then by the catalogue, a single place before the whole network."""
    fault, scope = injection.fault, injection.place.scope
    return fault.parameter is not None, list(FAULTS).index(fault.id), scope == "network"


def change_alike(first: Fault, second: Fault) -> bool:
    """Tell whether two faults change the same thing, images or weights, so that their order counts."""
    return bool((first.images and second.images) or (first.weights and second.weights))


def is_wide(injection: Injection) -> bool:
    """Tell whether a fault can reach several segments."""
    return injection.place.scope == "network" or bool(injection.place.following and injection.fault.weights)
