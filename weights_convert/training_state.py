"""A training run at some step: the weights, the state of the optimizer, the number of steps and the recipe.

Its file is a canonical safetensors file of the weights, which also loads as a plain checkpoint. The optimizer's arrays
stand beside them under `optimizer.<slot>.<parameter>`. They have the axes of their parameters, so the conversion table
serves them too, and a run that began in one framework can continue in another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from impls.config import ResNetConfig
from impls.recipe import Recipe
from weights_convert.checkpoint import Checkpoint
from weights_convert.containers import for_name, read, write
from weights_convert.errors import ConversionError
from weights_convert.inspection import load
from weights_convert.shapes import Shape, expected_shapes
from weights_convert.table import RUNNING_STATISTICS

PREFIX = "optimizer"


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Everything that a training run needs to continue.

    Attributes:
        weights: Parameters and running statistics.
        slots: The arrays that the optimizer keeps, by the slot's name in PyTorch: one array for each parameter, in the
            dialect of the weights.
        steps: Number of steps taken.
        recipe: The schedule, loss and optimizer.
    """

    weights: Checkpoint
    slots: Mapping[str, Checkpoint]
    steps: int
    recipe: Recipe

    @classmethod
    def of(
        cls, weights: Checkpoint, slots: Mapping[str, Mapping[str, np.ndarray]], steps: int, recipe: Recipe
    ) -> TrainingState:
        """Build a state from the optimizer's arrays by slot and by parameter, in the dialect of the weights."""
        checkpoints = {slot: replace(weights, arrays=dict(arrays)) for slot, arrays in slots.items()}
        return cls(weights, checkpoints, steps, recipe)

    def to(self, dialect: str) -> TrainingState:
        """Return the same state in another dialect. The arrays are views: nothing is copied.

        Raises:
            ValueError: If there is no such dialect.
        """
        slots = {slot: checkpoint.to(dialect) for slot, checkpoint in self.slots.items()}
        return replace(self, weights=self.weights.to(dialect), slots=slots)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, completely or not at all.

        Raises:
            ConversionError: If the name has another ending, or the file cannot be written.
        """
        container = for_name(Path(path))
        if container is None or container.name != "safetensors":
            raise ConversionError(os.fspath(path), ["a training state is kept in a .safetensors file"])
        state = self.to("canonical")
        arrays = dict(state.weights.arrays)
        for slot, checkpoint in state.slots.items():
            arrays |= {f"{PREFIX}.{slot}.{name}": array for name, array in checkpoint.arrays.items()}
        training = {"steps": str(self.steps), "recipe": json.dumps(self.recipe.to_dict())}
        training |= {f"content_hash.{slot}": checkpoint.content_hash() for slot, checkpoint in state.slots.items()}
        write(Path(path), arrays, state.weights.metadata() | training)


def load_training(source: TrainingState | str | os.PathLike[str], config: ResNetConfig | None = None) -> TrainingState:
    """Read a training state, and verify that it is complete.

    Args:
        source: A file that `TrainingState.save` wrote, or a state.
        config: The network of the model that will continue the run.

    Raises:
        ConversionError: If the file holds no training state or one of another network, or if an array is missing, extra
            or of another shape.
    """
    if isinstance(source, TrainingState):
        return replace(source, weights=load(source.weights, config=config))
    path = Path(source)
    weights = load(path, config=config)
    arrays, metadata = read(path)
    if "recipe" not in metadata:
        advice = "resnet50(weights=...) takes them, and training then starts from them."
        raise ConversionError(str(path), ["it holds weights, and no state of training"], advice)
    try:
        steps, recipe = int(metadata["steps"]), Recipe.from_dict(json.loads(metadata["recipe"]))
    except ValueError as error:
        raise ConversionError(str(path), [f"its metadata about training is damaged: {error}"]) from error
    parameters = parameter_shapes(weights)
    slots = {slot: _slot(arrays, slot, weights) for slot in recipe.slots}
    expected = {f"{PREFIX}.{slot}.{name}": shape for slot in slots for name, shape in parameters.items()}
    actual = {name: array.shape for name, array in arrays.items() if name.startswith(f"{PREFIX}.")}
    problems = [
        f"{name!r} is {actual.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
        for name in sorted(expected.keys() | actual.keys())
        if actual.get(name) != expected.get(name)
    ]
    problems += [
        f"the arrays of {slot!r} have changed since they were written (the content hash differs)"
        for slot, checkpoint in slots.items()
        if not problems and metadata.get(f"content_hash.{slot}") != checkpoint.content_hash()
    ]
    if problems:
        raise ConversionError(str(path), problems)
    return TrainingState(weights, slots, steps, recipe)


def _slot(arrays: Mapping[str, np.ndarray], slot: str, weights: Checkpoint) -> Checkpoint:
    names = {name: f"{PREFIX}.{slot}.{name}" for name in parameter_shapes(weights)}
    return replace(weights, arrays={name: arrays[key] for name, key in names.items() if key in arrays})


def parameter_shapes(weights: Checkpoint) -> dict[str, Shape]:
    """Return canonical name and shape of every array that an optimizer changes: all but the running statistics."""
    shapes = expected_shapes(weights.config).items()
    return {name: shape for name, shape in shapes if not name.endswith(RUNNING_STATISTICS)}
