"""The weights of the PyTorch model under canonical names, which are its own."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

from impls.paths import variables
from impls.torch.resnet import ResNet
from weights_convert import Checkpoint, Source, load
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
