"""Flax's msgpack files (`flax.serialization.to_bytes`), through msgpack: nested dictionaries of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (makes NumPy know the name "bfloat16")
import msgpack
import numpy as np

from weights_convert.containers.contents import Arrays, Contents, Metadata
from weights_convert.containers.trees import flatten, nest, unique_dict

ARRAY, SCALAR = 1, 3
"""Flax's extension types of an array and of a NumPy scalar."""


def read(path: Path) -> Contents:
    """Read arrays by dotted name. These files have no metadata.

    Raises:
        ValueError: If the file holds anything but arrays, or a name occurs twice.
    """
    content = path.read_bytes()
    tree = msgpack.unpackb(content, ext_hook=_unpack_array, object_pairs_hook=unique_dict, strict_map_key=False)
    return unique_dict(flatten(tree)), {}


def write(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write nested dictionaries for `flax.serialization.from_bytes`. The format has no place for the metadata."""
    packer = msgpack.Packer(use_bin_type=True)
    with path.open("wb") as file:
        for content in _packed(packer, nest(arrays)):
            file.write(content)


def _packed(packer: msgpack.Packer, value: Any) -> Iterator[bytes]:
    """Yield the bytes of a tree, so that only one array at a time is held as bytes."""
    if isinstance(value, np.ndarray):
        # As `flax.serialization._ndarray_to_bytes` does: shape, name of the dtype, bytes.
        content = packer.pack((value.shape, value.dtype.name, np.ascontiguousarray(value).tobytes()))
        yield packer.pack(msgpack.ExtType(ARRAY, content))
        return
    yield packer.pack_map_header(len(value))
    for key, item in value.items():
        yield packer.pack(key)
        yield from _packed(packer, item)


def _unpack_array(code: int, content: bytes) -> Any:
    if code not in (ARRAY, SCALAR):
        raise ValueError(f"it holds an object of Flax's type {code}, which is not an array")
    shape, dtype, data = msgpack.unpackb(content, raw=True)
    if any(size < 0 for size in shape):  # NumPy would infer the size
        raise ValueError(f"it holds an array of the shape {shape}")
    if np.dtype(dtype.decode()).name != dtype.decode():  # NumPy accepts more than the names that Flax writes
        raise ValueError(f"it holds an array of {dtype.decode()!r}, which is not the name of a dtype")
    return np.frombuffer(data, np.dtype(dtype.decode())).reshape(shape)
