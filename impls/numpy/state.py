"""The oracle's weights under canonical names, which are its own."""

from __future__ import annotations

import os
from dataclasses import replace

import ml_dtypes
import numpy as np

from impls.config import ResNetConfig, named_config
from impls.numpy.resnet import ResNet, resnet
from impls.numpy.training import Training
from impls.paths import follow, variables
from weights_convert import Checkpoint, Source, TrainingState, load, load_training
from weights_convert.dialects import find_dialect


def read_weights(model: ResNet) -> Checkpoint:
    """The model's arrays as a checkpoint, to save or to turn into another dialect."""
    arrays = variables(model, model.config, "canonical")
    return Checkpoint(arrays, find_dialect("canonical"), model.config, where="the oracle", recognised_by="its config")


def initial_weights(
    variant: str | ResNetConfig = "v1.5", num_classes: int = 1000, *, seed: int = 0, dtype: str = "float32"
) -> Checkpoint:
    """Random weights to start training from, the same for every framework: each of its own draws other numbers.

    Drawn in float64 by NumPy's `default_rng(seed)` from the distributions that all implementations start from, and
    rounded: kernels normal with variance 2 / (out channels * kernel area), the classifier's with a deviation of 0.01.

    Args:
        variant: One of `impls.config.VARIANTS`, or a whole configuration.
        num_classes: Length of the logits; 0 for none. A configuration has its own.
        seed: Of the numbers.
        dtype: "bfloat16", "float16", "float32" or "float64"; that of the model which takes them.

    Raises:
        ValueError: If there is no such variant.

    Example:
        >>> weights = initial_weights("v1.5", num_classes=10, seed=0)  # for resnet50("v1.5", 10, weights=weights)
        >>> weights.arrays["fc.weight"].shape, weights.dtypes(), weights.recognised_by
        ((10, 2048), ['float32'], 'its config')
    """
    config = named_config(variant, num_classes) if isinstance(variant, str) else variant
    drawn = read_weights(resnet(config, seed=seed))
    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    arrays = {name: array.astype(kind) for name, array in drawn.arrays.items()}
    return replace(drawn, arrays=arrays, where=f"initial weights of seed {seed}")


def write_weights(model: ResNet, source: Source) -> None:
    """Set every array of the model from a checkpoint, in the dtype that the model has now.

    Raises:
        ConversionError: If the checkpoint is another network's, or has a dtype that the model's cannot hold exactly.
    """
    own = variables(model, model.config, "canonical")
    dtypes = {name: array.dtype for name, array in own.items()}
    arrays = load(source, config=model.config).arrays_for("canonical", dtypes)
    for name, dtype in dtypes.items():
        path, _, leaf = name.rpartition(".")
        setattr(follow(model, path), leaf, arrays[name].astype(dtype))


def read_training(training: Training) -> TrainingState:
    """The model's arrays, what the optimizer keeps, and the step, to save or to go on with in another framework."""
    return TrainingState.of(read_weights(training.model), training.slots, training.steps, training.recipe)


def resume(model: ResNet, source: TrainingState | str | os.PathLike[str]) -> Training:
    """Go on with a run of training, whichever framework it comes from.

    Args:
        model: Takes the weights.
        source: A state, or a file of one (`weights_convert.load_training`).

    Raises:
        ConversionError: If the state is another network's, or has a dtype that the model's cannot hold exactly.
    """
    state = load_training(source, model.config)
    write_weights(model, state.weights)
    training = Training(model, state.recipe)
    dtypes = {slot: {name: array.dtype for name, array in own.items()} for slot, own in training.slots.items()}
    training.slots, training.steps = state.slot_arrays("canonical", dtypes), state.steps
    return training
