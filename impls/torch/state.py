"""The weights of the PyTorch model under canonical names, which are its own."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import torch

from impls.paths import variables
from impls.torch.resnet import ResNet
from impls.torch.training import Training
from weights_convert import Checkpoint, Source, TrainingState, load, load_training
from weights_convert.dialects import find_dialect


def read_weights(model: ResNet) -> Checkpoint:
    """The model's arrays as a checkpoint, to save or to turn into another dialect."""
    arrays = {name: _to_numpy(tensor) for name, tensor in variables(model, model.config, "torch").items()}
    return Checkpoint(arrays, find_dialect("torch"), model.config, where="a PyTorch model", recognised_by="its config")


def write_weights(model: ResNet, source: Source) -> None:
    """Set every array of the model from a checkpoint, all or none.

    Raises:
        ConversionError: If the checkpoint is another network's, or has a dtype that the model's cannot hold exactly.
    """
    tensors = variables(model, model.config, "torch")
    dtypes = {name: _to_numpy(tensor[:0]).dtype for name, tensor in tensors.items()}
    arrays = load(source, config=model.config).arrays_for("torch", dtypes)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(_to_torch(arrays[name].astype(dtypes[name])))


def read_training(training: Training) -> TrainingState:
    """The model's arrays, what the optimizer keeps, and the step, to save or to go on with in another framework."""
    slots = {
        slot: {name: _to_numpy(variable) for name, variable in own.items()} for slot, own in training.slots().items()
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
        slot: {name: _to_numpy(variable[:0]).dtype for name, variable in own.items()}
        for slot, own in training.slots().items()
    }
    device = next(model.parameters()).device
    slots = {
        slot: {name: _to_torch(array).to(device) for name, array in arrays.items()}
        for slot, arrays in state.slot_arrays("torch", dtypes).items()
    }
    training.set_slots(slots, state.steps)
    return training


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A copy, so that training on does not change it; NumPy knows bfloat16 through ml_dtypes only."""
    tensor = tensor.detach().cpu().contiguous().clone()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _to_torch(array: np.ndarray) -> torch.Tensor:
    """The same memory."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
