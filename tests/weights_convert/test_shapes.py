"""Shapes: those that a network has, and the network that given shapes belong to."""

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
def test_sizes_are_inferred_from_shapes(network: ResNetConfig):
    other_sizes = ResNetConfig(conv_bias=network.conv_bias, in_channels=17, width=5000, num_classes=30_001)
    assert infer_sizes(expected_shapes(network), other_sizes) == network


def test_other_fields_are_kept(tiny: ResNetConfig):
    network = replace(VARIANTS["tutorial"], norm_eps=0.5)
    assert infer_sizes(expected_shapes(tiny), network) == replace(
        network, depths=tiny.depths, width=tiny.width, num_classes=tiny.num_classes
    )


def test_a_few_wrong_shapes_do_not_change_the_width(tiny: ResNetConfig):
    shapes = expected_shapes(tiny) | {"conv1.weight": (9, 3, 7, 7), "bn1.weight": (9,), "bn1.bias": (9,)}
    assert infer_sizes(shapes, ResNetConfig()).width == tiny.width


@pytest.mark.parametrize("removed", ["stage3.", "stage1.", ".conv3.", ""])
def test_another_network_is_refused(tiny: ResNetConfig, removed: str):
    shapes = {name: shape for name, shape in expected_shapes(tiny).items() if removed not in name}
    with pytest.raises(ValueError, match="not a bottleneck ResNet"):
        infer_sizes(shapes, ResNetConfig())


@pytest.mark.parametrize("block", [9999, 999_999_999_999])
def test_a_name_cannot_claim_a_network_of_any_size(tiny: ResNetConfig, block: int):
    shapes = expected_shapes(tiny) | {f"stage1.{block}.conv1.weight": (4, 16, 1, 1)}
    assert infer_sizes(shapes, ResNetConfig()).depths[0] <= len(shapes)


@pytest.mark.parametrize("name", ["conv1.bias", "stage2.0.conv3.bias", "stage1.0.downsample_conv.bias"])
def test_one_bias_of_a_convolution_is_enough(tiny: ResNetConfig, name: str):
    assert not has_conv_bias(expected_shapes(tiny))
    assert has_conv_bias(expected_shapes(tiny) | {name: (4,)})
