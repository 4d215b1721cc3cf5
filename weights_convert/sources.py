"""Opening a source: a file, folder or address, arrays in memory, or a model that another library has built."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from impls.config import ResNetConfig
from weights_convert.checkpoint import Checkpoint
from weights_convert.configurations import found_in
from weights_convert.containers import read, recognise
from weights_convert.containers.trees import unique_dict
from weights_convert.errors import ConversionError
from weights_convert.live import array_leaves, open_model
from weights_convert.metadata import KNOWN_BY, is_ours

Model = Any
"""A model of PyTorch, Flax NNX, Keras or `impls`; none of the frameworks is imported to say so in a type."""

Source = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint | Model
"""The sources that `load` takes: a file or folder, an address, arrays by name in any dialect, a model, a checkpoint."""


@dataclass(frozen=True, eq=False)
class Opened:
    """The content of a source, before anything is recognised in it.

    Attributes:
        where: The source, for messages.
        container: The name of the container; None for arrays in memory.
        arrays: All arrays, by the names in the source, in this machine's byte order.
        metadata: The metadata that the source has, or that is known of it.
        problems: What is not an array with a name.
        config: The network, if the source is a model of `impls`.
    """

    where: str
    container: str | None
    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    config: ResNetConfig | None = None


def open_source(source: Source) -> Opened:
    """Read the arrays of a source.

    Raises:
        ConversionError: If a file cannot be read, or the source is of no kind that can be.
    """
    if isinstance(source, str) and "://" in source:
        return _open_address(source)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        container = recognise(path)
        arrays, metadata = read(path)
        return Opened(str(path), container.name, _native(arrays), metadata)
    if isinstance(source, Mapping):
        return _open_mapping(source)
    if (model := open_model(source)) is None:
        problem = f"it is of type {type(source).__name__}; expected a file, arrays by name, or a model"
        raise ConversionError("this source", [problem])
    known = {"variant": model.config.variant, KNOWN_BY: "its config"} if model.config else {}
    metadata = known if known.get("variant") != "custom" else {}
    arrays = {name: model.read(name) for name in model.variables}
    return Opened(model.backend.where, None, _native(arrays), metadata, config=model.config)


def _open_mapping(source: Mapping[Any, Any]) -> Opened:
    """Read arrays and tensors by name; a value may be a mapping of its own."""
    leaves = list(array_leaves(source))
    problems = tuple(
        f"{name!r} is of type {type(array).__name__}, expected a NumPy array with a name"
        for name, array in leaves
        if not (isinstance(name, str) and isinstance(array, np.ndarray))
    )
    named = [(name, array) for name, array in leaves if isinstance(name, str) and isinstance(array, np.ndarray)]
    try:
        arrays = unique_dict(named)
    except ValueError as error:
        raise ConversionError("these arrays", [str(error)]) from error
    return Opened("these arrays", None, _native(arrays), problems=problems)


def _open_address(address: str) -> Opened:
    """Fetch and read a file. The table of published checkpoints, or a config beside it, may tell its variant."""
    from weights_convert.remote import fetch, fetch_config, published_for  # imported here, since few sources need it

    path, published = fetch(address), published_for(address)
    opened = open_source(path)
    metadata = dict(opened.metadata)
    if published is not None and not is_ours(metadata):
        metadata |= {"variant": published.variant, KNOWN_BY: published.recognised_by}
    if config := fetch_config(address, path):
        metadata |= found_in(config.parent)
    return replace(opened, where=address, metadata=metadata)


def _native(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays in this machine's byte order. Their bytes may be swapped, and their numbers stay the same."""
    return {
        name: array if array.dtype.isnative else array.byteswap().view(array.dtype.newbyteorder())
        for name, array in arrays.items()
    }
