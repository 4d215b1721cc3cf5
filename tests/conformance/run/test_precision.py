"""The precision in force is measured, and each lower one is recognised."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from conformance.run.precision import measure_precision, multiply_as_convolution


class Multiplier:
    """Multiplies what a dtype can hold of the numbers, and adds up in float64."""

    def __init__(self, round_to):
        self.round_to = round_to

    def multiply(self, left, right):
        return self.round_to(left) @ self.round_to(right)

    def convolve(self, images, kernel):
        return multiply_as_convolution(self.round_to(images), self.round_to(kernel))


def to_tf32(array):
    """Ten bits after the point, as a tensor core takes them."""
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def to_float16(array):
    """Ten bits after the point, as TF32 has, and nothing above 65504."""
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float64)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # infinity times zero, in float16
@pytest.mark.parametrize(
    ("round_to", "name"),
    [
        (lambda array: array, "float64"),
        (lambda array: array.astype(np.float32), "float32"),
        (to_tf32, "tf32"),
        (to_float16, "float16"),
        (lambda array: array.astype(ml_dtypes.bfloat16).astype(np.float64), "bfloat16"),
    ],
)
def test_each_precision_is_recognised(round_to, name):
    assert measure_precision(Multiplier(round_to), "float64") == {"matrix product": name, "convolution": name}
