"""The outcome of a run: what was compared, what diverges and why, what could not run, and the verdict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance.compare.comparison import Comparison
from conformance.diagnose.finding import Finding
from conformance.identify.identification import Identification

EXIT_CODES = {"conforms": 0, "diverges": 1, "incomplete": 3}
"""Exit code of the command by verdict; 2 is bad input."""


class Judged(ABC):
    """Base of what a comparison returns to its caller."""

    @property
    @abstractmethod
    def verdict(self) -> str:
        """The verdict: "diverges", "incomplete" where something that was asked for was not compared, or "conforms"."""

    @property
    def conforms(self) -> bool:
        """Tell whether everything that was asked for was compared, and nothing diverges."""
        return self.verdict == "conforms"

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return EXIT_CODES[self.verdict]


@dataclass(frozen=True)
class Failure:
    """A candidate that could not run, or not do a task, in one precision.

    Attributes:
        candidate: Name of the candidate.
        precision: "float64" or "float32"; empty where it could not even be loaded.
        reason: Why not.
        task: The task that it cannot do; empty where it could not run at all.
        layer: The layer at which it is wrong before anything is compared; empty where nothing says that it is wrong.
        lacks: What it lacks ("float64"), where that is the reason.
        array: The arrays that could not be compared, where it ran.
    """

    candidate: str
    precision: str
    reason: str
    task: str = ""
    layer: str = ""
    lacks: str = ""
    array: str = ""

    def to_dict(self) -> dict[str, str]:
        """The failure as JSON values."""
        facts = {"implementation": self.candidate, "precision": self.precision}
        known = {key: value for key in ("layer", "lacks", "array") if (value := getattr(self, key))}
        return facts | {"task": self.task, "reason": self.reason} | known


@dataclass(frozen=True)
class Divergence:
    """The place where a candidate first goes wrong, and the reason.

    Attributes:
        first: The candidate's first comparison that failed: it names candidate, precision and case.
        layer: The first array, in the order of computation, that exceeds its limit when all layers are examined.
        reason: By how much it exceeds the limit.
        fed: Whether it exceeds the limit even where its segment is fed the oracle's own input.
        findings: The faults that explain the divergence, one after the other.
        note: How the findings were obtained, where that is unusual, or why there are none.
        arrays: Arrays that the model lacks, or has beyond those of the network, in words; empty if there are none.
        identification: What the wrong layers compute, as it was measured; None where that was not done.
        examined: Name of the input that the layers were examined on, where it is not the first one that failed.
    """

    first: Comparison
    layer: str
    reason: str
    fed: bool = False
    findings: Sequence[Finding] = field(default_factory=list)
    note: str = ""
    arrays: str = ""
    identification: Identification | None = None
    examined: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The divergence as JSON values."""
        return {
            **self.first.identity,
            "layer": self.layer,
            "reason": self.reason,
            "fed": self.fed,
            "examined": self.examined or None,
            "note": self.note,
            "arrays": self.arrays,
            "diagnosis": [finding.to_dict() for finding in self.findings],
            "identification": self.identification.to_dict() if self.identification else None,
        }


def unlocalised(first: Comparison, findings: Sequence[Finding] = (), note: str = "") -> Divergence:
    """A divergence whose layers were not examined: it is placed at the array of the comparison that failed."""
    return Divergence(first, first.name, first.reason, findings=findings, note=note)


@dataclass
class Outcome:
    """The outcome of a run, gathered while it goes.

    Attributes:
        comparisons: All that is judged.
        reported: Comparisons that have no limit and cannot fail.
        failures: Candidates that could not run.
        divergences: One for each candidate and variant that diverges.
        workers: By candidate and precision ("torch float64"), what its worker said: seconds, device, versions.
        seconds: Duration of the run.
        not_shown: By candidate, the arrays that it cannot show, each with the reason; they are not compared.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    reported: list[Comparison] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    divergences: list[Divergence] = field(default_factory=list)
    workers: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    not_shown: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The verdict: "diverges" if anything does, else "incomplete" if anything could not run, else "conforms"."""
        wrong = any(failure.layer for failure in self.failures)
        if wrong or not all(comparison.passed for comparison in self.comparisons):
            return "diverges"
        return "incomplete" if self.failures or not self.comparisons else "conforms"
