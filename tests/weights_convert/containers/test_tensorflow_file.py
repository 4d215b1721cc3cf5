"""TensorFlow's checkpoints: recognised by their content, and read under any of the names that people give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from impls.config import VARIANTS
from tests.weights_convert.conftest import TINY, make_random_bits
from weights_convert import Checkpoint, ConversionError, load
from weights_convert.containers import recognise
from weights_convert.containers.tensorflow_file import TABLE_ENDS, resolved
from weights_convert.dialects import DIALECTS
from weights_convert.shapes import expected_shapes

CONFIG = replace(VARIANTS["v1"], same_padding=True, depths=TINY.depths, width=TINY.width, num_classes=TINY.num_classes)
"""The function of TF-Slim's resnet_v1, in inference."""


@pytest.mark.parametrize("ending", ["", ".index", ".meta", ".data-00000-of-00001"])
def test_a_checkpoint_is_named_by_its_prefix_or_by_any_of_its_files(ending: str, tmp_path: Path):
    (tmp_path / "model.ckpt-7.index").write_bytes(b"\0" * 40 + TABLE_ENDS)
    for other in (".meta", ".data-00000-of-00001"):
        (tmp_path / f"model.ckpt-7{other}").write_bytes(b"x" * 40)
    assert resolved(tmp_path / f"model.ckpt-7{ending}") == tmp_path / "model.ckpt-7.index"
    assert recognise(tmp_path / f"model.ckpt-7{ending}").name == "TensorFlow checkpoint"


def test_the_single_file_of_version_1_is_recognised(tmp_path: Path):
    (tmp_path / "model.ckpt").write_bytes(b"\0" * 40 + TABLE_ENDS)
    (tmp_path / "model.ckpt.meta").write_bytes(b"x" * 40)
    for name in ("model.ckpt", "model.ckpt.meta"):
        assert resolved(tmp_path / name) == tmp_path / "model.ckpt"
        assert recognise(tmp_path / name).name == "TensorFlow checkpoint"


@pytest.mark.parametrize("content", [b"", b"\x57", TABLE_ENDS[:-1], TABLE_ENDS + b"\0"])
def test_other_files_are_no_table(content: bytes, tmp_path: Path):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ConversionError):
        recognise(tmp_path / "a.ckpt")


def test_a_part_without_its_index_is_told(tmp_path: Path):
    (tmp_path / "model.data-00000-of-00001").write_bytes(b"x" * 40)
    with pytest.raises(ConversionError, match=r"a part of a TensorFlow checkpoint, whose \.index file is not beside"):
        load(tmp_path / "model.data-00000-of-00001")


def slim_arrays() -> dict[str, np.ndarray]:
    """Return a tiny network and what lies beside it, as TF-Slim names them."""
    canonical = {
        name: make_random_bits(shape, "float32", seed)
        for seed, (name, shape) in enumerate(expected_shapes(CONFIG).items())
    }
    arrays = Checkpoint(canonical, DIALECTS["canonical"], CONFIG).to("tf-slim").arrays
    named = {f"resnet_v1_50/{name.replace('.', '/')}": np.ascontiguousarray(array) for name, array in arrays.items()}
    beside = {"global_step": np.array(7), "resnet_v1_50/conv1/weights/Momentum": np.zeros((7, 7, 3, 4), np.float32)}
    return named | beside


def write_checkpoint(prefix: Path, arrays: Mapping[str, np.ndarray], version: int) -> None:
    """Write a checkpoint by TensorFlow's own operations, those that `tf.train.Saver` runs."""
    import tensorflow as tf

    names, tensors = list(arrays), [tf.constant(array) for array in arrays.values()]
    if version == 1:
        tf.raw_ops.Save(filename=str(prefix), tensor_names=names, data=tensors)
        return
    shards = f"{prefix}.data-00000-of-00001.part"
    tf.raw_ops.SaveV2(prefix=shards, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[shards], destination_prefix=str(prefix))


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_what_tensorflow_writes_is_read_bit_for_bit(version: int, tmp_path: Path):
    arrays = slim_arrays()
    write_checkpoint(tmp_path / "model.ckpt", arrays, version)
    checkpoint = load(tmp_path / "model.ckpt", config=CONFIG)
    assert {name: array.tobytes() for name, array in checkpoint.arrays.items()} == {
        name.removeprefix("resnet_v1_50/").replace("/", "."): array.tobytes()
        for name, array in arrays.items()
        if name != "global_step" and "Momentum" not in name
    }
    assert checkpoint.notes == ("its names begin with 'resnet_v1_50'",)
    with pytest.raises(ConversionError, match="it is of TF-Slim's resnet_v1, in which stages 1 to 3 stride"):
        load(tmp_path / "model.ckpt", variant="v1")


@pytest.mark.slow
def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path):
    write_checkpoint(tmp_path / "whole", {"a": np.ones(1000, np.float32)}, 2)
    data = tmp_path / "whole.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-8] + b"\xff" * 8)
    with pytest.raises(ConversionError, match="it is not a complete TensorFlow checkpoint file"):
        load(tmp_path / "whole")
    data.unlink()
    with pytest.raises(ConversionError, match="it is not a complete TensorFlow checkpoint file"):
        load(tmp_path / "whole")
    write_checkpoint(tmp_path / "keras", {"layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE": np.ones(3)}, 2)
    with pytest.raises(ConversionError, match=r"tf\.keras, which numbers the layers\nLoad it into the model"):
        load(tmp_path / "keras")
