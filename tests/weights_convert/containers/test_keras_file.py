"""`.keras` files: read without building a layer, and written without Keras for models of impls.keras."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from impls.config import VARIANTS
from weights_convert import Checkpoint, ConversionError, containers, inspect, load
from weights_convert.containers import keras_file

MakeCheckpoint = Callable[..., Checkpoint]


def test_a_layer_that_would_run_code_is_not_built(checkpoint_of: MakeCheckpoint, tmp_path: Path):
    """The config is only data, even if it would make Keras build a Lambda layer; and it is no network of ours."""
    checkpoint = checkpoint_of(dialect="keras")
    checkpoint.save(tmp_path / "a.keras")
    evil = {"class_name": "Lambda", "module": "keras.layers", "config": {"function": "__import__('os').abort()"}}
    with zipfile.ZipFile(tmp_path / "a.keras") as old, zipfile.ZipFile(tmp_path / "b.keras", "w") as new:
        new.writestr("config.json", json.dumps(evil))
        new.writestr(keras_file.WEIGHTS, old.read(keras_file.WEIGHTS))
    with pytest.raises(ConversionError, match="its model is of class Lambda, whose function is in its own code"):
        load(tmp_path / "b.keras")
    assert set(inspect(tmp_path / "b.keras").arrays) == set(checkpoint.arrays)


def test_the_config_tells_the_network(checkpoint_of: MakeCheckpoint, tmp_path: Path):
    """Files that Keras itself saves have no metadata of ours."""
    config = replace(VARIANTS["v1"], depths=(2, 1, 1, 1), width=4, num_classes=5)
    checkpoint = replace(checkpoint_of(), config=config)
    arrays = checkpoint.to("keras").arrays
    keras_file.write(tmp_path / "a.keras", arrays, checkpoint.to("keras").metadata())
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        model = json.loads(archive.read("config.json"))
    assert keras_file.metadata_from_model(model)["variant"] == "v1"
    assert keras_file.metadata_from_model({"registered_name": "other>Model"}) == {}
    assert keras_file.metadata_from_model([]) == {}


def test_a_config_that_was_changed_is_refused(checkpoint_of: MakeCheckpoint, tmp_path: Path):
    """Keras would build what the config says."""
    checkpoint_of(dialect="keras").save(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as old, zipfile.ZipFile(tmp_path / "b.keras", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                assert b'"strided_layer": "conv2"' in content
                content = content.replace(b'"strided_layer": "conv2"', b'"strided_layer": "conv1"')
            new.writestr(name, content)
    with pytest.raises(ConversionError, match=r"its config\.json describes another network than its metadata"):
        load(tmp_path / "b.keras")


def test_another_dialect_is_refused(checkpoint_of: MakeCheckpoint, tmp_path: Path):
    with pytest.raises(ConversionError, match=r"files hold keras, keras\.applications, not keras-hub"):
        checkpoint_of(dialect="keras-hub").save(tmp_path / "a.keras")
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file_is_not_taken_for_pytorchs(checkpoint_of: MakeCheckpoint, tmp_path: Path):
    checkpoint_of(dialect="keras").save(tmp_path / "a.keras")
    content = (tmp_path / "a.keras").read_bytes()
    (tmp_path / "a.keras").write_bytes(content[: len(content) // 2])
    with pytest.raises(ConversionError, match="it is not a complete zip archive, as PyTorch and Keras write them"):
        containers.read(tmp_path / "a.keras")


def test_a_message_does_not_repeat_a_damaged_archive(checkpoint_of: Callable[..., Checkpoint], tmp_path: Path):
    """zipfile prints the name in the file, which is as long as the archive claims."""
    path = tmp_path / "a.keras"
    checkpoint_of(dialect="keras").save(path)
    content = bytearray(path.read_bytes())
    name = content.index(b"config.json")
    content[name - 4 : name - 2] = (60_000).to_bytes(2, "little")  # the length of the name, in the entry's own header
    path.write_bytes(content)
    with pytest.raises(
        ConversionError, match="it is not a complete Keras archive file: File name in directory"
    ) as refusal:
        load(path)
    assert len(str(refusal.value)) < 1000
