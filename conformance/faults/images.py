"""How preprocessing goes wrong: functions (images, parameter) -> images, on normalised images (batch, channels, ...).

What is done to pixels before is done here to the prepared image, by undoing the normalisation where that is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.cases.inputs import IMAGENET_MEAN, IMAGENET_STD
from conformance.faults.fault import ImagesChange

Array = NDArray[Any]

CAFFE_MEANS = (103.939, 116.779, 123.68)
"""Of blue, green and red, over ImageNet in 0..255: what keras.applications subtracts in its mode "caffe"."""

ZOOM = 0.875
"""224 of 256 pixels: the part of the image that another crop fraction may leave."""


def plainly(change: Callable[[Array], Array]) -> ImagesChange:
    """A change without a parameter; the dtype stays."""
    return lambda images, _: change(images).astype(images.dtype)


def on_pixels(change: Callable[[Array, Array, Array], Array]) -> ImagesChange:
    """A change of the pixels (0..1, float64) before they were normalised, given mean and deviation too."""

    def changed(images: Array, parameter: float) -> Array:
        mean, deviation = (np.reshape(s, (1, 3, 1, 1)).astype(np.float64) for s in (IMAGENET_MEAN, IMAGENET_STD))
        return change(images * deviation + mean, mean, deviation).astype(images.dtype)

    return changed


def scaled(images: Array, parameter: float) -> Array:
    """Multiplied by the parameter."""
    return (images * parameter).astype(images.dtype)


def shifted(images: Array, parameter: float) -> Array:
    """The parameter added."""
    return (images + parameter).astype(images.dtype)


def channels_reversed(images: Array) -> Array:
    """BGR."""
    return images[:, ::-1]


def caffe(pixels: Array, mean: Array, deviation: Array) -> Array:
    """BGR in 0..255, less Caffe's means."""
    means: Array = np.reshape(CAFFE_MEANS, (1, 3, 1, 1))
    return pixels[:, ::-1] * 255 - means


def bytes_normalised(pixels: Array, mean: Array, deviation: Array) -> Array:
    """0..255 normalised as if it were 0..1."""
    return (pixels * 255 - mean) / deviation


def divided_twice(pixels: Array, mean: Array, deviation: Array) -> Array:
    """Divided by 255 twice, then normalised."""
    return (pixels / 255 - mean) / deviation


def twice(pixels: Array, mean: Array, deviation: Array) -> Array:
    """Normalised, and the result normalised again."""
    return ((pixels - mean) / deviation - mean) / deviation


def never(pixels: Array, mean: Array, deviation: Array) -> Array:
    """0..1 as it is."""
    return pixels


def around_zero(pixels: Array, mean: Array, deviation: Array) -> Array:
    """-1..1, as keras.applications' mode "tf" has it."""
    return pixels * 2 - 1


def centred_only(pixels: Array, mean: Array, deviation: Array) -> Array:
    """The mean subtracted, the deviation not divided by."""
    return pixels - mean


def reshaped(images: Array) -> Array:
    """The numbers of NCHW read in the order of NHWC, then put into NCHW."""
    batch, channels, height, width = images.shape
    return images.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)


def turned(images: Array) -> Array:
    """Height and width exchanged."""
    return images.swapaxes(2, 3)


def mirrored(images: Array) -> Array:
    """Left for right."""
    return images[..., ::-1]


def through_float16(images: Array) -> Array:
    """Rounded to float16."""
    return images.astype(np.float16)


def aliased(images: Array) -> Array:
    """What shrinking by picking pixels leaves: every second one, twice."""
    rows, columns = (np.arange(size) // 2 * 2 for size in images.shape[2:])
    return images[:, :, rows][:, :, :, columns]


def zoomed(images: Array) -> Array:
    """The middle of the image, enlarged (bilinear) to the whole."""
    for axis in (2, 3):
        size = images.shape[axis]
        positions = (np.arange(size) - (size - 1) / 2) * ZOOM + (size - 1) / 2
        lower = np.floor(positions).astype(int).clip(0, max(size - 2, 0))
        upper = (lower + 1).clip(0, size - 1)
        share = (positions - lower).reshape([-1 if axis == a else 1 for a in range(4)])
        images = images.take(lower, axis) * (1 - share) + images.take(upper, axis) * share
    return images
