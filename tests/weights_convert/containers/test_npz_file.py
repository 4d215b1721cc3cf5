"""NumPy's archives: arrays are read bit for bit, and objects never."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.weights_convert.conftest import DTYPES
from weights_convert import Checkpoint, ConversionError, containers, load

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dialect", ["torchvision", "flax-linen", "keras.applications"])
def test_a_network_is_kept_bit_for_bit(dtype: str, dialect: str, tmp_path: Path, checkpoint_of: MakeCheckpoint):
    checkpoint = checkpoint_of(dtype=dtype, dialect=dialect)
    checkpoint.save(tmp_path / "a.npz")
    read = load(tmp_path / "a.npz", variant="v1.5")
    assert read.content_hash() == checkpoint.content_hash()
    assert read.dialect is checkpoint.dialect


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_names_with_slashes_are_paths(save: Callable[..., None], tmp_path: Path):
    save(tmp_path / "a.npz", **{"params/Dense_0/bias": np.arange(3.0)})
    arrays, metadata = containers.read(tmp_path / "a.npz")
    assert arrays["params.Dense_0.bias"].tolist() == [0, 1, 2]
    assert metadata == {}


def test_a_file_of_python_2_is_read_without_a_warning(tmp_path: Path):
    np.savez(tmp_path / "a.npz", a=np.arange(3.0))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        entry = archive.read("a.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("a.npy", entry.replace(b"(3,), }  ", b"(3L,), } "))
    arrays, _ = containers.read(tmp_path / "b.npz")
    assert arrays["a"].tolist() == [0, 1, 2]


def test_two_names_of_one_path_are_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **{"a/b": np.zeros(1), "a.b": np.zeros(1)})
    with pytest.raises(ConversionError, match=r"the name 'a\.b' occurs twice"):
        containers.read(tmp_path / "a.npz")


def test_objects_are_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", a=np.array([{"code": 1}], dtype=object))
    with pytest.raises(ConversionError, match="Object arrays cannot be loaded when allow_pickle=False"):
        containers.read(tmp_path / "a.npz")


def test_a_bomb_is_refused_before_it_is_read(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(10_000_000))
    with pytest.raises(ConversionError, match="it promises 10,000,000 bytes and holds"):
        containers.read(tmp_path / "a.npz")


def test_an_array_that_promises_more_than_it_holds_is_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", a=np.zeros(4, np.float32))
    content = (tmp_path / "a.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        entry = archive.read("a.npy")
    assert entry in content
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("a.npy", entry.replace(b"(4,), }      ", b"(400000000,),"[:0] + b"(999999,), }"))
    with pytest.raises(ConversionError):
        containers.read(tmp_path / "b.npz")
