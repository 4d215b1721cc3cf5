"""Sketches: large arrays as a few thousand sums with random signs, which keep distances; moments, for what is drawn.

The state of a training step is as large as the network, several times over; a run compares it for every candidate,
recipe and variant. The squared length of a sketch of k sums is that of the array times 1 +- sqrt(2 / k) (a random
projection with signs: Johnson and Lindenstrauss 1984, in the form of Achlioptas 2003). So a relative L2 error measured
on sketches is the arrays' own to some percent, and a single wrong number changes a sum by its full size.
"""

from __future__ import annotations

import numpy as np

LARGEST = 2**16
"""Number of elements up to which an array is kept as it is."""

SUMS = 4096
"""Number of sums in a sketch; distances are kept to about 2 %."""


def sketch(array: np.ndarray, largest: int = LARGEST) -> np.ndarray:
    """Return the array, or the sums that stand for it: with the same signs for every array of that size.

    Args:
        array: Numbers of any shape.
        largest: Number of elements up to which it is returned as it is.

    Example:
        >>> sketch(np.ones(10)).shape, sketch(np.ones((512, 512))).shape
        ((10,), (4096,))
    """
    if array.size <= largest:
        return array
    rows = -(-array.size // SUMS)
    signs = np.random.default_rng(array.size).choice(np.array([-1, 1], np.int8), array.size)
    padded = np.zeros(rows * SUMS, array.dtype)
    padded[: array.size] = np.ascontiguousarray(array).ravel() * signs
    sums: np.ndarray = padded.reshape(rows, SUMS).sum(0)
    return sums


def draw_moments(array: np.ndarray) -> np.ndarray:
    """Return mean, variance and fourth central moment, which stand for an array that was drawn: float64 (3,).

    Example:
        >>> draw_moments(np.array([1.0, 3.0]))
        array([2., 1., 1.])
    """
    mean = array.mean(dtype=np.float64)
    squares = np.square(array - mean)
    return np.array([mean, squares.mean(), np.square(squares).mean()])
