"""Keras's HDF5 files, through h5py: `.weights.h5` of Keras 3, legacy `.h5` of weights and of whole models.

They are read as data: no layer is built and no code in them run. Whatever leads out of the file or promises more than
the file holds is refused before an array is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import ml_dtypes
import numpy as np

from weights_convert.containers.hdf5_layouts import (
    FUNCTIONAL,
    NAMES_BY_COUNT,
    Place,
    functional_names,
    in_model_order,
    own_names,
    places,
)
from weights_convert.containers.trees import unique
from weights_convert.dialects import find_dialect
from weights_convert.errors import ConversionError
from weights_convert.metadata import PACKED, packed, unpacked

MOST_OBJECTS = 100_000
MOST_NESTING = 64
"""Groups in groups; Keras nests eight or so, and HDF5 walks the whole way to each."""

MOST_EXPANSION = 32
"""How often larger than its stored bytes an array may be: a compressed one of real weights is hardly any larger."""

NUMBER = re.compile("0|[1-9][0-9]{0,3}")
"""How Keras writes the number of a variable: Python takes other digits than these for numbers too."""

OPTIMIZER = "optimizer"
"""The group in which Keras 3 keeps the optimizer's state of a compiled model; ours is to tell it, not to read it."""

LEGACY_LAYER = {"keras.applications": 0, "transformers-tf": 1}
"""In a legacy file, which part of an array's name is the layer that Keras groups it under."""


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by dotted name, and our metadata where we wrote the file.

    Raises:
        ConversionError: If the file holds what is refused, or no layout of Keras's.
    """
    return read_open(path, str(path))


def read_open(source: Path | BinaryIO, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The same, of a file that may be open already; `where` is its name in messages."""
    with h5py.File(source, "r") as file:
        if problems := list(_refusals(file)):
            raise ConversionError(where, problems)
        metadata = _metadata(file)
        root = file.get("model_weights", file)
        if "layer_names" in root.attrs or "layer_names0" in root.attrs:
            return unique(_read_legacy(root)), metadata
        return unique(_read_numbered(file)), metadata


def write(path: Path | BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a `.weights.h5` file of Keras 3, which may be open already."""
    _write(path, arrays, metadata, _write_numbered)


def write_legacy(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a legacy `.h5` file of weights, as Keras 2 did."""
    _write(path, arrays, metadata, _write_legacy)


def _write(
    path: Path | BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], write_arrays: Any
) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update(packed(metadata))  # Keras passes over attributes that it does not know
        write_arrays(file, arrays, metadata["dialect"])


def _metadata(file: h5py.File) -> dict[str, str]:
    return unpacked({PACKED: str(file.attrs[PACKED])}) if PACKED in file.attrs else {}


def _refusals(file: h5py.File) -> Iterator[str]:
    """Links that lead elsewhere, arrays stored elsewhere or of no numbers, and arrays larger than what is stored."""
    seen, waiting = set(), [file["/"]]
    while waiting:
        group = waiting.pop()
        for name in group:
            link, where = group.get(name, getlink=True), f"{group.name.rstrip('/')}/{name}"
            if not isinstance(link, h5py.HardLink):
                yield f"{where!r} is a link to elsewhere ({type(link).__name__}), which is not followed"
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                yield f"{where!r} is a second name of another object"
                continue
            seen.add(address)
            if len(seen) > MOST_OBJECTS:
                yield f"it holds more than {MOST_OBJECTS} objects"
                return
            if isinstance(item, h5py.Group) and where.count("/") > MOST_NESTING:
                yield f"it nests groups deeper than {MOST_NESTING}"
            elif isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                yield from _refusals_of_array(item, where)


def _refusals_of_array(array: h5py.Dataset, where: str) -> Iterator[str]:
    stored = array.id.get_storage_size()
    if array.is_virtual or array.external:
        yield f"{where!r} is stored in another file, which is not followed"
    elif array.dtype.hasobject:
        yield f"{where!r} holds objects, not numbers"
    elif array.dtype.kind == "f" and array.id.get_type() != h5py.h5t.py_create(array.dtype):
        yield f"{where!r} holds floats of no usual format, which would be rounded"
    elif array.nbytes > max(stored, 1) * MOST_EXPANSION or (array.nbytes and not stored and array.shape != ()):
        yield f"{where!r} promises {array.nbytes:,} bytes and holds {stored:,}"


def _read_array(array: h5py.Dataset, marked: bool = True) -> np.ndarray:
    """The same bits. HDF5 does not know bfloat16: two bytes of no kind, which Keras 3 marks and legacy files do not."""
    held = np.asarray(array[()])
    bfloat16 = held.dtype == "V2" and (not marked or array.attrs.get("dtype") == "bfloat16")
    return held.view(ml_dtypes.bfloat16) if bfloat16 else held


def _write_array(group: h5py.Group, name: str, array: np.ndarray) -> None:
    array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        group.create_dataset(name, data=array.view("V2")).attrs["dtype"] = "bfloat16"
    else:
        group.create_dataset(name, data=array)


def _read_numbered(file: h5py.File) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a Keras 3 file. A functional model's layers are found by the name that stands beside them."""
    layers: dict[str, h5py.Group] = {}

    def collect(path: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and path.endswith("/vars") and len(item):
            layers[path.removesuffix("/vars")] = item

    file.visititems(collect)
    functional = {path: layer for path, layer in layers.items() if FUNCTIONAL.fullmatch(path)}
    names = own_names(layers.keys() - functional.keys())
    if functional and not any("name" in layer.attrs for layer in functional.values()):
        names |= functional_names({path: _shapes(layer) for path, layer in functional.items()})
    else:
        names |= {path: str(layer.attrs.get("name", path.replace("/", "."))) for path, layer in functional.items()}
    for path, layer in layers.items():
        called = () if path.startswith(OPTIMIZER) else NAMES_BY_COUNT.get(len(layer), ())
        for index in layer:
            variable = called[int(index)] if NUMBER.fullmatch(index) and int(index) < len(called) else index
            yield f"{names[path]}.{variable}", _read_array(layer[index])


def _shapes(layer: h5py.Group) -> dict[int, tuple[int, ...]]:
    return {int(index): layer[index].shape for index in layer if NUMBER.fullmatch(index)}


def _write_numbered(file: h5py.File, arrays: Mapping[str, np.ndarray], dialect: str) -> None:
    at: Mapping[str, Place] = places(find_dialect(dialect), arrays)
    for name, place in at.items():
        group = file.require_group(f"{place.group}/vars")
        group.attrs["name"] = place.layer
        _write_array(group, str(place.index), arrays[name])
    file.require_group("vars")


def _read_legacy(root: h5py.Group) -> Iterator[tuple[str, np.ndarray]]:
    for layer in _list(root, "layer_names"):
        for name in _list(root[layer], "weight_names"):
            yield name.removesuffix(":0").replace("/", "."), _read_array(root[layer][name], marked=False)


def _write_legacy(file: h5py.File, arrays: Mapping[str, np.ndarray], dialect: str) -> None:
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name in in_model_order(find_dialect(dialect).read_names(arrays)):
        path = re.sub(r"\.(?!\d)", "/", name)  # transformers' layers have dots in their names, always before a number
        layers.setdefault(path.split("/")[LEGACY_LAYER[dialect]], {})[f"{path}:0"] = arrays[name]
    file.attrs["layer_names"] = list(layers)
    file.attrs["backend"] = "tensorflow"
    file.attrs["keras_version"] = "2.15.0"
    for layer, weights in layers.items():
        group = file.create_group(layer)
        group.attrs["weight_names"] = list(weights)
        for path, array in weights.items():
            _write_array(group, path, array)


def _list(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names, which Keras 2 splits over attributes where it is long."""
    parts = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(parts)}" in group.attrs and attribute not in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    values = [value for part in parts for value in group.attrs[part]]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
