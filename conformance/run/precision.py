"""The precision in force, measured: numbers that a lower precision cannot hold, multiplied by the framework itself."""

from __future__ import annotations

from typing import Protocol

import numpy as np

COARSEST_ERROR = {"float64": 1e-13, "float32": 1e-6, "tf32": 2e-3, "bfloat16": 1.0}
"""Precision to the largest relative error that its products show on the probe; TF32 has 10 bits, bfloat16 has 7."""


class Multiplier(Protocol):
    """What the probe needs of an adapter."""

    def multiply(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The matrix product, as the framework computes it."""

    def convolve(self, images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """The unpadded convolution of NCHW images with an OIHW kernel, as the framework computes it."""


def measure_precision(multiplier: Multiplier, dtype: str) -> dict[str, str]:
    """What matrix products and convolutions are really computed in: operation to name of a precision.

    Example:
        >>> class Half:
        ...     def multiply(self, left, right): return (left.astype("float16") @ right.astype("float16"))
        ...     def convolve(self, images, kernel): return multiply_as_convolution(images, kernel)
        >>> measure_precision(Half(), "float32")
        {'matrix product': 'tf32', 'convolution': 'float32'}
    """
    random = np.random.default_rng(0)
    left, right = (random.standard_normal((64, 64)).astype(dtype) for _ in range(2))
    images, kernel = (
        random.standard_normal((1, 32, 16, 16)).astype(dtype),
        random.standard_normal((32, 32, 3, 3)).astype(dtype),
    )
    wide = [array.astype("float64") for array in (left, right, images, kernel)]
    return {
        "matrix product": name_precision(multiplier.multiply(left, right), wide[0] @ wide[1]),
        "convolution": name_precision(multiplier.convolve(images, kernel), multiply_as_convolution(wide[2], wide[3])),
    }


def multiply_as_convolution(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The unpadded convolution, written as one einsum over all windows."""
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[2:], axis=(2, 3))
    product: np.ndarray = np.einsum("nchwij,ocij->nohw", windows, kernel, optimize=True)
    return product


def name_precision(result: np.ndarray, exact: np.ndarray) -> str:
    """The finest precision that explains the error of a product."""
    error = float(np.linalg.norm(result.astype("float64") - exact) / np.linalg.norm(exact))
    return next((name for name, coarsest in COARSEST_ERROR.items() if error <= coarsest), f"none (error {error:.0e})")
