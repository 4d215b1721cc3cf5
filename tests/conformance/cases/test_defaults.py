"""The inputs of a run for which the user names none expose what single ones hide."""

from __future__ import annotations

import pytest

from conformance.cases.defaults import default_inputs
from conformance.cases.inputs import InputError, content_hash
from impls.config import STAGE_STRIDES, VARIANTS, ResNetConfig, feature_size


class TestDefaultInputs:
    @pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
    def test_there_are_four_of_the_kinds_that_expose_bugs(self, config: ResNetConfig) -> None:
        inputs = default_inputs(config, seed=0)
        picture, square, odd, even = (made.images.shape for made in inputs)
        assert picture == square == (1, 3, 224, 224)
        assert [made.name for made in inputs[:2]] == ["photograph", "noise-224x224"]
        assert len({made.name for made in inputs}) == 4
        assert odd[2] != odd[3]
        assert even[2] != even[3]
        assert odd[0] > 1

    @pytest.mark.parametrize("head_pool", [None, 1, 2, 3, 7, 10])
    def test_the_network_takes_them(self, head_pool: int | None) -> None:
        config = ResNetConfig(head_pool=head_pool)
        size = 224 if head_pool is None else head_pool * 32
        for made in default_inputs(config, seed=0, size=size):
            _, channels, height, width = made.images.shape
            config.check_input(height, width, channels)

    @pytest.mark.parametrize("head_pool", [None, 2, 3, 7, 10])
    def test_maps_are_odd_or_even_at_every_strided_layer(self, head_pool: int | None) -> None:
        size = 224 if head_pool is None else head_pool * 32
        odd, even = default_inputs(ResNetConfig(head_pool=head_pool), seed=0, size=size)[-2:]
        strides = [2, 2, *(stride for stride in STAGE_STRIDES if stride > 1)]  # conv1, max pool, stages 2 to 4
        for made, remainder in ((odd, 1), (even, 0)):
            for side in made.images.shape[2:]:
                for stride in strides:
                    assert side % 2 == remainder, made.name
                    side = -(-side // stride)

    def test_they_are_small_where_the_network_takes_small_ones(self) -> None:
        odd, even = default_inputs(VARIANTS["v1.5"], seed=0)[-2:]
        assert odd.images.shape == (3, 3, 65, 97)
        assert even.images.shape == (3, 3, 64, 96)
        odd, even = default_inputs(VARIANTS["tutorial"], seed=0)[-2:]
        assert odd.images.shape == (3, 3, 193, 225)
        assert even.images.shape == (1, 3, 224, 256)
        assert all(feature_size(side) >= 7 for made in (odd, even) for side in made.images.shape[2:])

    @pytest.mark.parametrize("channels", [1, 4])
    def test_without_three_channels_there_is_no_photograph(self, channels: int) -> None:
        inputs = default_inputs(ResNetConfig(in_channels=channels), seed=0)
        assert [made.name for made in inputs] == ["noise-224x224", "noise-65x97", "noise-64x96"]
        assert {made.images.shape[1] for made in inputs} == {channels}

    def test_the_seed_decides_the_noise(self) -> None:
        first, again, other = (default_inputs(VARIANTS["v1.5"], seed) for seed in (0, 0, 1))
        for one, same, different in zip(first, again, other, strict=True):
            assert content_hash(one.images) == content_hash(same.images)
            assert (content_hash(one.images) == content_hash(different.images)) == (one.name == "photograph")

    def test_refuses_a_size_that_the_network_does_not_take(self) -> None:
        with pytest.raises(InputError, match=r"64x64 image reaches the 7x7 head pool.*from 193 to 416"):
            default_inputs(VARIANTS["tutorial"], seed=0, size=64)

    @pytest.mark.parametrize("size", [0, -1])
    def test_refuses_a_size_that_no_image_has(self, size: int) -> None:
        with pytest.raises(InputError, match=f"must be positive, not {size}"):
            default_inputs(VARIANTS["v1.5"], seed=0, size=size)
