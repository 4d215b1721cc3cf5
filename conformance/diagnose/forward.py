"""Diagnosis: which known fault makes the oracle compute what a port computed.

A port that was fed the oracle's own input, piece by piece, errs in each piece by that piece's own fault. Every fault
of the catalogue that can be there is put into the oracle's piece; in float64 the right one reproduces the port's
numbers to rounding, and no other one does. Faults that do so equally, everywhere, cannot be told apart and are named
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, product
from math import exp, inf, isclose, isinf, log
from typing import Any

import numpy as np

from conformance.cases.segments import input_name, promised_names, segment_names, segment_of
from conformance.faults import FAULTS, Fault, Injection, Parameter
from conformance.oracle.forward import SegmentedOracle, Stopped

Array = np.ndarray

EXPLAINED = {"float64": 1e-11, "float32": 5e-5}
"""Largest relative L2 error of an explanation. In float64 right ones leave up to 1e-15 of activations and statistics,
and the least fault of the catalogue (eps 1.001e-5) changes them by 1e-9. In float32 a right explanation of TF32 was
seen to leave more than 5e-6, since TF32 rounds what differs in the last bit to one side or the other; its effect is
above 5e-5. What errs by less is not to be explained: any fault without effect would explain it."""

NEARER = 0.99
"""Share of what the right network leaves, at most, that a fault which comes nearer leaves; more is rounding."""

MOST_FAULTS = 4
"""Faults looked for in one port, one after the other."""

STEPS = 12
"""Of Newton's method for a continuous parameter; it squares the error at each."""

PATIENCE = 3
"""Steps in which Newton's method must halve the residual at least once, or be given up."""


@dataclass(frozen=True, eq=False)
class Exhibit:
    """What a port computed in one case, piece by piece, each fed the oracle's own input.

    Attributes:
        train: Whether norms used batch statistics.
        images: The input, NCHW.
        truth: The oracle's activations, of every layer, and statistics after a train-mode run.
        port: The port's.
    """

    train: bool
    images: Array
    truth: Mapping[str, Array]
    port: Mapping[str, Array]


@dataclass(frozen=True)
class Finding:
    """One fault found, or the admission that none is known.

    Attributes:
        layer: The first wrong array of the piece.
        segment: The piece: "stem", a block, "head".
        causes: The faults that explain it, the likeliest first; empty if none does. More than one cannot be told apart.
        error: How nearly the first cause explains all it touches, as a relative L2 error; without a cause, how nearly
            the nearest fault does.
        nearest: Without a cause: the fault that comes nearest, if any comes nearer than the right network.
        beside: Other faults of the same array, with which together the first cause explains it.
        until: The array of the piece at which the explanation ends and another fault begins; empty if none does.
    """

    layer: str
    segment: str
    causes: tuple[Injection, ...]
    error: float
    nearest: Injection | None = None
    beside: tuple[Injection, ...] = ()
    until: str = ""

    def __str__(self) -> str:
        if not self.causes:
            near = f"; nearest: {told(self.nearest)}, which leaves {self.error:.0e}" if self.nearest else ""
            return f"no known fault explains {self.layer}{near}"
        first, *others = map(told, self.causes)
        alike = f" (not to be told apart here: {', '.join(others)})" if others else ""
        beside = f" together with {' and '.join(map(str, self.beside))}" if self.beside else ""
        until = f", up to {self.until}, where another begins" if self.until else ""
        return f"as if {first}: explains the port to {self.nearness}{beside}{until}{alike}"

    @property
    def nearness(self) -> str:
        """How nearly the first cause explains all it touches, in words."""
        return f"{self.error:.0e}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "layer": self.layer,
            "segment": self.segment,
            "causes": [cause_facts(cause) for cause in self.causes],
            "beside": [cause_facts(other) for other in self.beside],
            "until": self.until or None,
            "explained_to": self.error if np.isfinite(self.error) else None,
            "nearest": cause_facts(self.nearest) if self.nearest else None,
            "text": str(self),
        }


Together = tuple[Injection, ...]
"""One fault, or two that are there together; if one is estimated, the last."""


def told_together(layer: str, segment: str, best: Sequence[Together], error: float, until: str = "") -> list[Finding]:
    """A finding for each of the faults that explain an array together; what would do in one's stead is not told apart.

    Args:
        layer: The first wrong array.
        segment: Its piece.
        best: The faults, and others that explain as much.
        error: How nearly the first explain all that they touch.
        until: Where the explanation ends.
    """
    found = []
    for cause in best[0]:
        beside = tuple(other for other in best[0] if other is not cause)
        rest = set(map(str, beside))
        alike: dict[str, Injection] = {}
        for others in best:
            for one in others:
                if {*map(str, others)} - {str(one)} == rest:
                    alike.setdefault(str(one), one)
        found.append(Finding(layer, segment, tuple(alike.values()), error, beside=beside, until=until))
    return found


def told(injection: Injection) -> str:
    """A fault at a place in words, with what is known of its parameter.

    Example:
        >>> from conformance.faults import find_fault
        >>> from impls.config import ResNetConfig
        >>> fault = find_fault("eps-other")
        >>> told(Injection(fault, fault.places(ResNetConfig())[1], 0.00123))
        'eps-other at bn1 (eps has an unusual value; eps = 0.00123)'
    """
    parameter = injection.fault.parameter
    value = f"; {parameter.name} = {injection.parameter:.6g}" if parameter else ""
    return f"{injection} ({injection.fault.what}{value})"


def cause_facts(injection: Injection) -> dict[str, Any]:
    """A cause as JSON values."""
    fault = injection.fault
    return {
        "fault": fault.id,
        "place": injection.place.name,
        "what": fault.what,
        "parameter": {fault.parameter.name: injection.parameter} if fault.parameter else {},
        "source": fault.source,
        "remedies": vars(fault.remedies),
    }


def distance(reference: Array, other: Array, scale: Array | None = None) -> float:
    """L2 distance relative to the reference, or to a scale; infinite where shapes or places of NaN and infinity differ.

    Example:
        >>> distance(np.array([3.0, 4.0]), np.array([3.0, 4.5])), distance(np.zeros(2), np.zeros(3))
        (0.1, inf)
    """
    if reference.shape != other.shape:
        return inf
    wide = [array.astype(np.float64, copy=False) for array in (reference, other)]
    finite = np.isfinite(wide[0])
    if not finite.all() or not np.isfinite(wide[1]).all():
        if (finite != np.isfinite(wide[1])).any():
            return inf
        wide = [array[finite] for array in wide]
    norm = float(np.linalg.norm((wide[0] if scale is None else scale).ravel()))
    apart = float(np.linalg.norm((wide[1] - wide[0]).ravel()))
    return apart / norm if norm else (inf if apart else 0.0)


def newton(residual: Callable[[float], Array | None], parameter: Parameter, start: float) -> float | None:
    """Where a residual is least, by Newton's method on its norm: of the right fault it vanishes at the right value.

    Args:
        residual: Of a value of the parameter; None where the value is impossible.
        parameter: Positive ones are searched on a logarithmic scale.
        start: Where to begin.

    Returns:
        Where the method ends, or gains nothing in a few steps; None if it leaves the numbers that can be.

    Example:
        >>> factor = Parameter("factor", 1.0, (2.0,))
        >>> round(newton(lambda value: np.array([value**2 - 9.0]), factor, start=2.0), 12)
        3.0
    """
    to, back = (log, exp) if parameter.positive else (float, float)
    at, step, sizes = to(start), 1e-4, []
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
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
            if abs(move) < 1e-14 * max(1.0, abs(at)):
                break
            step = max(1e-7, min(1e-4, abs(move)))
    return back(at)


@dataclass(frozen=True)
class Match:
    """How far a piece of the oracle goes along with a port's.

    Attributes:
        count: How many of the piece's arrays, in order, are the port's; -1 where the piece cannot be run.
        error: The largest error among those.
        left: The error of the next; 0 where there is none.
    """

    count: int
    error: float
    left: float


@dataclass(frozen=True)
class Attempt:
    """Faults tried on a piece.

    Attributes:
        injections: Which, where: one, or two.
        matches: In each exhibit, up to the first in which they fail.
        stands: Whether they explain the first wrong array, and make no right one before it wrong.
    """

    injections: Together
    matches: tuple[Match, ...]
    stands: bool

    @property
    def count(self) -> int:
        """How many arrays are the port's with them."""
        return sum(match.count for match in self.matches)

    @property
    def error(self) -> float:
        """How nearly."""
        return max(match.error for match in self.matches)

    @property
    def is_known(self) -> bool:
        """Whether no parameter of them is an estimate."""
        return all(injection.fault.parameter is None for injection in self.injections)


@dataclass(eq=False)
class Diagnosis:
    """One port under examination.

    Attributes:
        oracle: The right network, in the port's precision.
        exhibits: What the port computed, in one or more modes.
        faults: The catalogue's of the forward pass.
        fed: Whether the port's pieces were fed the oracle's input; if not, only the first wrong one can be judged.
    """

    oracle: SegmentedOracle
    exhibits: Sequence[Exhibit]
    faults: Sequence[Fault] = field(default_factory=lambda: [f for f in FAULTS.values() if f.task == "forward"])
    fed: bool = True

    def __post_init__(self) -> None:
        self.limit = EXPLAINED[self.oracle.dtype]
        self.known: list[Injection] = []
        self.remembered: dict[tuple[str, int], tuple[Match, ...]] = {}

    @cached_property
    def segments(self) -> list[str]:
        """The pieces of the network that can be judged."""
        names = segment_names(self.oracle.config)
        return names if self.fed else [name for name in names if self.first_wrong(name)][:1]

    def findings(self) -> Iterator[Finding]:
        """The faults of the port, one after the other, each at the array that is first unexplained by those before."""
        hopeless: set[str] = set()
        for _ in range(MOST_FAULTS):
            wrong = [segment for segment in self.segments if segment not in hopeless and self.first_wrong(segment)]
            if not wrong:
                return
            findings = self.explain(wrong[0])
            yield from findings
            self.known += [cause for finding in findings for cause in finding.causes[:1]]
            if not findings[0].causes:
                hopeless.add(wrong[0])

    def first_wrong(self, segment: str) -> str | None:
        """The first array of a piece that the oracle, with the faults known by now, does not explain."""
        return self._next(segment, self.right(segment))

    def explain(self, segment: str) -> list[Finding]:
        """The fault that explains the first wrong array of a piece, and the most of those behind it; or two together.

        A parameter is estimated only where no known value explains the whole piece, and two faults are tried together
        only where none explains the array alone.
        """
        layer = self.first_wrong(segment) or segment
        attempts = [self.attempt(segment, (injection,)) for injection in self.hypotheses(segment, layer)]
        if not any(attempt.stands and self._next(segment, attempt.matches) is None for attempt in attempts):
            estimates = [self.estimate(segment, injection) for injection in self.continuous(segment, layer)]
            attempts += [estimate for estimate in estimates if estimate is not None]
        best = self.best(segment, attempts) or self.best(segment, self.pairs(segment, attempts))
        if not best:
            return [self._unexplained(segment, layer, attempts)]
        until = self._next(segment, best[0].matches) or ""
        return told_together(layer, segment, [attempt.injections for attempt in best], best[0].error, until)

    def best(self, segment: str, attempts: Iterable[Attempt]) -> list[Attempt]:
        """Those that explain the most of the piece, with known values if they can, and the most of the other pieces."""
        spreads = [(self.spread(attempt, segment), attempt) for attempt in attempts if attempt.stands]
        ranked = [((one.count, one.is_known, spread), one) for spread, one in spreads if spread is not None]
        highest = max((rank for rank, _ in ranked), default=None)
        best = [attempt for rank, attempt in ranked if rank == highest]
        return sorted(best, key=lambda attempt: [self._likelihood(injection) for injection in attempt.injections])

    def hypotheses(self, segment: str, layer: str) -> Iterator[Injection]:
        """Every fault without a free parameter that could show first at that layer."""
        for fault in self.faults:
            if fault.parameter is None:
                yield from (Injection(fault, place) for place in self._places(fault, segment, layer))

    def continuous(self, segment: str, layer: str) -> Iterator[Injection]:
        """Every fault with a parameter that could show first at that layer."""
        for fault in self.faults:
            if fault.parameter is not None:
                yield from (Injection(fault, place) for place in self._places(fault, segment, layer))

    def _places(self, fault: Fault, segment: str, layer: str) -> Iterator[Any]:
        layer = layer.removesuffix(".running_mean").removesuffix(".running_var")
        for place in fault.places(self.oracle.config):
            own = {"input": segment == "stem", "network": True, "block": place.name == segment}
            own |= {"stem": segment == "stem", "head": segment == "head"}
            if own.get(place.scope, self._touches(place.name, layer, segment)):
                yield place

    def _touches(self, place: str, layer: str, segment: str) -> bool:
        """Whether a layer's fault can show first there: at the layer, or where it shows through the next one."""
        return segment_of(place) == segment and (place == layer or layer == segment or layer in ("stem", "logits"))

    def pairs(self, segment: str, attempts: Sequence[Attempt]) -> Iterator[Attempt]:
        """Two faults together, of those that each change the first wrong array and none before it.

        Two of the images, or of the weights, in either order: scaled and then shifted is not shifted and then scaled.
        Where none do, one of the same thing is estimated beside one that is known.
        """
        known, estimated = self._changing(segment, attempts)
        stand = False
        for one, other in combinations(known, 2):
            ordered = changes_alike(one[0].fault, other[0].fault)
            for first, second in [(one, other), (other, one)][: 1 + ordered]:
                if self.attempt(segment, (first[0], second[0])).stands:
                    stand = True
                    yield from (self.attempt(segment, both) for both in product(first, second))
        for one, other in product(known, [] if stand else estimated):
            if changes_alike(one[0].fault, other[0].fault):
                for before, after in ((one[:1], []), ([], one[:1])):
                    attempt = self.estimate(segment, other[0], before, after)
                    yield from [attempt] if attempt else []

    def _changing(self, segment: str, attempts: Sequence[Attempt]) -> tuple[list[list[Injection]], ...]:
        """The faults that change the first wrong array and none before it, those that need no estimate first.

        Each is a list of its places. Where the shapes differ, it cannot be seen whether a fault changes anything.
        """
        at = self._evidence(segment)
        right = self.right(segment)[at]
        found: tuple[dict[str, list[Injection]], dict[str, list[Injection]]] = ({}, {})
        for attempt in attempts:
            match = attempt.matches[at] if len(attempt.matches) > at else None
            if match is None or match.count != right.count:
                continue
            if isinf(match.left) or not isclose(match.left, right.left, rel_tol=1e-9):
                (injection,) = attempt.injections
                found[not attempt.is_known].setdefault(injection.fault.id, []).append(injection)
        return tuple(list(faults.values()) for faults in found)

    def right(self, segment: str) -> tuple[Match, ...]:
        """How far the oracle, with the faults known by now, goes along with the port in each exhibit."""
        key = segment, len(self.known)
        if key not in self.remembered:
            matches = []
            for exhibit in self.exhibits:
                expected = self._expected(exhibit, segment)
                errors = (self._apart(expected, exhibit, name) for name in self._names(exhibit, segment))
                matches.append(matched(errors, self.limit))
            self.remembered[key] = tuple(matches)
        return self.remembered[key]

    def attempt(self, segment: str, injections: Together) -> Attempt:
        """What faults explain of a piece; cut short in the first exhibit in which they fail."""
        matches: list[Match] = []
        for number, (exhibit, right) in enumerate(zip(self.exhibits, self.right(segment), strict=True)):
            matches.append(self._match(exhibit, segment, injections))
            if matches[-1].count < right.count + (number == self._evidence(segment)):
                return Attempt(injections, tuple(matches), stands=False)
        return Attempt(injections, tuple(matches), stands=True)

    def _match(self, exhibit: Exhibit, segment: str, injections: Sequence[Injection]) -> Match:
        """How far the oracle with faults goes along with the port; it is run no farther."""
        names = self._names(exhibit, segment)
        errors: dict[str, float] = {}

        def check(name: str, value: Array) -> None:
            if name in names:
                errors[name] = self._apart({name: value}, exhibit, name)
                if errors[name] > self.limit:
                    raise Stopped

        try:
            found = self._run(exhibit, segment, [*self.known, *injections], check)
        except (ValueError, IndexError, AttributeError):  # pieces that do not fit: these faults cannot be here
            return Match(-1, inf, inf)
        return matched(
            (errors[name] if name in errors else self._apart(found, exhibit, name) for name in names), self.limit
        )

    def spread(self, attempt: Attempt, segment: str) -> int | None:
        """How many arrays of other pieces faults explain; None if they would make a right one wrong.

        A fault of a layer or block reaches others only where it moves arrays between them.
        """
        wide = self.fed and any(map(is_wide, attempt.injections))
        explained = 0
        for other in self.segments if wide else []:
            if other != segment:
                right, tried = self.right(other), self.attempt(other, attempt.injections)
                if any(new.count < old.count for new, old in zip(tried.matches, right, strict=False)):
                    return None
                explained += tried.count - sum(match.count for match in right) if tried.stands else 0
        return explained

    def estimate(
        self, segment: str, injection: Injection, before: Sequence[Injection] = (), after: Sequence[Injection] = ()
    ) -> Attempt | None:
        """The value of a fault's parameter that explains a piece best, and how well: Newton's method on the residual.

        The residual of the right fault, beside the others, vanishes at the right value, so each step squares the error.
        """
        parameter, layer = injection.fault.parameter, self.first_wrong(segment)
        assert parameter is not None
        assert layer is not None
        exhibit = self.exhibits[self._evidence(segment)]

        def residual(value: float) -> Array | None:
            return self._residual(exhibit, segment, layer, (*before, replace(injection, value=value), *after))

        best: Attempt | None = None
        for start in parameter.starts:
            value = newton(residual, parameter, start)
            if value is None:
                continue
            found = self.attempt(segment, (*before, replace(injection, value=value), *after))
            if best is None or (found.stands, -found.matches[-1].left) > (best.stands, -best.matches[-1].left):
                best = found
            if best.stands:
                break
        return best

    def _evidence(self, segment: str) -> int:
        """The first exhibit in which a piece is wrong, counted from 0; the number of exhibits if none is."""
        pairs = enumerate(zip(self.exhibits, self.right(segment), strict=True))
        wrong = (number for number, (exhibit, match) in pairs if match.count < len(self._names(exhibit, segment)))
        return next(wrong, len(self.exhibits))

    def _next(self, segment: str, matches: Sequence[Match]) -> str | None:
        """The first array behind those that are explained."""
        for exhibit, match in zip(self.exhibits, matches, strict=False):
            names = self._names(exhibit, segment)
            if match.count < len(names):
                return names[match.count]
        return None

    def _residual(self, exhibit: Exhibit, segment: str, layer: str, injections: Together) -> Array | None:
        """The oracle's array with faults less the port's; None where there is none to compare."""

        def until_layer(name: str, value: Array) -> None:
            if name == layer:
                raise Stopped

        try:
            found = self._run(exhibit, segment, [*self.known, *injections], until_layer)
        except (ValueError, IndexError, AttributeError):
            return None
        if layer not in found or layer not in exhibit.port:
            return None
        port = exhibit.port[layer]
        if found[layer].shape != port.shape:
            return None
        difference: Array = np.subtract(found[layer], port, dtype=np.float64)
        return difference.ravel()

    def _unexplained(self, segment: str, layer: str, attempts: Sequence[Attempt]) -> Finding:
        """No fault fits: the one that leaves the least of the first wrong layer, if it leaves less than there was."""
        at = self._evidence(segment)
        right = self.right(segment)[at]
        left, nearest = right.left, None
        for attempt in attempts:
            match = attempt.matches[at] if len(attempt.matches) > at else None
            if match and match.count == right.count and match.left < (left if nearest else NEARER * left):
                left, nearest = match.left, attempt.injections[0]
        return Finding(layer, segment, (), left, nearest)

    def _likelihood(self, injection: Injection) -> tuple[bool, int, bool]:
        """Known values before estimated ones, then the catalogue's order, a single place before the whole network."""
        ids = [fault.id for fault in self.faults]
        return injection.fault.parameter is not None, ids.index(injection.fault.id), injection.place.scope == "network"

    def _names(self, exhibit: Exhibit, segment: str) -> list[str]:
        return promised_names(segment, self.oracle.config, exhibit.train)

    def _expected(self, exhibit: Exhibit, segment: str) -> Mapping[str, Array]:
        """What the oracle computes with the faults known by now."""
        if not self.known:
            return exhibit.truth
        return self._run(exhibit, segment, self.known)

    def _run(
        self, exhibit: Exhibit, segment: str, injections: Sequence[Injection], tap: Any = lambda name, value: None
    ) -> Mapping[str, Array]:
        source = input_name(segment, self.oracle.config)
        entering = exhibit.images if source is None else exhibit.truth[source]
        with np.errstate(all="ignore"):
            return self.oracle.run(segment, entering, exhibit.train, injections, tap)

    def _apart(self, expected: Mapping[str, Array], exhibit: Exhibit, name: str) -> float:
        """How far the port's array is; an array that neither has is no difference."""
        if name not in expected or name not in exhibit.port:
            return inf if (name in expected) != (name in exhibit.port) else 0.0
        return distance(expected[name], exhibit.port[name])


def matched(errors: Iterable[float], limit: float) -> Match:
    """How many errors, in order, are within a limit.

    Example:
        >>> matched([1e-15, 2e-15, 0.5, 0.0], limit=1e-11)
        Match(count=2, error=2e-15, left=0.5)
    """
    count, largest = 0, 0.0
    for error in errors:
        if error > limit:
            return Match(count, largest, error)
        count, largest = count + 1, max(largest, error)
    return Match(count, largest, 0.0)


def changes_alike(one: Fault, other: Fault) -> bool:
    """Whether two faults change the same thing, so that their order counts: both the images, or both the weights."""
    return bool((one.images and other.images) or (one.weights and other.weights))


def is_wide(injection: Injection) -> bool:
    """Whether a fault can reach several pieces."""
    return injection.place.scope == "network" or bool(injection.place.following and injection.fault.weights)
