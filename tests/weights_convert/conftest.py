"""A network that is small enough to convert hundreds of times, and arrays of random bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance.cases.pictures import photograph
from impls.config import ResNetConfig
from weights_convert import Checkpoint
from weights_convert.dialects import find_dialect
from weights_convert.shapes import expected_shapes

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
TINY = ResNetConfig(depths=(2, 1, 1, 1), width=4, num_classes=5)


@pytest.fixture(scope="session")
def tiny() -> ResNetConfig:
    return TINY


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    """A photograph in float64, of shape (1, 3, 224, 224)."""
    return photograph().images.astype(np.float64)


def distance(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 error of a float64 array."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype == np.float64
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="session")
def random_bits() -> Callable[..., np.ndarray]:
    return make_random_bits


def make_random_bits(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Return an array of random bits, which are numbers of every size and NaNs of every payload.

    Arrays of more than eight numbers begin with those that faulty conversions lose first.
    """
    kind = DTYPES[dtype]
    unsigned = np.dtype(f"u{kind.itemsize}")
    array = np.frombuffer(np.random.default_rng(seed).bytes(int(np.prod(shape)) * kind.itemsize), unsigned).copy()
    infinity = np.array(np.inf, kind).view(unsigned)
    signalling_nan, smallest_subnormal = infinity + unsigned.type(1), unsigned.type(1)
    minus_zero = np.array(-0.0, kind).view(unsigned)
    special = np.array([infinity, signalling_nan, smallest_subnormal, minus_zero], unsigned)
    if array.size > 2 * special.size:  # smaller arrays would all be alike
        array[: special.size] = special
    return array.view(kind).reshape(shape)


@pytest.fixture(scope="session")
def checkpoint_of() -> Callable[..., Checkpoint]:
    def checkpoint_of(
        config: ResNetConfig = TINY, dtype: str = "float32", dialect: str = "canonical", seed: int = 0
    ) -> Checkpoint:
        """Return a checkpoint of random bits in a dialect."""
        shapes = expected_shapes(config)
        arrays = {
            name: make_random_bits(shape, dtype, 1000 * seed + index)
            for index, (name, shape) in enumerate(shapes.items())
        }
        return Checkpoint(arrays, find_dialect("canonical"), config, recognised_by="made for it").to(dialect)

    return checkpoint_of


@pytest.fixture(scope="session")
def bits_of() -> Callable[[Mapping[str, np.ndarray]], dict[str, Any]]:
    def bits_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return dtype, shape and bytes of each array, to compare arrays bit for bit."""
        return {name: (array.dtype.name, array.shape, array.tobytes()) for name, array in arrays.items()}

    return bits_of
