"""Inputs: batches of images, made once, outside the frameworks, so that every candidate is given the same numbers.

Noise is made here, and pictures in `conformance.cases.pictures`; `conformance.cases.defaults` chooses.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impls.config import TOTAL_STRIDE

GLOBAL_POOL_SIDES = ((65, 97, 3), (64, 96, 3))
TINY_POOL_SIDES = ((1, 17, 3), (32, 16, 1))
"""Height, width and batch of the odd and of the even noise: for a head that takes any size, and for one of 1 to 32."""


class InputError(ValueError):
    """An input cannot be made; the message says which, what was expected and what came."""


@dataclass(frozen=True, eq=False)
class Input:
    """One batch of images, ready for every candidate.

    Attributes:
        name: Unique within a run: "photograph", "noise-65x97" (height x width), or a picture's file name.
        images: (batch, channels, height, width) float32, normalised, finite, C-contiguous.
        source: One line for the report: where the images come from.
        is_picture: Whether it is a picture, and not noise.

    Raises:
        InputError: If the images are not as described; all that is wrong is reported together.
    """

    name: str
    images: NDArray[np.float32]
    source: str
    is_picture: bool = True

    def __post_init__(self) -> None:
        problems = [
            f"expected {wanted}, got {came}"
            for wanted, came, holds in (
                ("(batch, channels, height, width)", f"the shape {self.images.shape}", self.images.ndim == 4),
                ("at least one number", f"the shape {self.images.shape}", self.images.size > 0),
                ("float32", self.images.dtype, self.images.dtype == np.float32),
                ("C-contiguous images", f"the strides {self.images.strides}", self.images.flags.c_contiguous),
                ("finite numbers", "NaN or infinity", bool(np.isfinite(self.images).all())),
            )
            if not holds
        ]
        if problems:
            raise InputError(f"input {self.name!r}: {'; '.join(problems)}")


def noise_sides(head_pool: int | None) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Choose height, width and batch of an odd and of an even input that a head takes: small, and not square.

    A strided layer that pads both sides alike and one that pads as SAME agree on an odd map and differ on an even one.
    So the odd image's maps are odd at every strided layer (sides of 32 n + 1, which become 16 n + 1, 8 n + 1, 4 n + 1
    and 2 n + 1), and the even image's are even (sides of 32 n): a candidate that fails on the even one alone pads
    wrongly.

    Where the head takes a map of one pixel at most, there are no two such sides.

    Example:
        >>> noise_sides(7)
        ((193, 225, 3), (224, 256, 1))
    """
    if head_pool is None:
        return GLOBAL_POOL_SIDES
    if head_pool == 1:
        return TINY_POOL_SIDES
    even = head_pool * TOTAL_STRIDE
    odd = even - TOTAL_STRIDE + 1
    return (odd, odd + TOTAL_STRIDE, 3), (even, even + TOTAL_STRIDE, 1)


def noise(height: int, width: int, batch: int, seed: int, channels: int = 3) -> Input:
    """Make standard-normal noise: signed, as normalised photographs are, so that no ReLU and no padding goes unnoticed.

    The same arguments make the same numbers in every release of NumPy (its `RandomState` is frozen, its `Generator` is
    not), so that traces of different machines can be compared. Other arguments make other numbers, not a part of these.

    Returns:
        An `Input` named "noise-{height}x{width}", of shape (batch, channels, height, width).

    Raises:
        InputError: If a size is not positive or the seed is negative.

    Example:
        >>> noise(65, 97, batch=3, seed=0).images.shape
        (3, 3, 65, 97)
    """
    shape = {"batch": batch, "channels": channels, "height": height, "width": width}
    problems = [f"{name} must be positive, not {length}" for name, length in shape.items() if length < 1]
    problems += [f"seed must be 0 or more, not {seed}"] if seed < 0 else []
    if problems:
        raise InputError(f"noise: {'; '.join(problems)}")
    sequence = np.random.SeedSequence([seed, *shape.values()])
    values = np.random.RandomState(np.random.MT19937(sequence)).standard_normal(tuple(shape.values()))
    return Input(
        f"noise-{height}x{width}", values.astype(np.float32), f"standard-normal noise, seed {seed}", is_picture=False
    )


def content_hash(images: NDArray[Any]) -> str:
    """Compute the SHA-256 of an array's shape, dtype and numbers, whatever its memory layout and the byte order.

    Raises:
        InputError: If the array holds Python objects, which have no bytes of their own.

    Example:
        >>> content_hash(np.zeros((1, 3), np.float32))[:8]
        '167ebd6b'
    """
    if images.dtype.hasobject:
        raise InputError(f"expected an array of numbers, got the dtype {images.dtype}")
    little_endian = images.astype(images.dtype.newbyteorder("<"))
    return hashlib.sha256(f"{images.shape} {images.dtype.name}\n".encode() + little_endian.tobytes()).hexdigest()
