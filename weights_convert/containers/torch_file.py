"""PyTorch's files, through `torch.load(weights_only=True)`: nothing is unpickled in any other way."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from weights_convert.containers.archives import check_content, check_directory
from weights_convert.containers.contents import Arrays, Contents, Metadata
from weights_convert.errors import ConversionError
from weights_convert.metadata import OTHER_WEIGHTS
from weights_convert.packages import import_optional

SAVE_STATE_DICT = "Save `model.state_dict()` alone."

LAST_WEIGHTS = ("state_dict", "model_state_dict", "model")
AVERAGED_WEIGHTS = ("state_dict_ema", "model_ema")
"""The entries of a training checkpoint that may hold the last weights, and averaged weights; the first present is read.

timm's `CheckpointSaver` writes `state_dict` and `state_dict_ema`, torchvision's references `model` and `model_ema`.
"""

PREFIXES = ("module.", "_orig_mod.")
"""The prefixes that DistributedDataParallel and averaged models (`module.`), and torch.compile, give to all names."""

AVERAGING_COUNTER = "n_averaged"
"""The entry that `torch.optim.swa_utils.AveragedModel` keeps beside the weights."""


def read(path: Path, averaged: bool = False) -> Contents:
    """Read a saved `state_dict`, or the one in a training checkpoint.

    Args:
        path: The file.
        averaged: Whether to read the averaged weights of a training checkpoint. Otherwise the last weights are read, or
            the averaged ones if there are no others.

    Returns:
        Arrays by name; the metadata names the entry of other weights that were not read, if there is one.

    Raises:
        ConversionError: If PyTorch is not installed, the file holds anything but tensors by name, or there are no
            averaged weights although they are wanted.
    """
    torch = import_optional("torch", "torch", str(path))
    if zipfile.is_zipfile(path):
        check_directory(path)
        check_content(path)
    content = _load(torch, path)
    state, other = _state_dict(content, averaged, path) if isinstance(content, Mapping) else (content, None)
    if not isinstance(state, Mapping):
        problem = f"it is of type {type(state).__name__}, expected a state_dict"
        raise ConversionError(str(path), [problem], SAVE_STATE_DICT)
    problems = [
        f"{name!r} is of type {type(value).__name__}, expected a tensor with a name"
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if problems:
        raise ConversionError(str(path), problems, SAVE_STATE_DICT)
    arrays = {name: _to_numpy(torch, tensor.detach()) for name, tensor in state.items()}
    return arrays, {OTHER_WEIGHTS: other} if other else {}


def _load(torch: Any, path: Path) -> Any:
    try:
        # timm's training checkpoints hold their options as a Namespace.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore", UserWarning)  # kinds of tensors that PyTorch deprecates
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (function := re.search(r"GLOBAL (\S+)", str(error))) is None:
            raise
        problem = f"it holds more than tensors: reading it would call {function[1]}, which is refused"
        raise ConversionError(str(path), [problem], SAVE_STATE_DICT) from error


def _state_dict(content: Mapping[str, Any], averaged: bool, path: Path) -> tuple[Any, str | None]:
    """Return the weights in a training checkpoint or a plain state_dict, and the entry that holds other weights."""
    entries = [entry for entry in (*LAST_WEIGHTS, *AVERAGED_WEIGHTS) if isinstance(content.get(entry), Mapping)]
    averages = [entry for entry in entries if entry in AVERAGED_WEIGHTS]
    if averaged and not averages:
        raise ConversionError(str(path), [f"it holds no averaged weights ({' or '.join(AVERAGED_WEIGHTS)})"])
    chosen = next(iter(averages if averaged else entries), None)
    others = (entry for entry in entries if entry != chosen and (entry in AVERAGED_WEIGHTS) is not averaged)
    return _without_prefixes(content[chosen] if chosen else content), next(others, None)


def _without_prefixes(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Remove the prefixes that all names share."""
    for prefix in PREFIXES * 2:  # they occur in both orders
        names = [name for name in state if name != AVERAGING_COUNTER]
        if names and all(isinstance(name, str) and name.startswith(prefix) for name in names):
            state = {name.removeprefix(prefix): state[name] for name in names}
    return state


def write(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write a `state_dict`. The metadata is not stored: with a further entry the file would not load strictly.

    Raises:
        ConversionError: If PyTorch is not installed.
    """
    torch = import_optional("torch", "torch", str(path))
    torch.save({name: _to_torch(torch, array) for name, array in arrays.items()}, path)


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    """Return a tensor as an array with the same bits. PyTorch itself cannot convert bfloat16 to NumPy."""
    if tensor.dtype is torch.bfloat16:
        bits: np.ndarray = tensor.contiguous().view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray = tensor.numpy()
    return array


def _to_torch(torch: Any, array: np.ndarray) -> Any:
    array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
