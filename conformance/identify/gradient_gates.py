"""Gates of gradients: which gradients a ReLU passes back, where that is not those of its positive inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import ModuleType

import numpy as np

from conformance.cases.names import OFFSET
from conformance.faults.edit import Substitution, edited_module
from conformance.identify.fact import Fact
from conformance.identify.link import Array, Arrays
from conformance.oracle.gradients import TRAINING_MODULE, SegmentedGradients

PREFIX = "gradient."

EVERYWHERE = "every ReLU"

Gate = Callable[[Array, Array], Array]
"""Takes whether each input of a ReLU is positive, and the gradient behind it, to the factor of the gradient."""

GATES: dict[str, Gate] = {
    "passes every gradient back (straight through)": lambda positive, dy: np.ones_like(dy),
    "passes positive gradients alone, and where its input is positive (guided backpropagation)": (
        lambda positive, dy: positive * (dy > 0)
    ),
    "passes positive gradients alone, whatever its input (as a deconvolutional network)": lambda positive, dy: dy > 0,
}
"""Gates that are not the right one, by what is said of them."""

POOLED = 'dy = _max_pool(relu(activations["bn1"]), dy, model.config)'

EDITS = (
    Substitution(
        f'{POOLED} * (activations["bn1"] > 0)',
        f'{POOLED}\n    dy = dy * GATE("bn1", activations["bn1"] > 0, dy)',
    ),
    Substitution("dy = dy * (activations[name] > 0)", "dy = dy * GATE(name, activations[name] > 0, dy)"),
    Substitution(
        "dbranch = dbranch * (inputs[number - 1] > 0)",
        'dbranch = dbranch * GATE(f"{name}.bn{number - 1}", inputs[number - 1] > 0, dbranch)',
    ),
)
"""The oracle's lines that a gradient passes a ReLU by, and the same with a function in its place."""


def training_with_gate(place: str, gate: Gate) -> ModuleType:
    """Make the oracle's training module with another gate behind one activation, or behind every one."""

    def factor(name: str, positive: Array, dy: Array) -> Array:
        return gate(positive, dy) if place in (name, EVERYWHERE) else positive

    module = edited_module(TRAINING_MODULE, EDITS)
    vars(module)["GATE"] = factor
    return module


def find_gate(
    oracle: SegmentedGradients, right: Arrays, candidate: Arrays, limit: float
) -> tuple[Fact, dict[str, Array]] | None:
    """Find the gate of one ReLU, or of all, with which the oracle computes a candidate's gradients; None if none does.

    Args:
        oracle: The right gradients.
        right: What it computes, by the names that cases give.
        candidate: The candidate's, by the same names.
        limit: Largest error that a gate may leave of a gradient, relative to the right one or its own, the larger.

    Returns:
        The fact, and all gradients with it.
    """
    first = next((name for name in _judged(right, oracle) if _left(right, right, candidate, name) > limit), "")
    for place in _places(first.removeprefix(PREFIX)):
        for words, gate in GATES.items():
            arrays = _gradients(oracle, training_with_gate(place, gate))
            left = max(_left(right, arrays, candidate, name) for name in _judged(right, oracle))
            if left <= limit:
                values = {"gate": words}, {"gate": "positive inputs"}
                said = f"{words}; those of positive inputs alone are expected"
                return Fact(first, "gradient", said, *values, left, layers=(first,), subject=_subject(place)), arrays
    return None


def _subject(place: str) -> str:
    return place if place == EVERYWHERE else f"the ReLU behind {place}"


def _places(first: str) -> Iterator[str]:
    """Yield the activations whose ReLU may be the first wrong one, given the first wrong gradient's array."""
    layer = first.rpartition(".")[0]
    block, _, name = layer.rpartition(".")
    if name in ("bn1", "bn2") or layer == "bn1":
        yield layer
    elif name in ("bn3", "downsample_bn"):
        yield block
    if layer:
        yield EVERYWHERE


def _gradients(oracle: SegmentedGradients, module: ModuleType) -> dict[str, Array]:
    return {name: array for _, _, arrays in oracle.run([], module=module) for name, array in arrays.items()}


def _judged(right: Arrays, oracle: SegmentedGradients) -> list[str]:
    """List the gradients that are no noise, in the order that they are computed in."""
    names = [name for name in right if name.startswith(PREFIX)]
    return [name for name in names if not (oracle.train and OFFSET.fullmatch(name.removeprefix(PREFIX)))]


def _left(right: Arrays, expected: Arrays, candidate: Mapping[str, Array], name: str) -> float:
    """Return the error of a candidate's gradient, relative to the right one or the expected one, the larger."""
    if name not in candidate or candidate[name].shape != expected[name].shape:
        return float("inf")
    size = max(float(np.linalg.norm(array[name].ravel())) for array in (right, expected))
    left = float(np.linalg.norm((candidate[name] - expected[name]).ravel()))
    return left / size if size else (0.0 if left == 0 else float("inf"))
