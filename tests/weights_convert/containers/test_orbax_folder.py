"""Orbax folders: what is damaged in them is told, and nothing else is."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from impls.config import named_config
from weights_convert import Checkpoint, ConversionError, load


@pytest.fixture
def folder(tmp_path: Path, checkpoint_of: Callable[..., Checkpoint]) -> Path:
    checkpoint_of(dialect="flax").save(tmp_path / "a.orbax")
    return tmp_path / "a.orbax"


def test_a_damaged_list_of_arrays_is_one_error_without_a_warning(folder: Path, recwarn: pytest.WarningsRecorder):
    """Orbax begins to look at the arrays before the bad one, and drops that."""
    listed = folder / "_METADATA"
    before, kind, after = listed.read_text().rpartition('"np.ndarray"')
    listed.write_text(f'{before}"{kind[4:]}{after}')
    with pytest.raises(ConversionError, match="it is no whole Orbax folder: its _METADATA cannot be read"):
        load(folder)
    gc.collect()
    assert not recwarn.list


def test_no_flipped_bit_of_its_data_changes_a_number_unnoticed(folder: Path, checkpoint_of: Callable[..., Checkpoint]):
    """Orbax itself has no checksum of them; the hash in our metadata has."""
    data = max(folder.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    whole, random, refused = data.read_bytes(), Random(0), 0
    for _ in range(12):
        place = random.randrange(len(whole))
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert load(folder, variant="v1.5").content_hash() == checkpoint_of().content_hash()
        except ConversionError:
            refused += 1
    assert refused > 6


def test_what_cannot_be_read_is_one_error_though_other_arrays_are_still_being_read(
    tmp_path: Path, checkpoint_of: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
):
    """On the real network, whose last arrays are read when the error of the first is told."""
    checkpoint_of(named_config("v1.5"), dialect="flax").save(tmp_path / "a.orbax")
    data = max((tmp_path / "a.orbax").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    with data.open("r+b") as file:
        file.seek(data.stat().st_size // 4)
        file.write(bytes(data.stat().st_size // 2))
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(ConversionError, match="it is no whole Orbax file"):
        load(tmp_path / "a.orbax")
    gc.collect()
    assert not ignored
