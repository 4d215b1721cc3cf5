"""What a self-test is made of: which faults are injected where, and what came of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from conformance.compare.comparison import Comparison
from conformance.faults import FAULTS, Fault, Injection, Place
from conformance.run.jobs import NetworkFiles
from impls.config import ResNetConfig

RIGHT = "right"
"""The name of the build without a fault."""

LAYER_TARGET, CAUSE_TARGET = 0.98, 0.95
"""Shares of the injections in which the right layer and the right cause must be named; all must be caught."""


@dataclass(frozen=True)
class Trial:
    """One injection into one implementation, and what came of it.

    Attributes:
        implementation, fault, place, precision: What was injected where.
        harmless: Why no effect is expected; empty where one is.
        expected: The first layer that the oracle with the same fault shows wrong.
        caught: Whether anything was out of its limit.
        layer: The layer that was named.
        causes: The faults that were named, those that cannot be told apart together.
        text: The diagnosis in words.
        failure: Why it could not run.
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
    failure: str = ""

    @property
    def layer_named(self) -> bool:
        """Whether the layer is the right one; of what has no effect, that none was named."""
        return self.layer == self.expected

    @property
    def cause_named(self) -> bool:
        """Whether the fault is among those named; of what has no effect, that none was."""
        return not self.causes if self.harmless else f"{self.fault}@{self.place}" in self.causes


@dataclass
class Result:
    """All trials, and the comparisons of right builds that failed."""

    trials: list[Trial] = field(default_factory=list)
    right: int = 0
    false_alarms: list[Comparison] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def share(self, implementation: str, holds: Callable[[Trial], bool]) -> float:
        """The share of an implementation's trials of which something holds."""
        own = [trial for trial in self.trials if trial.implementation == implementation]
        return sum(map(holds, own)) / len(own) if own else 0.0

    def missed(self) -> list[str]:
        """The targets that are missed, in words."""
        told = [f"{failure}" for failure in self.failures]
        told += [f"false alarm: {c.candidate} {c.case.mode} {c.name}: {c.reason}" for c in self.false_alarms]
        for name in dict.fromkeys(trial.implementation for trial in self.trials):
            own = [trial for trial in self.trials if trial.implementation == name]
            wrong = [trial for trial in own if trial.caught == bool(trial.harmless)]
            told += [f"{name}: {t.fault}@{t.place} {'accused' if t.harmless else 'not caught'}" for t in wrong]
            for what, target, holds in (
                ("layer", LAYER_TARGET, lambda trial: trial.layer_named),
                ("cause", CAUSE_TARGET, lambda trial: trial.cause_named),
            ):
                if self.share(name, holds) < target:
                    told.append(f"{name}: right {what} named in {self.share(name, holds):.1%}, target {target:.0%}")
        return told if self.trials else [*told, "nothing was injected"]


def chosen_places(fault: Fault, config: ResNetConfig, everywhere: bool = False) -> list[Place]:
    """Where a fault is injected: of each of its scopes the first, the middle and the last place."""
    chosen = []
    for scope in fault.scopes:
        own = [place for place in fault.places(config) if place.scope == scope]
        chosen += own if everywhere else [own[i] for i in sorted({0, len(own) // 2, len(own) - 1}) if own]
    return chosen


def chosen_injections(
    config: ResNetConfig, faults: Sequence[str] = (), implementation: str = "", everywhere: bool = False
) -> list[Injection]:
    """The injections of a self-test of an implementation.

    Raises:
        ValueError: If a fault is unknown.

    Example:
        >>> [str(injection) for injection in chosen_injections(ResNetConfig(), ["pool-valid"])]
        ['pool-valid at stem']
    """
    if unknown := [id for id in faults if id not in FAULTS]:
        raise ValueError(f"there is no fault {', '.join(unknown)}; the faults are {', '.join(FAULTS)}")
    rows = [FAULTS[id] for id in faults] or list(FAULTS.values())
    return [
        Injection(fault, place)
        for fault in rows
        if fault.can_be_in(implementation) or not implementation
        for place in chosen_places(fault, config, everywhere)
    ]


def by_name(injections: Sequence[Injection]) -> dict[str, Injection | None]:
    """The right build, then each injection, by what a job calls their networks.

    Example:
        >>> list(by_name(chosen_injections(ResNetConfig(), ["pool-valid"])))
        ['right', 'pool-valid@stem']
    """
    return {RIGHT: None} | {f"{injection.fault.id}@{injection.place.name}": injection for injection in injections}


def faulty_networks(right: NetworkFiles, injections: Mapping[str, Injection | None]) -> dict[str, NetworkFiles]:
    """Make the networks of a job: one and the same, with each injection's fault.

    Args:
        right: Files of the correct network.
        injections: Names and injections as `by_name` returns them.
    """
    return {
        name: replace(right, faults=[(injection.fault.id, injection.place.name)]) if injection else right
        for name, injection in injections.items()
    }
