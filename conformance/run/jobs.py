"""Running: plans a run, starts a worker process per implementation and precision, and gathers what they trace.

Workers are started at most `parallel` at a time. One that crashes, hangs or lacks its framework costs its own
implementation's verdict and nothing else.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.cases.case import Case
from conformance.run.implementations import Implementation
from conformance.run.switches import switches, worker_environment

LINES_OF_LOG = 3
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """What one worker is to do.

    Attributes:
        implementation: Whose adapter runs.
        precision: In what.
        cases: In the order they run.
        networks: Variant to config (plain values), weights file and the weights' content hash.
        inputs: Variant to input name to file.
        directory: Where job file, traces and log go; the worker's own.
        device: "cpu", "gpu" or "auto".
        python: The interpreter.
        timeout: Seconds that the worker may take.
        threads: Threads that its libraries may use.
        variables: Environment variables beside the switches.
        truth: Asks for activations of layers one by one, in a folder; by case, the oracle's, which each piece is fed.
    """

    implementation: Implementation
    precision: str
    cases: Sequence[Case]
    networks: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, Mapping[str, str]]
    directory: Path
    device: str
    python: str = sys.executable
    timeout: float = 900.0
    threads: int = 1
    truth: Mapping[str, str] | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def write(self) -> Path:
        """The job file."""
        self.directory.mkdir(parents=True)
        variants = {case.variant for case in self.cases}
        file = self.directory / "job.json"
        content = {
            "implementation": self.implementation.name,
            "adapter": self.implementation.adapter,
            "packages": self.implementation.packages,
            "precision": self.precision,
            "device": self.device,
            "directory": str(self.directory),
            "networks": {variant: network for variant, network in self.networks.items() if variant in variants},
            "inputs": self.inputs,
            "truth": self.truth,
            "cases": [case.to_dict() for case in self.cases],
        }
        file.write_text(json.dumps(content, indent=1))
        return file


@dataclass(frozen=True)
class Event:
    """Something that a worker said, or that became of it.

    Attributes:
        job: Whose.
        kind: "ready", "traced", "failed" or "done".
        facts: What the worker said with it.
    """

    job: Job
    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def run_jobs(jobs: Sequence[Job], parallel: int) -> Iterator[Event]:
    """Every event of every worker, as it comes; each job ends in "done" or in "failed"."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    stopped = threading.Event()
    pool = ThreadPoolExecutor(max_workers=parallel)
    try:
        for job in jobs:
            pool.submit(_supervise, job, events, stopped)
        ended = 0
        while ended < len(jobs):
            event = events.get()
            ended += event.kind in ("done", "failed")
            yield event
    finally:  # an interrupted run leaves no worker behind
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _supervise(job: Job, events: queue.SimpleQueue[Event], stopped: threading.Event) -> None:
    """Start a worker, pass its events on, and say how it ended."""
    try:
        ending = _follow(job, events, stopped)
    except Exception as error:  # whatever went wrong, the parent must hear of it, or it would wait for ever
        ending = Event(job, "failed", {"reason": f"its worker could not be started: {error}"})
    events.put(ending)


def _follow(job: Job, events: queue.SimpleQueue[Event], stopped: threading.Event) -> Event:
    variables = switches(job.precision, job.device, job.threads)
    variables |= {**job.implementation.variables, **job.variables}
    environment = worker_environment(variables)
    if (ROOT / "pyproject.toml").exists():  # a checkout: other interpreters find the project here
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    command = [job.python, "-m", "conformance.run.worker", str(job.write())]
    log = job.directory / "log.txt"
    started, last, reason, timed_out = time.monotonic(), "its start", None, threading.Event()
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    watch = threading.Thread(target=_watch, args=(process, started + job.timeout, timed_out, stopped), daemon=True)
    watch.start()
    assert process.stdout is not None
    for line in process.stdout:
        facts = json.loads(line)
        kind = facts.pop("event")
        if kind == "failed":
            reason = facts["reason"]
        else:
            events.put(Event(job, kind, facts))
        if kind == "traced":
            last = f"the case after {' / '.join(str(facts['case'][key]) for key in ('variant', 'input', 'mode'))}"
    process.stdout.close()
    code = process.wait()
    seconds = time.monotonic() - started
    if timed_out.is_set():
        reason = f"it was stopped after {seconds:.0f} s, in {last}: longer than --timeout {job.timeout:g} allows"
    elif code < 0:
        reason = (
            f"it was killed by signal {-code} after {seconds:.0f} s, in {last} (signal 9 is often a lack of memory)"
        )
    elif code and reason is None:
        reason = f"it ended with exit code {code} after {seconds:.0f} s, in {last}: {_last_lines(log)}"
    if reason is None:
        return Event(job, "done", {"seconds": seconds})
    return Event(job, "failed", {"reason": reason, "log": str(log)})


def _watch(
    process: subprocess.Popen[str], deadline: float, timed_out: threading.Event, stopped: threading.Event
) -> None:
    """Kill a worker that outlasts its time, or the run."""
    while process.poll() is None:
        if time.monotonic() > deadline:
            timed_out.set()
        if timed_out.is_set() or stopped.is_set():
            process.kill()
            return
        time.sleep(0.1)


def _last_lines(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-LINES_OF_LOG:]) or "it said nothing"
