"""msgpack files: read and written byte for byte as Flax does, and refused if they hold anything but arrays."""

from __future__ import annotations

from pathlib import Path

import flax.serialization
import msgpack
import numpy as np
import pytest

from weights_convert import ConversionError, containers
from weights_convert.containers import msgpack_file

TREE = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, "batch_stats": {"0": {"b": np.float16(2)}}}


def test_the_bytes_are_those_of_flax(tmp_path: Path):
    (tmp_path / "a.msgpack").write_bytes(flax.serialization.to_bytes(TREE))
    arrays, _ = containers.read(tmp_path / "a.msgpack")
    assert list(arrays) == ["params.a", "batch_stats.0.b"]
    msgpack_file.write(tmp_path / "b.msgpack", {"params.a": arrays["params.a"]}, {})
    assert (tmp_path / "b.msgpack").read_bytes() == flax.serialization.to_bytes({"params": TREE["params"]})


def array(shape: object, dtype: str, data: bytes) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"a": msgpack.ExtType(2, b"")}, "Flax's type 2, which is not an array"),
        ({"a": array([-1], "float32", bytes(8))}, r"an array of the shape \[-1\]"),
        ({"a": array([2], "f4,f4", bytes(16))}, "'f4,f4', which is not the name of a dtype"),
        ({"a": array([3], "float32", bytes(8))}, "cannot reshape"),
        ({"a": "a text"}, "'a' is of type str, expected an array"),
    ],
)
def test_anything_but_an_array_is_refused(content: object, problem: str, tmp_path: Path):
    (tmp_path / "a.msgpack").write_bytes(msgpack.packb(content))
    with pytest.raises(ConversionError, match=f"it is not a complete msgpack file: .*{problem}"):
        containers.read(tmp_path / "a.msgpack")


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path):
    packed = msgpack.packb(array([1], "float32", bytes(4)))
    (tmp_path / "a.msgpack").write_bytes(b"\x82" + b"\xa1a" + packed + b"\xa1a" + packed)
    with pytest.raises(ConversionError, match="the name 'a' occurs twice"):
        containers.read(tmp_path / "a.msgpack")
