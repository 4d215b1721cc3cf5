"""Inspecting and loading: what is recognised, and that every problem is reported at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from impls.config import VARIANTS, ResNetConfig
from weights_convert import Checkpoint, ConversionError, inspect, load
from weights_convert.comparison import FLOATS
from weights_convert.dialects import DIALECTS, WRITTEN
from weights_convert.recognition import recognise_dialect
from weights_convert.shapes import expected_shapes

MakeCheckpoint = Callable[..., Checkpoint]
BitsOf = Callable[..., object]
TINY_NAMES = list(expected_shapes(ResNetConfig(depths=(2, 1, 1, 1), width=4, num_classes=5)))


def save_with(path: Path, checkpoint: Checkpoint, **changed: str | None) -> Path:
    """Write a checkpoint to a file whose metadata differ in some entries; None removes an entry."""
    metadata = {name: value for name, value in (checkpoint.metadata() | changed).items() if value is not None}
    save_file({name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}, path, metadata)
    return path


@pytest.mark.parametrize("dialect", WRITTEN)
def test_a_dialect_is_recognised_by_its_names(dialect: str, checkpoint_of: MakeCheckpoint):
    assert load(checkpoint_of(dialect=dialect).arrays, variant="v1.5").dialect is DIALECTS[dialect]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "belong to no known dialect .it is empty."),
        (["blocks.0.weight"], r"belong to no known dialect \('blocks.0.weight'\)$"),
        (["module.conv1.weight"], r"belong to no known dialect \('module.conv1.weight'\)$"),
        (["layer1.0.conv1.weight", "stage1.0.conv1.weight"], "its names belong to canonical and torchvision alike"),
        (["stage1.0.conv1.kernel"], "its names belong to flax and keras alike"),
    ],
)
def test_names_without_one_dialect_are_refused(names: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        recognise_dialect(dict.fromkeys(names))


class TestTheVariant:
    def test_is_read_from_the_metadata(self, tmp_path: Path, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig):
        checkpoint = checkpoint_of(replace(tiny, strided_layer="conv1"))
        checkpoint.save(tmp_path / "a.safetensors")
        read = load(tmp_path / "a.safetensors")
        assert (read.config.variant, read.recognised_by) == ("v1", "from its metadata: made for it")

    def test_is_not_guessed_among_several(self, checkpoint_of: MakeCheckpoint):
        arrays = checkpoint_of(dialect="torchvision").arrays
        inspection = inspect(arrays)
        assert [network.variant for network in inspection.networks] == ["tutorial", "v1", "v1.5", "flax"]
        assert inspection.problems == ()
        with pytest.raises(ConversionError, match=r"several: tutorial, v1, v1.5, flax\nGive the variant"):
            load(arrays)

    def test_is_keras_if_convolutions_have_biases(self, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig):
        read = load(checkpoint_of(replace(tiny, conv_bias=True), dialect="keras.applications").arrays)
        assert (read.config.variant, read.recognised_by) == ("keras", "no other variant has such arrays")

    @pytest.mark.parametrize("dialect", ["canonical", "flax", "keras"])
    def test_is_asked_for_if_biases_stand_under_names_of_other_libraries(
        self, dialect: str, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig
    ):
        """This network has the strides of v1.5, and is no variant."""
        arrays = checkpoint_of(replace(tiny, conv_bias=True), dialect=dialect).arrays
        with pytest.raises(ConversionError, match=r"fit keras alone, whose .* nothing states\nIf .* --variant keras"):
            load(arrays)
        assert inspect(arrays).variant is None
        assert load(arrays, variant="keras").recognised_by == "as given"

    def test_is_that_of_the_model_if_the_source_states_none(self, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig):
        model = replace(tiny, strided_layer="conv1", norm_eps=0.25)
        assert model.variant == "custom"
        assert load(checkpoint_of().arrays, config=model).config == model

    def test_cannot_be_overruled(self, tmp_path: Path, checkpoint_of: MakeCheckpoint):
        checkpoint_of().save(tmp_path / "a.safetensors")
        with pytest.raises(
            ConversionError, match=r"holds variant v1.5 \(from its metadata: made for it\), not v1; equal shapes"
        ):
            load(tmp_path / "a.safetensors", variant="v1")
        with pytest.raises(ConversionError, match=r"holds variant v1.5 \(made for it\), not v1"):
            load(checkpoint_of(), variant="v1")

    def test_that_does_not_exist_is_refused(self, checkpoint_of: MakeCheckpoint):
        with pytest.raises(ValueError, match="no variant 'v2'"):
            load(checkpoint_of().arrays, variant="v2")


class TestAModel:
    def test_takes_what_fits(self, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig):
        model = replace(tiny, dtype="float64", zero_init_last_scale=True, norm_decay=0.5)
        checkpoint = checkpoint_of()
        assert load(checkpoint, config=model) is checkpoint

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"num_classes": 7}, "it has num_classes 5, and the model 7"),
            ({"depths": (3, 1, 1, 1)}, "it has depths [2, 1, 1, 1], and the model [3, 1, 1, 1]"),
            ({"in_channels": 1}, "it has in_channels 3, and the model 1"),
            ({"norm_eps": 1e-3}, "it has norm_eps 1e-05, and the model 0.001"),
            ({"head_pool": 7}, "it has head_pool None, and the model 7"),
            ({"same_padding": True}, "it holds variant v1.5 (made for it), and the model is flax"),
        ],
    )
    def test_refuses_another_network(
        self, change: dict[str, object], problem: str, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig
    ):
        with pytest.raises(ConversionError) as refusal:
            load(checkpoint_of(), config=replace(tiny, **change))
        assert problem in refusal.value.problems

    def test_refuses_a_file_of_another_network_by_its_metadata(
        self, tmp_path: Path, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig
    ):
        checkpoint_of().save(tmp_path / "a.safetensors")
        with pytest.raises(ConversionError, match="and the model is v1"):
            load(tmp_path / "a.safetensors", config=replace(tiny, strided_layer="conv1"))

    def test_is_compared_in_sizes_and_arrays(self, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig):
        inspection = inspect(checkpoint_of().arrays, config=replace(tiny, num_classes=7))
        assert inspection.problems == (
            "it has num_classes 5, and the model 7",
            "'fc.weight' has the shape (5, 128), expected (7, 128)",
            "'fc.bias' has the shape (5,), expected (7,)",
        )


@pytest.mark.parametrize("dialect", WRITTEN)
@pytest.mark.parametrize("lost", ["fc.weight", "fc.bias"])
def test_half_a_classifier_is_half_missing_not_beside_the_network(
    dialect: str, lost: str, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig
):
    arrays = dict(checkpoint_of(dialect=dialect).arrays)
    name = DIALECTS[dialect].write_name(lost)[0]
    del arrays[name]
    with pytest.raises(ConversionError) as refusal:
        load(arrays, config=tiny)
    assert refusal.value.problems == (f"{name!r} is missing",)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_damage_is_reported_at_once(data: st.DataObject, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig):
    # flax-linen counts blocks through all stages, which only the projections separate. Without one of them, arrays of
    # other blocks would be reported, too.
    dialect = data.draw(st.sampled_from([name for name in WRITTEN if name != "flax-linen"]))
    damaged = data.draw(st.lists(st.sampled_from(TINY_NAMES), unique=True, min_size=1))
    kinds = data.draw(
        st.lists(
            st.sampled_from(["missing", "larger", "deeper", "integers"]), min_size=len(damaged), max_size=len(damaged)
        )
    )
    extra = data.draw(st.lists(st.sampled_from(["old.weight", "stage1.1.downsample_conv.weight", "x"]), unique=True))
    arrays, expected = dict(checkpoint_of(dialect=dialect).arrays), set()
    for canonical, kind in zip(damaged, kinds, strict=True):
        name = DIALECTS[dialect].write_name(canonical)[0]
        array = arrays.pop(name)
        shape = array.shape
        if kind == "missing":
            expected.add(f"{name!r} is missing")
        elif kind == "integers":
            arrays[name] = np.zeros(shape, np.int64)
            expected.add(f"{name!r} is int64; weights are {', '.join(FLOATS[:-1])} or {FLOATS[-1]}")
        else:
            arrays[name] = np.zeros((9, *shape) if kind == "deeper" else (shape[0] + 3, *shape[1:]), np.float32)
            expected.add(f"{name!r} has the shape {arrays[name].shape}, expected {shape}")
    for canonical in extra:
        known = canonical.startswith("stage")
        name = DIALECTS[dialect].write_name(canonical)[0] if known else canonical
        arrays[name] = np.zeros((16, 16, 1, 1), np.float32)
        expected.add(f"{name!r} has no place in this network" if known else f"{dialect} has no rule for {name!r}")
    with pytest.raises(ConversionError) as refusal:
        load(arrays, dialect=dialect, config=tiny)
    # Sizes that the damage seems to change ("it has num_classes 8, ...") may be reported as well; nothing else may.
    problems = {
        problem for problem in refusal.value.problems if not problem.startswith(("it has ", "not a bottleneck"))
    }
    assert problems == expected


def test_damage_is_reported_without_a_model(checkpoint_of: MakeCheckpoint):
    arrays = dict(checkpoint_of(dialect="flax").arrays)
    del arrays["bn1.scale"], arrays["stage4.0.conv3.kernel"]
    arrays["conv1.kernel"] = np.zeros((7, 7, 3, 6), np.float32)
    arrays["bn1.momentum"] = np.zeros(4, np.float32)
    with pytest.raises(ConversionError) as refusal:
        load(arrays)
    assert refusal.value.problems[:-1] == (
        "flax has no rule for 'bn1.momentum'",
        "'bn1.scale' is missing",
        "'stage4.0.conv3.kernel' is missing",
        "'conv1.kernel' has the shape (7, 7, 3, 6), expected (7, 7, 3, 4)",
    )
    assert "its arrays fit several" in refusal.value.problems[-1]


def test_sizes_are_inferred_without_a_variant(checkpoint_of: MakeCheckpoint, tiny: ResNetConfig):
    network = replace(tiny, depths=(1, 2, 3, 1), num_classes=0, in_channels=1)
    inspection = inspect(checkpoint_of(network, dialect="keras").arrays)
    assert inspection.problems == ()
    sizes = {(n.depths, n.width, n.num_classes, n.in_channels) for n in inspection.networks}
    assert sizes == {((1, 2, 3, 1), 4, 0, 1)}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("conv1.weight", [1.0], "'conv1.weight' is of type list, expected a NumPy array with a name"),
        (3, np.zeros(3), "3 is of type ndarray, expected a NumPy array with a name"),
        ("fc.bias", np.zeros(5, complex), "'fc.bias' is complex128; weights are"),
        ("fc.bias", np.zeros(5, object), "'fc.bias' is object; weights are"),
        ("fc.bias", np.zeros(5, np.longdouble), "'fc.bias' is "),
    ],
)
def test_anything_but_arrays_of_floats_is_refused(
    name: object, value: object, problem: str, checkpoint_of: MakeCheckpoint
):
    with pytest.raises(ConversionError) as refusal:
        load({**checkpoint_of().arrays, name: value}, variant="v1.5")
    assert any(line.startswith(problem) for line in refusal.value.problems)


def test_nan_is_a_weight_like_any_other(checkpoint_of: MakeCheckpoint):
    arrays = {name: np.full_like(array, np.nan) for name, array in checkpoint_of().arrays.items()}
    assert np.isnan(load(arrays, variant="v1.5").arrays["fc.bias"]).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_big_endian_arrays_are_the_same_numbers(
    dtype: str, tmp_path: Path, checkpoint_of: MakeCheckpoint, bits_of: BitsOf
):
    checkpoint = checkpoint_of(dtype=dtype)
    swapped = {name: array.byteswap().view(array.dtype.newbyteorder(">")) for name, array in checkpoint.arrays.items()}
    read = load(swapped, variant="v1.5")
    assert bits_of(read.arrays) == bits_of(checkpoint.arrays)
    assert read.content_hash() == checkpoint.content_hash()
    for ending in (".safetensors", ".pth"):
        read.save(tmp_path / f"a{ending}")
        assert bits_of(load(tmp_path / f"a{ending}", variant="v1.5").arrays) == bits_of(checkpoint.arrays)


def test_arrays_need_not_be_contiguous(tmp_path: Path, checkpoint_of: MakeCheckpoint, bits_of: BitsOf):
    wide = {name: np.repeat(array, 2, axis=-1) for name, array in checkpoint_of().arrays.items()}
    read = load({name: array[..., ::2] for name, array in wide.items()}, variant="v1.5")
    assert not read.arrays["fc.bias"].flags.contiguous
    for ending in (".safetensors", ".pth"):
        read.save(tmp_path / f"a{ending}")
        assert bits_of(load(tmp_path / f"a{ending}", variant="v1.5").arrays) == bits_of(checkpoint_of().arrays)


class TestAFileOfOurs:
    def test_is_compared_with_its_hash(self, tmp_path: Path, checkpoint_of: MakeCheckpoint):
        file = save_with(tmp_path / "a.safetensors", checkpoint_of(), content_hash="0" * 64)
        with pytest.raises(ConversionError, match="have changed since it was written"):
            load(file)
        file = save_with(tmp_path / "a.safetensors", checkpoint_of(), content_hash=None)
        with pytest.raises(ConversionError, match="have changed since it was written"):
            load(file)

    @pytest.mark.parametrize(
        ("changed", "problem"),
        [
            ({"format_version": "2"}, "it has format version 2; this program reads version 1"),
            ({"config": None}, "its metadata is damaged: Expecting value: line 1 column 1 (char 0)"),
            ({"config": "[1, 2]"}, "its metadata is damaged: expected the fields"),
            ({"config": "null"}, "its metadata is damaged"),
            ({"variant": "v1"}, "its metadata is damaged: it states variant v1, and its config is of variant v1.5"),
            ({"dialect": "caffe"}, "there is no dialect 'caffe'"),
        ],
    )
    def test_with_damaged_metadata_is_refused(
        self, changed: dict[str, str | None], problem: str, tmp_path: Path, checkpoint_of: MakeCheckpoint
    ):
        file = save_with(tmp_path / "a.safetensors", checkpoint_of(), **changed)
        with pytest.raises(ConversionError) as refusal:
            load(file)
        assert refusal.value.problems[0].startswith(problem)

    def test_cannot_claim_a_network_of_any_size(
        self, tmp_path: Path, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig
    ):
        config = json.dumps(replace(tiny, depths=(10**12, 1, 1, 1)).to_dict())
        file = save_with(tmp_path / "a.safetensors", checkpoint_of(), config=config)
        with pytest.raises(ConversionError, match="promises 1000000000003 blocks"):
            load(file)

    def test_without_an_array_is_refused(self, tmp_path: Path, checkpoint_of: MakeCheckpoint):
        checkpoint = checkpoint_of()
        less = {name: array for name, array in checkpoint.arrays.items() if name != "fc.bias"}
        file = save_with(tmp_path / "a.safetensors", replace(checkpoint, arrays=less), **checkpoint.metadata())
        assert inspect(file).problems == ("'fc.bias' is missing",)


def test_metadata_of_other_programs_are_not_ours(tmp_path: Path, checkpoint_of: MakeCheckpoint):
    save_file(dict(checkpoint_of().arrays), tmp_path / "a.safetensors", {"format": "pt", "variant": "v1"})
    assert load(tmp_path / "a.safetensors", variant="v1.5").recognised_by == "as given"


def test_batch_counts_are_dropped(checkpoint_of: MakeCheckpoint):
    arrays = dict(checkpoint_of(dialect="torchvision").arrays)
    read = load(arrays | {"bn1.num_batches_tracked": np.array(7)}, variant="v1.5")
    assert list(read.dropped) == ["bn1.num_batches_tracked"]
    assert set(read.arrays) == set(arrays)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_can_be_given(variant: str, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig):
    arrays = checkpoint_of(replace(tiny, conv_bias=VARIANTS[variant].conv_bias)).arrays
    assert load(arrays, variant=variant).config.variant == variant


def test_a_variant_with_other_arrays_is_refused(checkpoint_of: MakeCheckpoint):
    with pytest.raises(ConversionError, match=r"'conv1\.bias' is missing") as refusal:
        load(checkpoint_of().arrays, variant="keras")
    assert len(refusal.value.problems) == 1 + 3 * 5 + 4
