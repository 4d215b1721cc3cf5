"""Orbax folders: damage becomes one error, without warnings or tracebacks beside it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import orbax.checkpoint as ocp
import pytest

from impls.config import named_config
from weights_convert import Checkpoint, ConversionError, load
from weights_convert.containers.trees import nest


@pytest.fixture
def folder(tmp_path: Path, checkpoint_of: Callable[..., Checkpoint]) -> Path:
    checkpoint_of(dialect="flax").save(tmp_path / "a.orbax")
    return tmp_path / "a.orbax"


def test_a_damaged_list_of_arrays_is_one_error_without_a_warning(folder: Path, recwarn: pytest.WarningsRecorder):
    """Orbax starts to read the arrays before the damaged entry, and drops those coroutines."""
    metadata = folder / "_METADATA"
    before, kind, after = metadata.read_text().rpartition('"np.ndarray"')
    metadata.write_text(f'{before}"{kind[4:]}{after}')
    with pytest.raises(ConversionError, match="it is not a complete Orbax folder: its _METADATA cannot be read"):
        load(folder)
    gc.collect()
    assert not recwarn.list


def test_a_flipped_bit_never_changes_a_number_unnoticed(folder: Path, checkpoint_of: Callable[..., Checkpoint]):
    """Orbax has no checksum of the arrays; the content hash in our metadata protects them."""
    data = max(folder.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content, random, refused = data.read_bytes(), Random(0), 0
    for _ in range(12):
        place = random.randrange(len(content))
        data.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert load(folder, variant="v1.5").content_hash() == checkpoint_of().content_hash()
        except ConversionError:
            refused += 1
    assert refused > 6


def test_an_array_that_cannot_be_read_is_one_error_while_others_are_still_being_read(
    tmp_path: Path, checkpoint_of: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
):
    """In the full-size network, the last arrays are still being read when the first one fails."""
    checkpoint_of(named_config("v1.5"), dialect="flax").save(tmp_path / "a.orbax")
    data = max((tmp_path / "a.orbax").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    with data.open("r+b") as file:
        file.seek(data.stat().st_size // 4)
        file.write(bytes(data.stat().st_size // 2))
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(ConversionError, match="it is not a complete Orbax file"):
        load(tmp_path / "a.orbax")
    gc.collect()
    assert not ignored


class TestAManager:
    """The folders of Orbax's checkpoint manager and of composite checkpoints, as Orbax writes them."""

    @pytest.fixture
    def tree(self, checkpoint_of: Callable[..., Checkpoint]) -> dict[str, object]:
        return nest({name: np.ascontiguousarray(array) for name, array in checkpoint_of(dialect="flax").arrays.items()})

    def save(self, folder: Path, steps: list[int], tree: dict[str, object], *items: str) -> None:
        with ocp.CheckpointManager(folder, item_names=items or None) as manager:
            for step in steps:
                saved = ocp.args.StandardSave(tree)
                by_item = dict.fromkeys(items, saved) | {"metadata": ocp.args.JsonSave({"a": 1})}
                manager.save(step, args=ocp.args.Composite(**by_item) if items else saved)
            manager.wait_until_finished()

    @pytest.mark.parametrize("items", [(), ("state", "metadata")])
    def test_of_one_step_is_read(
        self, items: tuple[str, ...], tmp_path: Path, tree: dict[str, object], checkpoint_of: Callable[..., Checkpoint]
    ):
        self.save(tmp_path / "a", [7], tree, *items)
        for place in ("a", "a/7", f"a/7/{items[0] if items else 'default'}"):
            assert load(tmp_path / place, variant="v1.5").content_hash() == checkpoint_of().content_hash()

    def test_of_several_steps_lists_them(self, tmp_path: Path, tree: dict[str, object]):
        self.save(tmp_path / "a", [7, 8], tree)
        with pytest.raises(ConversionError) as refusal:
            load(tmp_path / "a", variant="v1.5")
        assert refusal.value.problems == ("it holds 2 checkpoints, by step and item: 7/default, 8/default",)
        assert refusal.value.advice == f"Give the folder of one of them, such as {tmp_path / 'a/8/default'}."

    def test_of_several_items_lists_them(self, tmp_path: Path, tree: dict[str, object]):
        self.save(tmp_path / "a", [7], tree, "params", "state", "metadata")
        with pytest.raises(ConversionError, match="it holds 2 checkpoints, by step and item: 7/params, 7/state"):
            load(tmp_path / "a", variant="v1.5")

    def test_is_not_followed_through_links(self, tmp_path: Path, tree: dict[str, object]):
        self.save(tmp_path / "a", [7], tree)
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "7").symlink_to(tmp_path / "a" / "7")
        with pytest.raises(ConversionError, match="a folder of no kind that can be read"):
            load(tmp_path / "b", variant="v1.5")
