"""Differences: none between equal bits, one for every other array, also where numbers are NaN."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from weights_convert import differences

ARRAY = np.array([1.0, -2.0], np.float32)
NAN = np.array([np.nan, 1.0], np.float32)
OTHER_NAN = (NAN.view(np.uint32) ^ np.array([1, 0], np.uint32)).view(np.float32)


@pytest.mark.parametrize("array", [ARRAY, NAN, np.array([], np.float16), ARRAY.astype(ml_dtypes.bfloat16), ARRAY[::-1]])
def test_equal_bits_are_equal(array: np.ndarray):
    assert differences({"a": array}, {"a": array.copy()}) == []


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (ARRAY, ARRAY.reshape(2, 1), "shape (2,) and (2, 1)"),
        (ARRAY, ARRAY.astype(np.float64), "dtype float32 and float64, equal numbers"),
        (ARRAY, np.array([1.0, -2.5], np.float32), "1 of 2 numbers"),
        (ARRAY, np.array([1.1, -2.5], np.float16), "dtype float32 and float16, 2 of 2 numbers"),
        (np.zeros(1), -np.zeros(1), "bits of NaNs or signs of zeros"),
        (NAN, OTHER_NAN, "bits of NaNs or signs of zeros"),
        (NAN, np.array([0.0, 1.0], np.float32), "1 of 2 numbers"),
    ],
)
def test_every_differing_array_is_named(first: np.ndarray, second: np.ndarray, what: str):
    (difference,) = differences({"a": first}, {"a": second})
    assert (difference.name, difference.what) == ("a", what)


def test_arrays_of_one_side_only_are_named():
    different = differences({"a": ARRAY, "b": ARRAY}, {"b": ARRAY, "c": ARRAY})
    assert [(difference.name, difference.what) for difference in different] == [
        ("a", "only in the first"),
        ("c", "only in the second"),
    ]


def test_the_size_of_a_difference_is_measured():
    (difference,) = differences({"a": np.array([3.0, 4.0])}, {"a": np.array([3.0, 4.5])})
    assert (difference.relative_l2, difference.largest) == (0.1, 0.5)
