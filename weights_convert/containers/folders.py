"""Folders and indexes that spread one network over files: shards of safetensors, and presets of Keras Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert import containers
from weights_convert.errors import ConversionError
from weights_convert.metadata import KNOWN_BY, is_ours

INDEX = ".index.json"
WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5")
"""The files of a transformers folder that hold all weights, the best first."""

PRESET = ("model.weights.h5", "task.weights.h5")
"""The files of a Keras Hub preset: the backbone, and, where there is a task, its head or all of it."""


def is_index(path: Path) -> bool:
    """Whether a file is an index of shards, by its name's ending."""
    return path.name.endswith(INDEX)


def is_transformers(folder: Path) -> bool:
    """Whether a folder holds weights under one of the names that transformers gives them."""
    return any((folder / name).is_file() for name in WHOLE)


def is_preset(folder: Path) -> bool:
    """Whether a folder is a Keras Hub preset."""
    return (folder / PRESET[0]).is_file()


def read_index(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of all shards; each must hold exactly what the index says.

    Raises:
        ConversionError: If the index names files elsewhere, or shards and index disagree.
    """
    weight_map = json.loads(path.read_bytes())["weight_map"]
    shards = sorted(set(weight_map.values()))
    if climbing := [shard for shard in shards if Path(shard).name != shard]:
        raise ConversionError(str(path), [f"its shard {shard!r} is not beside it" for shard in climbing])
    arrays: dict[str, np.ndarray] = {}
    problems = []
    for shard in shards:
        held, _ = containers.read(path.with_name(shard))
        promised = {name for name, place in weight_map.items() if place == shard}
        problems += [f"{name!r} is not in {shard}, where the index says it is" for name in promised - held.keys()]
        problems += [f"{name!r} is in {shard}, and the index does not say so" for name in held.keys() - promised]
        arrays |= held
    if problems:
        raise ConversionError(str(path), problems)
    return arrays, {}


def read_transformers(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of the first of the files that hold all."""
    arrays, metadata = containers.read(next(folder / name for name in WHOLE if (folder / name).is_file()))
    config = _config(folder)
    if not is_ours(metadata) and config.get("model_type") == "resnet":
        in_bottleneck = config.get("downsample_in_bottleneck", False)
        known_by = f"downsample_in_bottleneck is {str(in_bottleneck).lower()} in its config.json"
        metadata = {"variant": "v1" if in_bottleneck else "v1.5", KNOWN_BY: known_by}
    return arrays, metadata


def read_preset(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of the backbone and of the task's head."""
    arrays, metadata = containers.read(folder / PRESET[0])
    if (folder / PRESET[1]).is_file():
        arrays |= containers.read(folder / PRESET[1])[0]
    if _config(folder).get("registered_name") == "keras_hub>ResNetBackbone":
        metadata |= {"variant": "v1.5", KNOWN_BY: "Keras Hub's ResNetBackbone, named in its config.json, is v1.5"}
    return arrays, metadata


def refuse_writing(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Folders are read, not written.

    Raises:
        ConversionError: Always.
    """
    raise ConversionError(str(path), ["folders of several files are read, not written"], "Write one file.")


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    config = json.loads(file.read_bytes()) if file.is_file() else {}
    return config if isinstance(config, dict) else {}
