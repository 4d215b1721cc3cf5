"""Inputs: what they are, and that they are always the same; images that no candidate should be given are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conformance.cases.inputs import Input, InputError, content_hash, noise


class TestInput:
    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (np.zeros((3, 4, 4), np.float32), "expected (batch, channels, height, width), got the shape (3, 4, 4)"),
            (np.zeros((0, 3, 4, 4), np.float32), "at least one number"),
            (np.zeros((1, 3, 4, 4)), "expected float32, got float64"),
            (np.zeros((1, 4, 4, 3), np.float32).transpose(0, 3, 1, 2), "C-contiguous"),
            (np.full((1, 3, 4, 4), np.nan, np.float32), "expected finite numbers"),
            (np.full((1, 3, 4, 4), -np.inf, np.float32), "expected finite numbers"),
        ],
    )
    def test_refuses_what_no_implementation_should_be_given(self, images: np.ndarray, message: str) -> None:
        with pytest.raises(InputError) as caught:
            Input("mine", images, "nowhere")
        assert "'mine'" in str(caught.value)
        assert message in str(caught.value)

    def test_is_hashable_and_comparable_though_it_holds_an_array(self) -> None:
        one, other = noise(2, 2, 1, seed=0), noise(2, 2, 1, seed=0)
        assert len({one, other}) == 2
        assert one != other


class TestNoise:
    def test_shape_name_and_layout(self) -> None:
        made = noise(65, 97, batch=3, seed=7, channels=4)
        assert made.name == "noise-65x97"
        assert made.images.shape == (3, 4, 65, 97)
        assert made.images.dtype == np.float32
        assert made.images.flags.c_contiguous
        assert "seed 7" in made.source

    def test_the_same_arguments_make_the_same_numbers_and_any_other_make_others(self) -> None:
        arguments = {"height": 8, "width": 9, "batch": 2, "seed": 1, "channels": 3}
        images = noise(**arguments).images
        np.testing.assert_array_equal(images, noise(**arguments).images)
        for name, value in arguments.items():
            other = noise(**arguments | {name: value + 1}).images
            assert not np.isin(other.ravel()[:50], images).any(), name

    def test_the_numbers_are_these_on_every_machine(self) -> None:
        expected = [[0.44162214, -1.7291665], [0.9059674, -1.0375135]]
        np.testing.assert_allclose(noise(2, 2, 1, seed=0, channels=1).images[0, 0], expected, rtol=1e-6)

    def test_is_standard_normal_so_signed_in_every_image_and_channel(self) -> None:
        images = noise(64, 96, batch=3, seed=0).images
        np.testing.assert_allclose(images.mean(axis=(2, 3)), 0, atol=0.05)
        np.testing.assert_allclose(images.std(axis=(2, 3)), 1, atol=0.05)
        np.testing.assert_allclose((images < 0).mean(axis=(2, 3)), 0.5, atol=0.05)
        assert len({image.tobytes() for image in images}) == 3

    def test_reports_all_impossible_arguments_at_once(self) -> None:
        with pytest.raises(InputError) as caught:
            noise(0, -1, 0, seed=-2, channels=0)
        for problem in (
            "height must be positive, not 0",
            "width",
            "batch",
            "channels",
            "seed must be 0 or more, not -2",
        ):
            assert problem in str(caught.value)


class TestContentHash:
    ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

    def test_is_the_same_for_the_same_numbers_in_another_layout_or_byte_order(self) -> None:
        expected = content_hash(self.ARRAY)
        assert len(expected) == 64
        assert content_hash(self.ARRAY.copy()) == expected
        assert content_hash(np.asfortranarray(self.ARRAY)) == expected
        assert content_hash(self.ARRAY.astype(">f4")) == expected
        assert content_hash(np.repeat(self.ARRAY, 2, axis=2)[:, :, ::2]) == expected

    def test_is_this_one_on_every_machine(self) -> None:
        assert content_hash(np.zeros((1, 3), np.float32)).startswith("167ebd6b")

    @pytest.mark.parametrize(
        "other",
        [
            ARRAY.reshape(3, 2, 4),
            ARRAY.view(np.int32),
            ARRAY.astype(np.float64),
            np.where(ARRAY == 5, np.float32(5.000001), ARRAY),
            ARRAY[::-1],
        ],
        ids=["shape", "dtype", "precision", "one number", "order"],
    )
    def test_is_another_for_anything_else(self, other: np.ndarray) -> None:
        assert content_hash(other) != content_hash(self.ARRAY)

    def test_tells_negative_zero_from_zero(self) -> None:
        assert content_hash(np.zeros(1)) != content_hash(-np.zeros(1))

    def test_refuses_python_objects(self) -> None:
        with pytest.raises(InputError, match="object"):
            content_hash(np.array([None]))


def test_frameworks_are_not_imported_and_pillow_only_when_a_picture_is_made() -> None:
    code = (
        "import sys, conformance.cases.inputs as inputs, conformance.cases.pictures as pictures; "
        "inputs.noise(2, 2, 1, 0); assert not {'PIL', 'matplotlib', 'torch'} & set(sys.modules); "
        "pictures.photograph(); assert 'PIL' in sys.modules"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
