"""Diagnosis: which known fault makes the oracle compute what a port computed.

A port that was fed the oracle's own input, piece by piece, errs in each piece by that piece's own fault. Every fault
of the catalogue that can be there is put into the oracle's piece; in float64 the right one reproduces the port's
numbers to rounding, and no other one does. Faults that do so equally, everywhere, cannot be told apart and are named
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import exp, inf, log
from typing import Any

import numpy as np

from conformance.faults import FAULTS, Fault, Injection
from conformance.faults.fault import Parameter
from conformance.segments import PiecewiseOracle, Stopped, input_name, promised_names, segment_names, segment_of

Array = np.ndarray

EXPLAINED = {"float64": 1e-11, "float32": 5e-5}
"""Largest relative L2 error of an explanation. In float64 right ones leave up to 1e-15 of activations and statistics,
and the least fault of the catalogue (eps 1.001e-5) changes them by 1e-9. In float32 a right explanation of TF32 was
seen to leave more than 5e-6, since TF32 rounds what differs in the last bit to one side or the other; its effect is
above 5e-5."""

DIVERGES = {"float64": 1e-12, "float32": 5e-5}
"""From what error on a piece is to be explained: the limit of activations; in float32 what an explanation may leave."""

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
        beside: The other faults together with which the first cause explains the port.
    """

    layer: str
    segment: str
    causes: tuple[Injection, ...]
    error: float
    nearest: Injection | None = None
    beside: tuple[Injection, ...] = ()

    def __str__(self) -> str:
        if not self.causes:
            near = f"; nearest: {told(self.nearest)}, which leaves {self.error:.0e}" if self.nearest else ""
            return f"no known fault explains {self.layer}{near}"
        first, *others = map(told, self.causes)
        alike = f" (not to be told apart here: {', '.join(others)})" if others else ""
        beside = f" together with {' and '.join(map(str, self.beside))}" if self.beside else ""
        return f"as if {first}: explains the port to {self.error:.0e}{beside}{alike}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "layer": self.layer,
            "segment": self.segment,
            "causes": [cause_facts(cause) for cause in self.causes],
            "beside": [cause_facts(cause) for cause in self.beside],
            "explained_to": self.error if np.isfinite(self.error) else None,
            "nearest": cause_facts(self.nearest) if self.nearest else None,
            "text": str(self),
        }


def told(injection: Injection) -> str:
    """A fault at a place in words, with what is known of its parameter.

    Example:
        >>> from conformance.faults import find_fault
        >>> from impls.config import ResNetConfig
        >>> fault = find_fault("eps-other")
        >>> told(Injection(fault, fault.places(ResNetConfig())[1], 0.00123))
        'eps-other at bn1 (an eps that is no known one; eps = 0.00123)'
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


@dataclass(eq=False)
class Diagnosis:
    """One port under examination.

    Attributes:
        oracle: The right network, in the port's precision.
        exhibits: What the port computed, in one or more modes.
        faults: The catalogue's of the forward pass.
        fed: Whether the port's pieces were fed the oracle's input; if not, only the first wrong one can be judged.
    """

    oracle: PiecewiseOracle
    exhibits: Sequence[Exhibit]
    faults: Sequence[Fault] = field(default_factory=lambda: [f for f in FAULTS.values() if f.task == "forward"])
    fed: bool = True

    def __post_init__(self) -> None:
        self.limit, self.diverges = EXPLAINED[self.oracle.dtype], DIVERGES[self.oracle.dtype]
        self.known: list[Injection] = []

    @cached_property
    def segments(self) -> list[str]:
        """The pieces of the network."""
        return segment_names(self.oracle.config)

    def findings(self) -> Iterator[Finding]:
        """The faults of the port, one after the other, each in the piece that is first unexplained by those before."""
        hopeless: set[str] = set()
        for _ in range(MOST_FAULTS if self.fed else 1):
            wrong = [segment for segment in self.segments if segment not in hopeless and self.first_wrong(segment)]
            if not wrong:
                return
            finding = self.explain(wrong[0], wrong)
            yield finding
            if finding.causes:
                self.known.append(finding.causes[0])
            if not finding.causes or self.first_wrong(wrong[0]):
                hopeless.add(wrong[0])

    def first_wrong(self, segment: str) -> str | None:
        """The first array of a piece that the oracle, with the faults known by now, does not explain."""
        for exhibit in self.exhibits:
            expected = self._expected(exhibit, segment)
            for name in self._names(exhibit, segment):
                if self._apart(expected, exhibit, name) > self.diverges:
                    return name
        return None

    def explain(self, segment: str, wrong: Sequence[str]) -> Finding:
        """The fault that explains a piece, and the most of the other wrong ones, without spoiling a right one."""
        layer = self.first_wrong(segment) or segment
        scores = [(self.score(segment, injection), injection) for injection in self.hypotheses(segment, layer)]
        fitting = [injection for score, injection in scores if score <= self.limit]
        if not fitting:
            estimates = [self.estimate(segment, fault) for fault in self.continuous(segment, layer)]
            scores += [estimate for estimate in estimates if estimate is not None]
            fitting = [injection for score, injection in scores if score <= self.limit]
        tally = [(self.reach(injection, segment, wrong), injection) for injection in fitting]
        most = max((reach for reach, _ in tally if reach is not None), default=None)
        if most is None:
            return self._unexplained(segment, layer, scores)
        causes = sorted((injection for reach, injection in tally if reach == most), key=self._likelihood)
        return Finding(layer, segment, tuple(causes), self.score(segment, causes[0]))

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

    def score(self, segment: str, injection: Injection) -> float:
        """How nearly a fault explains a piece, in all modes: the worst error of its arrays; cut short at the first."""
        worst = 0.0
        for exhibit in self.exhibits:
            worst = max(worst, self._score_one(exhibit, segment, injection))
            if worst > self.limit:
                return worst
        return worst

    def _score_one(self, exhibit: Exhibit, segment: str, injection: Injection) -> float:
        errors: dict[str, float] = {}
        names = set(self._names(exhibit, segment))

        def check(name: str, value: Array) -> None:
            if name in names:
                errors[name] = distance(exhibit.port[name], value) if name in exhibit.port else inf
                if errors[name] > self.limit:
                    raise Stopped

        try:
            found = self._run(exhibit, segment, [*self.known, injection], check)
        except (ValueError, IndexError, AttributeError):  # pieces that do not fit: this fault cannot be here
            return inf
        if errors and max(errors.values()) > self.limit:
            return max(errors.values())
        rest = names - errors.keys()
        return max([*errors.values(), *(self._apart(found, exhibit, name) for name in rest)], default=0.0)

    def reach(self, injection: Injection, segment: str, wrong: Sequence[str]) -> int | None:
        """How many of the wrong pieces a fault explains; None if it would make a right piece wrong.

        A fault of a layer or block reaches others only where it moves arrays between them.
        """
        others = [name for name in self.segments if name != segment] if self.fed and self._is_wide(injection) else []
        explained = 1
        for other in others:
            if self.score(other, injection) <= self.limit:
                explained += other in wrong
            elif other not in wrong:
                return None
        return explained

    def _is_wide(self, injection: Injection) -> bool:
        return injection.place.scope == "network" or bool(injection.place.following and injection.fault.weights)

    def estimate(self, segment: str, injection: Injection) -> tuple[float, Injection] | None:
        """The value of a fault's parameter that explains a piece best, and how well: Newton's method on the residual.

        The residual of the right fault vanishes at the right value, so each step squares the error.
        """
        parameter = injection.fault.parameter
        assert parameter is not None
        exhibit, layer = self._evidence(segment)
        best: tuple[float, Injection] | None = None
        for start in parameter.starts:
            value = newton(
                lambda value: self._residual(exhibit, segment, layer, replace(injection, value=value)), parameter, start
            )
            if value is None:
                continue
            found = replace(injection, value=value)
            score = self.score(segment, found)
            best = (score, found) if best is None or score < best[0] else best
            if best[0] <= self.limit:
                break
        return best

    def _evidence(self, segment: str) -> tuple[Exhibit, str]:
        """The first mode in which a piece is wrong, and its first wrong array."""
        for exhibit in self.exhibits:
            expected = self._expected(exhibit, segment)
            for name in self._names(exhibit, segment):
                if self._apart(expected, exhibit, name) > self.diverges:
                    return exhibit, name
        raise ValueError(f"{segment} is not wrong")

    def _residual(self, exhibit: Exhibit, segment: str, layer: str, injection: Injection) -> Array | None:
        """The oracle's array with the fault less the port's; None where there is none to compare."""

        def until_layer(name: str, value: Array) -> None:
            if name == layer:
                raise Stopped

        try:
            found = self._run(exhibit, segment, [*self.known, injection], until_layer)
        except (ValueError, IndexError, AttributeError):
            return None
        if layer not in found or layer not in exhibit.port:
            return None
        port = exhibit.port[layer]
        if found[layer].shape != port.shape:
            return None
        difference: Array = np.subtract(found[layer], port, dtype=np.float64)
        return difference.ravel()

    def _unexplained(self, segment: str, layer: str, scores: Sequence[tuple[float, Injection]]) -> Finding:
        """No fault fits: the one that leaves the least of the first wrong layer, if it leaves less than there was."""
        exhibit = next(e for e in self.exhibits if self._apart(self._expected(e, segment), e, layer) > self.diverges)
        left = self._apart(self._expected(exhibit, segment), exhibit, layer)
        nearest = None
        for _, injection in scores:
            try:
                found = self._run(exhibit, segment, [*self.known, injection])
            except (ValueError, IndexError, AttributeError):
                continue
            if layer in found and self._apart(found, exhibit, layer) < left:
                left, nearest = self._apart(found, exhibit, layer), injection
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
