"""safetensors files, through the safetensors library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from weights_convert.containers.trees import unique
from weights_convert.metadata import packed, unpacked

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
"""What the format calls the dtypes that NumPy has."""

OF_PYTORCH = {"format": "pt"}
"""What transformers wants such a file to say; ours then stands under a key of its own."""


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name, and the metadata that the writer left.

    The arrays are the file's own pages, read when they are looked at; writing to one changes neither file nor others'.

    Raises:
        ValueError: If it holds numbers of a kind that NumPy has not, or a name twice.
    """
    with safe_open(path, framework="numpy") as file:  # which makes sure that offsets follow each other to the end
        names, metadata = file.offset_keys(), file.metadata() or {}
        slices = {name: file.get_slice(name) for name in names}
        kinds = {name: (slices[name].get_dtype(), tuple(slices[name].get_shape())) for name in names}
    if unknown := sorted({dtype for dtype, _ in kinds.values() if dtype not in DTYPES}):
        raise ValueError(f"NumPy has no dtype for {', '.join(unknown)}")
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        json.loads(opened.read(length), object_pairs_hook=unique)  # of two equal names, the library takes one
    offset = 8 + length
    content = np.memmap(path, np.uint8, "c") if names else np.empty(0, np.uint8)
    arrays = {}
    for name in names:
        dtype, shape = np.dtype(DTYPES[kinds[name][0]]), kinds[name][1]
        end = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
        stored = np.asarray(content[offset:end])
        arrays[name] = (stored if offset % dtype.itemsize == 0 else stored.copy()).view(dtype).reshape(shape)
        offset = end
    return arrays, unpacked(metadata)


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata; what is a view in another order is copied into its own."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, dict(metadata))


def write_for_transformers(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """The same, in the words that transformers expects."""
    write(path, arrays, OF_PYTORCH | packed(metadata))
