"""Flax's msgpack files (`flax.serialization.to_bytes`), through msgpack: nested dictionaries of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (makes NumPy know the name "bfloat16")
import msgpack
import numpy as np

from weights_convert.containers.trees import flattened, nested, unique

ARRAY, SCALAR = 1, 3
"""Flax's extension types: an array, and a NumPy scalar."""


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by dotted name; such files carry no metadata.

    Raises:
        ValueError: If it holds something else.
    """
    content = path.read_bytes()
    held = msgpack.unpackb(content, ext_hook=_unpack, object_pairs_hook=unique, raw=False, strict_map_key=False)
    return unique(flattened(held)), {}


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write nested dictionaries, as `flax.serialization.from_bytes` reads them; they have no place for the metadata."""
    packer = msgpack.Packer(use_bin_type=True)
    with path.open("wb") as file:
        for part in _packed(packer, nested(arrays)):
            file.write(part)


def _packed(packer: msgpack.Packer, value: Any) -> Iterator[bytes]:
    """A tree piece by piece, so that only one array at a time is held as bytes."""
    if isinstance(value, np.ndarray):
        # As `flax.serialization._ndarray_to_bytes`: shape, name of the dtype, bytes.
        content = packer.pack((value.shape, value.dtype.name, np.ascontiguousarray(value).tobytes()))
        yield packer.pack(msgpack.ExtType(ARRAY, content))
        return
    yield packer.pack_map_header(len(value))
    for key, item in value.items():
        yield packer.pack(key)
        yield from _packed(packer, item)


def _unpack(code: int, content: bytes) -> Any:
    if code not in (ARRAY, SCALAR):
        raise ValueError(f"it holds an object of Flax's type {code}, which is no array")
    shape, dtype, data = msgpack.unpackb(content, raw=True)
    if any(size < 0 for size in shape):  # NumPy would take the size that fits
        raise ValueError(f"it holds an array of the shape {shape}")
    if np.dtype(dtype.decode()).name != dtype.decode():  # NumPy reads more into a name than Flax ever writes
        raise ValueError(f"it holds an array of {dtype.decode()!r}, which is no dtype's name")
    return np.frombuffer(data, np.dtype(dtype.decode())).reshape(shape)
