"""Checkpoints: converted bit for bit between all dialects, and hashed alike in each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impls.config import VARIANTS, ResNetConfig
from weights_convert import Checkpoint, ConversionError, load
from weights_convert.comparison import FLOATS
from weights_convert.dialects import DIALECTS

PAIRS = list(product(DIALECTS, repeat=2))
MakeCheckpoint = Callable[..., Checkpoint]
BitsOf = Callable[..., object]


@given(pair=st.sampled_from(PAIRS), dtype=st.sampled_from(FLOATS), conv_bias=st.booleans(), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_round_trip_keeps_every_bit(
    pair: tuple[str, str],
    dtype: str,
    conv_bias: bool,
    seed: int,
    tiny: ResNetConfig,
    checkpoint_of: MakeCheckpoint,
    bits_of: BitsOf,
):
    source, target = pair
    conv_bias &= not any(DIALECTS[name].bias_free for name in pair)
    checkpoint = checkpoint_of(replace(tiny, conv_bias=conv_bias), dtype, source, seed)
    converted = checkpoint.to(target)
    assert bits_of(converted.to(source).arrays) == bits_of(checkpoint.arrays)
    assert bits_of(converted.to("canonical").arrays) == bits_of(checkpoint.to("canonical").arrays)
    assert converted.content_hash() == checkpoint.content_hash()


@pytest.mark.parametrize("target", DIALECTS)
def test_a_conversion_copies_nothing(target: str, checkpoint_of: MakeCheckpoint):
    checkpoint = checkpoint_of()
    arrays = list(checkpoint.to(target).arrays.values())
    originals = checkpoint.arrays.values()
    assert all(np.shares_memory(array, original) for array, original in zip(arrays, originals, strict=True))


def test_kernels_have_the_axis_order_of_each_framework(checkpoint_of: MakeCheckpoint):
    checkpoint = checkpoint_of()
    kernel, fc = checkpoint.arrays["stage1.0.conv2.weight"], checkpoint.arrays["fc.weight"]
    converted = checkpoint.to("keras.applications").arrays
    np.testing.assert_array_equal(converted["conv2_block1_2_conv.kernel"], np.einsum("oihw->hwio", kernel))
    np.testing.assert_array_equal(converted["predictions.kernel"], fc.T)


def flip_last_bit(array: np.ndarray) -> np.ndarray:
    changed = np.array(array)
    changed.view(np.uint32).flat[-1] ^= 1
    return changed


@pytest.mark.parametrize(
    "change",
    [
        flip_last_bit,
        lambda array: array.view(np.int32),
        lambda array: array.reshape(*array.shape[:2], 49, 1),
        lambda array: np.ascontiguousarray(array.swapaxes(2, 3)),
    ],
    ids=["one-bit", "dtype", "shape", "height-for-width"],
)
def test_every_change_changes_the_hash(change: Callable[[np.ndarray], np.ndarray], checkpoint_of: MakeCheckpoint):
    checkpoint = checkpoint_of()
    changed = {**checkpoint.arrays, "conv1.weight": change(checkpoint.arrays["conv1.weight"])}
    assert replace(checkpoint, arrays=changed).content_hash() != checkpoint.content_hash()


def test_exchanged_arrays_change_the_hash_and_their_order_does_not(checkpoint_of: MakeCheckpoint):
    checkpoint = checkpoint_of()
    arrays = dict(checkpoint.arrays)
    exchanged = {**arrays, "bn1.weight": arrays["bn1.bias"], "bn1.bias": arrays["bn1.weight"]}
    assert replace(checkpoint, arrays=exchanged).content_hash() != checkpoint.content_hash()
    reversed_order = dict(reversed(arrays.items()))
    assert replace(checkpoint, arrays=reversed_order).content_hash() == checkpoint.content_hash()


def test_the_hash_of_known_arrays_never_changes(tiny: ResNetConfig, checkpoint_of: MakeCheckpoint):
    checkpoint = checkpoint_of()
    ones = {name: np.ones_like(array) for name, array in checkpoint.arrays.items()}
    digest = replace(checkpoint, arrays=ones).content_hash()
    assert (
        digest == "25c1f741ac1baac0baab98b6b51985d486bcaf6490eded6a375e8f39759794a2"
    )  # existing files state it: another algorithm would need another format version


def test_the_metadata_describe_the_checkpoint(checkpoint_of: MakeCheckpoint):
    metadata = checkpoint_of(dialect="flax").metadata()
    assert {name: metadata[name] for name in ("format", "format_version", "dialect", "variant", "dtype")} == {
        "format": "resnet-parity",
        "format_version": "1",
        "dialect": "flax",
        "variant": "v1.5",
        "dtype": "float32",
    }
    assert json.loads(metadata["config"])["num_classes"] == 5
    assert len(metadata["content_hash"]) == 64


def test_dtypes_may_be_mixed(checkpoint_of: MakeCheckpoint, tmp_path: Path, bits_of: BitsOf):
    arrays = dict(checkpoint_of(dtype="bfloat16").arrays)
    arrays |= {name: array for name, array in checkpoint_of().arrays.items() if "bn" in name}
    checkpoint = replace(checkpoint_of(), arrays=arrays)
    assert checkpoint.dtypes() == ["bfloat16", "float32"]
    checkpoint.save(tmp_path / "mixed.safetensors")
    assert bits_of(load(tmp_path / "mixed.safetensors").arrays) == bits_of(arrays)


class TestArraysForAModel:
    def test_are_in_its_dialect(self, checkpoint_of: MakeCheckpoint, bits_of: BitsOf):
        checkpoint = checkpoint_of()
        arrays = checkpoint.arrays_for("flax", dict.fromkeys(checkpoint.to("flax").arrays, np.dtype(np.float64)))
        assert bits_of(arrays) == bits_of(checkpoint.to("flax").arrays)

    def test_are_refused_if_its_dtype_is_too_narrow(self, checkpoint_of: MakeCheckpoint):
        checkpoint = checkpoint_of()
        dtypes = {"bn1.weight": np.dtype(np.float16), "bn1.bias": np.dtype(np.float16), "fc.bias": np.dtype(np.float32)}
        with pytest.raises(ConversionError, match=r"Build the model with the checkpoint's dtype") as refusal:
            checkpoint.arrays_for("canonical", dtypes)
        assert refusal.value.problems == (
            "'bn1.weight' is float32, which the model's float16 cannot hold exactly",
            "'bn1.bias' is float32, which the model's float16 cannot hold exactly",
        )

    @pytest.mark.parametrize(
        ("source", "model", "fits"),
        [
            ("bfloat16", "float32", True),
            ("float16", "float32", True),
            ("float32", "float64", True),
            ("bfloat16", "float16", False),
            ("float16", "bfloat16", False),
            ("float64", "float32", False),
        ],
    )
    def test_fit_every_dtype_that_holds_them_exactly(
        self, source: str, model: str, fits: bool, checkpoint_of: MakeCheckpoint
    ):
        checkpoint = checkpoint_of(dtype=source)
        dtype = checkpoint_of(dtype=model).arrays["fc.bias"].dtype
        if fits:
            assert "fc.bias" in checkpoint.arrays_for("canonical", {"fc.bias": dtype})
        else:
            with pytest.raises(ConversionError, match="cannot hold"):
                checkpoint.arrays_for("canonical", {"fc.bias": dtype})


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_kept_in_a_file(
    variant: str, tiny: ResNetConfig, checkpoint_of: MakeCheckpoint, tmp_path: Path
):
    config = replace(VARIANTS[variant], depths=tiny.depths, width=tiny.width, num_classes=tiny.num_classes)
    checkpoint_of(config, dialect="keras").save(tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors").config == config


def test_an_unknown_dialect_is_refused(checkpoint_of: MakeCheckpoint):
    with pytest.raises(ValueError, match="no dialect 'caffe'"):
        checkpoint_of().to("caffe")
