"""The result of a diagnosis: a fault that explains a divergence, or the statement that none is known, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.faults import Injection

Combination = tuple[Injection, ...]
"""One fault, or two that are there together; at most one of them has a parameter to estimate."""


@dataclass(frozen=True)
class Finding:
    """A fault that explains a divergence, or the statement that no known fault does.

    Attributes:
        layer: The first wrong array of the segment.
        segment: "stem", a block or "head"; of training steps, the recipe.
        causes: The faults that explain it, the likeliest first; empty if none does. Several cannot be told apart.
        error: Largest relative L2 error of what the first cause explains; without a cause, the error that the nearest
            fault leaves of `layer`.
        nearest: Without a cause: the fault that leaves less of `layer` than the right oracle does, if there is one.
        beside: Other faults of the same array, with which together the first cause explains it.
        until: The array at which the explanation ends; without a cause, what `nearest` fails to explain though it
            explains `layer`. Empty if there is none.
        unit: What the error counts, if it is no relative L2 error.
        missing: Whether the candidate computes nothing of the segment.
        unexamined: Whether no fault was tried, because enough has been found before.
        remark: Clause that follows the cause.
        cut_short: Whether not every two faults were tried together, because it took too long.
    """

    layer: str
    segment: str
    causes: tuple[Injection, ...]
    error: float
    nearest: Injection | None = None
    beside: Combination = ()
    until: str = ""
    unit: str = ""
    remark: str = ""
    missing: bool = False
    unexamined: bool = False
    cut_short: bool = False

    def __str__(self) -> str:
        if not self.causes:
            return self._without_cause()
        first, *others = map(describe, self.causes)
        beside = "".join(f" together with {quote(injection)}" for injection in self.beside)
        bugs = "these bugs" if self.beside else "this bug"
        until = f", which explains everything up to {self.until}; another bug begins there" if self.until else ""
        alike = f"; or, not distinguishable here: {', '.join(others)}" if others else ""
        return f"likely cause: {first}{beside}; with {bugs} {self.reproduction}{until}{self.remark}{alike}"

    def _without_cause(self) -> str:
        if self.missing:
            return f"{self.segment} is missing: your model computes none of its activations"
        if self.unexamined:
            return f"{self.layer} is wrong, too, and was not examined: mend what was found before, and run again"
        if self.nearest is None:
            together = " (two faults together were tried in part, for lack of time)" if self.cut_short else ""
            return f"no known fault explains {self.layer}{together}"
        nearest = describe(self.nearest)
        if self.until:
            return f"no known fault explains everything: {nearest} explains {self.layer}, but not {self.until}"
        left = f"which leaves an error of {one_digit(self.error)} unexplained"
        return f"no known fault explains {self.layer}; the nearest is {nearest}, {left}"

    @property
    def reproduction(self) -> str:
        """How nearly the oracle reproduces the candidate with the first cause, in words."""
        if not self.error:
            return "the oracle reproduces your model exactly"
        nearness = f"within {self.error:.1f} {self.unit}" if self.unit else f"to {one_digit(self.error)}"
        return f"the oracle reproduces your model {nearness}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, with the words as "text"."""
        return {
            "layer": self.layer,
            "segment": self.segment,
            "causes": [cause_facts(cause) for cause in self.causes],
            "beside": [cause_facts(cause) for cause in self.beside],
            "until": self.until or None,
            "explained_to": self.error if np.isfinite(self.error) else None,
            "nearest": cause_facts(self.nearest) if self.nearest else None,
            "text": str(self),
        }


def joint_findings(layer: str, segment: str, alternatives: Sequence[Combination], error: float) -> list[Finding]:
    """Make a finding for each of the faults that explain an array together.

    What could replace one of them, while the others stay, is listed as a further cause of its finding.

    Args:
        layer: The first wrong array.
        segment: Its segment.
        alternatives: Combinations of faults that explain equally much, the likeliest first.
        error: Largest error of what the first combination explains.
    """
    findings = []
    for cause in alternatives[0]:
        beside = tuple(injection for injection in alternatives[0] if injection is not cause)
        rest = set(map(str, beside))
        causes: dict[str, Injection] = {}
        for combination in alternatives:
            for injection in combination:
                if {*map(str, combination)} - {str(injection)} == rest:
                    causes.setdefault(str(injection), injection)
        findings.append(Finding(layer, segment, tuple(causes.values()), error, beside=beside))
    return findings


def describe(injection: Injection) -> str:
    """Describe a fault at a place, with the value of its parameter.

    Example:
        >>> from conformance.faults import find_fault
        >>> from impls.config import ResNetConfig
        >>> fault = find_fault("eps-other")
        >>> describe(Injection(fault, fault.places(ResNetConfig())[1], 0.00123))
        '`eps-other` at bn1 (eps has an unusual value; eps = 0.00123)'
    """
    parameter = injection.fault.parameter
    value = ""
    if parameter:
        estimate = injection.parameter if parameter.positive else round(injection.parameter, 12)
        value = f"; {parameter.name} = {estimate:.6g}"
    return f"{quote(injection)} ({injection.fault.what}{value})"


def quote(injection: Injection) -> str:
    """Name a fault at a place, its id between backticks."""
    return f"`{injection.fault.id}`{str(injection).removeprefix(injection.fault.id)}"


def one_digit(error: float) -> str:
    """Write an error with one digit.

    Example:
        >>> one_digit(0.00312), one_digit(2e-15)
        ('3e-3', '2e-15')
    """
    return f"{error:.0e}".replace("e-0", "e-")


def cause_facts(injection: Injection) -> dict[str, Any]:
    """Return a cause as JSON values."""
    fault = injection.fault
    return {
        "fault": fault.id,
        "place": injection.place.name,
        "mode": injection.mode or None,
        "what": fault.what,
        "parameter": {fault.parameter.name: injection.parameter} if fault.parameter else {},
        "source": fault.source,
        "remedies": vars(fault.remedies),
    }
