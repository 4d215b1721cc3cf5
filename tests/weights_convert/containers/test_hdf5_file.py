"""HDF5 files: links, arrays in other files and arrays larger than their bytes are refused before they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from impls.config import ResNetConfig
from weights_convert import Checkpoint, ConversionError, containers, inspect, load

MakeCheckpoint = Callable[..., Checkpoint]


def external_link(file: h5py.File) -> None:
    file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file: h5py.File) -> None:
    file["again"] = h5py.SoftLink("/conv1/vars/0")


def second_name(file: h5py.File) -> None:
    file["again"] = file["conv1/vars/0"]


def cycle(file: h5py.File) -> None:
    file["conv1/above"] = file["conv1"]


def virtual_array(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "a", (2,))
    file.create_virtual_dataset("a", layout)


def external_array(file: h5py.File) -> None:
    file.create_dataset("a", (2,), "f4", external=[("/etc/passwd", 0, 8)])


def never_written(file: h5py.File) -> None:
    file.create_dataset("a", (1 << 40,), "f4", chunks=(1 << 20,))


def zeros_compressed(file: h5py.File) -> None:
    file.create_dataset("a", data=np.zeros(1_000_000), compression="gzip")


def objects(file: h5py.File) -> None:
    file.create_dataset("a", data=["a text"])


def deep(file: h5py.File) -> None:
    file.create_group("/".join("a" * 100))


def layer_without_variables(file: h5py.File) -> None:
    file.create_group("layers/dense")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (external_link, r"'/elsewhere' is a link \(ExternalLink\), and links are not followed"),
        (soft_link, r"'/again' is a link \(SoftLink\), and"),
        (second_name, "is a second name of another object"),
        (cycle, "is a second name of another object"),
        (virtual_array, "'/a' is stored in another file"),
        (external_array, "'/a' is stored in another file"),
        (never_written, "'/a' promises 4,398,046,511,104 bytes and holds 0"),
        (zeros_compressed, "'/a' promises 8,000,000 bytes and holds"),
        (objects, "'/a' holds objects, not numbers"),
        (deep, "it nests groups deeper than 64"),
        (layer_without_variables, "'/layers/dense' is empty: Keras writes a group of variables for each layer"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_anything_but_plain_arrays_is_refused(
    damage: Callable[[h5py.File], None], problem: str, checkpoint_of: MakeCheckpoint, tmp_path: Path
):
    path = tmp_path / "a.weights.h5"
    checkpoint_of(dialect="keras").save(path)
    load(path)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(ConversionError, match=problem):
        containers.read(path)


@pytest.mark.parametrize("number", ["\N{ARABIC-INDIC DIGIT ZERO}", "\N{SUPERSCRIPT TWO}", "00", "-0", "9"])
def test_other_spellings_of_a_number_are_not_read_as_one(number: str, checkpoint_of: MakeCheckpoint, tmp_path: Path):
    """`int` accepts some of these as the number 0."""
    path = tmp_path / "a.weights.h5"
    checkpoint_of(dialect="keras").save(path)
    with h5py.File(path, "r+") as file:
        file.move("conv1/vars/0", f"conv1/vars/{number}")
    with pytest.raises(ConversionError, match=f"has no rule for 'conv1.{number}'"):
        load(path)


def test_two_bytes_of_no_kind_are_bfloat16_only_if_marked(checkpoint_of: MakeCheckpoint, tmp_path: Path):
    path = tmp_path / "a.weights.h5"
    checkpoint_of(dialect="keras", dtype="bfloat16").save(path)
    assert load(path).dtypes() == ["bfloat16"]
    with h5py.File(path, "r+") as file:
        del file["conv1/vars/0"].attrs["dtype"]
    with pytest.raises(ConversionError, match=r"'conv1\.kernel' is void16; weights are bfloat16"):
        load(path)


def test_an_optimizer_is_dropped_with_the_reason(checkpoint_of: MakeCheckpoint, tmp_path: Path):
    path = tmp_path / "a.weights.h5"
    checkpoint_of(dialect="keras").save(path)
    with h5py.File(path, "r+") as file:
        file["optimizer/vars/0"], file["optimizer/vars/1"] = 7, np.float32(0.1)
    assert inspect(path).dropped == {f"optimizer.{number}": "the state of the optimizer" for number in (0, 1)}


def test_a_long_list_of_names_is_read_as_keras_2_splits_it(checkpoint_of: MakeCheckpoint, tmp_path: Path):
    path = tmp_path / "a.h5"
    checkpoint = checkpoint_of(dialect="transformers-tf")
    checkpoint.save(path)
    with h5py.File(path, "r+") as file:
        names = file["resnet"].attrs.pop("weight_names")
        file["resnet"].attrs["weight_names0"], file["resnet"].attrs["weight_names1"] = names[:10], names[10:]
    assert load(path).content_hash() == checkpoint.content_hash()


def test_a_file_without_names_of_layers_does_not_tell_its_variant(
    tiny: ResNetConfig, checkpoint_of: MakeCheckpoint, tmp_path: Path
):
    """Biases tell variant keras under the names of its library; Keras before 3.6 and tf_keras write no names."""
    checkpoint = checkpoint_of(replace(tiny, conv_bias=True), dialect="keras.applications")
    checkpoint.save(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5", "a") as file:
        file.attrs.clear()
    assert load(tmp_path / "a.weights.h5").config.variant == "keras"
    with h5py.File(tmp_path / "a.weights.h5", "a") as file:
        file.visititems(lambda path, item: item.attrs.clear())
    with pytest.raises(ConversionError, match="its arrays fit keras alone, whose strides nothing states"):
        load(tmp_path / "a.weights.h5")
    unnamed = load(tmp_path / "a.weights.h5", variant="keras")
    assert unnamed.content_hash() == checkpoint.content_hash()
    assert unnamed.notes == ("the file does not name its layers, and their order alone tells which is which",)
