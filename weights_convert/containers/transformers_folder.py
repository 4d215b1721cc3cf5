"""The folders of transformers, and indexes of shards, which may also stand outside of such a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from impls.config import ResNetConfig
from weights_convert.configurations import CONFIG, found_in
from weights_convert.containers import safetensors_file
from weights_convert.containers.atomic import write_atomically
from weights_convert.containers.configs import transformers_config
from weights_convert.containers.contents import Arrays, Contents, Metadata, ReadFile
from weights_convert.errors import ConversionError
from weights_convert.metadata import metadata_of, pack

INDEX_ENDING = ".index.json"

WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5")
"""The files that hold all weights of a folder, the preferred first."""


def is_folder(folder: Path) -> bool:
    """Return whether a folder holds weights under a name that transformers gives them."""
    return any((folder / name).is_file() for name in WHOLE)


def read_index(path: Path, read_file: ReadFile) -> Contents:
    """Read the arrays of all shards that an index lists. Each shard must hold exactly what the index says.

    Raises:
        ConversionError: If the index names files elsewhere, or a shard and the index disagree.
    """
    index = json.loads(path.read_bytes())
    weight_map = index["weight_map"]
    shards = sorted(set(weight_map.values()))
    if elsewhere := [shard for shard in shards if Path(shard).name != shard]:
        raise ConversionError(str(path), [f"its shard {shard!r} is not beside it" for shard in elsewhere])
    arrays: dict[str, np.ndarray] = {}
    problems = []
    for shard in shards:
        actual, _ = read_file(path.with_name(shard))
        promised = {name for name, place in weight_map.items() if place == shard}
        problems += [f"{name!r} is not in {shard}, where the index says it is" for name in promised - actual.keys()]
        problems += [f"{name!r} is in {shard}, and the index does not say so" for name in actual.keys() - promised]
        arrays |= actual
    if problems:
        raise ConversionError(str(path), problems)
    metadata = index.get("metadata") or {}
    return arrays, metadata_of(metadata)


def read(folder: Path, read_file: ReadFile) -> Contents:
    """Read the first of the files that hold all weights, and pass on the config beside it."""
    arrays, metadata = read_file(next(folder / name for name in WHOLE if (folder / name).is_file()))
    return arrays, metadata | found_in(folder)


def write(folder: Path, arrays: Arrays, metadata: Metadata, shard_bytes: int | None = None) -> None:
    """Write a folder for `from_pretrained` of transformers' ResNetForImageClassification or ResNetModel.

    Args:
        folder: The folder to make.
        arrays: Arrays in dialect transformers.
        metadata: The metadata of the checkpoint, whose network the folder's config describes.
        shard_bytes: The most bytes of arrays in one file; a larger array has a file of its own. None writes one file.

    Raises:
        ConversionError: If transformers has no such network.
    """
    network = ResNetConfig.from_dict(json.loads(metadata["config"]))
    config = transformers_config(network, metadata["dtype"], str(folder))
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    shards = _shards(arrays, shard_bytes)
    if len(shards) == 1:
        _write_file(folder / WHOLE[0], arrays, metadata)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(folder / file, {name: arrays[name] for name in names}, {})  # our metadata describes all shards
        weight_map |= dict.fromkeys(names, file)
    total = {"total_size": sum(array.nbytes for array in arrays.values())}
    index = {"metadata": total | pack(metadata), "weight_map": weight_map}
    (folder / f"{WHOLE[0]}{INDEX_ENDING}").write_text(json.dumps(index, indent=2) + "\n")


def _write_file(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    # This also gives the file the permissions of any new file, which safetensors does not.
    write_atomically(path, lambda temporary: safetensors_file.write_for_transformers(temporary, arrays, metadata))


def _shards(arrays: Arrays, shard_bytes: int | None) -> list[list[str]]:
    """Divide the names of arrays, in their order, into shards of at most `shard_bytes` each."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, array in arrays.items():
        if shard_bytes is not None and shards[-1] and size + array.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += array.nbytes
    return shards
