"""The containers: each keeps every bit, damaged files are refused, and a failed write leaves nothing behind."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weights_convert import Checkpoint, ConversionError, containers, load
from weights_convert.comparison import FLOATS
from weights_convert.containers import CONTAINERS, atomic, safetensors_file
from weights_convert.errors import first_line

MakeBits = Callable[..., np.ndarray]
BitsOf = Callable[..., object]
OURS = [
    container
    for container in CONTAINERS
    if not container.dialects or set(container.dialects) - {*container.library_only}
]
"""The containers that hold networks of any size; the others are tested with the libraries that write them."""
ENDINGS = [ending for container in OURS for ending in container.endings]
ANY_NAMES = [ending for container in CONTAINERS for ending in container.endings if not container.dialects]
"""The endings of containers that hold arrays of any name."""

FOLDERS = [ending for container in OURS for ending in container.endings if container.folder]

each_folder = pytest.mark.parametrize("ending", FOLDERS)
each_ending = pytest.mark.parametrize("ending", ENDINGS)
each_ending_for_any_names = pytest.mark.parametrize("ending", ANY_NAMES)
Save = Callable[[Path], None]


@pytest.fixture
def save(checkpoint_of: Callable[..., Checkpoint]) -> Save:
    """A function that writes a tiny network to a path, in a dialect that its container holds."""

    def save(path: Path) -> None:
        dialects = containers.writable(path).dialects
        checkpoint_of(dialect=dialects[0] if dialects else "canonical").save(path)

    return save


@each_ending_for_any_names
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_every_bit_is_kept(
    ending: str,
    shape: tuple[int, ...],
    dtype: str,
    seed: int,
    random_bits: MakeBits,
    bits_of: BitsOf,
    tmp_path_factory: pytest.TempPathFactory,
):
    path = tmp_path_factory.getbasetemp() / f"bits{ending}"
    array = random_bits(shape, dtype, seed)
    arrays = {"plain": array, "transposed": array.T, "strided": array[..., ::2], "ä.\n": array[:1]}
    containers.write(path, arrays, {})
    assert bits_of(containers.read(path)[0]) == bits_of(arrays)


@each_ending
def test_metadata_are_kept_if_the_container_says_so(ending: str, save: Save, tmp_path: Path):
    save(tmp_path / f"a{ending}")
    kept = containers.read(tmp_path / f"a{ending}")[1].get("variant") == "v1.5"
    assert kept is next(c for c in CONTAINERS if ending in c.endings).keeps_metadata


@each_ending
def test_a_file_is_recognised_by_its_content(ending: str, save: Save, bits_of: BitsOf, tmp_path: Path):
    save(tmp_path / f"a{ending}")
    arrays = containers.read(tmp_path / f"a{ending}")[0]
    (tmp_path / f"a{ending}").rename(tmp_path / "a.other")
    assert bits_of(containers.read(tmp_path / "a.other")[0]) == bits_of(arrays)


@each_ending
@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_a_truncated_file_is_refused(ending: str, kept: float, save: Save, tmp_path: Path):
    path = tmp_path / f"a{ending}"
    save(path)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    with pytest.raises(ConversionError, match=r"it is not a complete .+: \S"):
        containers.read(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (b"\x80\x04\x95\x10", "it is a pickle"),
        (b"<!DOCTYPE html>", "it is a web page"),
        (
            b"GIF89a",
            r"it is of no kind that can be read \(safetensors, .*PyTorch, .*\); it starts with b'GIF89a'",
        ),
        (b"\x89HDF\r\n\x1a\n", "it is not a complete Keras HDF5 file"),
        (b"\x81\xa1a", "it is not a complete msgpack file"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "it is not a complete safetensors file"),
        (b"PK\x03\x04 and no more", "it is not a complete zip archive, as PyTorch and Keras write them: File is not"),
    ],
)
def test_other_files_are_refused(content: bytes, problem: str, tmp_path: Path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ConversionError, match=problem):
        containers.read(tmp_path / "a.pth")


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path):
    with pytest.raises(ConversionError, match="cannot be opened: No such file"):
        containers.read(tmp_path / "none.pth")
    with pytest.raises(ConversionError, match="it is a folder of no kind that can be read"):
        containers.read(tmp_path)


class TestAPipe:
    """Opening a named pipe waits until somebody writes to it, which may be never."""

    def test_is_refused_at_once(self, tmp_path: Path):
        os.mkfifo(tmp_path / "a.pth")
        with pytest.raises(ConversionError, match=r"a\.pth: it is a pipe, a socket or a device, not a file"):
            load(tmp_path / "a.pth", variant="v1.5")

    @pytest.mark.parametrize("ending", [".orbax", ".transformers"])
    def test_in_a_folder_is_refused_at_once(self, ending: str, save: Save, tmp_path: Path):
        save(tmp_path / f"a{ending}")
        for entry in (tmp_path / f"a{ending}").rglob("*"):
            if entry.is_file() and entry.name not in ("_METADATA", "model.safetensors"):
                entry.unlink()
                os.mkfifo(entry)
        with pytest.raises(ConversionError, match=r"a pipe, a socket or a device|no regular file"):
            load(tmp_path / f"a{ending}")

    def test_behind_a_symbolic_link_is_refused_at_once(self, tmp_path: Path):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "a.safetensors").symlink_to("pipe")
        with pytest.raises(ConversionError, match="a pipe, a socket or a device"):
            load(tmp_path / "a.safetensors")


class TestAWriteThatFails:
    """A write that fails midway, as on a full disk; each library raises its own error."""

    @pytest.fixture(params=[OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed\n\nat 1")])
    def failing(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        def write(path: Path, *_: object) -> None:
            path.write_bytes(b"half of it")
            raise request.param

        monkeypatch.setattr(safetensors_file, "write", write)
        return f"it cannot be written: {first_line(request.param)}"

    def test_leaves_the_old_file(self, failing: str, tmp_path: Path):
        path = tmp_path / "a.safetensors"
        path.write_bytes(b"old")
        with pytest.raises(ConversionError, match=rf"{re.escape(failing)}$"):
            containers.write(path, {"a": np.zeros(2)}, {})
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_leaves_no_new_file(self, failing: str, tmp_path: Path):
        with pytest.raises(ConversionError, match=re.escape(failing)):
            containers.write(tmp_path / "a.safetensors", {"a": np.zeros(2)}, {})
        assert list(tmp_path.iterdir()) == []

    def test_leaves_no_new_file_when_interrupted(self, tmp_path: Path):
        def interrupted(path: Path) -> None:
            path.write_bytes(b"half of it")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            containers.write_atomically(tmp_path / "a.pth", interrupted)
        assert list(tmp_path.iterdir()) == []


class TestATarget:
    def test_of_no_known_ending_is_refused(self, tmp_path: Path):
        with pytest.raises(ConversionError, match=r"can be written \(\.safetensors, .*\.pth, .*\.h5"):
            containers.write(tmp_path / "a.onnx", {}, {})

    def test_in_no_directory_is_refused(self, tmp_path: Path):
        with pytest.raises(ConversionError, match=r"the directory '.*none' does not exist"):
            containers.write(tmp_path / "none" / "a.pth", {}, {})
        assert list(tmp_path.iterdir()) == []

    def test_that_is_not_a_file_is_left_alone(self, tmp_path: Path):
        (tmp_path / "a.pth").mkdir()
        os.mkfifo(tmp_path / "b.pth")
        (tmp_path / "c.pth").symlink_to(tmp_path / "b.pth")
        for name in ("a.pth", "b.pth", "c.pth"):
            with pytest.raises(ConversionError, match="something else has this name, and is left alone"):
                containers.write(tmp_path / name, {}, {})
        assert stat.S_ISFIFO((tmp_path / "b.pth").stat().st_mode)

    def test_that_is_write_protected_is_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        path = tmp_path / "a.safetensors"
        path.write_bytes(b"old")
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may write to protected files
        with pytest.raises(ConversionError, match="it is write-protected"):
            containers.write(path, {"a": np.zeros(2)}, {})
        assert path.read_bytes() == b"old"

    def test_in_a_read_only_directory_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def touch(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "touch", touch)
        with pytest.raises(ConversionError, match="it cannot be written: Permission denied"):
            containers.write(tmp_path / "a.safetensors", {"a": np.zeros(2)}, {})

    def test_that_is_a_symbolic_link_stays_one(self, tmp_path: Path):
        (tmp_path / "real").mkdir()
        (tmp_path / "a.safetensors").symlink_to(tmp_path / "real" / "a.safetensors")
        containers.write(tmp_path / "a.safetensors", {"a": np.ones(2)}, {})
        assert (tmp_path / "a.safetensors").is_symlink()
        assert list(containers.read(tmp_path / "real" / "a.safetensors")[0]) == ["a"]

    @each_ending
    def test_has_the_permissions_of_any_new_file(self, ending: str, save: Save, tmp_path: Path):
        (tmp_path / "plain").touch()
        (tmp_path / "folder").mkdir()
        save(tmp_path / f"a{ending}")
        plain = tmp_path / ("folder" if (tmp_path / f"a{ending}").is_dir() else "plain")
        assert (tmp_path / f"a{ending}").stat().st_mode == plain.stat().st_mode

    @each_folder
    def test_that_is_a_folder_of_its_kind_is_replaced(
        self, ending: str, checkpoint_of: Callable[..., Checkpoint], tmp_path: Path
    ):
        path, dialect = tmp_path / f"a{ending}", containers.for_name(Path(ending)).dialects[0]
        for seed in (0, 1):
            checkpoint_of(dialect=dialect, seed=seed).save(path)
        expected = checkpoint_of(seed=1).content_hash()
        assert load(path, variant="v1.5").content_hash() == expected
        assert list(tmp_path.iterdir()) == [path]

    @each_folder
    @pytest.mark.parametrize("foreign", [["notes.txt"], ["training", "state.bin"], []])
    def test_that_is_a_folder_with_other_files_is_left_alone(
        self, ending: str, foreign: list[str], save: Save, tmp_path: Path
    ):
        path = tmp_path / f"a{ending}"
        save(path) if foreign else path.mkdir()
        for name in foreign:
            (path / name).touch()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ConversionError, match="something else has this name"):
            save(path)
        assert sorted(tmp_path.rglob("*")) == before

    @each_folder
    def test_that_is_a_file_is_not_replaced_by_a_folder(self, ending: str, save: Save, tmp_path: Path):
        (tmp_path / f"a{ending}").write_text("notes")
        with pytest.raises(ConversionError, match="something else has this name"):
            save(tmp_path / f"a{ending}")
        assert (tmp_path / f"a{ending}").read_text() == "notes"

    def test_that_is_a_folder_is_restored_if_it_cannot_be_replaced(
        self, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        path = tmp_path / "a.transformers"
        save(path)
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)  # as on a system without this call
        rename = Path.replace

        def replace(self: Path, target: Path) -> Path:
            if self.suffix == ".partial" and target == path:
                raise OSError(5, "Input/output error")
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(ConversionError, match="it cannot be written: Input/output error"):
            save(path)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.skipif(sys.platform != "linux", reason="needs a call that exchanges two names")
    def test_that_is_a_folder_exists_at_every_moment(self, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """It is never renamed, since a kill between two renames would leave no folder of that name."""
        path = tmp_path / "a.transformers"
        save(path)
        renamed: list[Path] = []
        rename = Path.replace
        monkeypatch.setattr(Path, "replace", lambda old, new: (renamed.append(Path(new)), rename(old, new))[1])
        save(path)
        assert path not in renamed
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.transformers"]

    @each_folder
    def test_that_is_a_folder_is_replaced_without_exchanging_names(
        self,
        ending: str,
        checkpoint_of: Callable[..., Checkpoint],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
        self.test_that_is_a_folder_of_its_kind_is_replaced(ending, checkpoint_of, tmp_path)

    def test_whose_container_cannot_hold_the_dialect_is_refused(
        self, checkpoint_of: Callable[..., Checkpoint], tmp_path: Path
    ):
        with pytest.raises(ConversionError, match=r"Keras HDF5 files hold keras, .*keras-hub, not torchvision"):
            checkpoint_of(dialect="torchvision").save(tmp_path / "a.weights.h5")
        assert list(tmp_path.iterdir()) == []

    def test_that_is_a_file_is_replaced(self, tmp_path: Path, checkpoint_of: Callable[..., Checkpoint]):
        path = tmp_path / "a.safetensors"
        path.write_bytes(b"old" * 1_000_000)
        checkpoint_of().save(path)
        assert containers.read(path)[1]["variant"] == "v1.5"
