"""Whole models of others, as only their libraries can write them down: built by the library, filled, and saved by it.

Keras and Keras Hub are imported here when such a target is written; to read one needs neither.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from impls.config import ResNetConfig
from weights_convert.errors import ConversionError
from weights_convert.metadata import packed
from weights_convert.packages import needed

ONE_FILE = "Write a .weights.h5 file, and load it into the model."
METADATA = "resnet_parity.json"
"""The entry of a `.keras` archive that holds our metadata; Keras passes over entries that it does not know."""

APPLICATIONS: dict[tuple[int, ...], str] = {
    (3, 4, 6, 3): "ResNet50",
    (3, 4, 23, 3): "ResNet101",
    (3, 8, 36, 3): "ResNet152",
}
"""The networks of keras.applications, by their blocks."""

PRESET = ("model.weights.h5", "task.weights.h5")
"""The files of a Keras Hub preset: the backbone, and, where there is a task, its head or all of it."""


def write_archive(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a model of keras.applications as a `.keras` file.

    Raises:
        ConversionError: If keras.applications has no such network, or Keras is not installed.
    """
    _save(path, ".keras", arrays, metadata)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA, json.dumps(dict(metadata)))


def write_h5(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a model of keras.applications as a whole-model `.h5` file, as Keras 2 did.

    Raises:
        ConversionError: If keras.applications has no such network, or Keras is not installed.
    """
    _save(path, ".h5", arrays, metadata)
    _add_metadata(path, metadata)


def write_preset(folder: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write what `from_preset` of Keras Hub's ResNetImageClassifier, or ResNetBackbone, reads.

    Raises:
        ConversionError: If Keras Hub has no such network, or is not installed.
    """
    config = _network(metadata)
    _refuse(folder, _other_network(config, "Keras Hub's ResNetBackbone", "v1.5"))
    dtype = _dtype(arrays, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports, and that a model was not compiled
        keras_hub = needed("keras_hub", "keras-hub", str(folder))
        model = backbone = keras_hub.models.ResNetBackbone(
            input_conv_filters=[config.width],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[config.width * 2**stage for stage in range(4)],
            stackwise_num_blocks=list(config.depths),
            stackwise_num_strides=[1, 2, 2, 2],
            block_type="bottleneck_block",
            image_shape=(None, None, config.in_channels),
            dtype=dtype,
        )
        if config.num_classes:
            model = keras_hub.models.ResNetImageClassifier(backbone, num_classes=config.num_classes, dtype=dtype)
        _fill([*backbone.layers, *model.layers], arrays, folder)
        model.save_to_preset(str(folder))
    # The backbone's file, which can be read alone, is not the network that the metadata of one with a head describe.
    _add_metadata(folder / PRESET[bool(config.num_classes)], metadata)


def _save(path: Path, ending: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Let Keras build the model and write it to a name with the ending that it goes by."""
    config = _network(metadata)
    problems = _other_network(config, "keras.applications' ResNet", "keras")
    if config.depths not in APPLICATIONS:
        blocks = ", ".join(map(str, config.depths))
        problems.append(f"keras.applications has {', '.join(APPLICATIONS.values())}, none of {blocks} blocks")
    _refuse(path, problems)
    dtype = _dtype(arrays, path)
    keras = needed("keras", "keras", str(path))
    # With a classifier it wants a side, and any will do: the feature map is averaged.
    side = 224 if config.num_classes else None
    sizes = {"classes": config.num_classes} if config.num_classes else {"include_top": False, "pooling": "avg"}
    with _policy(keras, dtype):
        build = getattr(keras.applications, APPLICATIONS[config.depths])
        model = build(weights=None, input_shape=(side, side, config.in_channels), **sizes)
    _fill(model.layers, arrays, path)
    named = path.with_name(path.name + ending)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the file is of Keras's legacy kind
            model.save(named)
        named.replace(path)
    finally:
        named.unlink(missing_ok=True)


def _network(metadata: Mapping[str, str]) -> ResNetConfig:
    return ResNetConfig.from_dict(json.loads(metadata["config"]))


def _other_network(config: ResNetConfig, whose: str, variant: str) -> list[str]:
    facts = (("variant", config.variant, variant), ("width", config.width, ResNetConfig.width))
    return [f"{whose} is of {name} {theirs}; it cannot be of {ours}" for name, ours, theirs in facts if ours != theirs]


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise ConversionError(str(path), problems, ONE_FILE)


def _dtype(arrays: Mapping[str, np.ndarray], path: Path) -> str:
    """The one dtype of all arrays: a model is built in one."""
    found = sorted({array.dtype.name for array in arrays.values()})
    if len(found) > 1:
        problem = f"the arrays are {' and '.join(found)}, and Keras builds a model in one dtype"
        raise ConversionError(str(path), [problem], "Say which with --dtype (weights_convert.cast).")
    return found[0]


@contextmanager
def _policy(keras: Any, dtype: str) -> Iterator[None]:
    """Have layers made in a dtype, and afterwards as before."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _fill(layers: Iterable[Any], arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Give every variable of the layers its array, by "layer.variable".

    Raises:
        ConversionError: If the library's network is another one, as of a release that nobody has tried yet.
    """
    flat = {layer.name: layer for layer in layers if not hasattr(layer, "layers")}
    variables = {f"{layer.name}.{variable.name}": variable for layer in flat.values() for variable in layer.variables}
    others = [f"its library's model has {name!r}, and there is no such array" for name in variables.keys() - arrays]
    others += [f"its library's model has no {name!r}" for name in arrays.keys() - variables]
    if others:
        raise ConversionError(str(path), sorted(others))
    for name, variable in variables.items():
        variable.assign(np.ascontiguousarray(arrays[name]))


def _add_metadata(file: Path, metadata: Mapping[str, str]) -> None:
    """Add our metadata to an HDF5 file; Keras passes over attributes that it does not know."""
    with h5py.File(file, "r+") as opened:
        opened.attrs.update(packed(metadata))
