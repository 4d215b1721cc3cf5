"""Batches that gradients and training steps are taken of: labels, padded images, a batch for each step."""

from __future__ import annotations

import numpy as np


def labels_for(batch: int, classes: int) -> np.ndarray:
    """Give each image of a batch a class, no two the same while there are enough classes: integers (batch,).

    Example:
        >>> labels_for(3, 1000)
        array([11, 48, 85])
    """
    return (11 + 37 * np.arange(batch)) % classes


PADDED_ROWS = 24
"""Rows of zeros below the last image: as many as show in a few windows of the max pool."""


def padded(images: np.ndarray) -> np.ndarray:
    """Pad the last of several images with zeros below, as images of unequal sizes are; a batch of one stays as it is.

    Before the max pool all pixels there are equal, and its gradient must go to the first of them. Many such rows are
    not wanted: sums of equal values round to one side, and a ReLU near zero chooses for all of them at once.

    Example:
        >>> padded(np.ones((2, 1, 64, 1)))[:, 0, :, 0].sum(1)
        array([64., 40.])
    """
    images = images.copy()
    if len(images) > 1:
        images[-1, :, max(images.shape[2] - PADDED_ROWS, (images.shape[2] + 1) // 2) :] = 0
    return images


def training_batches(images: np.ndarray, classes: int, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Make a batch for each step: images moved sideways, further each time, and labels moved on."""
    labels = labels_for(len(images), classes)
    return [(np.roll(images, 5 * step, axis=3), (labels + step) % classes) for step in range(steps)]
