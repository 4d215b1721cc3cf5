"""Benches: the network that faults of one task are injected into, and the evidence that injections are judged by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from conformance.cases.case import Case
from conformance.compare.comparison import Comparison
from conformance.diagnose.finding import Finding
from conformance.faults import Injection
from conformance.plan import NetworkPlan
from conformance.run.jobs import NetworkFiles
from conformance.trace import Trace

Traces = Mapping[Case, Trace]
"""Traces of one network by case, its variant being `CORRECT`."""

CORRECT = "correct"
"""Name of the network without a fault, beside which those with injections have names of their own."""


@dataclass(frozen=True, eq=False)
class Bench(ABC):
    """The network that faults of one task are injected into, and the evidence that injections are judged by.

    Attributes:
        network: The network, with one input.
        files: The same as workers find it.
        directory: Folder for the workers' traces.
        networks_per_worker: How many injections one worker runs, each a network of its own.
        variables: Environment variables of the workers.
    """

    network: NetworkPlan
    files: NetworkFiles
    directory: Path
    networks_per_worker: ClassVar[int] = 1000
    variables: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @abstractmethod
    def make(cls, variant: str, seed: int, directory: Path) -> Self:
        """Make the bench of a small network of a variant, with weights and an input of a seed.

        Args:
            variant: Key of `impls.config.VARIANTS`.
            seed: Seed of weights and input.
            directory: Folder for its files; it need not exist.
        """

    @property
    @abstractmethod
    def cases(self) -> list[Case]:
        """Every case of the task, of the network called `CORRECT`."""

    def cases_of(self, injection: Injection) -> list[Case]:
        """The cases that an injection is run in: all of them, or those in which it shows."""
        return self.cases

    def feed(self, case: Case) -> Trace | None:
        """The oracle's trace that the segments of a case are fed from; None where nothing is fed."""
        return None

    @abstractmethod
    def expected(self, injection: Injection) -> str:
        """The first array that differs in the oracle with the fault; empty if none does."""

    @abstractmethod
    def compare(self, traces: Traces) -> list[Comparison]:
        """Compare traces with the oracle's, as `conformance run` does."""

    @abstractmethod
    def diagnose(self, failed: Comparison, traces: Traces, correct: Traces) -> tuple[str, Sequence[Finding]]:
        """Name the first wrong array and the faults that explain it, as `conformance run` does.

        Args:
            failed: The first comparison that failed.
            traces: The traces of the injection.
            correct: Those of the network without a fault.
        """


def as_if_of(oracle: Trace, candidate: Trace) -> Trace:
    """Return the oracle's trace under the candidate's origin: all injections are compared with the same numbers."""
    return replace(oracle, origin=candidate.origin)
