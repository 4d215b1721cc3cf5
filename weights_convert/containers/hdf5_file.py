"""Keras's HDF5 files, through h5py: `.weights.h5` of Keras 3, and legacy `.h5` of weights and of whole models.

They are read as data: no layer is built, and no code in them runs. A file that refers to other files, or promises more
than it holds, is refused before an array is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import ml_dtypes
import numpy as np

from weights_convert.configurations import found
from weights_convert.containers.contents import Arrays, Contents, Metadata
from weights_convert.containers.hdf5_layouts import (
    FUNCTIONAL_LAYER,
    NAMES_BY_COUNT,
    attribute_paths,
    functional_names,
    in_model_order,
    places,
)
from weights_convert.containers.trees import unique_dict
from weights_convert.dialects import find_dialect
from weights_convert.errors import ConversionError
from weights_convert.metadata import BY_ORDER, pack, unpack

MAX_OBJECTS = 100_000
MAX_NESTING = 64
"""The deepest nesting of groups. Keras nests about eight, and HDF5 walks the whole path to each."""

MAX_EXPANSION = 32
"""The largest ratio of an array's size to its stored bytes. Weights hardly compress, so that real ones are near 1."""

NUMBER = re.compile("0|[1-9][0-9]{0,3}")
"""Keras's spelling of the number of a variable; `int` would accept others."""

MODEL_CONFIG = "model_config"
"""The attribute of a file of a whole model, as Keras 2 wrote it, that holds the model's configuration."""

OPTIMIZER = "optimizer"
"""The group in which Keras 3 keeps the optimizer of a compiled model. Its arrays are listed as dropped."""

LEGACY_LAYER = {"keras.applications": 0, "transformers-tf": 1}
"""For a legacy file, the part of an array's name under which Keras groups it."""


def read(path: Path) -> Contents:
    """Read arrays by dotted name, and our metadata if we wrote the file.

    Raises:
        ConversionError: If the file refers to other files, or promises more than it holds.
    """
    return read_open(path, str(path))


def read_open(source: Path | BinaryIO, where: str) -> Contents:
    """Read a path or an open file; `where` is its name in messages.

    Raises:
        ConversionError: If the file refers to other files, or promises more than it holds.
    """
    with h5py.File(source, "r") as file:
        if problems := list(_refusals(file)):
            raise ConversionError(where, problems)
        root = file.get("model_weights", file)
        is_legacy = "layer_names" in root.attrs or "layer_names0" in root.attrs
        if is_legacy:
            return unique_dict(_read_legacy(root)), unpack(file.attrs) | _configuration(file)
        layers = _numbered_layers(file)
        functional = [layer for path, layer in layers.items() if FUNCTIONAL_LAYER.fullmatch(path)]
        by_order = any("name" not in layer.attrs for layer in functional)
        order = {BY_ORDER: "Keras before 3.6, or tf_keras"} if by_order else {}
        return unique_dict(_read_numbered(layers)), unpack(file.attrs) | order | _configuration(file)


def _configuration(file: h5py.File) -> dict[str, str]:
    """Pass on the configuration of a whole model; a file of weights has none."""
    return found(MODEL_CONFIG, json.loads(file.attrs[MODEL_CONFIG])) if MODEL_CONFIG in file.attrs else {}


def write(path: Path | BinaryIO, arrays: Arrays, metadata: Metadata) -> None:
    """Write a `.weights.h5` file of Keras 3, to a path or an open file."""
    _write(path, arrays, metadata, _write_numbered)


def write_legacy(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write a legacy `.h5` file of weights, as Keras 2 did."""
    _write(path, arrays, metadata, _write_legacy)


def _write(
    path: Path | BinaryIO, arrays: Arrays, metadata: Metadata, write_arrays: Callable[[h5py.File, Arrays, str], None]
) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update(pack(metadata))  # Keras ignores attributes that it does not know
        write_arrays(file, arrays, metadata["dialect"])


def _refusals(file: h5py.File) -> Iterator[str]:
    """Yield a problem for every link, array in another file, array larger than its stored bytes, and empty layer.

    HDF5 has no checksums here: one damaged number hides what a group holds, and a network would lose its classifier.
    """
    seen, waiting = set(), [file["/"]]
    while waiting:
        group = waiting.pop()
        for name in group:
            link, where = group.get(name, getlink=True), f"{group.name.rstrip('/')}/{name}"
            if not isinstance(link, h5py.HardLink):
                yield f"{where!r} is a link ({type(link).__name__}), and links are not followed"
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                yield f"{where!r} is a second name of another object"
                continue
            seen.add(address)
            if len(seen) > MAX_OBJECTS:
                yield f"it holds more than {MAX_OBJECTS} objects"
                return
            if isinstance(item, h5py.Group) and where.count("/") > MAX_NESTING:
                yield f"it nests groups deeper than {MAX_NESTING}"
            elif isinstance(item, h5py.Group):
                waiting.append(item)
                if not len(item) and where.split("/")[-2] == "layers":
                    yield f"{where!r} is empty: Keras writes a group of variables for each layer, empty or not"
            elif isinstance(item, h5py.Dataset):
                yield from _refusals_of_array(item, where)


def _refusals_of_array(array: h5py.Dataset, where: str) -> Iterator[str]:
    stored = array.id.get_storage_size()
    if array.is_virtual or array.external:
        yield f"{where!r} is stored in another file, which is not followed"
    elif array.dtype.hasobject:
        yield f"{where!r} holds objects, not numbers"
    elif array.dtype.kind == "f" and array.id.get_type() != h5py.h5t.py_create(array.dtype):
        yield f"{where!r} holds floats of an unusual format, which would be rounded"
    elif array.nbytes > max(stored, 1) * MAX_EXPANSION or (array.nbytes and not stored and array.shape != ()):
        yield f"{where!r} promises {array.nbytes:,} bytes and holds {stored:,}"


def _read_array(array: h5py.Dataset, marked: bool = True) -> np.ndarray:
    """Read an array without changing a bit.

    HDF5 has no bfloat16, so two opaque bytes are stored for each number. Keras 3 marks such arrays by an attribute, and
    legacy files do not.
    """
    values = np.asarray(array[()])
    is_bfloat16 = values.dtype == "V2" and (not marked or array.attrs.get("dtype") == "bfloat16")
    return values.view(ml_dtypes.bfloat16) if is_bfloat16 else values


def _write_array(group: h5py.Group, name: str, array: np.ndarray) -> None:
    array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        group.create_dataset(name, data=array.view("V2")).attrs["dtype"] = "bfloat16"
    else:
        group.create_dataset(name, data=array)


def _numbered_layers(file: h5py.File) -> dict[str, h5py.Group]:
    """Return the group of the variables of each layer of a Keras 3 file, by the path of the layer."""
    layers: dict[str, h5py.Group] = {}

    def collect(path: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and path.endswith("/vars") and len(item):
            layers[path.removesuffix("/vars")] = item

    file.visititems(collect)
    return layers


def _read_numbered(layers: Mapping[str, h5py.Group]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of a Keras 3 file by dotted name."""
    functional = {path: layer for path, layer in layers.items() if FUNCTIONAL_LAYER.fullmatch(path)}
    names = attribute_paths(layers.keys() - functional.keys())
    stored = {path: str(layer.attrs["name"]) for path, layer in functional.items() if "name" in layer.attrs}
    names |= functional_names({path: _shapes(layer) for path, layer in functional.items()}, stored)
    for path, layer in layers.items():
        variables = () if path.startswith(OPTIMIZER) else NAMES_BY_COUNT.get(len(layer), ())
        for index in layer:
            is_known = NUMBER.fullmatch(index) and int(index) < len(variables)
            yield f"{names[path]}.{variables[int(index)] if is_known else index}", _read_array(layer[index])


def _shapes(layer: h5py.Group) -> dict[int, tuple[int, ...]]:
    return {int(index): layer[index].shape for index in layer if NUMBER.fullmatch(index)}


def _write_numbered(file: h5py.File, arrays: Arrays, dialect: str) -> None:
    for name, place in places(find_dialect(dialect), arrays).items():
        group = file.require_group(f"{place.group}/vars")
        group.attrs["name"] = place.layer
        _write_array(group, str(place.index), arrays[name])
    file.require_group("vars")


def _read_legacy(root: h5py.Group) -> Iterator[tuple[str, np.ndarray]]:
    for layer in _list(root, "layer_names"):
        for name in _list(root[layer], "weight_names"):
            yield name.removesuffix(":0").replace("/", "."), _read_array(root[layer][name], marked=False)


def _write_legacy(file: h5py.File, arrays: Arrays, dialect: str) -> None:
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name in in_model_order(find_dialect(dialect).read_names(arrays)):
        path = re.sub(r"\.(?!\d)", "/", name)  # names of layers in transformers hold dots, always before a number
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
    """Return the list of names in an attribute; Keras 2 divides a long list over several attributes."""
    parts = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(parts)}" in group.attrs and attribute not in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    values = [value for part in parts for value in group.attrs[part]]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
