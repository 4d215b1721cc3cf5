"""Places of a network, and conditions on them."""

from __future__ import annotations

import pytest

from conformance.faults import places
from conformance.faults.place import NETWORK, TRAINING, at, networks, networks_without
from impls.config import VARIANTS, ResNetConfig

V1, V15, FLAX = VARIANTS["v1"], VARIANTS["v1.5"], VARIANTS["flax"]


def names(where, config=V15):
    return [place.name for place in places(config) if where.holds(place, config)]


def test_a_condition_is_on_the_kind_of_place_and_on_its_attributes():
    assert names(at("stem")) == ["stem"]
    assert names(at("conv", kernel=7)) == ["conv1"]
    assert len(names(at("conv", kernel=(3, 7)))) == 17
    assert names(at("block", projects=True, stride=1)) == ["stage1.0"]


def test_the_stride_is_where_the_variant_has_it():
    assert names(at("conv", kernel=3, stride=2)) == ["stage2.0.conv2", "stage3.0.conv2", "stage4.0.conv2"]
    assert names(at("conv", kernel=3, stride=2), V1) == []


def test_conditions_combine():
    where = (at("head") | NETWORK) & networks(same_padding=True)
    assert (names(where), names(where, FLAX)) == ([], ["network", "head"])
    assert where.scopes == ("head", "network")
    assert names(NETWORK & networks_without(same_padding=True), FLAX) == []
    assert names(TRAINING, ResNetConfig(num_classes=0)) == []


def test_an_attribute_that_no_place_has_is_an_error():
    with pytest.raises(AttributeError, match="kernal"):
        names(at("conv", kernal=3))


def test_a_layer_is_followed_if_the_next_block_has_its_shapes():
    following = {place.name: place.following for place in places(V15)}
    assert following["stage1.1"] == "stage1.2"
    assert following["stage1.0.conv2"] == "stage1.1.conv2"
    assert following["stage1.0.conv1"] == following["stage1.2.conv2"] == following["stage1.0.downsample_conv"] == ""
