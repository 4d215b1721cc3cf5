"""Images: what a network makes of its images before the first convolution, measured together with that convolution.

A convolution that sees turned, rounded or recoloured images is no convolution of the images that were handed in, or one
with another kernel. Each known change of images is undone first; colours are measured as a matrix and an offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from conformance.identify.fact import Difference, number, relative_error
from conformance.identify.link import Array

SAME = 1e-11
"""Largest relative L2 error with which colours explain a kernel."""


@dataclass(frozen=True)
class Change:
    """A change of images.

    Attributes:
        words: What the first layer sees; empty for the images as they are.
        apply: The function of images (batch, channels, height, width).
        fault: Id of the catalogue's row that says the same.
    """

    words: str
    apply: Callable[[Array], Array]
    fault: str = ""


def _with_ones(x: Array) -> Array:
    return np.concatenate([x, np.ones_like(x[:, :1])], 1)


def _rounded(dtype: type) -> Callable[[Array], Array]:
    return lambda x: x.astype(dtype).astype(np.float64)


AS_THEY_ARE = Change("", lambda x: x)
WITH_ONES = Change("", _with_ones)
"""Adds a channel of ones, whose kernel is what an offset of the images makes of the first kernel."""

CHANGES = (
    AS_THEY_ARE,
    WITH_ONES,
    Change("mirrored left to right", lambda x: x[:, :, :, ::-1], "image-mirrored"),
    Change("mirrored top to bottom", lambda x: x[:, :, ::-1]),
    Change("turned by 180 degrees", lambda x: x[:, :, ::-1, ::-1]),
    Change("with height and width exchanged", lambda x: x.transpose(0, 1, 3, 2), "image-turned"),
    Change("turned by 90 degrees", lambda x: np.rot90(x, 1, (2, 3))),
    Change("turned by 270 degrees", lambda x: np.rot90(x, 3, (2, 3))),
    Change("rounded to float16", _rounded(np.float16), "image-half"),
    Change("rounded to bfloat16", _rounded(ml_dtypes.bfloat16)),
)
"""Changes of images, in the order in which they are tried."""


def colour_differences(weight: Array, expected: Array) -> list[Difference] | None:
    """Say which colours the first layer sees, from its measured kernel; None if no matrix of colours explains it.

    Args:
        weight: (out, in, height, width), or with a further channel, that of ones.
        expected: (out, in, height, width), the kernel that should be there.
    """
    channels = expected.shape[1]
    if weight.shape[0] != expected.shape[0] or weight.shape[2:] != expected.shape[2:]:
        return None
    columns = expected.transpose(0, 2, 3, 1).reshape(-1, channels)
    target = weight.transpose(0, 2, 3, 1).reshape(len(columns), -1)
    solution, *_ = np.linalg.lstsq(columns, target, rcond=None)
    if relative_error(columns @ solution, target) > SAME:
        return None
    matrix = np.where(np.abs(solution[:, :channels]) < 1e-12, 0.0, solution[:, :channels])
    offset = solution[:, channels] if solution.shape[1] > channels else np.zeros(channels)
    words = [*_matrix_words(matrix), *_offset_words(offset)]
    if not words:
        return []
    said = f"sees its images {' and '.join(words)}"
    fault = "bgr" if not offset.any() and _is_reversal(matrix) else ""
    measured = {"matrix": matrix.round(12).tolist(), "offset": offset.round(12).tolist()}
    return [
        Difference("colours", measured, {"matrix": np.eye(channels).tolist(), "offset": [0.0] * channels}, said, fault)
    ]


def _is_reversal(matrix: Array) -> bool:
    return bool(np.allclose(matrix, np.eye(len(matrix))[::-1], atol=1e-11)) and len(matrix) == 3


def _matrix_words(matrix: Array) -> list[str]:
    """Describe a matrix of colours: seen channels (rows) of given channels (columns)."""
    channels = len(matrix)
    if np.allclose(matrix, np.eye(channels), atol=1e-11):
        return []
    live = matrix != 0
    if (live.sum(0) <= 1).all() and (live.sum(1) <= 1).all():
        order = [int(row.argmax()) if row.any() else -1 for row in live]
        words = [] if order == [*range(channels)] or -1 in order else [_order_words(order)]
        factors = matrix.sum(1)
        if not factors.all():
            lost = ", ".join(str(number) for number in range(channels) if not factors[number])
            words.append(f"without channel {lost}")
        if not np.allclose(factors[factors != 0], 1, atol=1e-11):
            words.append(f"multiplied by {_numbers(factors)}")
        return words
    if np.allclose(matrix, matrix[:1], atol=1e-11):
        return [f"in grey, weighed by {_numbers(matrix[0])}"]
    rows = "; ".join(_numbers(row) for row in matrix)
    return [f"with mixed colours (matrix {rows})"]


def _order_words(order: list[int]) -> str:
    if order == [2, 1, 0]:
        return "in the order BGR"
    return f"with their channels in the order {', '.join(map(str, order))}"


def _offset_words(offset: Array) -> list[str]:
    if np.abs(offset).max(initial=0.0) < 1e-12:
        return []
    return [f"with {_numbers(offset)} added"]


def _numbers(values: Array) -> str:
    """Write numbers, one where all are equal."""
    if np.ptp(values) <= 1e-11 * np.abs(values).max(initial=0.0):
        return number(float(values[0]))
    return ", ".join(number(float(value)) for value in values)
