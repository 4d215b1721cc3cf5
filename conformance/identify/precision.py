"""Number formats: the precision in which a layer's outputs were rounded, read off the numbers themselves."""

from __future__ import annotations

import ml_dtypes
import numpy as np

FORMATS = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
"""Number formats by name, from the fewest digits on: float16 holds most numbers of bfloat16, too."""


def format_of(array: np.ndarray) -> str:
    """Name the coarsest format that holds all numbers of an array; empty if it is float64's own.

    Example:
        >>> format_of(np.float64([0.5, 1 / 3])), format_of(np.float64(np.float32([0.5, 1 / 3])))
        ('', 'float32')
    """
    finite = array[np.isfinite(array)]
    with np.errstate(over="ignore"):
        for name, dtype in FORMATS.items():
            if finite.size and np.array_equal(finite.astype(dtype).astype(np.float64), finite):
                return name
    return ""


NEAR = {"float16": 5e-2, "bfloat16": 2e-1, "float32": 1e-4}
"""Largest relative L2 error by which a right layer may err whose numbers are rounded to a format."""
