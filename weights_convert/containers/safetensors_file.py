"""safetensors files, through the safetensors library."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from weights_convert.containers.contents import Arrays, Contents, Metadata
from weights_convert.containers.trees import unique_dict
from weights_convert.metadata import metadata_of, pack

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""The dtypes of NumPy by their names in the format."""

TRANSFORMERS_FORMAT = {"format": "pt"}
"""The metadata that transformers requires; our own is then stored under a key of its own."""


def read(path: Path) -> Contents:
    """Read arrays by name, and the metadata of the writer.

    The arrays are pages of the file, loaded when they are used. Writing to one changes neither the file nor the others.

    Raises:
        ValueError: If an array has a dtype that NumPy lacks, or a name occurs twice.
    """
    with safe_open(path, framework="numpy") as file:  # verifies that the arrays fill the file without gaps
        names, metadata = file.offset_keys(), file.metadata() or {}
        slices = {name: file.get_slice(name) for name in names}
        dtypes = {name: slices[name].get_dtype() for name in names}
        shapes = {name: tuple(slices[name].get_shape()) for name in names}
    if unknown := sorted(set(dtypes.values()) - DTYPES.keys()):
        raise ValueError(f"NumPy has no dtype for {', '.join(unknown)}")
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        # Of two arrays with the same name, the library reads only the last.
        json.loads(opened.read(length), object_pairs_hook=unique_dict)
    offset = 8 + length
    content = np.memmap(path, np.uint8, "c") if names else np.empty(0, np.uint8)
    arrays = {}
    for name in names:
        dtype = np.dtype(DTYPES[dtypes[name]])
        end = offset + int(np.prod(shapes[name], dtype=object)) * dtype.itemsize
        stored = np.asarray(content[offset:end])
        aligned = stored if offset % dtype.itemsize == 0 else stored.copy()
        arrays[name] = aligned.view(dtype).reshape(shapes[name])
        offset = end
    return arrays, metadata_of(metadata)


def write(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write arrays and metadata. A view in another axis order is written as a contiguous copy."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, dict(metadata))


def write_for_transformers(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write arrays and metadata as transformers expects them."""
    write(path, arrays, TRANSFORMERS_FORMAT | pack(metadata))
