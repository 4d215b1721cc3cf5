"""Images: what a network makes of its images before the first convolution, measured together with that convolution.

A convolution that sees turned, rounded or recoloured images is no convolution of the images that were handed in, or one
with another kernel. Each known change of images is undone first; colours are measured as a matrix and an offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from conformance.cases.pictures import IMAGENET_MEAN, IMAGENET_STD
from conformance.faults import FAULTS
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


def _rounded(dtype: type) -> Callable[[Array], Array]:
    return lambda x: x.astype(dtype).astype(np.float64)


AS_THEY_ARE = Change("", lambda x: x)

CHANGES = (
    AS_THEY_ARE,
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


def moved(rows: int, columns: int, around: bool) -> Change:
    """Make the change that moves images down and right; what is left behind is zero, or comes from the other side."""

    def apply(x: Array) -> Array:
        y = np.roll(x, (rows, columns), (2, 3))
        if not around:
            for axis, steps in ((2, rows), (3, columns)):
                index = [slice(None)] * 4
                index[axis] = slice(0, steps) if steps > 0 else slice(y.shape[axis] + steps, None)
                y[tuple(index)] = 0.0
        return y

    sides = [
        f"{abs(steps)} pixel{'s' * (abs(steps) > 1)} {way[steps > 0]}"
        for steps, way in ((rows, ("up", "down")), (columns, ("left", "right")))
        if steps
    ]
    return Change(f"moved {' and '.join(sides)}, {'around the border' if around else 'with zeros behind'}", apply)


def bordered(width: int) -> Change:
    """Make the change that sets the border of images to zero, as if they were cropped and padded again."""

    def apply(x: Array) -> Array:
        y: Array = np.zeros_like(x)
        y[:, :, width:-width, width:-width] = x[:, :, width:-width, width:-width]
        return y

    return Change(f"with a border of {width} pixel{'s' * (width > 1)} set to zero, as if cropped and padded", apply)


def of_pixels(words: str, change: Callable[[Array], Array]) -> Change:
    """Make a change of the pixels, 0 for black and 1 for white, that ImageNet's mean and deviation normalise."""

    def apply(x: Array) -> Array:
        if x.shape[1] != len(IMAGENET_MEAN):
            return x
        mean, deviation = (np.reshape(values, (1, -1, 1, 1)) for values in (IMAGENET_MEAN, IMAGENET_STD))
        changed: Array = (change(x * deviation + mean) - mean) / deviation
        return changed

    return Change(f"with pixels {words}", apply)


def resized(share: int, how: str, wide: bool, nearest: bool = False) -> Change:
    """Make the change that shrinks images to a share of their height and width, and enlarges them again.

    Args:
        share: The number that height and width are divided by.
        how: The filter in words.
        wide: Whether the filter is widened as images shrink, against aliasing.
        nearest: Whether the pixel at each place is taken, not a mean of those around it.
    """

    def there_and_back(size: int) -> Array:
        small = size // share
        matrix: Array = sampling(small, size, wide, nearest) @ sampling(size, small, wide, nearest)
        return matrix

    def apply(x: Array) -> Array:
        height, width = (there_and_back(side) for side in x.shape[2:])
        changed: Array = height @ x @ width.T
        return changed

    return Change(f"shrunk to a {SHARES[share]} and enlarged again ({how})", apply)


SHARES = {2: "half", 4: "quarter"}
"""Divisors of height and width that are tried, in words."""


def sampling(old: int, new: int, wide: bool, nearest: bool = False) -> Array:
    """Compute the matrix (new, old) that resizes a row of pixels by linear interpolation between their centres.

    Args:
        old: Number of pixels before.
        new: Number of pixels afterwards.
        wide: Whether the filter is widened where the row shrinks.
        nearest: Whether the pixel at each place is taken instead.

    Example:
        >>> sampling(4, 2, wide=False)
        array([[0.5, 0.5, 0. , 0. ],
               [0. , 0. , 0.5, 0.5]])
    """
    scale = old / new
    if nearest:
        chosen: Array = np.eye(old)[(np.arange(new) * scale).astype(int)]
        return chosen
    places = (np.arange(new) + 0.5) * scale - 0.5
    width = max(1.0, scale) if wide else 1.0
    places = places if wide else np.clip(places, 0, old - 1)
    weights = np.maximum(0.0, 1 - np.abs(np.arange(old) - places[:, None]) / width)
    normalised: Array = weights / weights.sum(1, keepdims=True)
    return normalised


WITH_RIGHT_KERNEL = [
    *(
        moved(rows, columns, around)
        for around in (False, True)
        for rows in range(-2, 3)
        for columns in range(-2, 3)
        if rows or columns
    ),
    *map(bordered, range(1, 17)),
    of_pixels("cut off at black and white", lambda pixels: np.clip(pixels, 0, 1)),
    of_pixels("rounded to whole numbers of 0..255", lambda pixels: np.round(255 * pixels) / 255),
    of_pixels("rounded down to whole numbers of 0..255", lambda pixels: np.floor(255 * pixels) / 255),
    of_pixels("of 8 bits, rounded", lambda pixels: np.round(np.clip(255 * pixels, 0, 255)) / 255),
    of_pixels("of 8 bits, rounded down", lambda pixels: np.floor(np.clip(255 * pixels, 0, 255)) / 255),
    *(
        change
        for share in SHARES
        for change in (
            resized(share, "bilinearly", wide=False),
            resized(share, "bilinearly, with a filter against aliasing", wide=True),
            resized(share, "to the nearest pixel", wide=False, nearest=True),
        )
    ),
]
"""Changes of images that are tried with the right kernel alone: with them a kernel cannot be measured."""


def known_colours(matrix: Array, offset: Array) -> tuple[str, str]:
    """Name the catalogue's row that changes colours by a matrix and an offset: words and id, empty if none does."""
    channels = len(offset)
    basis = np.concatenate([np.zeros((1, channels, 1, 1)), np.eye(channels)[:, :, None, None]]) * np.ones((8, 8))
    for fault in FAULTS.values():
        if fault.images is None or fault.parameter or channels != 3:
            continue
        seen = np.asarray(fault.images(basis, 0.0), np.float64)
        if seen.shape != basis.shape or np.abs(seen - seen[:, :, :1, :1]).max() > 1e-9:
            continue
        zero, columns = seen[0, :, 0, 0], seen[1:, :, 0, 0] - seen[:1, :, 0, 0]
        if np.allclose(zero, offset, rtol=1e-9, atol=1e-9) and np.allclose(columns.T, matrix, rtol=1e-9, atol=1e-9):
            return fault.what, fault.id
    return "", ""


def colour_differences(weight: Array, expected: Array, added: Array | None) -> list[Difference] | None:
    """Say which colours the first layer sees, from its measured kernel; None if no matrix of colours explains it.

    Args:
        weight: (out, in, height, width).
        expected: (out, in, height, width), the kernel that should be there.
        added: What is added to each channel; None for nothing.
    """
    channels = expected.shape[1]
    if weight.shape[0] != expected.shape[0] or weight.shape[2:] != expected.shape[2:]:
        return None
    columns = expected.transpose(0, 2, 3, 1).reshape(-1, channels)
    target = weight.transpose(0, 2, 3, 1).reshape(len(columns), -1)
    solution, *_ = np.linalg.lstsq(columns, target, rcond=None)
    if relative_error(columns @ solution, target) > SAME:
        return None
    matrix = np.where(np.abs(solution) < 1e-12, 0.0, solution)
    offset = np.zeros(channels) if added is None else added
    words = [*_matrix_words(matrix), *_offset_words(offset)]
    if not words:
        return []
    what, fault = known_colours(matrix, offset)
    what = what or normalisation(matrix, offset)
    said = f"sees its images {' and '.join(words)}" + f": {what}" * bool(what)
    measured = {"matrix": matrix.round(12).tolist(), "offset": offset.round(12).tolist()}
    return [
        Difference("colours", measured, {"matrix": np.eye(channels).tolist(), "offset": [0.0] * channels}, said, fault)
    ]


def normalisation(matrix: Array, offset: Array) -> str:
    """Say by which mean and deviation images with these colours were normalised, if they should be by ImageNet's.

    Args:
        matrix: Seen channels (rows) of given channels (columns).
        offset: Number that is added to each channel.

    Returns:
        The clause; empty where channels are mixed, lost or not three.

    Example:
        >>> normalisation(np.diag([0.458, 0.448, 0.45]), np.array([-0.03, -0.088, -0.188]))
        'as if normalised by mean 0.5, 0.5, 0.5 and deviation 0.5, 0.5, 0.5'
    """
    factors = np.diagonal(matrix)
    if len(factors) != len(IMAGENET_MEAN) or not factors.all() or np.any(matrix != np.diag(factors)):
        return ""
    deviation = np.ravel(IMAGENET_STD) / factors
    mean = np.ravel(IMAGENET_MEAN) - offset * deviation
    said = (", ".join(map(number, values)) for values in (mean, deviation))
    return "as if normalised by mean {} and deviation {}".format(*said)


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
    return [f"with {_numbers(np.where(np.abs(offset) < 1e-12, 0.0, offset))} added"]


def _numbers(values: Array) -> str:
    """Write numbers, one where all are equal."""
    if np.ptp(values) <= 1e-11 * np.abs(values).max(initial=0.0):
        return number(float(values[0]))
    return ", ".join(number(float(value)) for value in values)
