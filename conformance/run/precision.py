"""The precision in force, measured: numbers that a lower precision cannot hold, multiplied by the framework itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from conformance.run.capabilities import Probed

COARSEST_ERROR = {"float64": 1e-13, "float32": 1e-6, "tf32": 2e-3, "bfloat16": 1.0}
"""Precision to the largest relative error that its products show on the probe; TF32 has 10 bits, bfloat16 has 7."""

BEYOND_FLOAT16 = 2.0**17
"""A factor on the operands of a product that float16 cannot hold (its largest number is 65504), and TF32 can."""

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


def measure_precision(multiplier: Probed, dtype: str) -> dict[str, str]:
    """Measure what matrix products and convolutions are really computed in: operation to name of a precision.

    Example:
        >>> class Half:
        ...     def multiply(self, left, right): return (left.astype("float16") @ right.astype("float16"))
        ...     def convolve(self, images, kernel): return multiply_as_convolution(images, kernel)
        >>> with np.errstate(over="ignore", invalid="ignore"):
        ...     measure_precision(Half(), "float32")
        {'matrix product': 'float16', 'convolution': 'float32'}
    """
    random = np.random.default_rng(0)
    shapes = ((64, 64), (64, 64), (1, 32, 16, 16), (32, 32, 3, 3))
    left, right, images, kernel = (random.standard_normal(shape).astype(dtype) for shape in shapes)
    products: dict[str, tuple[Product, Product, np.ndarray, np.ndarray]] = {
        "matrix product": (multiplier.multiply, np.matmul, left, right),
        "convolution": (multiplier.convolve, multiply_as_convolution, images, kernel),
    }
    return {operation: _name_product(*product) for operation, product in products.items()}


def _name_product(multiply: Product, exactly: Product, left: np.ndarray, right: np.ndarray) -> str:
    """Name the precision of one operation: by its error, and float16, whose error is that of TF32, by its range."""
    name = name_precision(multiply(left, right), exactly(left.astype("float64"), right.astype("float64")))
    if name != "tf32":
        return name
    factor = np.array(BEYOND_FLOAT16, left.dtype)
    return name if np.isfinite(multiply(left * factor, right)).all() else "float16"


def multiply_as_convolution(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The unpadded convolution, written as one einsum over all windows."""
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[2:], axis=(2, 3))
    product: np.ndarray = np.einsum("nchwij,ocij->nohw", windows, kernel, optimize=True)
    return product


def name_precision(result: np.ndarray, exact: np.ndarray) -> str:
    """The finest precision that explains the error of a product."""
    error = float(np.linalg.norm(result.astype("float64") - exact) / np.linalg.norm(exact))
    return next((name for name, coarsest in COARSEST_ERROR.items() if error <= coarsest), f"none (error {error:.0e})")
