"""PyTorch's files, through `torch.load(weights_only=True)`: nothing is unpickled in any other way."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.containers.archives import check_content, check_directory, entry_names
from weights_convert.containers.contents import Arrays, Contents, Metadata
from weights_convert.containers.stand_ins import NUMBERS, STANDARD_LIBRARY, is_replaceable, stand_in, stands_for
from weights_convert.containers.trees import unique_dict
from weights_convert.errors import ConversionError, first_line
from weights_convert.metadata import OTHER_VALUES
from weights_convert.packages import import_optional
from weights_convert.tensors import to_numpy, to_torch

SAVE_STATE_DICT = "Save `model.state_dict()` alone."

MOST_STAND_INS = 256
"""The most classes of other libraries that are met by stand-ins; a training checkpoint has a dozen."""

MAX_NESTING = 64
MAX_VALUES = 1_000_000
"""The depth and the number of values up to which a checkpoint is read; its parts may contain each other."""


def read(path: Path) -> Contents:
    """Read every tensor of a file, by the keys that lead to it, joined by dots.

    Returns:
        Arrays by name; the metadata names the values that are no arrays, if there are any, each with its type.

    Raises:
        ConversionError: If PyTorch is not installed, or the file holds no tensors by name.
    """
    torch = import_optional("torch", "torch", str(path))
    if zipfile.is_zipfile(path):
        check_directory(path)
        check_content(path)
        _refuse_programs(path)
        _refuse_plain_archives(path)
    content = _load(torch, path)
    if not isinstance(content, Mapping) or stands_for(content):
        kind = _kind(content)
        raise ConversionError(str(path), [f"it is {kind}, expected a state_dict"], SAVE_STATE_DICT)
    leaves = unique_dict(_Walk(torch).leaves(content))
    arrays = {name: value for name, value in leaves.items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in leaves.items() if isinstance(value, str)}
    if not arrays:
        listed = ", ".join(f"{name!r}: {kind}" for name, kind in list(others.items())[:4]) or "it is empty"
        raise ConversionError(str(path), [f"it holds no tensors by name ({listed})"], SAVE_STATE_DICT)
    return arrays, {OTHER_VALUES: json.dumps(others)} if others else {}


PROGRAMS = {
    "constants.pkl": (
        "it is a TorchScript file, which holds a program",
        "Save its weights alone: torch.save(torch.jit.load(path).state_dict(), 'weights.pth').",
    ),
    "serialized_exported_program.json": (
        "it is an exported program of torch.export",
        "Save its weights alone: torch.save(torch.export.load(path).state_dict, 'weights.pth').",
    ),
    "MAR-INF/MANIFEST.json": ("it is an archive of TorchServe", "Unpack it, and give the .pth file in it."),
}
"""The entries by which archives of programs are recognised, each with what it is and what to do."""


def _refuse_programs(path: Path) -> None:
    names = entry_names(path)
    for entry, (problem, advice) in PROGRAMS.items():
        if any(f"/{name}".endswith(f"/{entry}") for name in names):
            raise ConversionError(str(path), [f"{problem}, and no program is run"], advice)


def _refuse_plain_archives(path: Path) -> None:
    """Refuse a zip archive that somebody packed, perhaps of checkpoints: an archive in an archive is not unpacked."""
    names = entry_names(path)
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return
    shown = ", ".join(map(repr, names[:3])) + ", ..." * (len(names) > 3)
    problem = f"it is a zip archive that PyTorch did not write; it holds {shown or 'nothing'}"
    raise ConversionError(str(path), [problem], "Unpack it, and give the checkpoint in it.")


def _load(torch: Any, path: Path) -> Any:
    """Return the content of a file, with stand-ins for the classes of other libraries."""
    likes: dict[str, str] = {}
    # On the meta device, the tensors of an archive are not read, so that looking for classes is quick.
    device = "meta" if zipfile.is_zipfile(path) else "cpu"
    while True:
        try:
            content = _load_with(torch, path, device, likes)
        except pickle.UnpicklingError as error:
            if (needed := _needed(str(error), likes)) is None or len(likes) > MOST_STAND_INS:
                _refuse_unknown(str(error), path)
                raise
            name, like = needed
            if not is_replaceable(name):
                problem = f"it holds more than tensors: reading it would call {name}, which is refused"
                raise ConversionError(str(path), [problem], SAVE_STATE_DICT) from error
            likes[name] = like
        except Exception:  # some kinds of tensors cannot be on the meta device
            if device == "cpu":
                raise
            device = "cpu"
        else:
            return content if device == "cpu" else _load_with(torch, path, "cpu", likes)


def _load_with(torch: Any, path: Path, device: str, likes: Mapping[str, str]) -> Any:
    allowed = [(stand_in(name, like), name) for name, like in likes.items()]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
        warnings.simplefilter("ignore", UserWarning)  # kinds of tensors that PyTorch deprecates
        return torch.load(path, map_location=device, weights_only=True)


def _refuse_unknown(message: str, path: Path) -> None:
    """Raise an error with the reason that PyTorch gives behind its own advice, if it gives one."""
    _, _, reason = message.partition("WeightsUnpickler error:")
    if reason.strip():
        problem = f"it holds more than tensors: {first_line(ValueError(reason))}"
        raise ConversionError(str(path), [problem], SAVE_STATE_DICT)


REQUESTS = {
    "object": re.compile(r"GLOBAL (\S+)"),
    "dict": re.compile(r"Can only SETITEMS? for dict.* but got <class '(\S+)'>"),
    "list": re.compile(r"Can only append to lists, but got <class '(\S+)'>"),
}
"""The messages by which PyTorch refuses a class, by the type that a stand-in for it must be filled like."""


def _needed(message: str, likes: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the class that a message of PyTorch refuses, and the type that it is filled like; None for any other."""
    for like, pattern in REQUESTS.items():
        if match := pattern.search(message):
            name = match[1] if "." in match[1] else f"builtins.{match[1]}"
            expected = None if like == "object" else "object"  # a class is first met by an object
            return (name, like) if likes.get(name) == expected else None
    return None


class _Walk:
    """A walk over the content of a file, which may be nested, and may contain itself."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._count = 0

    def leaves(self, value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, np.ndarray | str]]:
        """Yield every tensor as an array by name, and the type of every other value.

        A container without tensors is one value.

        Raises:
            ValueError: If the content is nested too deeply, or is too large.
        """
        self._count += 1
        if depth > MAX_NESTING or self._count > MAX_VALUES:
            raise ValueError("its content is nested too deeply, contains itself, or is too large")
        if isinstance(value, self._torch.Tensor):
            yield name, _to_array(self._torch, value)
        elif isinstance(value, Mapping | list | tuple) and stands_for(value) is None:
            below: list[tuple[str, np.ndarray | str]] = []
            for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                below += self.leaves(item, f"{name}.{key}" if depth else str(key), depth + 1)
            if any(isinstance(leaf, np.ndarray) for _, leaf in below) or not depth:
                yield from below
            else:
                yield name, _kind(value)
        else:
            yield name, _kind(value)


def _kind(value: Any) -> str:
    """Return the type of a value, for messages. The object of an unknown class may be anything, also weights."""
    name = stands_for(value)
    if name is None or name in STANDARD_LIBRARY or name in NUMBERS:
        return f"of type {name or type(value).__name__}"
    return f"an object of {name}"


def write(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write a `state_dict`. The metadata is not stored: with a further entry the file would not load strictly.

    Raises:
        ConversionError: If PyTorch is not installed.
    """
    torch = import_optional("torch", "torch", str(path))
    torch.save({name: to_torch(torch, array) for name, array in arrays.items()}, path)


def _to_array(torch: Any, tensor: Any) -> np.ndarray | str:
    """Return a tensor as an array with the same bits, or its type if NumPy has none like it."""
    try:
        return to_numpy(torch, tensor)
    except (TypeError, RuntimeError):  # sparse and quantized tensors, lazy conjugates, dtypes that NumPy lacks
        return f"a tensor of {tensor.dtype} that NumPy lacks"
