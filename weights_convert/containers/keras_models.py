"""Whole models of keras.applications, which only this library can write: it builds a model, fills it and saves it.

Keras is imported only to write. Reading such a file does not need it.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from impls.config import ResNetConfig
from weights_convert.containers.contents import Arrays, Metadata
from weights_convert.errors import ConversionError
from weights_convert.metadata import pack
from weights_convert.packages import import_optional

METADATA_ENTRY = "resnet_parity.json"
"""The entry of a `.keras` archive that holds our metadata; Keras ignores entries that it does not know."""

APPLICATIONS: dict[tuple[int, ...], str] = {
    (3, 4, 6, 3): "ResNet50",
    (3, 4, 23, 3): "ResNet101",
    (3, 8, 36, 3): "ResNet152",
}
"""The networks of keras.applications, by their depths."""


def write_archive(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write a model of keras.applications as a `.keras` file.

    Raises:
        ConversionError: If keras.applications has no such network, or Keras is not installed.
    """
    _write_application(path, ".keras", arrays, metadata)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA_ENTRY, json.dumps(dict(metadata)))


def write_h5(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write a model of keras.applications as a whole-model `.h5` file, as Keras 2 did.

    Raises:
        ConversionError: If keras.applications has no such network, or Keras is not installed.
    """
    _write_application(path, ".h5", arrays, metadata)
    add_metadata(path, metadata)


def _write_application(path: Path, ending: str, arrays: Arrays, metadata: Metadata) -> None:
    """Let Keras build, fill and save a model of keras.applications in the format that a file ending selects."""
    config = buildable_network(metadata, path, "keras.applications' ResNet", "keras", APPLICATIONS)
    dtype = common_dtype(arrays, path)
    keras = import_optional("keras", "keras", str(path))
    # A model with a classifier needs a fixed size. Any will do, since the feature map is averaged.
    side = 224 if config.num_classes else None
    sizes = {"classes": config.num_classes} if config.num_classes else {"include_top": False, "pooling": "avg"}
    with ExitStack() as put_back:
        put_back.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy(dtype)
        build = getattr(keras.applications, APPLICATIONS[config.depths])
        model = build(weights=None, input_shape=(side, side, config.in_channels), **sizes)
    fill(model.layers, arrays, path)
    saved = path.with_name(path.name + ending)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that .h5 is a legacy format
            model.save(saved)
        saved.replace(path)
    finally:
        saved.unlink(missing_ok=True)


def buildable_network(
    metadata: Metadata, path: Path, model: str, variant: str, depths: Collection[tuple[int, ...]] | None = None
) -> ResNetConfig:
    """Return the network that a checkpoint's metadata describes, if a library's model can be built like it.

    Args:
        metadata: The metadata of the checkpoint.
        path: The target, for messages.
        model: The name of the library's model.
        variant: The only variant that it can be.
        depths: The only depths that it can have; None for any.

    Raises:
        ConversionError: If the model cannot be this network.
    """
    config = ResNetConfig.from_dict(json.loads(metadata["config"]))
    possible: dict[str, Collection[Any]] = {"variant": (variant,), "width": (ResNetConfig.width,)}
    possible |= {"depths": depths} if depths is not None else {}
    problems = [
        f"{model} can only have {name} {' or '.join(map(str, values))}; these weights have {getattr(config, name)}"
        for name, values in possible.items()
        if getattr(config, name) not in values
    ]
    if problems:
        raise ConversionError(str(path), problems, "Write a .weights.h5 file, and load it into the model.")
    return config


def common_dtype(arrays: Arrays, path: Path) -> str:
    """Return the dtype that all arrays share, in which the model is built."""
    dtypes = sorted({array.dtype.name for array in arrays.values()})
    if len(dtypes) > 1:
        problem = f"the arrays are {' and '.join(dtypes)}, and Keras builds a model in one dtype"
        raise ConversionError(str(path), [problem], "Choose one with --dtype (weights_convert.cast).")
    return dtypes[0]


def fill(layers: Iterable[Any], arrays: Arrays, path: Path) -> None:
    """Assign an array to every variable of the layers, by "layer.variable".

    Raises:
        ConversionError: If the names do not match, as they may in another release of the library.
    """
    flat = {layer.name: layer for layer in layers if not hasattr(layer, "layers")}
    variables = {f"{layer.name}.{variable.name}": variable for layer in flat.values() for variable in layer.variables}
    problems = [f"the library's model has {name!r}, and there is no such array" for name in variables.keys() - arrays]
    problems += [f"the library's model has no {name!r}" for name in arrays.keys() - variables]
    if problems:
        raise ConversionError(str(path), sorted(problems))
    for name, variable in variables.items():
        variable.assign(np.ascontiguousarray(arrays[name]))


def add_metadata(file: Path, metadata: Metadata) -> None:
    """Add our metadata to an HDF5 file; Keras ignores attributes that it does not know."""
    with h5py.File(file, "r+") as opened:
        opened.attrs.update(pack(metadata))
