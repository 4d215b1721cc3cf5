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
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from conformance.cases.case import MOMENTS, Case, labels_for, padded, training_batches
from conformance.cases.inputs import content_hash
from conformance.cases.recipes import LOSS, RECIPES, STEPS
from conformance.cases.sketch import moments, sketch
from conformance.run.adapters import Adapter, DeviceMissing, load_adapter
from conformance.run.precision import measure_precision
from conformance.run.stream import finish_stream, write_stream
from conformance.trace import Origin, Trace
from impls.config import ResNetConfig
from impls.numpy import resnet

Network = Mapping[str, Any]
"""A network of the job: its "config", the path of its "weights", their "sha256"."""

Say = Callable[..., None]


def main(job_file: str) -> int:
    """Work through a job file; 0 when every case is traced."""
    say = take_standard_output()
    job = json.loads(Path(job_file).read_text())
    try:
        work(job, say)
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


def work(job: dict[str, Any], say: Say) -> None:
    """Prepare the implementation, then run every case of the job."""
    gc.disable()  # a framework makes a million objects and hardly a cycle: looking for them took a tenth of the time
    adapter = load_adapter(job["adapter"])
    gc.freeze()
    device = adapter.prepare(job["device"], job["precision"])
    in_force = check_precision(adapter, job["precision"])
    versions = {package: metadata.version(package) for package in job["packages"]}
    say(event="ready", device=device, versions=versions, switches=dict(adapter.switches()), in_force=in_force)
    for variant, network in job["networks"].items():
        gc.collect()  # the network before
        runner = with_faults(adapter, network["faults"]) if "faults" in network else adapter
        runner.build(ResNetConfig.from_dict(network["config"]), Path(network["weights"]))
        parameters = {name: tuple(shape) for name, shape in runner.parameters().items()}
        for case in [Case(**fields) for fields in job["cases"] if fields["variant"] == variant]:
            images = np.load(job["inputs"][variant][case.input])
            started = time.perf_counter()
            origin = Origin(
                case,
                job["implementation"],
                job["precision"],
                network["sha256"],
                content_hash(images),
                parameters,
                device,
                versions,
                in_force,
            )
            file = Path(job["directory"]) / f"{case.slug}.safetensors"
            fed = case.layers and case.task == "forward" and job["truth"] is not None
            if fed and hasattr(runner, "stream"):
                truth = job["truth"].get(case.slug)
                file = file.with_suffix("")
                write_stream(runner, images, case.mode == "train", file, Path(truth) if truth else None)
                finish_stream(file, replace(origin, fed=truth is not None))
            else:
                arrays = TASKS[case.task](runner, case, images, network)
                Trace(arrays, origin).save(file)
            seconds = time.perf_counter() - started
            say(event="traced", case=case.to_dict(), file=str(file), seconds=seconds)


def run_forward(adapter: Adapter, case: Case, images: np.ndarray, network: Network) -> Mapping[str, np.ndarray]:
    """Activations and running statistics."""
    return adapter.run(images, case.mode == "train", case.layers)


def take_gradients(adapter: Adapter, case: Case, images: np.ndarray, network: Network) -> Mapping[str, np.ndarray]:
    """The loss, and its gradients, of a batch that is padded."""
    labels = labels_for(len(images), network["config"]["num_classes"])
    return named_gradients(*adapter.gradients(padded(images), labels, LOSS, case.mode == "train"))


def run_backward(adapter: Adapter, case: Case, images: np.ndarray, network: Network) -> Mapping[str, np.ndarray]:
    """The same at the oracle's activations, rounded to float32: ReLU and max pool choose the same for everybody."""
    train, config = case.mode == "train", ResNetConfig.from_dict(network["config"])
    oracle = resnet(config, network["weights"]).train(train)
    given: dict[str, np.ndarray] = {}

    def tap(name: str, value: np.ndarray) -> np.ndarray:
        given[name] = value.astype(np.float32)
        return value

    oracle(images.astype(np.float64), tap=tap)
    keep_choices(given, config)
    labels = labels_for(len(images), config.num_classes)
    return named_gradients(*adapter.gradients(images, labels, LOSS, train, given))


def keep_choices(given: Mapping[str, np.ndarray], config: ResNetConfig) -> None:
    """Let each block's last ReLU choose as the oracle's does, in place.

    Branch and shortcut, each rounded to float32, may sum to another side of zero than they do in float64. Where they
    do, the branch is moved by as much as that rounding.

    Args:
        given: Activations of every layer, in float32, by canonical name; a block's is what the oracle computes.
        config: The network.
    """
    before = "stem"
    for block in config.blocks():
        shortcut = given[f"{block.name}.downsample_bn" if block.projects else before]
        branch, above = given[f"{block.name}.bn3"], given[block.name] > 0
        added = np.maximum(branch, 0) if config.relu_before_addition else branch
        other = (added + shortcut > 0) != above
        branch[other] = np.where(above, np.nextafter(-shortcut, np.float32(np.inf)), -shortcut)[other]
        before = block.name


def named_gradients(value: float, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Loss and gradients under the names of a trace, in one dtype."""
    arrays = {f"gradient.{name}": gradient for name, gradient in found.items()}
    return arrays | {"loss": np.array([value], next(iter(found.values())).dtype)}


def take_steps(adapter: Adapter, case: Case, images: np.ndarray, network: Network) -> Mapping[str, np.ndarray]:
    """The losses, and sketches of the state after the first and after the last step; with `layers`, after every one."""
    step, read = adapter.training(RECIPES[case.recipe])
    moments = {1: MOMENTS[0], STEPS: MOMENTS[1]}
    if case.layers:
        moments = {number: str(number) for number in range(1, STEPS + 1)}
    keep = np.array if case.layers else sketch
    losses: list[float] = []
    arrays: dict[str, np.ndarray] = {}
    batches = training_batches(images, network["config"]["num_classes"], STEPS)
    for number, (batch, labels) in enumerate(batches, start=1):
        losses.append(step(batch, labels))
        if moment := moments.get(number):
            state = read()
            arrays |= {f"{moment}.{name}": keep(array) for name, array in state.weights.arrays.items()}
            for slot, held in state.slots.items():
                arrays |= {f"{moment}.{slot}.{name}": keep(array) for name, array in held.arrays.items()}
    return arrays | {"losses": np.array(losses, next(iter(arrays.values())).dtype)}


def draw_initial(adapter: Adapter, case: Case, images: np.ndarray, network: Network) -> Mapping[str, np.ndarray]:
    """Mean, variance and fourth central moment of each array of a network that is given no weights."""
    return {f"initial.{name}": moments(array) for name, array in adapter.initial(seed=0).items()}


TASKS: dict[str, Callable[[Adapter, Case, np.ndarray, Network], Mapping[str, np.ndarray]]] = {
    "forward": run_forward,
    "gradients": take_gradients,
    "backward": run_backward,
    "steps": take_steps,
    "initialisation": draw_initial,
}


def with_faults(adapter: Adapter, faults: list[list[str]]) -> Adapter:
    """The adapter of a broken port, for the self-test."""
    from conformance.selftest.faulty import FaultyAdapter

    return FaultyAdapter(adapter, [(fault, place) for fault, place in faults])


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
