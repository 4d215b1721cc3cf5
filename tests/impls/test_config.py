"""Configurations: the variants, their blocks, their JSON form, and the values and inputs they reject."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from impls.config import FREE_FIELDS, VARIANTS, Block, ResNetConfig, feature_size, named_config

TRAITS = {
    "tutorial": ("conv1", True, False, False, 1e-5, 7),
    "v1": ("conv1", False, False, False, 1e-5, None),
    "v1.5": ("conv2", False, False, False, 1e-5, None),
    "keras": ("conv1", False, False, True, 1.001e-5, None),
    "flax": ("conv2", False, True, False, 1e-5, None),
}
"""Strided layer, ReLU before the addition, SAME padding, conv bias, eps and head pool of each variant: a second copy of
the table, so that a change to the first is noticed."""


def test_the_variants_have_their_facts():
    assert {
        name: (v.strided_layer, v.relu_before_addition, v.same_padding, v.conv_bias, v.norm_eps, v.head_pool)
        for name, v in VARIANTS.items()
    } == TRAITS
    assert {(v.depths, v.width, v.num_classes, v.norm_decay) for v in VARIANTS.values()} == {
        ((3, 4, 6, 3), 64, 1000, 0.9)
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_keeps_its_name_whatever_its_size_training_and_precision(name):
    sizes = {"depths": (1, 2, 1, 1), "width": 8, "num_classes": 0, "in_channels": 1}
    training = {"norm_decay": 0.5, "norm_variance": "biased", "zero_init_last_scale": True}
    precision = {"dtype": "float64", "compute_dtype": "bfloat16"}
    assert {*sizes, *training, *precision} == set(FREE_FIELDS)
    assert replace(VARIANTS[name], **sizes, **training, **precision).variant == name
    assert replace(VARIANTS[name], norm_eps=1e-3).variant == "custom"


def test_named_config_sets_sizes_and_dtypes():
    config = named_config("keras", 10, 1, "float64", "bfloat16")
    assert config == replace(
        VARIANTS["keras"], num_classes=10, in_channels=1, dtype="float64", compute_dtype="bfloat16"
    )
    with pytest.raises(ValueError, match=r"no variant 'v2'; the variants are tutorial, v1, v1\.5, keras, flax"):
        named_config("v2")


def test_blocks_carry_channels_and_strides():
    blocks = list(ResNetConfig(depths=(2, 1, 1, 1), width=8).blocks())
    assert blocks == [
        Block("stage1.0", 8, 8, 1),
        Block("stage1.1", 32, 8, 1),
        Block("stage2.0", 32, 16, 2),
        Block("stage3.0", 64, 32, 2),
        Block("stage4.0", 128, 64, 2),
    ]
    assert [(block.out_channels, block.projects) for block in blocks[:3]] == [(32, True), (32, False), (64, True)]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_config_survives_json(name):
    config = named_config(name, 5, 2, "bfloat16")
    assert ResNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 64.0),
        ("width", True),
        ("width", None),
        ("width", "64"),
        ("num_classes", 2**31),
        ("depths", "3463"),
        ("depths", [3, 4, 6, 3.0]),
        ("norm_eps", "1e-5"),
        ("head_pool", 7.0),
        ("dtype", 32),
        ("same_padding", 1),
    ],
)
def test_values_of_other_types_are_rejected(field, value):
    """A damaged file may hold such values."""
    with pytest.raises(ValueError, match=field):
        ResNetConfig.from_dict(ResNetConfig().to_dict() | {field: value})


@pytest.mark.parametrize("change", [{"depth": (1, 1, 1, 1)}, {"depths": [1, 1, 1]}])
def test_other_fields_and_impossible_values_are_rejected(change):
    with pytest.raises(ValueError, match="depth"):
        ResNetConfig.from_dict(ResNetConfig().to_dict() | change)
    with pytest.raises(ValueError, match="expected the fields"):
        ResNetConfig.from_dict({"depths": (3, 4, 6, 3)})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depths", (3, 4, 6)),
        ("depths", (3, 4, 6, 0)),
        ("width", 0),
        ("num_classes", -1),
        ("in_channels", 0),
        ("strided_layer", "conv3"),
        ("norm_eps", 0.0),
        ("norm_decay", 1.5),
        ("head_pool", 0),
        ("dtype", "float"),
        ("compute_dtype", "int8"),
    ],
)
def test_impossible_values_are_rejected(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be "):
        ResNetConfig(**{field: value})


def test_all_problems_are_reported_at_once():
    with pytest.raises(ValueError, match=r"width must be .*; norm_eps must be "):
        ResNetConfig(width=-1, norm_eps=-1)


@pytest.mark.parametrize(("side", "size"), [(1, 1), (32, 1), (33, 2), (193, 7), (224, 7), (225, 8)])
def test_every_layer_rounds_up(side, size):
    assert feature_size(side) == size


@pytest.mark.parametrize("side", [193, 224, 416])
def test_the_tutorials_head_takes_maps_that_hold_one_window(side):
    VARIANTS["tutorial"].check_input(side, side, 3)


@pytest.mark.parametrize("side", [192, 417])
def test_the_tutorials_head_rejects_maps_that_hold_no_window_or_several(side):
    for height, width in ((side, 224), (224, side)):
        with pytest.raises(ValueError, match="use height and width from 193 to 416"):
            VARIANTS["tutorial"].check_input(height, width, 3)


def test_global_pooling_takes_any_size_and_unknown_sizes_pass():
    VARIANTS["v1.5"].check_images((1, 3, 1, 999), "NCHW")
    VARIANTS["tutorial"].check_images((None, None, None, 3), "NHWC")


@pytest.mark.parametrize(
    ("shape", "axes", "hint"),
    [
        ((1, 3, 224, 224), "NHWC", "; the images seem to be NCHW, and this model takes NHWC: transpose them"),
        ((1, 224, 224, 3), "NCHW", "; the images seem to be NHWC, and this model takes NCHW: transpose them"),
        ((1, 1, 224, 224), "NCHW", ""),
    ],
)
def test_the_other_layout_is_recognised(shape, axes, hint):
    with pytest.raises(ValueError, match=f"channels where 3 are expected{hint}$"):
        VARIANTS["v1.5"].check_images(shape, axes)
