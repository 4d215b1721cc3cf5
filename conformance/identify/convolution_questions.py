"""Questions to convolutions: the maps whose outputs tell curve, geometry and kernel."""

from __future__ import annotations

import numpy as np

from conformance.identify.curve import GRID
from conformance.identify.geometry import Axis, Geometry
from conformance.identify.link import IMAGES, Array, Link

MARGIN = 3
"""Pixels by which the window of the geometry is larger on each side than the kernel should be."""

FEW = 4
"""Input channels that the geometry is measured by; the others are zero."""

SIDES = ((15, 18), (18, 15))
"""Height and width of the two maps of the geometry: each side once even, once odd."""

UNKNOWNS = 576
"""Largest number of unknowns of one part of the kernel: as many input channels as have so many taps."""

SPARE = 1.25
"""Samples for each unknown."""

KERNEL_SIDES = (8, 9)
"""Height and width of the maps that the kernel is measured on."""


def questions(
    link: Link,
    random: np.random.Generator,
    image_sides: tuple[tuple[int, int], ...] = SIDES,
    geometry: Geometry | None = None,
) -> dict[str, Array]:
    """Make the inputs whose outputs tell what a convolution computes: by the part of the measurement that uses them.

    Args:
        link: The convolution or the classifier.
        random: Source of the numbers.
        image_sides: Height and width of even and odd images, for the convolution that takes them.
        geometry: The geometry, where it was measured before: the probes of the kernel are made for it.

    Returns:
        Arrays (batch, channels, height, width), of the classifier (batch, features).
    """
    (channels,) = link.channels
    sides = image_sides if link.inputs == (IMAGES,) else SIDES
    chosen = np.unique(np.linspace(0, channels - 1, FEW).astype(int))
    asked: dict[str, Array] = {}
    if link.kind == "convolution":
        asked["curve"] = _curve_question(channels, sides[0], random)
        unknowns = len(chosen) * (link.kernel + 2 * MARGIN) ** 2 + 1
        for name, (height, width) in zip(("even", "odd"), sides, strict=True):
            stride = max(2, link.stride)  # so that a stride that should not be there is measured, too
            samples = (height // stride) * (width // stride)
            batch = max(4, int(np.ceil(SPARE * 4 / 3 * unknowns / samples)) + 2)
            asked[name] = np.zeros((batch, channels, height, width))
            asked[name][:, chosen] = positive(random, (batch, len(chosen), height, width))
    kernel_sides = {IMAGES: sides[0], "pool": (1, 1)}.get(link.inputs[0], KERNEL_SIDES)
    asked["kernel"] = _kernel_question(link, geometry or expected_geometry(link), kernel_sides, random)
    height, width = sides[0]
    asked["held-out"] = random.normal(0.0, 1.0, (3, channels, height, width))
    if link.kind == "classifier":
        asked["kernel"] = asked["kernel"].reshape(-1, channels)
        asked["held-out"] = random.normal(0.0, 1.0, (16, channels))
    if link.inputs == (IMAGES,):  # zeros at the end tell what is added to images
        asked = {part: np.concatenate([x, np.zeros_like(x[:1])]) if part != "curve" else x for part, x in asked.items()}
    return asked


def positive(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw numbers that a ReLU lets pass and ReLU6 does not cut."""
    return random.uniform(0.1, 2.0, shape)


def _curve_question(channels: int, sides: tuple[int, int], random: np.random.Generator) -> Array:
    """Make a map for each amplitude of the grid: that number in half of the channels, zero in the others."""
    some = random.random(channels) < 0.5
    some[random.integers(channels)] = True
    return np.broadcast_to(GRID[:, None, None, None] * some[None, :, None, None], (len(GRID), channels, *sides)).copy()


def _kernel_question(link: Link, geometry: Geometry, sides: tuple[int, int], random: np.random.Generator) -> Array:
    """Make maps of noise, each in one part of the input channels, enough to solve for all taps of each part."""
    (channels,) = link.channels
    taps = geometry.height.taps * geometry.width.taps
    part = max(1, UNKNOWNS // taps)
    samples = max(1, int(np.prod([axis.output(side) for axis, side in zip(geometry.axes, sides, strict=True)])))
    images = []
    for start in range(0, channels, part):
        count = min(part, channels - start)
        batch = int(np.ceil(SPARE * (count * taps + 1) / samples)) + 1
        some = np.zeros((batch, channels, *sides))
        some[:, start : start + count] = positive(random, (batch, count, *sides))
        images.append(some)
    return np.concatenate(images)


def expected_geometry(link: Link) -> Geometry:
    """Return the geometry that a convolution should have."""
    pad: int | str = "same" if link.same else link.kernel // 2
    axis = Axis(link.kernel, 1, link.stride, pad, pad)
    return Geometry(axis, axis)
