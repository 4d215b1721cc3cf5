"""Numbers that no trained network has are told, and still converted bit for bit."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.weights_convert.conftest import TINY
from weights_convert import Checkpoint, UnlikelyNumbers, load
from weights_convert.cli import main
from weights_convert.dialects import find_dialect
from weights_convert.shapes import expected_shapes
from weights_convert.unlikely import unlikely_numbers


@pytest.fixture
def normal() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.uniform(0.1, 1, shape).astype(np.float32) for name, shape in expected_shapes(TINY).items()}


def damage(arrays: dict[str, np.ndarray], name: str, value: float, all_of_it: bool = False) -> None:
    array = arrays[name].reshape(-1)
    array[:] = value if all_of_it else [value, *array[1:]]
    arrays[name] = array.reshape(arrays[name].shape)


@pytest.mark.parametrize(
    ("name", "value", "all_of_it", "line"),
    [
        ("conv1.weight", np.nan, False, "1 NaN or infinite: 'conv1.weight'"),
        ("stage2.0.bn3.bias", -np.inf, False, "1 NaN or infinite: 'stage2.0.bn3.bias'"),
        ("fc.bias", np.nan, True, "5 NaN or infinite: 'fc.bias'"),
        ("bn1.running_var", -1e-3, False, "1 negative running variances: 'bn1.running_var'"),
        ("stage1.0.downsample_bn.weight", 0.0, True, "16 scales of a norm that are all zero: 'stage1.0.downsample_bn."),
    ],
)
def test_each_kind_is_told_with_its_place(
    name: str, value: float, all_of_it: bool, line: str, normal: dict[str, np.ndarray], tmp_path: Path
):
    damage(normal, name, value, all_of_it)
    (told,) = unlikely_numbers(normal)
    assert told.startswith(line)
    checkpoint = Checkpoint(normal, find_dialect("canonical"), TINY)
    checkpoint.save(tmp_path / "a.safetensors")
    with pytest.warns(UnlikelyNumbers, match=r"numbers that no trained network has:\n.*a\.safetensors: ") as warned:
        read = load(tmp_path / "a.safetensors")
    assert told in str(warned[0].message)
    assert read.content_hash() == checkpoint.content_hash()
    for command in (["inspect"], ["convert"]):
        target = [str(tmp_path / "b.flax.safetensors")] if command == ["convert"] else []
        output = CliRunner().invoke(main, [*command, str(tmp_path / "a.safetensors"), *target]).output
        assert f"unlikely numbers    {told}" in output


def test_many_places_are_counted(normal: dict[str, np.ndarray]):
    for name in normal:
        damage(normal, name, np.inf)
    (told,) = unlikely_numbers(normal)
    assert told.startswith(f"{len(normal)} NaN or infinite: 'conv1.weight', 'bn1.weight', ")
    assert told.endswith(f" and {len(normal) - 4} more")


def test_untouched_norms_are_told(normal: dict[str, np.ndarray]):
    for name in normal:
        if "bn" in name:
            damage(normal, name, 1.0 if name.endswith(("weight", "running_var")) else 0.0, all_of_it=True)
    (told,) = unlikely_numbers(normal)
    assert told == "all norms are as before training: scales and variances of 1, offsets and means of 0"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_trained_network_is_told_nothing(dtype: str, normal: dict[str, np.ndarray], tmp_path: Path):
    from weights_convert import cast

    checkpoint = cast(Checkpoint(normal, find_dialect("canonical"), TINY), dtype)
    checkpoint.save(tmp_path / "a.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path / "a.safetensors")
