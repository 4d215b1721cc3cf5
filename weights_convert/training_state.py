"""A run of training at some step: weights, what the optimizer keeps, the step, and the recipe.

A file of it is a canonical safetensors file of the weights, which loads as such, with the optimizer's arrays beside
them under `optimizer.<slot>.<parameter>`. Slots follow their parameter through the conversion table, so a run that
began in one framework goes on in another.
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
from weights_convert import containers
from weights_convert.checkpoint import Checkpoint
from weights_convert.errors import ConversionError
from weights_convert.inspection import load
from weights_convert.shapes import expected_shapes
from weights_convert.table import RUNNING_STATISTICS

PREFIX = "optimizer"


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Everything that a run needs to go on.

    Attributes:
        weights: Parameters and running statistics.
        slots: What the optimizer keeps, by slot (in PyTorch's name): arrays by parameter, in the weights' dialect.
        steps: Number of steps taken.
        recipe: How it was trained.
    """

    weights: Checkpoint
    slots: Mapping[str, Checkpoint]
    steps: int
    recipe: Recipe

    @classmethod
    def of(
        cls, weights: Checkpoint, slots: Mapping[str, Mapping[str, np.ndarray]], steps: int, recipe: Recipe
    ) -> TrainingState:
        """A state from the slots' arrays, by parameter, in the weights' dialect."""
        return cls(
            weights, {slot: replace(weights, arrays=dict(arrays)) for slot, arrays in slots.items()}, steps, recipe
        )

    def to(self, dialect: str) -> TrainingState:
        """The same state as another dialect names and lays it out: views, nothing is copied.

        Raises:
            ValueError: If there is no such dialect.
        """
        slots = {slot: checkpoint.to(dialect) for slot, checkpoint in self.slots.items()}
        return replace(self, weights=self.weights.to(dialect), slots=slots)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, completely or not at all.

        Raises:
            ConversionError: If the name ends otherwise, or the file cannot be written.
        """
        container = containers.of_name(Path(path))
        if container is None or container.name != "safetensors":
            raise ConversionError(os.fspath(path), ["a run of training is kept in a .safetensors file"])
        state = self.to("canonical")
        arrays = dict(state.weights.arrays)
        for slot, checkpoint in state.slots.items():
            arrays |= {f"{PREFIX}.{slot}.{name}": array for name, array in checkpoint.arrays.items()}
        training = {"steps": str(self.steps), "recipe": json.dumps(self.recipe.to_dict())}
        training |= {f"content_hash.{slot}": checkpoint.content_hash() for slot, checkpoint in state.slots.items()}
        containers.write(Path(path), arrays, state.weights.metadata() | training)


def load_training(source: TrainingState | str | os.PathLike[str], config: ResNetConfig | None = None) -> TrainingState:
    """Read a run of training, and make sure that it is whole.

    Args:
        source: A file that `TrainingState.save` wrote, or a state.
        config: The network of the model that will go on with it.

    Raises:
        ConversionError: If it is no such file, not of this network, or an array is missing, extra or of another shape.
    """
    if isinstance(source, TrainingState):
        return replace(source, weights=load(source.weights, config=config))
    path = Path(source)
    weights = load(path, config=config)
    arrays, metadata = containers.read(path)
    if "recipe" not in metadata:
        advice = "resnet50(weights=...) takes them, and training then starts from them."
        raise ConversionError(str(path), ["it holds weights, and no state of training"], advice)
    try:
        steps, recipe = int(metadata["steps"]), Recipe.from_dict(json.loads(metadata["recipe"]))
    except ValueError as error:
        raise ConversionError(str(path), [f"what it says of its training is damaged: {error}"]) from error
    slots = {slot: _slot(arrays, slot, weights) for slot in recipe.slots}
    expected = {f"{PREFIX}.{slot}.{name}": shape for slot in slots for name, shape in parameter_shapes(weights).items()}
    held = {name: array.shape for name, array in arrays.items() if name.startswith(f"{PREFIX}.")}
    problems = [
        f"{name!r} is {held.get(name, 'missing')} where {expected.get(name, 'nothing')} is expected"
        for name in sorted(expected.keys() | held.keys())
        if held.get(name) != expected.get(name)
    ]
    problems += [
        f"the arrays of {slot!r} are not those it was written with (the content hash differs)"
        for slot, checkpoint in slots.items()
        if not problems and metadata.get(f"content_hash.{slot}") != checkpoint.content_hash()
    ]
    if problems:
        raise ConversionError(str(path), problems)
    return TrainingState(weights, slots, steps, recipe)


def _slot(arrays: Mapping[str, np.ndarray], slot: str, weights: Checkpoint) -> Checkpoint:
    start = f"{PREFIX}.{slot}."
    own = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
    return replace(weights, arrays={name: own[name] for name in parameter_shapes(weights) if name in own})


def parameter_shapes(weights: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Canonical name and shape of every array that an optimizer changes: all but the running statistics."""
    shapes = expected_shapes(weights.config).items()
    return {name: shape for name, shape in shapes if not name.endswith(RUNNING_STATISTICS)}
