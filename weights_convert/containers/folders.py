"""Folders and indexes that spread one network over files: transformers', shards of safetensors, Keras Hub's presets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from impls.config import EXPANSION, ResNetConfig
from weights_convert import containers
from weights_convert.containers import safetensors_file
from weights_convert.containers.atomic import write_atomically
from weights_convert.containers.keras_models import PRESET, write_preset
from weights_convert.errors import ConversionError
from weights_convert.metadata import KNOWN_BY, is_ours, packed, unpacked

__all__ = [
    "is_index",
    "is_preset",
    "is_transformers",
    "read_index",
    "read_preset",
    "read_transformers",
    "told_by_config",
]
__all__ += ["refuse_writing", "transformers_config", "write_preset", "write_transformers"]

INDEX = ".index.json"
MODEL_TYPE = "resnet"
"""What transformers' config.json calls this network."""

WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5")
"""The files of a transformers folder that hold all weights, the best first."""


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
    index = json.loads(path.read_bytes())
    weight_map = index["weight_map"]
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
    return arrays, unpacked(index.get("metadata") or {})


def read_transformers(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of the first of the files that hold all."""
    arrays, metadata = containers.read(next(folder / name for name in WHOLE if (folder / name).is_file()))
    return arrays, metadata if is_ours(metadata) else metadata | told_by_config(folder)


def write_transformers(
    folder: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], shard_bytes: int | None = None
) -> None:
    """Write what `from_pretrained` of transformers' ResNetForImageClassification, or ResNetModel, reads.

    Args:
        folder: Is made.
        arrays: In transformers' names.
        metadata: What a checkpoint says of itself; its config decides what the folder's says.
        shard_bytes: Of arrays in one file, at most; a larger array has a file of its own. None puts all in one.

    Raises:
        ConversionError: If transformers has no such network.
    """
    config = transformers_config(ResNetConfig.from_dict(json.loads(metadata["config"])), metadata["dtype"], folder)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shards = _shards(arrays, shard_bytes)
    files = {f"model-{number:05}-of-{len(shards):05}.safetensors": names for number, names in enumerate(shards, 1)}
    files = files if len(shards) > 1 else {WHOLE[0]: list(arrays)}
    for file, names in files.items():
        held = {name: arrays[name] for name in names}
        said = metadata if len(files) == 1 else {}  # no shard is the network that they describe
        write_atomically(folder / file, partial(safetensors_file.write_for_transformers, arrays=held, metadata=said))
    if len(files) > 1:
        total = {"total_size": sum(array.nbytes for array in arrays.values())}
        weight_map = {name: file for file, names in files.items() for name in names}
        index = {"metadata": total | packed(metadata), "weight_map": weight_map}
        (folder / f"{WHOLE[0]}{INDEX}").write_text(json.dumps(index, indent=2) + "\n")


TIMM_ARCHITECTURES = ("resnet50", "resnet101", "resnet152")
"""The models of timm that are this network; it strides on the 3x3 convolution (timm/models/resnet.py)."""

IN_BOTTLENECK = {"v1.5": False, "v1": True}
"""The variants that transformers' ResNet can be, and what its `downsample_in_bottleneck` is then."""


def transformers_config(network: ResNetConfig, dtype: str, where: Path) -> dict[str, Any]:
    """What transformers' `config.json` says of a network.

    Raises:
        ConversionError: If transformers has no such network.

    Example:
        >>> transformers_config(ResNetConfig(num_classes=0), "float32", Path("a.transformers"))["architectures"]
        ['ResNetModel']
    """
    if network.variant not in IN_BOTTLENECK:
        problem = f"transformers' ResNet is variant {' or '.join(IN_BOTTLENECK)}; it cannot be {network.variant}"
        raise ConversionError(str(where), [problem], "Write a file of arrays, such as .transformers.safetensors.")
    classes = range(network.num_classes)
    return {
        "architectures": ["ResNetForImageClassification" if classes else "ResNetModel"],
        "model_type": MODEL_TYPE,
        "num_channels": network.in_channels,
        "embedding_size": network.width,
        "hidden_sizes": [network.width * EXPANSION * 2**stage for stage in range(4)],
        "depths": list(network.depths),
        "layer_type": "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": IN_BOTTLENECK[network.variant],
        **({"num_labels": len(classes)} if classes else {}),
        **({"id2label": {str(number): f"LABEL_{number}" for number in classes}} if classes else {}),
        **({"label2id": {f"LABEL_{number}": number for number in classes}} if classes else {}),
        **({} if "," in dtype else {"dtype": dtype, "torch_dtype": dtype}),  # as version 5 calls it, and version 4
    }


def _shards(arrays: Mapping[str, np.ndarray], shard_bytes: int | None) -> list[list[str]]:
    """Names in their order, cut before each array that would make a shard too large."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, array in arrays.items():
        if shard_bytes is not None and shards[-1] and size + array.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += array.nbytes
    return shards


def read_preset(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of the backbone and of the task's head."""
    arrays, metadata = containers.read(folder / PRESET[0])
    if (folder / PRESET[1]).is_file():
        head, said = containers.read(folder / PRESET[1])
        arrays, metadata = arrays | head, metadata | said
    if not is_ours(metadata) and _config(folder).get("registered_name") == "keras_hub>ResNetBackbone":
        metadata |= {"variant": "v1.5", KNOWN_BY: "Keras Hub's ResNetBackbone, named in its config.json, is v1.5"}
    return arrays, metadata


def refuse_writing(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """An index alone is read, not written.

    Raises:
        ConversionError: Always.
    """
    raise ConversionError(str(path), ["an index is written with its folder alone"], "Write a .transformers folder.")


def told_by_config(folder: Path) -> dict[str, str]:
    """The variant, and how it is known, by the `config.json` that transformers or timm puts beside the weights.

    Args:
        folder: Where it may be.

    Returns:
        "variant" and the key `KNOWN_BY`; nothing where there is no such file, or it is of another model.
    """
    config = _config(folder)
    if (architecture := config.get("architecture")) in TIMM_ARCHITECTURES:
        return {"variant": "v1.5", KNOWN_BY: f"timm's {architecture}, named in its config.json, is v1.5"}
    if config.get("model_type") != MODEL_TYPE:
        return {}
    in_bottleneck = bool(config.get("downsample_in_bottleneck", False))
    known_by = f"downsample_in_bottleneck is {str(in_bottleneck).lower()} in its config.json"
    return {"variant": next(v for v, said in IN_BOTTLENECK.items() if said == in_bottleneck), KNOWN_BY: known_by}


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    config = json.loads(file.read_bytes()) if file.is_file() else {}
    return config if isinstance(config, dict) else {}
