"""Geometry of a convolution: kernel size, dilation, stride, padding and shift, measured on maps of two sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from conformance.identify.fact import PREDICTED, NotIdentified, relative_error

Array = np.ndarray

ILL_CONDITIONED = 1e-10
"""Smallest share of the largest eigenvalue that a least-squares problem may have, to count as well-posed."""

NO_TAP = 1e-10
"""Largest share of the strongest tap's norm that counts as no tap: rounding leaves 1e-15."""

BORDERS = {"zeros": "constant", "reflection": "reflect", "the nearest pixel": "edge", "the opposite side": "wrap"}
"""Ways to continue a map beyond its border, in words, and the mode of `numpy.pad`."""


def solve(matrix: Array, values: Array) -> Array:
    """Solve a least-squares problem by normal equations with one step of refinement.

    Args:
        matrix: (samples, unknowns).
        values: (samples, columns).

    Returns:
        (unknowns, columns).

    Raises:
        NotIdentified: If the samples do not determine the unknowns.
    """
    samples, unknowns = matrix.shape
    if samples < unknowns:
        raise NotIdentified(f"is ill-posed for these probes: {samples} samples for {unknowns} unknowns")
    gram = matrix.T @ matrix
    try:
        factor = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        raise NotIdentified("is ill-posed for these probes: the samples depend on each other") from None
    diagonal = np.diagonal(factor)
    if diagonal.min() ** 2 < ILL_CONDITIONED * diagonal.max() ** 2:
        raise NotIdentified("is ill-posed for these probes: the samples hardly differ")
    inverse = np.linalg.inv(factor)
    solution = np.zeros((unknowns, values.shape[1]))
    for _ in range(2):
        solution += inverse.T @ (inverse @ (matrix.T @ (values - matrix @ solution)))
    return solution


@dataclass(frozen=True)
class Axis:
    """Height or width of a convolution.

    Attributes:
        taps: Number of pixels that the kernel spans.
        dilation: Distance of neighbouring taps in pixels.
        stride: Pixels from one window to the next.
        before: Padding before the map: "same" for TensorFlow's rule, which also says `after`.
        after: Padding behind the map.
    """

    taps: int
    dilation: int
    stride: int
    before: int | str
    after: int | str

    @property
    def extent(self) -> int:
        """Pixels from the first tap to the last, both counted."""
        return (self.taps - 1) * self.dilation + 1

    def padding(self, size: int) -> tuple[int, int]:
        """Return the padding before and behind a map of that size; negative padding crops."""
        if isinstance(self.before, int) and isinstance(self.after, int):
            return self.before, self.after
        missing = max((-(-size // self.stride) - 1) * self.stride + self.extent - size, 0)
        return missing // 2, missing - missing // 2

    def output(self, size: int) -> int:
        """Return the number of windows in a map of that size."""
        return max(0, (size + sum(self.padding(size)) - self.extent) // self.stride + 1)


@dataclass(frozen=True)
class Geometry:
    """Height and width of a convolution, and how the map goes on beyond its border."""

    height: Axis
    width: Axis
    border: str = "zeros"

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Height, then width."""
        return self.height, self.width

    def windows(self, x: Array) -> Array:
        """Take every window's pixels: (batch, channels, height, width) to (batch, channels, h, w, taps, taps)."""
        pads = [axis.padding(size) for axis, size in zip(self.axes, x.shape[2:], strict=True)]
        x = extend(x, pads, self.border)
        (up, left), (extent_y, extent_x) = self.axes, (self.height.extent, self.width.extent)
        if extent_y > x.shape[2] or extent_x > x.shape[3]:
            raise ValueError("the kernel is larger than the map")
        every = sliding_window_view(x, (extent_y, extent_x), axis=(2, 3))
        return every[:, :, :: up.stride, :: left.stride, :: up.dilation, :: left.dilation]

    def convolve(self, x: Array, weight: Array) -> Array:
        """Convolve a map with kernels (out, in, taps, taps)."""
        return multiply(self.windows(x), weight)

    def rows(self, x: Array) -> Array:
        """Return the windows as rows of a matrix: (batch * h * w, channels * taps * taps)."""
        patches = self.windows(x).transpose(0, 2, 3, 1, 4, 5)
        return patches.reshape(int(np.prod(patches.shape[:3])), -1)


def multiply(patches: Array, weight: Array) -> Array:
    """Multiply windows with kernels (out, in, taps, taps): (batch, out, h, w)."""
    patches = patches.transpose(0, 2, 3, 1, 4, 5)
    batch, height, width = patches.shape[:3]
    product = patches.reshape(batch * height * width, -1) @ weight.reshape(len(weight), -1).T
    result: Array = product.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)
    return result


def extend(x: Array, pads: Sequence[tuple[int, int]], border: str) -> Array:
    """Pad height and width; negative padding crops."""
    for axis, (before, after) in enumerate(pads, start=2):
        size = x.shape[axis]
        x = np.take(x, range(max(0, -before), size - max(0, -after)), axis=axis)
    widths = [(0, 0), (0, 0), *((max(0, before), max(0, after)) for before, after in pads)]
    return np.pad(x, widths, mode=BORDERS[border]) if np.any(widths) else x  # type: ignore[call-overload]


def measure_geometry(answers: Sequence[tuple[Array, Array]], expected: Geometry, margin: int) -> Geometry:
    """Measure the geometry of a convolution.

    The kernel is solved in a window that is larger than it should be by `margin` pixels on each side; the pixels at
    which it is not zero are its taps.

    Args:
        answers: Pairs of a map (batch, channels, height, width) of few channels and the output, for maps of even and of
            odd height and width.
        expected: The geometry that should be there.
        margin: Pixels that the window is larger on each side.

    Raises:
        NotIdentified: If no kernel within the window explains the answers.
    """
    every = [likely_strides([(x.shape[axis], y.shape[axis]) for x, y in answers]) for axis in (2, 3)]
    if not all(every):
        raise NotIdentified("gives outputs of sizes that no stride explains")
    strides = [each[0] for each in every]
    borders = ["zeros", *(border for border in BORDERS if border != "zeros")]
    supports = []
    for x, y in answers:
        window = [_window(axis, stride, margin) for axis, stride in zip(expected.axes, strides, strict=True)]
        energy = _taps(x, y, window, strides)
        supports.append([np.flatnonzero(energy.max(1 - axis) > NO_TAP) + window[axis][0] for axis in (0, 1)])
    axes = [
        _axis(
            [
                (support[axis], x.shape[2 + axis], y.shape[2 + axis])
                for support, (x, y) in zip(supports, answers, strict=True)
            ],
            strides[axis],
            expected.axes[axis],
        )
        for axis in (0, 1)
    ]
    for border in borders:
        geometry = Geometry(axes[0], axes[1], border)
        if all(_explains(geometry, x, y) for x, y in answers):
            return geometry
    raise NotIdentified("is a convolution inside its map, and continues the map beyond the border in an unknown way")


def likely_strides(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Return the strides that sizes of maps and outputs allow, the likeliest first: padding hides others.

    Example:
        >>> likely_strides([(15, 13), (18, 16)]), likely_strides([(15, 8), (18, 9)])
        ([1], [2, 3, 4])
    """
    possible = []
    for stride in range(1, 5):
        starts = [(stride * (output - 1) - size, stride * (output - 1) - size + stride - 1) for size, output in sizes]
        if max(low for low, _ in starts) <= min(high for _, high in starts):  # one sum of paddings fits all sizes
            possible.append((abs(sum(stride * output - size for size, output in sizes)), stride))
    return [stride for _, stride in sorted(possible)]


def _window(axis: Axis, stride: int, margin: int) -> tuple[int, int]:
    """Return the first and the last pixel of the window, counted from the first pixel of the map."""
    before = axis.before if isinstance(axis.before, int) else axis.extent // 2
    return -before - margin, axis.extent - before + margin


def _taps(x: Array, y: Array, window: Sequence[tuple[int, int]], strides: Sequence[int]) -> Array:
    """Solve for the kernel in a window; return the norm of each pixel of it, relative to the largest.

    Where zeros beyond the border do not explain the output, the windows that lie inside the map must.
    """
    sizes = [last - first + 1 for first, last in window]
    pads = [
        (-first, stride * (length - 1) + last - (size - 1))
        for (first, last), stride, length, size in zip(window, strides, y.shape[2:], x.shape[2:], strict=True)
    ]
    every = sliding_window_view(extend(x, pads, "zeros"), sizes, axis=(2, 3))[:, :, :: strides[0], :: strides[1]]
    inside = [
        [i for i in range(length) if stride * i + first >= 0 and stride * i + last < size]
        for (first, last), stride, length, size in zip(window, strides, y.shape[2:], x.shape[2:], strict=True)
    ]
    error: NotIdentified | None = None
    for rows, columns in ([range(y.shape[2]), range(y.shape[3])], inside):
        some = np.ix_(rows, columns)
        patches = every[:, :, some[0], some[1]].transpose(0, 2, 3, 1, 4, 5)
        values = y[:, :, some[0], some[1]].transpose(0, 2, 3, 1)
        held_out = max(1, len(x) // 4)
        matrix, target = (a[held_out:].reshape(int(np.prod(a[held_out:].shape[:3])), -1) for a in (patches, values))
        constant = np.ones((len(matrix), 1))
        try:
            solution = solve(np.hstack([matrix, constant]), target)
        except NotIdentified as problem:
            error = problem
            continue
        first_rows = patches[:held_out].reshape(-1, matrix.shape[1])
        predicted = np.hstack([first_rows, np.ones((len(first_rows), 1))]) @ solution
        if relative_error(predicted, values[:held_out].reshape(len(first_rows), -1)) <= PREDICTED:
            kernel = solution[:-1].reshape(x.shape[1], *sizes, -1)
            energy: Array = np.sqrt((kernel**2).sum((0, 3)))
            if not energy.max():
                raise NotIdentified("does not depend on its input")
            relative: Array = energy / energy.max()
            return relative
    tall, wide = sizes
    raise error or NotIdentified(f"is no linear map of its input, in a window of {tall}x{wide} pixels")


def _axis(seen: Sequence[tuple[Array, int, int]], stride: int, expected: Axis) -> Axis:
    """Make an axis from the taps seen on maps of several sizes: (taps, size, output size).

    The expected axis is preferred where it has all the taps: a kernel may be zero at some of them.
    """
    steps = [step for taps, _, _ in seen for step in np.diff(taps)]
    dilation = gcd(*map(int, steps)) if steps else 1
    taps = 1 + max(int(some[-1] - some[0]) for some, _, _ in seen) // dilation
    extent = (taps - 1) * dilation + 1
    befores = [-int(some[0]) for some, _, _ in seen]
    afters = [
        stride * (length - 1) + extent - size - before for before, (_, size, length) in zip(befores, seen, strict=True)
    ]
    candidates = [expected, Axis(taps, dilation, stride, befores[0], befores[0])]
    candidates.append(Axis(taps, dilation, stride, "same", "same"))
    candidates += [
        Axis(taps, dilation, stride, before, after + more)
        for before, after in zip(befores, afters, strict=True)
        for more in range(stride)
    ]
    for axis in candidates:
        if axis.stride == stride and all(_fits(axis, *each) for each in seen):
            return axis
    raise NotIdentified("pads by no rule that fits maps of two sizes")


def _fits(axis: Axis, taps: Array, size: int, length: int) -> bool:
    """Tell whether an axis has all the taps, at their places, and the output's size."""
    before, _ = axis.padding(size)
    own = {tap * axis.dilation - before for tap in range(axis.taps)}
    return axis.output(size) == length and own >= {*map(int, taps)}


def _explains(geometry: Geometry, x: Array, y: Array) -> bool:
    """Tell whether the best kernel of a geometry, made from all maps but the first ones, predicts those."""
    held_out = max(1, len(x) // 4)
    matrix = np.hstack([rows := geometry.rows(x), np.ones((len(rows), 1))])
    values = y.transpose(0, 2, 3, 1).reshape(-1, y.shape[1])
    count = held_out * y.shape[2] * y.shape[3]
    solution = solve(matrix[count:], values[count:])
    return relative_error(matrix[:count] @ solution, values[:count]) <= PREDICTED
