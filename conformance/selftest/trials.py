"""Trials of the self-test: which fault is injected where, what came of it, and the targets to be met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance.compare.comparison import Comparison
from conformance.faults import FAULTS, Fault, Injection, Place, find_fault
from impls.config import ResNetConfig

LAYER_TARGET, CAUSE_TARGET = 0.98, 0.95
"""Shares of the injections in which the right layer and the right cause must be named; all must be caught."""


@dataclass(frozen=True)
class Trial:
    """One injection into one implementation, and its outcome.

    Attributes:
        implementation: Name of the implementation.
        fault: Id of the fault.
        place: Name of its place.
        precision: Precision of the run.
        harmless: Why no effect is expected; empty where one is.
        expected: The first array that differs in the oracle with the same fault; empty where none does.
        caught: Whether anything was out of its limit.
        layer: The array that was named as the first wrong one; empty where none was.
        causes: The faults that were named, FAULT@PLACE; several where they cannot be distinguished.
        text: The diagnosis in words.
    """

    implementation: str
    fault: str
    place: str
    precision: str
    harmless: str
    expected: str
    caught: bool = False
    layer: str = ""
    causes: tuple[str, ...] = ()
    text: str = ""

    @property
    def layer_named(self) -> bool:
        """Whether the right array was named; where no effect is expected, whether none was."""
        return self.layer == self.expected

    @property
    def cause_named(self) -> bool:
        """Whether the fault is among those named; where no effect is expected, whether none was named."""
        return not self.causes if self.harmless else f"{self.fault}@{self.place}" in self.causes


@dataclass
class Result:
    """The outcome of a self-test.

    Attributes:
        trials: Every injection.
        correct: Number of comparisons of correct networks.
        false_alarms: Those of them that failed.
        failures: What could not run, in words.
        devices: Where the networks ran, as their workers say.
        seconds: Duration of the self-test.
    """

    trials: list[Trial] = field(default_factory=list)
    correct: int = 0
    false_alarms: list[Comparison] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    devices: set[str] = field(default_factory=set)
    seconds: float = 0.0

    def of(self, implementation: str) -> list[Trial]:
        """The trials of one implementation."""
        return [trial for trial in self.trials if trial.implementation == implementation]

    def missed(self) -> list[str]:
        """List the targets that are missed, in words; an empty list is a passed self-test."""
        messages = list(self.failures)
        messages += [f"false alarm: {c.candidate} {c.case.mode} {c.name}: {c.reason}" for c in self.false_alarms]
        for name in dict.fromkeys(trial.implementation for trial in self.trials):
            trials = self.of(name)
            wrong = [trial for trial in trials if trial.caught == bool(trial.harmless)]
            messages += [f"{name}: {t.fault}@{t.place} {'accused' if t.harmless else 'not caught'}" for t in wrong]
            for subject, target, named in (
                ("layer", LAYER_TARGET, [trial.layer_named for trial in trials]),
                ("cause", CAUSE_TARGET, [trial.cause_named for trial in trials]),
            ):
                share = sum(named) / len(named)
                if share < target:
                    messages.append(f"{name}: right {subject} named in {share:.1%}, target {target:.0%}")
        return messages if self.trials else [*messages, "nothing was injected"]

    def to_dict(self, variant: str) -> dict[str, Any]:
        """The self-test as JSON values."""
        return {
            "variant": variant,
            "seconds": round(self.seconds, 1),
            "devices": sorted(self.devices),
            "missed": self.missed(),
            "right_comparisons": self.correct,
            "false_alarms": [comparison.to_dict() for comparison in self.false_alarms],
            "trials": [
                vars(trial) | {"layer_named": trial.layer_named, "cause_named": trial.cause_named}
                for trial in self.trials
            ],
        }


def injection_name(injection: Injection) -> str:
    """Name an injection: FAULT@PLACE.

    Example:
        >>> [injection_name(injection) for injection in chosen_injections(ResNetConfig(), ["pool-valid"])]
        ['pool-valid@stem']
    """
    return f"{injection.fault.id}@{injection.place.name}"


def chosen_places(fault: Fault, config: ResNetConfig, everywhere: bool = False) -> list[Place]:
    """Choose where a fault is injected: at the first, the middle and the last place of each scope, or everywhere."""
    chosen = []
    for scope in fault.where.scopes:
        places = [place for place in fault.places(config) if place.scope == scope]
        chosen += (
            places if everywhere else [places[i] for i in sorted({0, len(places) // 2, len(places) - 1}) if places]
        )
    return chosen


def chosen_injections(
    config: ResNetConfig, faults: Sequence[str] = (), implementation: str = "", everywhere: bool = False
) -> list[Injection]:
    """Choose the injections of a self-test.

    Args:
        config: The network.
        faults: Ids of faults; none means all.
        implementation: Whose text must have the line that a fault changes; by default any.
        everywhere: Whether every place is chosen, not three of each kind.

    Raises:
        ValueError: If a fault is unknown.

    Example:
        >>> [str(injection) for injection in chosen_injections(ResNetConfig(), ["pool-valid"])]
        ['pool-valid at stem']
    """
    rows = [find_fault(id) for id in faults] or list(FAULTS.values())
    return [
        Injection(fault, place)
        for fault in rows
        if fault.can_be_in(implementation) or not implementation
        for place in chosen_places(fault, config, everywhere)
    ]
