"""PyTorch's own files, through `torch.load(weights_only=True)`: nothing else is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from weights_convert.errors import ConversionError


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name of a saved `state_dict`; such files carry no metadata.

    Raises:
        ConversionError: If PyTorch is not installed, or the file holds anything else than tensors by name.
    """
    torch = _import_torch(path)
    held = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(held, Mapping):
        raise ConversionError(str(path), [f"it holds a {type(held).__name__}, where a state_dict is expected"])
    problems = [
        f"{name!r} is a {type(value).__name__}, where a tensor is expected"
        for name, value in held.items()
        if not isinstance(value, torch.Tensor)
    ]
    if problems:
        raise ConversionError(str(path), problems, "Save `model.state_dict()` alone.")
    return {str(name): _to_numpy(torch, tensor) for name, tensor in held.items()}, {}


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a `state_dict`. It has no place for the metadata: a state_dict with one more entry would not load strictly."""
    torch = _import_torch(path)
    torch.save({name: _to_torch(torch, array) for name, array in arrays.items()}, path)


def _to_numpy(torch, tensor) -> np.ndarray:
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _to_torch(torch, array: np.ndarray):
    array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _import_torch(path: Path):
    try:
        import torch
    except ImportError as error:
        raise ConversionError(str(path), ["a PyTorch file needs PyTorch"], "pip install 'resnet-parity[torch]'") from error
    return torch
