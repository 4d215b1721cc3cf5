"""The reference builds: the same mathematics as the oracle, and sums in orders that real builds have."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.run.adapters.numpy import (
    BlockedSums,
    OneProduct,
    Oracle,
    TapByTap,
    moments_by_welford,
    moments_in_double,
    moments_in_sequence,
)
from impls.numpy.resnet import moments

BUILDS = (OneProduct, TapByTap, BlockedSums)


def error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found.astype("float64") - exact) / np.linalg.norm(exact))


def layouts(dtype: str) -> dict[str, np.ndarray]:
    """One activation, NCHW, as it lies in memory before and after a convolution of the oracle."""
    x = np.random.default_rng(0).standard_normal((3, 8, 97, 113)).astype(dtype)
    return {"NCHW": x, "NHWC": np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)}


@pytest.mark.parametrize("build", BUILDS)
def test_in_float64_they_agree_with_the_oracle(build):
    random = np.random.default_rng(0)
    x, kernel = random.standard_normal((2, 130, 9, 11)), random.standard_normal((5, 130, 3, 3))
    mean, variance, weight, bias = random.uniform(0.5, 1.5, (4, 130))
    own, oracle = build.arithmetic, Oracle.arithmetic
    pairs = [
        (own.convolve(x, kernel, 2), oracle.convolve(x, kernel, 2)),
        (own.normalise(x, mean, variance, weight, bias, 1e-5), oracle.normalise(x, mean, variance, weight, bias, 1e-5)),
        (own.multiply(x[:, :, 0, 0], kernel[:, :, 0, 0]), oracle.multiply(x[:, :, 0, 0], kernel[:, :, 0, 0])),
        *zip(own.moments(x), oracle.moments(x), strict=True),
    ]
    assert max(error(found, exact) for found, exact in pairs) < 1e-13


def moment_errors(found, layout: str) -> list[float]:
    """Relative errors of mean and variance, where the mean is as large as the deviation."""
    x = layouts("float64")[layout] + 1
    exact = x.mean((0, 2, 3)), x.var((0, 2, 3))
    return [error(*pair) for pair in zip(found(x.astype("float32")), exact, strict=True)]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_oracle_sums_pairwise_however_its_input_lies_in_memory(layout):
    assert max(moment_errors(moments, layout)) < 2e-7


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_moments_err_as_those_of_real_builds_do(layout):
    """Value by value, as PyTorch with the channels last and torch.compile do, costs ten times the error and more."""
    assert max(moment_errors(moments_in_double, layout)) < 1e-7
    for found in (moments_in_sequence, moments_by_welford):
        mean, variance = moment_errors(found, layout)
        assert 1e-6 < mean < 1e-5
        assert 1e-6 < variance < 1e-5


def test_no_two_builds_take_all_sums_in_one_order():
    orders = [vars(build.arithmetic) for build in (Oracle, *BUILDS)]
    assert all(left != right for i, left in enumerate(orders) for right in orders[:i])


def test_where_a_picture_is_flat_running_sums_round_to_one_side():
    """The error grows with the number of values, not with its root: it is no bug, and the limits allow for it."""
    images = np.random.default_rng(0).standard_normal((1, 4, 224, 224))
    images[:, :, 40:] = 0.3
    values, rounding = images[0, 0].size, 2.0**-24
    exact = images.mean((0, 2, 3)), images.var((0, 2, 3))
    found = moments_in_sequence(images.astype("float32"))
    errors = [error(*pair) for pair in zip(found, exact, strict=True)]
    assert 2 * values**0.5 * rounding < max(errors) < 2 * values * rounding
