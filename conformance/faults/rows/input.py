"""The images: wrong preprocessing, expressed as a function of images that were prepared correctly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from conformance.cases.pictures import IMAGENET_MEAN, IMAGENET_STD
from conformance.faults.fault import Fault, ImagesChange, Parameter, Seen
from conformance.faults.place import at, networks
from conformance.faults.remedies import DTYPE, PIXELS, Remedies

Array = np.ndarray

LAYOUT = Remedies(
    torch="Turn NHWC into NCHW with permute(0, 3, 1, 2), never with reshape or view.",
    flax="Turn NCHW into NHWC with transpose(0, 2, 3, 1), never with reshape.",
    keras="Turn NCHW into NHWC with transpose(0, 2, 3, 1), never with reshape.",
)
RESIZING = Remedies(
    torch="Resize with antialias=True to 256 and crop the centre 224, as the weights were evaluated.",
    flax="Resize with jax.image.resize(antialias=True) to 256 and crop the centre 224.",
    keras="Resize with antialias=True (tf.image's default is False) to 256 and crop the centre 224.",
)
MEAN, STD = (np.reshape(values, (1, 3, 1, 1)).astype(np.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
CAFFE_MEANS = np.reshape((103.939, 116.779, 123.68), (1, 3, 1, 1))
"""Means of blue, green and red over ImageNet in 0..255, which keras.applications subtracts in its mode "caffe"."""

ZOOM = 0.875
"""The share of the image that another crop fraction may leave: 224 of 256 pixels."""


def prepared(change: Callable[[Array], Array]) -> ImagesChange:
    """A change of the prepared images, (batch, channels, height, width); the dtype stays."""
    return lambda images, _: change(images).astype(images.dtype)


def pixels(change: Callable[[Array], Array]) -> ImagesChange:
    """Wrong preparation of the pixels, which are recovered from the prepared images: RGB in 0..1, float64."""
    return lambda images, _: change(images * STD + MEAN).astype(images.dtype)


def reshaped(images: Array) -> Array:
    """Read the numbers of NCHW in the order of NHWC, and bring these to NCHW."""
    batch, channels, height, width = images.shape
    return images.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)


def aliased(images: Array) -> Array:
    """Shrink by picking every second pixel, and show each twice."""
    rows, columns = (np.arange(size) // 2 * 2 for size in images.shape[2:])
    return images[:, :, rows][:, :, :, columns]


def zoomed(images: Array) -> Array:
    """Enlarge the middle of the image to the whole, bilinearly."""
    for axis in (2, 3):
        size = images.shape[axis]
        positions = (np.arange(size) - (size - 1) / 2) * ZOOM + (size - 1) / 2
        lower = np.floor(positions).astype(int).clip(0, max(size - 2, 0))
        upper = (lower + 1).clip(0, size - 1)
        share = (positions - lower).reshape([-1 if axis == a else 1 for a in range(4)])
        images = images.take(lower, axis) * (1 - share) + images.take(upper, axis) * share
    return images


image_fault = partial(Fault, where=at("input"), seen_in=(Seen.PREPROCESSING,), remedies=PIXELS)
colour_fault = partial(image_fault, where=at("input") & networks(in_channels=3))
layout_fault = partial(colour_fault, remedies=LAYOUT)

ROWS = {
    "bgr": colour_fault(
        what="the images are BGR, not RGB",
        images=prepared(lambda images: images[:, ::-1]),
        source="keras#10279, keras-io#1185",
    ),
    "caffe-means": colour_fault(
        what="the images are BGR in 0..255 minus Caffe's means, not normalised by mean and standard deviation",
        images=pixels(lambda rgb: rgb[:, ::-1] * 255 - CAFFE_MEANS),
        source="classification_models#4",
    ),
    "scale-255": colour_fault(
        what="the pixels were in 0..255, not in 0..1, when they were normalised",
        images=pixels(lambda rgb: (rgb * 255 - MEAN) / STD),
    ),
    "scale-255-twice": colour_fault(
        what="the pixels were divided by 255 twice before they were normalised",
        images=pixels(lambda rgb: (rgb / 255 - MEAN) / STD),
    ),
    "normalised-twice": colour_fault(
        what="the images were normalised twice: in the loader and in the model",
        images=pixels(lambda rgb: ((rgb - MEAN) / STD - MEAN) / STD),
        source="flaxmodels normalises inside",
    ),
    "not-normalised": colour_fault(what="the images are 0..1, not normalised", images=pixels(lambda rgb: rgb)),
    "scaled-around-zero": colour_fault(
        what="the images are -1..1, as in mode 'tf' of keras.applications",
        images=pixels(lambda rgb: rgb * 2 - 1),
    ),
    "std-missing": colour_fault(
        what="the mean was subtracted from the images, but they were not divided by the standard deviation",
        images=pixels(lambda rgb: rgb - MEAN),
    ),
    "nchw-reshaped": layout_fault(
        what="the images were reshaped, not transposed, from NCHW to NHWC",
        images=prepared(reshaped),
    ),
    "image-turned": layout_fault(
        what="height and width of the images are exchanged",
        images=prepared(lambda images: images.swapaxes(2, 3)),
    ),
    "image-mirrored": layout_fault(
        what="the images are mirrored left to right",
        images=prepared(lambda images: images[..., ::-1]),
    ),
    "image-half": colour_fault(
        what="the images were rounded to float16",
        images=prepared(lambda images: images.astype(np.float16)),
        remedies=DTYPE,
    ),
    "resize-antialias": colour_fault(
        what="the images were resized without antialiasing (here: by picking pixels)",
        images=prepared(aliased),
        source="vision#2950, vision#6506",
        remedies=RESIZING,
    ),
    "crop-pct": colour_fault(
        what="the images were cropped to another fraction (here: 7/8 of the image, enlarged)",
        images=prepared(zoomed),
        source="keras-hub's timm loader ignores it",
        remedies=RESIZING,
    ),
    "image-scaled": image_fault(
        what="the prepared images are multiplied by some factor",
        images=lambda images, factor: (images * factor).astype(images.dtype),
        unknown=Parameter("factor", injected=0.3, starts=(0.5, 2.0, 255.0)),
    ),
    "image-shifted": image_fault(
        what="some number is added to the prepared images",
        images=lambda images, number: (images + number).astype(images.dtype),
        unknown=Parameter("number", injected=0.4, starts=(-0.5, 0.5), positive=False),
    ),
}
