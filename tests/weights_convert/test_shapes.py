"""Shapes: what a network's checkpoint must hold, and which network a checkpoint's shapes are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impls.config import VARIANTS, ResNetConfig
from weights_convert.shapes import expected_shapes, has_conv_bias, infer_sizes
from weights_convert.table import RUNNING_STATISTICS

networks = st.builds(
    ResNetConfig,
    depths=st.tuples(*(st.integers(1, depth) for depth in (3, 8, 36, 3))),
    width=st.integers(1, 4096),
    num_classes=st.integers(0, 30_000),
    in_channels=st.integers(1, 16),
    conv_bias=st.booleans(),
)


@pytest.mark.parametrize(
    ("variant", "parameters", "arrays"),
    [("v1.5", 25_557_032, 267), ("v1", 25_557_032, 267), ("keras", 25_583_592, 320)],
)
def test_a_published_network_has_the_published_count(variant: str, parameters: int, arrays: int):
    shapes = expected_shapes(VARIANTS[variant])
    assert len(shapes) == arrays
    sizes = {name: _size(shape) for name, shape in shapes.items()}
    assert sum(size for name, size in sizes.items() if not name.endswith(RUNNING_STATISTICS)) == parameters


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


@given(networks)
@settings(max_examples=50, deadline=None)
def test_sizes_are_told_by_the_shapes(network: ResNetConfig):
    told_nothing = ResNetConfig(conv_bias=network.conv_bias, in_channels=17, width=5000, num_classes=30_001)
    assert infer_sizes(expected_shapes(network), told_nothing) == network


def test_what_shapes_do_not_tell_stays_as_it_is_said(tiny: ResNetConfig):
    said = replace(VARIANTS["tutorial"], norm_eps=0.5)
    assert infer_sizes(expected_shapes(tiny), said) == replace(
        said, depths=tiny.depths, width=tiny.width, num_classes=tiny.num_classes
    )


def test_a_few_wrong_shapes_do_not_change_the_width(tiny: ResNetConfig):
    shapes = expected_shapes(tiny) | {"conv1.weight": (9, 3, 7, 7), "bn1.weight": (9,), "bn1.bias": (9,)}
    assert infer_sizes(shapes, ResNetConfig()).width == tiny.width


@pytest.mark.parametrize("gone", ["stage3.", "stage1.", ".conv3.", ""])
def test_what_is_no_bottleneck_resnet_is_refused(tiny: ResNetConfig, gone: str):
    shapes = {name: shape for name, shape in expected_shapes(tiny).items() if gone not in name}
    with pytest.raises(ValueError, match="no bottleneck ResNet"):
        infer_sizes(shapes, ResNetConfig())


def test_a_name_cannot_make_a_network_without_bounds(tiny: ResNetConfig):
    shapes = expected_shapes(tiny) | {"stage1.999999999999.conv1.weight": (4, 16, 1, 1)}
    assert infer_sizes(shapes, ResNetConfig()).depths[0] == len(shapes)


@pytest.mark.parametrize("name", ["conv1.bias", "stage2.0.conv3.bias", "stage1.0.downsample_conv.bias"])
def test_one_bias_of_a_convolution_is_enough(tiny: ResNetConfig, name: str):
    assert not has_conv_bias(expected_shapes(tiny))
    assert has_conv_bias(expected_shapes(tiny) | {name: (4,)})
