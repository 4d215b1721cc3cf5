"""The weights of the Flax model under canonical names."""

from __future__ import annotations

import os

import jax.numpy as jnp
import numpy as np

from impls.flax.resnet import ResNet
from impls.flax.training import Training
from impls.paths import variables
from weights_convert import Checkpoint, Source, TrainingState, load, load_training
from weights_convert.dialects import find_dialect


def read_weights(model: ResNet) -> Checkpoint:
    """The model's arrays as a checkpoint, to save or to turn into another dialect."""
    arrays = {name: np.asarray(variable[...]) for name, variable in variables(model, model.config, "flax").items()}
    return Checkpoint(arrays, find_dialect("flax"), model.config, where="a Flax model", recognised_by="its config")


def write_weights(model: ResNet, source: Source) -> None:
    """Set every array of the model from a checkpoint, all or none.

    Raises:
        ConversionError: If the checkpoint is another network's, or has a dtype that the model's cannot hold exactly.
    """
    own = variables(model, model.config, "flax")
    dtypes = {name: np.dtype(variable.dtype) for name, variable in own.items()}
    arrays = load(source, config=model.config).arrays_for("flax", dtypes)
    for name, variable in own.items():
        variable.set_value(jnp.asarray(arrays[name], dtypes[name]))


def read_training(training: Training) -> TrainingState:
    """The model's arrays, what the optimizer keeps, and the step, to save or to go on with in another framework."""
    slots = {
        slot: {name: np.asarray(variable[...]) for name, variable in own.items()}
        for slot, own in training.slots().items()
    }
    return TrainingState.of(read_weights(training.model), slots, training.steps, training.recipe)


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
    dtypes = {
        slot: {name: np.dtype(variable.dtype) for name, variable in own.items()}
        for slot, own in training.slots().items()
    }
    slots = {
        slot: {name: jnp.asarray(array) for name, array in arrays.items()}
        for slot, arrays in state.slot_arrays("flax", dtypes).items()
    }
    training.set_slots(slots, state.steps)
    return training
