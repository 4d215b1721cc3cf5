"""Differences: none between equal bits, one line for each other array, and nothing hides behind NaN."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from weights_convert import differences

ONE = np.array([1.0, -2.0], np.float32)
NAN = np.array([np.nan, 1.0], np.float32)
OTHER_NAN = (NAN.view(np.uint32) ^ np.array([1, 0], np.uint32)).view(np.float32)


@pytest.mark.parametrize("array", [ONE, NAN, np.array([], np.float16), ONE.astype(ml_dtypes.bfloat16), ONE[::-1]])
def test_equal_bits_are_no_difference(array: np.ndarray):
    assert differences({"a": array}, {"a": array.copy()}) == []


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (ONE, ONE.reshape(2, 1), "shape (2,) and (2, 1)"),
        (ONE, ONE.astype(np.float64), "dtype float32 and float64, equal numbers"),
        (ONE, np.array([1.0, -2.5], np.float32), "1 of 2 numbers"),
        (ONE, np.array([1.1, -2.5], np.float16), "dtype float32 and float16, 2 of 2 numbers"),
        (np.zeros(1), -np.zeros(1), "NaN or sign"),
        (NAN, OTHER_NAN, "NaN or sign"),
        (NAN, np.array([0.0, 1.0], np.float32), "1 of 2 numbers"),
    ],
)
def test_each_other_array_is_named(first: np.ndarray, second: np.ndarray, what: str):
    (found,) = differences({"a": first}, {"a": second})
    assert (found.name, found.what) == ("a", what)


def test_what_is_in_one_only():
    found = differences({"a": ONE, "b": ONE}, {"b": ONE, "c": ONE})
    assert [(each.name, each.what) for each in found] == [("a", "only in the first"), ("c", "only in the second")]


def test_how_large_it_is():
    (found,) = differences({"a": np.array([3.0, 4.0])}, {"a": np.array([3.0, 4.5])})
    assert (found.relative_l2, found.largest) == (0.1, 0.5)
