"""The benches of gradients, of training steps and of initial weights.

Gradients and steps are those of the network that steps are diagnosed on; initial weights are those of a wider one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from conformance.cases.case import Case
from conformance.cases.names import KEPT_STATES
from conformance.cases.recipes import RECIPES, STEPS
from conformance.compare.comparison import Comparison
from conformance.compare.traces import compare_traces
from conformance.diagnose.finding import Finding
from conformance.faults import Injection
from conformance.localise import (
    examine_gradients,
    examine_initial,
    examine_steps,
    segmented_gradients,
    small_network,
    stepwise_training,
)
from conformance.plan import write_network
from conformance.run.capabilities import load_adapter
from conformance.run.implementations import ORACLE
from conformance.run.tasks import TASKS
from conformance.selftest.bench import CORRECT, Bench, Traces, as_if_of
from conformance.selftest.faulty import faulty_adapter
from conformance.selftest.trials import injection_name
from conformance.trace import Origin, Trace
from impls.config import VARIANTS

DRAWN_WIDTH = 32
"""Width of the network whose initial weights are compared: so large that chance does not decide which array is the
first wrong one. That normal numbers are truncated is 8.8 standard errors in 36,864 numbers (stage2.0.conv2) and 5.9 in
16,384; that their variance is 0.77 of the right one is 8.8 in 4,704 (conv1) and 6.1 in 2,304."""


QUICKLY_COMPILED = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
"""Compiling takes Flax more time than computing here: 3.4 s for a step of training, not 6 to 10."""


@dataclass(frozen=True, eq=False)
class TrainingBench(Bench):
    """A small network; the oracle runs it, with and without faults, when its traces are asked for.

    Attributes:
        shown: By injection, what `failures` returned.
        task: The task of its cases.
        size: Fields of the configuration that differ from those of the network that steps are diagnosed on.
    """

    shown: dict[str, dict[Case, Comparison]] = field(default_factory=dict)
    task: ClassVar[str]
    size: ClassVar[Mapping[str, Any]] = {}
    networks_per_worker = 20  # XLA keeps what it compiled for each: a process of ninety was seen to crash
    variables: ClassVar[Mapping[str, str]] = QUICKLY_COMPILED

    @classmethod
    def make(cls, variant: str, seed: int, directory: Path) -> Self:
        """Make the network that training steps are diagnosed on, or one of another size."""
        network = small_network(VARIANTS[variant], seed, **cls.size)
        return cls(network, write_network(network, directory, "network"), directory)

    @property
    def cases(self) -> list[Case]:
        """Bench of a single case, in train mode."""
        return [Case(CORRECT, self.network.inputs[0].name, "train", task=self.task)]

    @cached_property
    def oracle(self) -> Any:
        """The oracle's adapter, which has built the network."""
        adapter = load_adapter(ORACLE.adapter)
        adapter.prepare("cpu", "float64")
        adapter.build(self.network.config, self.files.weights)
        return adapter

    @cached_property
    def truth(self) -> Traces:
        """The oracle's traces of all cases."""
        return {case: self.trace(self.oracle, case) for case in self.cases}

    def trace(self, adapter: Any, case: Case) -> Trace:
        """Run a case in this process."""
        arrays = TASKS[case.task].run(adapter, case, self.network.inputs[0].images, self.files)
        return Trace(arrays, Origin(case, ORACLE.name, "float64"))

    def cases_of(self, injection: Injection) -> list[Case]:
        """The cases in which the oracle with the fault differs, or the first case if it differs in none."""
        return list(self.failures(injection)) or self.cases[:1]

    def expected(self, injection: Injection) -> str:
        """Task and name of the first array that differs in the oracle with the fault."""
        return next(map(_task_and_name, self.failures(injection).values()), "")

    def failures(self, injection: Injection) -> dict[Case, Comparison]:
        """Find, for each case in which the oracle with the fault differs, the first comparison that fails."""
        name = injection_name(injection)
        if name not in self.shown:
            faults = [(injection.fault.id, injection.place.name)]
            wrong = faulty_adapter(self.oracle, faults, self.network.config, self.files.weights)
            compared = {case: self.compare({case: self.trace(wrong, case)}) for case in self.cases}
            failed = {case: [c for c in comparisons if not c.passed] for case, comparisons in compared.items()}
            self.shown[name] = {case: comparisons[0] for case, comparisons in failed.items() if comparisons}
        return self.shown[name]

    def compare(self, traces: Traces) -> list[Comparison]:
        """Compare all arrays; of training steps, the state after the first and after the last."""
        pairs = [(as_if_of(self.truth[case], trace), trace) for case, trace in traces.items()]
        return [
            comparison
            for oracle, trace in pairs
            for comparison in compare_traces(first_and_last(oracle), first_and_last(trace), self.network.config)
        ]

    def diagnose(self, failed: Comparison, traces: Traces, correct: Traces) -> tuple[str, Sequence[Finding]]:
        """Examine all cases; in those in which an injection does not show, take the correct network's trace."""
        return _task_and_name(failed), self.examine({**correct, **traces})

    @abstractmethod
    def examine(self, traces: Traces) -> list[Finding]:
        """Diagnose the traces of all cases."""


class GradientsBench(TrainingBench):
    """The bench of gradients."""

    task = "gradients"

    def examine(self, traces: Traces) -> list[Finding]:
        """Diagnose the gradients."""
        (case,) = self.cases
        return examine_gradients(segmented_gradients(self.network, case), traces[case].arrays)


class StepsBench(TrainingBench):
    """The bench of training steps."""

    task = "steps"

    @property
    def cases(self) -> list[Case]:
        """A case for each recipe, with the state after every step."""
        return [replace(case, recipe=recipe, layers=True) for case in super().cases for recipe in RECIPES]

    def examine(self, traces: Traces) -> list[Finding]:
        """Diagnose the steps of all recipes."""
        states = {case.recipe: trace.arrays for case, trace in traces.items()}
        return examine_steps(stepwise_training(self.network, states))


class InitialBench(TrainingBench):
    """The bench of initial weights; neither input nor mode of its case matters."""

    task = "initialisation"
    size: ClassVar[Mapping[str, Any]] = {"width": DRAWN_WIDTH}

    def examine(self, traces: Traces) -> list[Finding]:
        """Diagnose the moments of the initial weights."""
        return examine_initial(self.network, traces[self.cases[0]].arrays)


def first_and_last(trace: Trace) -> Trace:
    """Reduce a trace that has the state after every step to those after the first and the last."""
    moments = {"1": KEPT_STATES[0], str(STEPS): KEPT_STATES[1]}
    arrays = {}
    for name, array in trace.arrays.items():
        step, _, rest = name.partition(".")
        arrays[f"{moments[step]}.{rest}" if step in moments else name] = array
    return replace(trace, arrays=arrays)


def _task_and_name(comparison: Comparison) -> str:
    return f"{comparison.case.words}: {comparison.name}"
