"""Measures what `conformance check` adds to a candidate: run as `python -m benchmarks.check`.

A check runs the candidate, the oracle and the reference builds. What remains is what it adds: the survey and the first
look, the activations that are copied and written, the comparison, the report. It is held against the bare candidate:
for each precision a process that imports and builds the model and runs the same images in the same modes.

Seconds are those of the processors, of every process with all that it started: unlike those of the clock, they say the
same where other programs run beside.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conformance.cases.case import MODES, PRECISIONS
from conformance.cases.defaults import default_inputs
from conformance.cases.synthetic import synthetic_weights
from conformance.plan import NetworkPlan, Plan, assign_cases, make_jobs, write_files
from conformance.run.jobs import run_jobs
from conformance.run.switches import switches
from impls.config import VARIANTS

LIMIT = 0.5
"""Largest share of the bare candidate that a check may add."""

BARE = """
import json, sys
import numpy as np
import torch
from torchvision.models import resnet50
dtype = getattr(torch, sys.argv[1])
model = resnet50().to(dtype)
torch.set_grad_enabled(False)
for file in json.loads(sys.argv[2]):
    images = torch.from_numpy(np.load(file)).to(dtype)
    for train in (False, True):
        model.train(train)(images)
"""
"""The bare candidate: ResNet-50 of torchvision, given a precision and the files of the images."""


def children() -> float:
    """Seconds of the processors that the processes which this one started, and which have ended, took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def seconds_of(command: Sequence[str], variables: dict[str, str]) -> float:
    """Run a command, and return the seconds of the processors that it took."""
    before = children()
    subprocess.run(command, env=os.environ | variables, check=True, stdout=subprocess.DEVNULL)
    return children() - before


def numpy_alone(variant: str) -> tuple[float, float]:
    """Draw the weights, and run the oracle and the reference builds on the cases of a check; seconds of each."""
    before = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    config = VARIANTS[variant]
    network = NetworkPlan(config, synthetic_weights(config, 0), default_inputs(config, 0))
    drawing = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - before
    before = children()
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan({variant: network}, [], PRECISIONS, Path(folder), device="cpu", modes=MODES)
        cases = {precision: plan.cases(precision) for precision in PRECISIONS}
        jobs = make_jobs(plan, assign_cases(plan, cases), write_files(plan), Path(folder) / "cases")
        for event in run_jobs(jobs, plan.parallel(len(jobs))):
            assert event.kind != "failed", event.facts
    return drawing, children() - before


def bare(variant: str, folder: Path) -> float:
    """Run the bare candidate in each precision, on the images that a check gives it there."""
    config = VARIANTS[variant]
    network = NetworkPlan(config, synthetic_weights(config, 0), default_inputs(config, 0))
    plan = Plan({variant: network}, [], PRECISIONS, folder)
    files = write_files(plan)[variant].inputs
    total = 0.0
    for precision in PRECISIONS:
        images = [str(files[name]) for name in dict.fromkeys(case.input for case in plan.cases(precision))]
        threads = max(1, (os.cpu_count() or 1) // plan.parallel(6))
        command = [sys.executable, "-c", BARE, precision, json.dumps(images)]
        total += seconds_of(command, switches(precision, "cpu", threads))
    return total


def measure() -> dict[str, float]:
    """Measure each part once."""
    with tempfile.TemporaryDirectory() as folder:
        candidate = bare("v1.5", Path(folder))
    command = [sys.executable, "-m", "conformance.cli", "check", "torchvision.models:resnet50"]
    whole = seconds_of(command, {})
    weights, builds = numpy_alone("v1.5")
    added = whole - weights - builds - candidate
    parts = {"check": whole, "oracle and reference builds": builds, "weights": weights, "bare candidate": candidate}
    return parts | {"added": added, "share": added / candidate}


def main() -> None:
    """Measure, print the median of several runs, and fail where a check adds more than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="how often each part is measured")
    runs = [measure() for _ in range(parser.parse_args().runs)]
    medians: dict[str, Any] = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
    for name, value in medians.items():
        print(f"{name:<28} {value:.0%}" if name == "share" else f"{name:<28} {value:6.1f} s")
    if medians["share"] > LIMIT:
        sys.exit(f"a check may add {LIMIT:.0%} of the bare candidate at most")


if __name__ == "__main__":
    main()
