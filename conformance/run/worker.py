"""The worker: one process, one implementation, one precision; a job file in, a trace file per case out.

Run by the parent as `python -m conformance.run.worker JOB.json`. It says what happens as one JSON object a line on its
standard output; whatever a framework prints goes to standard error instead. It knows no limits and judges nothing.

Events: {"event": "ready", "device", "versions", "switches", "in_force"}; per case {"event": "traced", "case", "file",
"seconds"}; at the end of one that could not go on {"event": "failed", "reason"}.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from conformance.cases.case import Case
from conformance.cases.inputs import content_hash
from conformance.run.adapters import Adapter, DeviceMissing, load_adapter
from conformance.run.jobs import Job, NetworkFiles
from conformance.run.precision import measure_precision
from conformance.run.stream import write_stream
from conformance.run.tasks import TASKS
from conformance.trace import Origin, Trace, finish_folder

Say = Callable[..., None]


def main(job_file: str) -> int:
    """Work through a job file; 0 when every case is traced."""
    say = take_standard_output()
    try:
        work(Job.read(Path(job_file)), say)
    except (ImportError, DeviceMissing, WrongPrecision) as error:
        say(event="failed", reason=str(error))
        return 1
    except Exception as error:
        import traceback

        traceback.print_exc()
        say(event="failed", reason=f"{type(error).__name__}: {error}")
        return 1
    return 0


class WrongPrecision(RuntimeError):
    """The framework multiplies in a lower precision than was asked for."""


def work(job: Job, say: Say) -> None:
    """Prepare the candidate, then run every case of the job."""
    gc.disable()  # a framework makes a million objects and hardly a cycle: looking for them took a tenth of the time
    adapter = load_adapter(job.implementation.adapter)
    gc.freeze()
    device = adapter.prepare(job.device, job.precision)
    in_force = check_precision(adapter, job.precision)
    versions = {package: metadata.version(package) for package in job.implementation.packages}
    say(event="ready", device=device, versions=versions, switches=dict(adapter.switches()), in_force=in_force)
    for variant, network in job.networks.items():
        gc.collect()  # the network before
        runner = with_faults(adapter, network.faults) if network.faults else adapter
        runner.build(network.config, network.weights)
        parameters = {name: tuple(shape) for name, shape in runner.parameters().items()}
        for case in [case for case in job.cases if case.variant == variant]:
            images = np.load(network.inputs[case.input])
            started = time.perf_counter()
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
            )
            file = run_case(job, runner, case, images, network, origin)
            seconds = time.perf_counter() - started
            say(event="traced", case=case.to_dict(), file=str(file), seconds=seconds)


def run_case(job: Job, adapter: Adapter, case: Case, images: np.ndarray, network: NetworkFiles, origin: Origin) -> Path:
    """Run a case and leave its trace: in a folder where activations are streamed, else in a file."""
    if job.feed is not None and case.layers and case.task == "forward" and hasattr(adapter, "stream"):
        folder = job.directory / case.slug
        write_stream(adapter, images, case.mode == "train", folder, job.feed.get(case))
        finish_folder(folder, replace(origin, fed=case in job.feed))
        return folder
    file = job.directory / f"{case.slug}.safetensors"
    Trace(TASKS[case.task](adapter, case, images, network), origin).save(file)
    return file


def with_faults(adapter: Adapter, faults: Sequence[tuple[str, str]]) -> Adapter:
    """The adapter of a broken port, for the self-test."""
    from conformance.selftest.faulty import FaultyAdapter

    return FaultyAdapter(adapter, faults)


def check_precision(adapter: Adapter, precision: str) -> dict[str, str]:
    """Measure what is in force.

    Raises:
        WrongPrecision: If it is not what was asked for.
    """
    in_force = measure_precision(adapter, precision)
    lower = [f"{operation} is computed in {found}" for operation, found in in_force.items() if found != precision]
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
