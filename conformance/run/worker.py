"""The worker: one process, one candidate, one precision; a job file in, a trace per case out.

The parent runs it as `python -m conformance.run.worker JOB.json`. It reports each event as one JSON object per line on
its standard output; whatever a framework prints goes to standard error instead. It knows no limits and judges nothing.

Events: {"event": "ready", "device", "versions", "switches", "in_force"}; {"event": "examined", "note"} where the first
look at a network leaves something to say; per case {"event": "traced", "case", "file", "seconds"}, or {"event":
"skipped", "case", "reason"} where the candidate lacks a capability; per probe {"event": "probed", "probe", "folder",
"reason"}, the reason empty unless it failed; and at the end of a worker that could not go on {"event": "failed",
"reason"}.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from conformance.cases.case import Case
from conformance.cases.inputs import content_hash
from conformance.cases.probe import Probe
from conformance.run.candidates.survey import Unfit
from conformance.run.candidates.targets import TargetError
from conformance.run.capabilities import Adapter, Capability, DeviceMissing, Examination, Probed, load_adapter
from conformance.run.hiding import Hiding
from conformance.run.implementations import Implementation
from conformance.run.jobs import Job, NetworkFiles, Say
from conformance.run.precision import measure_precision
from conformance.run.probes import run_probe
from conformance.run.stream import write_stream
from conformance.run.tasks import TASKS
from conformance.trace import Origin, Trace, finish_folder


def main(job_file: str) -> int:
    """Work through a job file; 0 when every case is traced."""
    say = take_standard_output()
    return attempt(lambda: work(Job.read(Path(job_file)), say), say)


def attempt(task: Callable[[], None], say: Say) -> int:
    """Do a worker's task, or say why it failed; 0 when it is done."""
    try:
        task()
    except (ImportError, DeviceMissing, WrongPrecision) as error:
        say(event="failed", reason=str(error))
        return 1
    except TargetError as error:
        say(event="failed", reason=str(error), bad_input=True)
        return 1
    except Unfit as error:
        log_traceback()
        say(event="failed", **error.facts())
        return 1
    except Exception as error:
        log_traceback()
        say(event="failed", reason=f"{type(error).__name__}: {error}")
        return 1
    return 0


def log_traceback() -> None:
    """Print the traceback of the exception that is handled to standard error, which is the worker's log."""
    import traceback

    traceback.print_exc()


class WrongPrecision(RuntimeError):
    """The framework multiplies in a lower precision than was asked for."""


def work(job: Job, say: Say) -> None:
    """Prepare the candidate, then run every case and probe of the job; without any, survey it."""
    gc.disable()  # a framework makes a million objects and hardly a cycle: looking for them took a tenth of the time
    settings = job.implementation.settings
    with hidden(extras(job.implementation)):
        adapter = load_adapter(job.implementation.adapter, settings and {**settings, "precision": job.precision})
    gc.freeze()
    if not job.cases and not job.probes:
        say(event="surveyed", **asdict(adapter.survey()))
        return
    work_through(adapter, job, say)


EXTRAS = {"keras": ("matplotlib", "sklearn")}
"""Package to others that it imports where they are installed, in a quarter of its time; our adapters need none."""


def extras(implementation: Implementation) -> list[str]:
    """List what the project's own adapters import for nothing; a user's model, told by its settings, may need it."""
    return (
        [] if implementation.settings else [extra for each in implementation.packages for extra in EXTRAS.get(each, ())]
    )


@contextlib.contextmanager
def hidden(modules: Iterable[str]) -> Iterator[None]:
    """Make modules that are not imported yet look uninstalled, for as long as the context lasts."""
    names = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # None makes an import raise ImportError
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def work_through(adapter: Any, job: Job, say: Say) -> None:
    """Prepare an adapter, then run every case and probe of the job."""
    device = adapter.prepare(job.device, job.precision)
    if job.device == "gpu" and device == "cpu":
        raise DeviceMissing("a GPU was asked for, and the adapter says that it runs on the CPU")
    probed = Capability.PROBE in adapter.capabilities
    in_force = check_precision(adapter, job.precision) if probed else {}
    versions = {package: metadata.version(package) for package in job.implementation.packages}
    versions["python"] = platform.python_version()  # of this worker, which --python may choose
    switches = dict(adapter.switches()) if probed else {}
    say(event="ready", device=device, versions=versions, switches=switches, in_force=in_force)
    for variant, network in job.networks.items():
        gc.collect()  # the network before
        candidate: Any = build_network(adapter, job.implementation.injector, network)
        contradictory = job.implementation.not_shown
        if contradictory:
            candidate = Hiding(candidate, contradictory)
        parameters = {name: tuple(shape) for name, shape in candidate.parameters().items()}
        examination = examine(candidate, network)
        if examination.note:
            say(event="examined", note=examination.note)
        for case in [case for case in job.cases if case.variant == variant]:
            started = time.perf_counter()
            if reason := missing_capability(candidate, case, examination):
                say(event="skipped", case=vars(case), reason=reason)
                continue
            images = np.load(network.inputs[case.input])
            origin = Origin(
                case,
                job.implementation.name,
                job.precision,
                network.sha256,
                content_hash(images),
                parameters,
                device,
                versions,
                in_force,
                not_shown={**examination.not_shown, **contradictory},
            )
            try:
                file = run_case(job, candidate, images, network, origin)
            except Unfit as error:  # in this case alone: it took the first look
                log_traceback()
                say(event="skipped", case=vars(case), reason=str(error))
                continue
            seconds = time.perf_counter() - started
            say(event="traced", case=vars(case), file=str(file), seconds=seconds)
        run_probes(job, candidate, say)


def run_probes(job: Job, candidate: Any, say: Say) -> None:
    """Run the probes of a job, those in inference mode first: an adapter may not put back what a train-mode run alters.

    A probe that fails costs its own answer and nothing else.
    """
    for name, (target, train) in sorted(job.probes.items(), key=lambda item: item[1][1]):
        folder, reason = job.directory / f"probed-{name}", ""
        if Capability.TAP not in candidate.capabilities:
            reason = f"the adapter does not declare {Capability.TAP}"
        else:
            try:
                run_probe(candidate, Probe.load(job.directory / name, target, train), folder)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
        say(event="probed", probe=name, folder=str(folder), reason=reason)


def examine(adapter: Any, network: NetworkFiles) -> Examination:
    """Take the first look of an adapter that declares one, at the smallest input."""
    if Capability.EXAMINE not in adapter.capabilities:
        return Examination()
    examination: Examination = adapter.examine(min((np.load(file) for file in network.inputs.values()), key=np.size))
    return examination


def missing_capability(adapter: Adapter, case: Case, examination: Examination) -> str:
    """Say what a case needs that the adapter cannot do, or does not declare; empty if nothing."""
    cannot, needs = examination.cannot, TASKS[case.task].needs
    if reason := cannot.get(case.mode):
        return f"in {case.mode} mode {reason} (--inference compares inference mode alone)"
    if reason := cannot.get(case.task):
        return reason
    if needs is None or needs in adapter.capabilities:
        return ""
    return f"the adapter does not declare {needs} ({needs.value})"


def run_case(job: Job, adapter: Any, images: np.ndarray, network: NetworkFiles, origin: Origin) -> Path:
    """Run a case and leave its trace: in a folder where activations are streamed, else in a file."""
    case, task = origin.case, TASKS[origin.case.task]
    if job.feed is not None and task.streams and case.layers and Capability.TAP in adapter.capabilities:
        folder, oracle = job.directory / case.slug, job.feed.get(case.slug)
        write_stream(adapter, images, case.mode == "train", folder, oracle)
        finish_folder(folder, replace(origin, fed=oracle is not None))
        return folder
    file = job.directory / f"{case.slug}.safetensors"
    Trace(task.run(adapter, case, images, network), origin).save(file)
    return file


def build_network(adapter: Any, injector: str, network: NetworkFiles) -> Any:
    """Build a network of the job, with its faults if it has some; return the adapter that holds it."""
    if not network.faults:
        adapter.build(network.config, network.weights)
        return adapter
    module, _, name = injector.partition(":")
    return getattr(importlib.import_module(module), name)(adapter, network.faults, network.config, network.weights)


def check_precision(adapter: Probed, precision: str) -> dict[str, str]:
    """Measure the precision in force.

    Raises:
        WrongPrecision: If it is not the one that was asked for.
    """
    in_force = measure_precision(adapter, precision)
    lower = [
        f"{operation} is computed in {measured}" for operation, measured in in_force.items() if measured != precision
    ]
    if lower:
        raise WrongPrecision(f"{precision} was asked for, but by measurement a {' and a '.join(lower)}")
    return in_force


def take_standard_output() -> Say:
    """Keep standard output for events alone: everything else that writes there goes to standard error."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def say(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")

    return say


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
