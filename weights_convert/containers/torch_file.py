"""PyTorch's own files, through `torch.load(weights_only=True)`: nothing else is ever unpickled."""

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

from weights_convert.containers.archives import check_archive, check_content
from weights_convert.errors import ConversionError
from weights_convert.metadata import OTHER_WEIGHTS
from weights_convert.packages import needed

ONLY_WEIGHTS = "Save `model.state_dict()` alone."

WRAPPINGS = ("state_dict", "model_state_dict", "model")
AVERAGES = ("state_dict_ema", "model_ema")
"""The entries under which training checkpoints keep the weights, and averages of them; the first that is there counts.

timm's `CheckpointSaver` writes `state_dict` and `state_dict_ema`, torchvision's references `model` and `model_ema`.
"""

PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name; averaged models have `module.`, too."""

AVERAGING_COUNTER = "n_averaged"
"""What `torch.optim.swa_utils.AveragedModel` counts beside the weights."""


def read(path: Path, averaged: bool = False) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name of a saved `state_dict`; of metadata, which other weights there are that were not read.

    Args:
        path: The file.
        averaged: Of a training checkpoint, whether to read the averaged weights; else the last ones, or the averaged
            where there are no others.

    Raises:
        ConversionError: If PyTorch is not installed, the file holds anything else than tensors by name, or no averaged
            weights where they are asked for.
    """
    torch = needed("torch", "torch", str(path))
    if zipfile.is_zipfile(path):
        check_archive(path)
        check_content(path)
    try:
        # timm's training checkpoints keep their options
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore", UserWarning)  # that kinds of tensors will go, which PyTorch itself reads
            held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (wanted := re.search(r"GLOBAL (\S+)", str(error))) is None:
            raise
        problem = f"it holds more than tensors: reading it would call {wanted[1]}, which is refused"
        raise ConversionError(str(path), [problem], ONLY_WEIGHTS) from error
    held, other = _unwrapped(held, averaged, path)
    if not isinstance(held, Mapping):
        problem = f"it is of type {type(held).__name__}, where a state_dict is expected"
        raise ConversionError(str(path), [problem], ONLY_WEIGHTS)
    problems = [
        f"{name!r} is of type {type(value).__name__}, where a tensor with a name is expected"
        for name, value in held.items()
        if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if problems:
        raise ConversionError(str(path), problems, ONLY_WEIGHTS)
    arrays = {name: _to_numpy(torch, tensor.detach()) for name, tensor in held.items()}
    return arrays, {OTHER_WEIGHTS: other} if other else {}


def _unwrapped(held: Any, averaged: bool, path: Path) -> tuple[Any, str]:
    """The weights out of a training checkpoint, without prefixes that all names share; and which others there are."""
    if not isinstance(held, Mapping):
        return held, ""
    entries = [entry for entry in (*WRAPPINGS, *AVERAGES) if isinstance(held.get(entry), Mapping)]
    averages = [entry for entry in entries if entry in AVERAGES]
    if averaged and not averages:
        raise ConversionError(str(path), [f"it holds no averaged weights ({' or '.join(AVERAGES)})"])
    chosen = (averages if averaged else entries)[:1]
    other = [entry for entry in entries if entry not in chosen and (entry in AVERAGES) is not averaged]
    return _without_prefixes(held[chosen[0]] if chosen else held), other[0] if other else ""


def _without_prefixes(held: Mapping[str, Any]) -> Mapping[str, Any]:
    for prefix in PREFIXES * 2:  # either may stand before the other
        names = [name for name in held if name != AVERAGING_COUNTER]
        if names and all(isinstance(name, str) and name.startswith(prefix) for name in names):
            held = {name.removeprefix(prefix): held[name] for name in names}
    return held


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a `state_dict`. It has no place for the metadata: with one more entry it would not load strictly.

    Raises:
        ConversionError: If PyTorch is not installed.
    """
    torch = needed("torch", "torch", str(path))
    torch.save({name: _to_torch(torch, array) for name, array in arrays.items()}, path)


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    """The same bits; NumPy knows bfloat16 through ml_dtypes only."""
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
