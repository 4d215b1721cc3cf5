"""Tasks as a worker runs them: from a case and its images to the arrays of a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from conformance.cases.case import MOMENTS, Case, labels_for, padded, training_batches
from conformance.cases.recipes import LOSS, RECIPES, STEPS
from conformance.cases.sketch import moments, sketch
from conformance.run.adapters import Adapter
from conformance.run.jobs import NetworkFiles
from impls.config import ResNetConfig
from impls.numpy import resnet


def run_forward(adapter: Adapter, case: Case, images: np.ndarray, network: NetworkFiles) -> Mapping[str, np.ndarray]:
    """Activations and running statistics."""
    return adapter.run(images, case.mode == "train", case.layers)


def take_gradients(adapter: Adapter, case: Case, images: np.ndarray, network: NetworkFiles) -> Mapping[str, np.ndarray]:
    """The loss, and its gradients, of a batch that is padded."""
    labels = labels_for(len(images), network.config.num_classes)
    return named_gradients(*adapter.gradients(padded(images), labels, LOSS, case.mode == "train"))


def run_backward(adapter: Adapter, case: Case, images: np.ndarray, network: NetworkFiles) -> Mapping[str, np.ndarray]:
    """The same at the oracle's activations, rounded to float32: ReLU and max pool choose the same for everybody."""
    train, config = case.mode == "train", network.config
    oracle = resnet(config, network.weights).train(train)
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


def take_steps(adapter: Adapter, case: Case, images: np.ndarray, network: NetworkFiles) -> Mapping[str, np.ndarray]:
    """The losses, and sketches of the state after the first and after the last step; with `layers`, after every one."""
    step, read = adapter.training(RECIPES[case.recipe])
    moments = {1: MOMENTS[0], STEPS: MOMENTS[1]}
    if case.layers:
        moments = {number: str(number) for number in range(1, STEPS + 1)}
    keep = np.array if case.layers else sketch
    losses: list[float] = []
    arrays: dict[str, np.ndarray] = {}
    batches = training_batches(images, network.config.num_classes, STEPS)
    for number, (batch, labels) in enumerate(batches, start=1):
        losses.append(step(batch, labels))
        if moment := moments.get(number):
            state = read()
            arrays |= {f"{moment}.{name}": keep(array) for name, array in state.weights.arrays.items()}
            for slot, held in state.slots.items():
                arrays |= {f"{moment}.{slot}.{name}": keep(array) for name, array in held.arrays.items()}
    return arrays | {"losses": np.array(losses, next(iter(arrays.values())).dtype)}


def draw_initial(adapter: Adapter, case: Case, images: np.ndarray, network: NetworkFiles) -> Mapping[str, np.ndarray]:
    """Mean, variance and fourth central moment of each array of a network that is given no weights."""
    return {f"initial.{name}": moments(array) for name, array in adapter.initial(seed=0).items()}


TASKS: dict[str, Callable[[Adapter, Case, np.ndarray, NetworkFiles], Mapping[str, np.ndarray]]] = {
    "forward": run_forward,
    "gradients": take_gradients,
    "backward": run_backward,
    "steps": take_steps,
    "initialisation": draw_initial,
}
