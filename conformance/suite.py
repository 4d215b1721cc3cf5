"""The suite: plans the jobs, has them run, compares what comes, and finds the first wrong layer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from conformance.cases.case import Case, is_judged
from conformance.compare.comparison import Comparison
from conformance.compare.noise import NoiseFloors, noise_floors
from conformance.compare.traces import compare_parameters, compare_traces
from conformance.localise import localise
from conformance.outcome import Failure, Outcome
from conformance.plan import Files, Listener, Plan, case_requests, make_jobs, write_files
from conformance.run.implementations import ORACLE, REFERENCE_BUILDS
from conformance.run.jobs import Event, Job, run_jobs
from conformance.trace import Trace


def run_suite(plan: Plan, notify: Listener) -> Outcome:
    """Run a plan: every case in every implementation; then, where one diverges, the layers of its first such case."""
    started = time.monotonic()
    files = write_files(plan)
    cases = {precision: some for precision in plan.precisions if (some := plan.cases(precision))}
    outcome = run_cases(plan, files, cases, "cases", notify)
    outcome.divergences = localise(plan, files, first_failures(outcome.comparisons), notify)
    outcome.seconds = time.monotonic() - started
    return outcome


def run_cases(
    plan: Plan,
    files: Files,
    cases: Mapping[str, Sequence[Case]],
    folder: str,
    notify: Listener,
) -> Outcome:
    """Run cases, given by precision, in the oracle, in the reference builds for float32, and in the candidates."""
    requests = case_requests(plan, cases)
    every_case = requests[0].cases
    jobs = make_jobs(plan, requests, files, plan.directory / folder)
    judging = Judging(plan, {job.directory.name: job for job in jobs}, len(REFERENCE_BUILDS) * ("float32" in cases))
    for event in run_jobs(jobs, plan.parallel(len(jobs))):
        judging.take(event)
        notify(event)
    order = {case: number for number, case in enumerate(every_case)}
    judging.outcome.comparisons.sort(key=lambda c: (c.candidate, c.precision, order[c.case] if c.input_matters else -1))
    return judging.outcome


class Judging:
    """Takes events as they come and compares traces as soon as all that a comparison needs is there."""

    def __init__(self, plan: Plan, jobs: Mapping[str, Job], builds: int) -> None:
        self.plan, self.builds = plan, builds
        self.candidates = [job for job in jobs.values() if job.implementation not in (ORACLE, *REFERENCE_BUILDS)]
        self.outcome = Outcome()
        self.oracle: dict[Case, Path] = {}
        self.build_traces: dict[Case, list[Path]] = {}
        self.floors: dict[Case, NoiseFloors] = {}
        self.waiting: dict[Case, list[Path]] = {}
        self.unsettled: dict[Case, int] = {}
        self.checked_parameters: set[tuple[str, str, str]] = set()
        self.load_oracle = lru_cache(maxsize=2)(Trace.load)

    def take(self, event: Event) -> None:
        """Note an event; compare what it makes comparable."""
        name = f"{event.job.implementation.name} {event.job.precision}"
        record = self.outcome.workers.setdefault(name, {"seconds": None})
        if event.kind == "traced":
            self._take_trace(event.job, event.case, event.file)
        elif event.kind == "failed":
            self.outcome.failures.append(
                Failure(event.job.implementation.name, event.job.precision, event.facts["reason"])
            )
        else:
            record.update(event.facts)

    def _take_trace(self, job: Job, case: Case, file: Path) -> None:
        if job.implementation == ORACLE:
            self.oracle[case] = file
        elif job.implementation in REFERENCE_BUILDS:
            self.build_traces.setdefault(case, []).append(file)
        else:
            self.waiting.setdefault(case, []).append(file)
        if case not in self.oracle:
            return
        if case not in self.floors and self.builds and len(self.build_traces.get(case, [])) == self.builds:
            builds = self.build_traces.pop(case)
            self.floors[case] = noise_floors(
                self.load_oracle(self.oracle[case]), [Trace.load(build) for build in builds]
            )
            self._forget(builds)
        self._compare(case)

    def _compare(self, case: Case) -> None:
        config = self.plan.networks[case.variant].config
        ready: list[Path] = []
        later: list[Path] = []
        for file in self.waiting.pop(case, []):
            float32 = file.parent.name.endswith("float32")
            waits = float32 and case not in self.floors and is_judged(case, "float32")
            (later if waits else ready).append(file)
        if later:
            self.waiting[case] = later
        if not ready:
            return
        oracle = self.load_oracle(self.oracle[case])
        for file in ready:
            candidate = Trace.load(file)
            for comparison in compare_traces(oracle, candidate, config, self.floors.get(case)):
                judged = is_judged(case, comparison.precision) or not comparison.passed
                (self.outcome.comparisons if judged else self.outcome.reported).append(comparison)
            network = (candidate.origin.candidate, candidate.origin.precision, case.variant)
            if network not in self.checked_parameters:
                self.checked_parameters.add(network)
                self.outcome.comparisons.append(compare_parameters(candidate, config))
        self._forget(ready)
        self.unsettled[case] = self.unsettled.get(case, sum(case in job.cases for job in self.candidates)) - len(ready)
        if self.unsettled[case] == 0:
            self._forget([self.oracle[case]])

    def _forget(self, files: Iterable[Path]) -> None:
        if not self.plan.keep_traces:
            for file in files:
                file.unlink()


def first_failures(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The first failed comparison of each implementation and variant, float64 before float32, activations first."""
    failed = [comparison for comparison in comparisons if not comparison.passed]
    failed.sort(key=lambda c: (c.precision != "float64", not c.input_matters, c.case.task != "forward"))
    firsts: dict[tuple[str, str], Comparison] = {}
    for comparison in failed:
        firsts.setdefault((comparison.candidate, comparison.case.variant), comparison)
    return list(firsts.values())
