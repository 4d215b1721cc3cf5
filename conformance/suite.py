"""The suite: plans the jobs, has them run, compares what comes, and localises what diverges."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from conformance.cases.case import Case, is_judged
from conformance.compare.comparison import Comparison
from conformance.compare.noise import NoiseFloors, noise_floors
from conformance.compare.traces import compare_parameters, compare_traces
from conformance.contradictions import find_contradictions, set_aside, without_contradictory
from conformance.localise import Localiser, localise
from conformance.outcome import Divergence, Failure, Outcome
from conformance.plan import ASKED_AS, Files, Listener, Plan, Rerun, assign_cases, make_jobs, write_files
from conformance.run.implementations import ORACLE, REFERENCE_BUILDS
from conformance.run.jobs import Event, Job, run_jobs
from conformance.trace import Trace


def run_suite(plan: Plan, notify: Listener) -> Outcome:
    """Run a plan: every case in every candidate; then localise the first failure of each candidate and variant.

    Arrays that contradict what is computed from them are set aside first: their taps are wrong, not their layers.

    Args:
        plan: Everything that is to be run.
        notify: Hears every event of the workers.
    """
    started = time.monotonic()
    files = write_files(plan)
    cases = {precision: cases for precision in plan.precisions if (cases := plan.cases(precision))}
    outcome = run_cases(plan, files, cases, notify)
    candidates = {candidate.name: candidate for candidate in plan.implementations}
    rerun = Rerun(plan, files, notify)
    contradictions = find_contradictions(outcome.comparisons, plan.networks, candidates, rerun)
    set_aside(outcome, contradictions)
    candidates = without_contradictory(candidates, contradictions)
    localiser = Localiser(
        plan.networks, candidates, plan.tasks, plan.seed, rerun, plan.modes, tuple(outcome.comparisons)
    )
    divergences = localise(localiser, first_failures(outcome.comparisons))
    outcome.divergences = [with_arrays(divergence, outcome.comparisons) for divergence in divergences]
    outcome.seconds = time.monotonic() - started
    return outcome


def run_cases(plan: Plan, files: Files, cases: Mapping[str, Sequence[Case]], notify: Listener) -> Outcome:
    """Run cases in the oracle, the candidates and, for float32, the reference builds, and compare their traces.

    Args:
        plan: Candidates, and how they are run.
        files: The plan's networks as workers find them.
        cases: Precision to its cases.
        notify: Hears every event of the workers.
    """
    assignments = assign_cases(plan, cases)
    jobs = make_jobs(plan, assignments, files, plan.directory / "cases")
    comparing = Comparing(plan, jobs)
    for event in run_jobs(jobs, plan.parallel(len(jobs))):
        comparing.take(event)
        notify(event)
    order = {case: number for number, case in enumerate(assignments[0].cases)}
    outcome = comparing.outcome
    outcome.comparisons.sort(key=lambda c: (c.candidate, c.precision, order[c.case] if c.input_matters else -1))
    return outcome


class Comparing:
    """Compares traces as soon as all that a comparison needs is there, while events of the workers come in.

    Attributes:
        outcome: Everything compared so far.
    """

    def __init__(self, plan: Plan, jobs: Sequence[Job]) -> None:
        self.plan, self.outcome = plan, Outcome()
        self.builds = sum(job.implementation in REFERENCE_BUILDS for job in jobs)
        candidates = [job for job in jobs if job.implementation not in (ORACLE, *REFERENCE_BUILDS)]
        self.expected = Counter(case for job in candidates for case in job.cases)
        self.oracle: dict[Case, Path] = {}
        self.build_traces: dict[Case, list[Path]] = {}
        self.floors: dict[Case, NoiseFloors] = {}
        self.waiting: dict[Case, list[tuple[str, Path]]] = {}
        self.checked_parameters: set[tuple[str, str, str]] = set()
        self.load_oracle = lru_cache(maxsize=2)(Trace.load)

    def take(self, event: Event) -> None:
        """Take one event of a worker, and compare what can be compared now."""
        candidate, precision = event.job.implementation.name, event.job.precision
        worker = self.outcome.workers.setdefault(f"{candidate} {precision}", {"seconds": None})
        if event.kind == "traced":
            self._take_trace(event.job, event.case, event.file)
        elif event.kind in ("failed", "skipped"):
            failure = failure_of(event)
            if failure not in self.outcome.failures:  # a missing capability is reported once, not for each case
                self.outcome.failures.append(failure)
        else:
            worker.update(event.facts)

    def _take_trace(self, job: Job, case: Case, file: Path) -> None:
        if job.implementation == ORACLE:
            self.oracle[case] = file
        elif job.implementation in REFERENCE_BUILDS:
            self.build_traces.setdefault(case, []).append(file)
        else:
            self.waiting.setdefault(case, []).append((job.precision, file))
        if case not in self.oracle:
            return
        builds = self.build_traces.get(case, [])
        if builds and len(builds) == self.builds:
            oracle = self.load_oracle(self.oracle[case])
            self.floors[case] = noise_floors(oracle, [Trace.load(build) for build in builds])
            self._forget(self.build_traces.pop(case))
        self._compare_waiting(case)

    def _compare_waiting(self, case: Case) -> None:
        """Compare the traces of a case that need not wait; where float32 is judged, it waits for the noise floors."""
        waiting, self.waiting[case] = self.waiting.get(case, []), []
        for precision, file in waiting:
            if precision == "float32" and case not in self.floors and is_judged(case, precision):
                self.waiting[case].append((precision, file))
            else:
                self._compare(self.load_oracle(self.oracle[case]), Trace.load(file))
                self._forget([file])
                self.expected[case] -= 1
        if waiting and self.expected[case] == 0:
            self._forget([self.oracle[case]])

    def _compare(self, oracle: Trace, candidate: Trace) -> None:
        """Compare one trace and, once for each network of a candidate, the arrays that its model lists."""
        origin, outcome = candidate.origin, self.outcome
        config = self.plan.networks[origin.case.variant].config
        judged = is_judged(origin.case, origin.precision)
        outcome.not_shown.setdefault(origin.candidate, {}).update(origin.not_shown)
        for comparison in compare_traces(oracle, candidate, config, self.floors.get(origin.case)):
            (outcome.comparisons if judged or not comparison.passed else outcome.reported).append(comparison)
        network = (origin.candidate, origin.precision, origin.case.variant)
        if network not in self.checked_parameters and "parameters" not in origin.not_shown:
            self.checked_parameters.add(network)
            outcome.comparisons.append(compare_parameters(candidate, config))

    def _forget(self, files: Iterable[Path]) -> None:
        if not self.plan.keep_traces:
            for file in files:
                file.unlink()


def failure_of(event: Event) -> Failure:
    """Make the failure that an event of a worker tells: of all that it was to run, or of one task."""
    facts = {key: event.facts.get(key, "") for key in ("layer", "lacks")}
    task = ASKED_AS.get(event.case.task, event.case.task) if event.kind == "skipped" else ""
    return Failure(event.job.implementation.name, event.job.precision, event.facts["reason"], task, **facts)


def with_arrays(divergence: Divergence, comparisons: Sequence[Comparison]) -> Divergence:
    """Add to a divergence which arrays the candidate's model lacks, or has beyond those of the network."""
    first = divergence.first
    of_model = (first.candidate, first.case.variant)
    listed = [c for c in comparisons if c.name == "parameters" and (c.candidate, c.case.variant) == of_model]
    return replace(divergence, arrays=next((c.reason for c in listed if not c.passed), ""))


def first_failures(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Find the first failed comparison of each candidate and variant: float64 first, and in it activations first."""
    failed = [comparison for comparison in comparisons if not comparison.passed]
    failed.sort(key=lambda c: (c.precision != "float64", not c.input_matters, c.case.task != "forward"))
    firsts: dict[tuple[str, str], Comparison] = {}
    for comparison in failed:
        firsts.setdefault((comparison.candidate, comparison.case.variant), comparison)
    return list(firsts.values())
