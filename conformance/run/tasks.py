"""Tasks as a worker runs them: from a case and its images to the arrays of a trace; the capabilities that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from conformance.cases.batches import labels_for, padded, training_batches
from conformance.cases.case import Case
from conformance.cases.names import KEPT_STATES
from conformance.cases.recipes import LOSS, RECIPES, STEPS
from conformance.cases.sketch import draw_moments, sketch
from conformance.run.capabilities import Adapter, Arrays, Capability, Differentiable, Drawable, Trainable
from conformance.run.jobs import NetworkFiles
from impls.config import ResNetConfig
from impls.numpy import resnet


def run_forward(adapter: Adapter, case: Case, images: np.ndarray, network: NetworkFiles) -> Arrays:
    """Return activations and, in train mode, running statistics."""
    return adapter.record(images, case.mode == "train", case.layers)


def take_gradients(adapter: Differentiable, case: Case, images: np.ndarray, network: NetworkFiles) -> Arrays:
    """Return the loss and its gradients, of a batch whose last image is padded."""
    labels = labels_for(len(images), network.config.num_classes)
    return named_gradients(*adapter.gradients(padded(images), labels, LOSS, case.mode == "train"))


def run_backward(adapter: Differentiable, case: Case, images: np.ndarray, network: NetworkFiles) -> Arrays:
    """Return the loss and its gradients at the oracle's activations, rounded to float32.

    There ReLU and max pool choose the same for every candidate.
    """
    train, config = case.mode == "train", network.config
    oracle = resnet(config, network.weights).train(train)
    activations: dict[str, np.ndarray] = {}

    def tap(name: str, value: np.ndarray) -> np.ndarray:
        activations[name] = value.astype(np.float32)
        return value

    oracle(images.astype(np.float64), tap=tap)
    keep_choices(activations, config)
    labels = labels_for(len(images), config.num_classes)
    return named_gradients(*adapter.gradients(images, labels, LOSS, train, activations))


def keep_choices(activations: Mapping[str, np.ndarray], config: ResNetConfig) -> None:
    """Let each block's last ReLU choose as the oracle's does, in place.

    Branch and shortcut, each rounded to float32, may sum to another side of zero than they do in float64. Where they
    do, the branch is moved by as much as that rounding.

    Args:
        activations: Every layer's in float32, by canonical name; a block's is what the oracle computes.
        config: The network.
    """
    before = "stem"
    for block in config.blocks():
        shortcut = activations[f"{block.name}.downsample_bn" if block.projects else before]
        branch, above = activations[f"{block.name}.bn3"], activations[block.name] > 0
        added = np.maximum(branch, 0) if config.relu_before_addition else branch
        other = (added + shortcut > 0) != above
        branch[other] = np.where(above, np.nextafter(-shortcut, np.float32(np.inf)), -shortcut)[other]
        before = block.name


def named_gradients(loss: float, gradients: Arrays) -> Arrays:
    """Return loss and gradients under the names of a trace, in one dtype."""
    arrays = {f"gradient.{name}": gradient for name, gradient in gradients.items()}
    return arrays | {"loss": np.array([loss], next(iter(gradients.values())).dtype)}


def take_steps(adapter: Trainable, case: Case, images: np.ndarray, network: NetworkFiles) -> Arrays:
    """Return losses, and sketches of the state after the first and the last step; with `layers`, whole after each."""
    step, read = adapter.training(RECIPES[case.recipe])
    kept = {1: KEPT_STATES[0], STEPS: KEPT_STATES[1]}
    if case.layers:
        kept = {number: str(number) for number in range(1, STEPS + 1)}
    keep = np.array if case.layers else sketch
    losses: list[float] = []
    arrays: dict[str, np.ndarray] = {}
    batches = training_batches(images, network.config.num_classes, STEPS)
    for number, (batch, labels) in enumerate(batches, start=1):
        losses.append(step(batch, labels))
        if moment := kept.get(number):
            state = read()
            arrays |= {f"{moment}.{name}": keep(array) for name, array in state.weights.arrays.items()}
            for slot, checkpoint in state.slots.items():
                arrays |= {f"{moment}.{slot}.{name}": keep(array) for name, array in checkpoint.arrays.items()}
    return arrays | {"losses": np.array(losses, next(iter(arrays.values())).dtype)}


def draw_initial(adapter: Drawable, case: Case, images: np.ndarray, network: NetworkFiles) -> Arrays:
    """Return mean, variance and fourth central moment of each array of a network that is given no weights."""
    return {f"initial.{name}": draw_moments(array) for name, array in adapter.initial(seed=0).items()}


class RunTask(NamedTuple):
    """How a worker runs a task.

    Attributes:
        run: From adapter, case, images and network to arrays.
        needs: The capability that the adapter must declare; None where the required interface is enough.
        streams: Whether activations of a case with `layers` are streamed where a job says so.
    """

    run: Callable[[Any, Case, np.ndarray, NetworkFiles], Arrays]
    needs: Capability | None = None
    streams: bool = False


TASKS: dict[str, RunTask] = {
    "forward": RunTask(run_forward, streams=True),
    "gradients": RunTask(take_gradients, Capability.DIFFERENTIATE),
    "backward": RunTask(run_backward, Capability.DIFFERENTIATE),
    "steps": RunTask(take_steps, Capability.TRAIN),
    "initialisation": RunTask(draw_initial, Capability.DRAW),
}
"""How each task is run."""
