"""Jobs: each runs in a worker process of its own, and the parent hears of its events as they come.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from conformance.cases.case import Case
from conformance.run.implementations import Implementation
from conformance.run.switches import switches, worker_environment
from impls.config import ResNetConfig

LINES_OF_LOG = 3
ROOT = Path(__file__).resolve().parents[2]


Say = Callable[..., None]
"""Reports an event, by its kind and its facts."""


@dataclass(frozen=True)
class NetworkFiles:
    """One network as a worker finds it.

    Attributes:
        config: Its configuration.
        weights: Canonical safetensors file.
        sha256: Content hash of the weights.
        inputs: Input name to the file of its images, a NumPy array (batch, channels, height, width).
        faults: Faults of a faulty candidate's network: ids with the names of their places.
    """

    config: ResNetConfig
    weights: Path
    sha256: str
    inputs: Mapping[str, Path]
    faults: Sequence[tuple[str, str]] = ()

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> NetworkFiles:
        """Make the network of a job file's JSON values."""
        config, inputs = ResNetConfig.from_dict(fields["config"]), fields["inputs"]
        paths = {"weights": Path(fields["weights"]), "inputs": {name: Path(file) for name, file in inputs.items()}}
        return cls(**{**fields, **paths, "config": config})


@dataclass(frozen=True)
class Job:
    """Everything that one worker is given.

    Attributes:
        implementation: The candidate, the oracle or a reference build.
        precision: "float64" or "float32".
        cases: In the order they run; none for a survey of a model that is run as it is.
        networks: Variant to network, of at least the cases' variants.
        directory: The worker's own folder, for job file, traces and log.
        device: "cpu", "gpu" or "auto".
        python: The interpreter.
        timeout: Seconds that the worker may take.
        threads: Number of threads that its libraries may use.
        variables: Environment variables beside the switches.
        feed: Slug of a case to the folder of the oracle's trace that its segments are fed from; where it is not None,
            activations of forward cases with `layers` are streamed into folders.
        probes: Name of a probe, which is that of its folder in the job's directory, to its target and whether it runs
            in train mode.
    """

    implementation: Implementation
    precision: str
    cases: Sequence[Case]
    networks: Mapping[str, NetworkFiles]
    directory: Path
    device: str = "cpu"
    python: str = sys.executable
    timeout: float = 900.0
    threads: int = 1
    variables: Mapping[str, str] = field(default_factory=dict)
    feed: Mapping[str, Path] | None = None
    probes: Mapping[str, tuple[str, bool]] = field(default_factory=dict)

    def write(self) -> Path:
        """Make the directory, unless its probes are there already, and write the job file that `read` reads."""
        self.directory.mkdir(parents=True, exist_ok=bool(self.probes))
        variants = {case.variant for case in self.cases}
        networks = {variant: files for variant, files in self.networks.items() if variant in variants or self.probes}
        file = self.directory / "job.json"
        file.write_text(json.dumps(asdict(replace(self, networks=networks)), default=str, indent=1))
        return file

    @classmethod
    def read(cls, file: Path) -> Job:
        """Read a job file."""
        fields = json.loads(file.read_text())
        fields["implementation"] = Implementation(**fields["implementation"])
        fields["cases"] = [Case(**case) for case in fields["cases"]]
        fields["networks"] = {variant: NetworkFiles.read(network) for variant, network in fields["networks"].items()}
        fields["directory"] = Path(fields["directory"])
        if fields["feed"] is not None:
            fields["feed"] = {slug: Path(folder) for slug, folder in fields["feed"].items()}
        return cls(**fields)


@dataclass(frozen=True)
class Event:
    """Something that a worker reported, or that became of it.

    Attributes:
        job: The worker's job.
        kind: "ready", "examined" or "surveyed"; "traced" or "skipped", of a case; "probed"; at the end "failed" or
            "done".
        facts: Facts that came with it, by name.
    """

    job: Job
    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        """The case that is concerned; of "traced" and "skipped" events."""
        return Case(**self.facts["case"])

    @property
    def file(self) -> Path:
        """The file or folder of the trace; of "traced" events."""
        return Path(self.facts["file"])


def run_jobs(jobs: Sequence[Job], parallel: int) -> Iterator[Event]:
    """Run jobs and yield every event of every worker as it comes; each job ends in "done" or in "failed"."""
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
        ending = _run_here(job, events) if job.implementation.here else _follow(job, events, stopped)
    except Exception as error:  # whatever went wrong, the parent must hear of it, or it would wait for ever
        what = "it could not be left as it was" if job.implementation.here else "its worker could not be started"
        ending = Event(job, "failed", {"reason": f"{what}: {error}"})
    events.put(ending)


def _run_here(job: Job, events: queue.SimpleQueue[Event]) -> Event:
    """Run the job of a live object in this process, pass its events on, and say how it ended."""
    started = time.monotonic()
    endings: list[Event] = []

    def say(event: str, **facts: Any) -> None:
        (endings.append if event == "failed" else events.put)(Event(job, event, facts))

    job.directory.mkdir(parents=True, exist_ok=bool(job.probes))  # which are there already
    assert job.implementation.here is not None
    job.implementation.here(job, say)
    return endings[0] if endings else Event(job, "done", {"seconds": time.monotonic() - started})


def _follow(job: Job, events: queue.SimpleQueue[Event], stopped: threading.Event) -> Event:
    variables = switches(job.precision, job.device, job.threads)
    variables |= {**job.implementation.variables, **job.variables}
    environment = worker_environment(variables)
    if (ROOT / "pyproject.toml").exists():  # a checkout: other interpreters find the project here
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    command = [job.python, "-m", "conformance.run.worker", str(job.write())]
    log = job.directory / "log.txt"
    started, last, timed_out = time.monotonic(), "its start", threading.Event()
    told: dict[str, Any] = {}
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    watch = threading.Thread(target=_watch, args=(process, started + job.timeout, timed_out, stopped), daemon=True)
    watch.start()
    assert process.stdout is not None
    for line in process.stdout:
        facts = json.loads(line)
        kind = facts.pop("event")
        if kind == "failed":
            told = facts
        else:
            events.put(Event(job, kind, facts))
        if kind == "traced":
            last = f"the case after {' / '.join(str(facts['case'][key]) for key in ('variant', 'input', 'mode'))}"
    process.stdout.close()
    code = process.wait()
    seconds, reason = time.monotonic() - started, told.get("reason")
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
    return Event(job, "failed", {**told, "reason": reason, "log": str(log)})


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
