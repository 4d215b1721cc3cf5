"""Convolutions and the classifier: curve before, geometry, kernel and bias, measured from answers to probes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conformance.identify.classifier import identify_head
from conformance.identify.convolution_questions import MARGIN, expected_geometry
from conformance.identify.curve import GRID, NONE, RELU, Curve, find_curve
from conformance.identify.fact import PREDICTED, Difference, Exam, Fact, NotIdentified, number, relative_error
from conformance.identify.geometry import Axis, Geometry, measure_geometry, solve
from conformance.identify.image import AS_THEY_ARE, CHANGES, WITH_RIGHT_KERNEL, Change, colour_differences
from conformance.identify.kernel import Recognised, recognise, recognise_bias
from conformance.identify.link import IMAGES, Array, Arrays, Link
from impls.config import ResNetConfig


class TooFewSamples(NotIdentified):
    """Raised where the geometry of a convolution is known, and the probes of the kernel were made for another one.

    Attributes:
        geometry: The measured geometry, for which further probes are to be made.
    """

    def __init__(self, words: str, geometry: Geometry) -> None:
        super().__init__(words)
        self.geometry = geometry


@dataclass(frozen=True)
class MeasuredConvolution:
    """A convolution as it was measured.

    Attributes:
        curve: The activation before it.
        geometry: Where its taps are.
        weight: (out, in, taps, taps).
        bias: (out,).
        change: The change of images before it.
        added: What is added to each channel of the images, behind a change of colours, and the kernel that it meets.
    """

    curve: Curve
    geometry: Geometry
    weight: Array
    bias: Array
    change: Change = AS_THEY_ARE
    added: tuple[Array, Array] | None = None

    def __call__(self, x: Array) -> Array:
        """Compute the convolution of a map."""
        y: Array = self.geometry.convolve(self.curve(self.change.apply(x)), self.weight) + self.bias[:, None, None]
        if self.added is not None:
            offset, weight = self.added
            y = y + self.geometry.convolve(offset[None, :, None, None] * np.ones((1, 1, *x.shape[2:])), weight)
        return y


def measure(exam: Exam, weight: Array | None = None) -> MeasuredConvolution:
    """Measure a convolution or the classifier; of the first one, the change of images before it, too.

    Args:
        exam: Inputs and outputs, all of them maps.
        weight: The kernel that should be there, of a first convolution whose images something may be added to.

    Raises:
        NotIdentified: If no convolution of a known curve explains the outputs.
    """
    reason: NotIdentified | None = None
    is_first = exam.link.inputs == (IMAGES,)
    for change in CHANGES if is_first else (AS_THEY_ARE,):
        changed = replace(exam, asked={part: change.apply(x) for part, x in exam.asked.items()})
        try:
            found = replace(_measure(changed), change=change)
        except NotIdentified as problem:
            reason = reason or problem
        else:
            if exam.error(found) <= PREDICTED:
                return found
        if change is AS_THEY_ARE and is_first and weight is not None:
            shifted = _measure_shifted(exam, weight)
            if shifted is not None:
                return shifted
    raise reason or NotIdentified("is no convolution: the nearest one does not predict other numbers")


def find_changed_images(exam: Exam, weight: Array) -> MeasuredConvolution | None:
    """Recognise a first convolution whose kernel is right and whose images are changed; None if no change fits."""
    for change in WITH_RIGHT_KERNEL if exam.link.inputs == (IMAGES,) else ():
        found = MeasuredConvolution(NONE, expected_geometry(exam.link), weight, np.zeros(len(weight)), change)
        if all(exam.error(found, part) <= PREDICTED for part in ("held-out", "even")):
            return found
    return None


def _measure_shifted(exam: Exam, weight: Array) -> MeasuredConvolution | None:
    """Measure a first convolution to whose images something is added: what it makes of zeros is taken away first."""
    zeros = {part: y[:1] if part == "curve" else y[-1:] for part, y in exam.answers.items()}
    try:
        found = _measure(replace(exam, answers={part: y - zeros[part] for part, y in exam.answers.items()}))
    except NotIdentified:
        return None
    _, channels, *sides = exam.asked["held-out"].shape
    ones = np.eye(channels)[:, :, None, None] * np.ones(sides)
    columns = found.geometry.convolve(ones, weight).reshape(channels, -1).T
    offset, *_ = np.linalg.lstsq(columns, zeros["held-out"].ravel(), rcond=None)
    shifted = replace(found, added=(offset, weight))
    return shifted if exam.error(shifted) <= PREDICTED else None


def _measure(exam: Exam) -> MeasuredConvolution:
    """Measure curve, geometry, kernel and bias from inputs, in which a change of images is made already."""
    asked, answers = exam.asked, exam.answers
    expected = expected_geometry(exam.link)
    curve, geometry = NONE, expected
    if exam.link.kind == "convolution":
        curve = measure_curve(answers["curve"])
        pairs = [(curve(_chosen(asked[name])), answers[name]) for name in ("even", "odd")]
        geometry = measure_geometry(pairs, expected, MARGIN)
    try:
        weight, bias = _measure_kernel(geometry, curve(asked["kernel"]), answers["kernel"])
    except NotIdentified as reason:
        raise TooFewSamples(str(reason), geometry) from None
    return MeasuredConvolution(curve, geometry, weight, bias)


def as_maps(array: Array) -> Array:
    """Give features (batch, features) a height and width of one."""
    return array[:, :, None, None] if array.ndim == 2 else array


def _chosen(x: Array) -> Array:
    chosen: Array = x[:, np.flatnonzero(x.any((0, 2, 3)))]
    return chosen


def measure_curve(answer: Array) -> Curve:
    """Find the curve before a linear map, from the outputs for `GRID`.

    Raises:
        NotIdentified: If there is none in the library, or the map depends on anything else.
    """
    if not np.array_equal(answer[-1], answer[_same_as_last()]):
        raise NotIdentified(
            "gives another output for the same input: it is random, or images of a batch touch each other"
        )
    moved = answer - answer[0]
    direction = moved[1].ravel()
    size = float(direction @ direction)
    if not np.all(np.isfinite(answer)):
        raise NotIdentified("gives NaN or infinity for ordinary numbers")
    if size == 0:
        raise NotIdentified("does not depend on its input")
    heights = moved.reshape(len(moved), -1) @ direction / size
    rest = moved.reshape(len(moved), -1) - heights[:, None] * direction
    if np.linalg.norm(rest) > PREDICTED * np.linalg.norm(moved):
        raise NotIdentified("is no linear map behind one activation")
    curve = find_curve(heights)
    if curve is None:
        raise NotIdentified("has an activation before it that is no known one")
    return curve


def _same_as_last() -> int:
    return int(np.flatnonzero(GRID[:-1] == GRID[-1])[0])


def _measure_kernel(geometry: Geometry, x: Array, y: Array) -> tuple[Array, Array]:
    """Solve for kernel and bias, one part of the input channels after the other.

    Raises:
        NotIdentified: If the probes do not determine them.
    """
    taps = geometry.height.taps * geometry.width.taps
    parts = _parts(x)
    weight = np.zeros((y.shape[1], x.shape[1], geometry.height.taps, geometry.width.taps))
    biases = []
    for channels, images in parts:
        rows = geometry.rows(x[np.ix_(images, channels)])
        matrix = np.hstack([rows, np.ones((len(rows), 1))])
        values = y[images].transpose(0, 2, 3, 1).reshape(len(rows), -1)
        solution = solve(matrix, values)
        kernel = solution[:-1].reshape(len(channels), taps, -1)
        weight[:, channels] = kernel.transpose(2, 0, 1).reshape(-1, len(channels), *weight.shape[2:])
        biases.append(solution[-1])
    bias = np.mean(biases, 0)
    scale = float(np.abs(y).max())
    return weight, np.where(np.abs(bias) <= PREDICTED * scale, 0.0, bias)


def _parts(x: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the parts of the channels that images are not zero in, with the numbers of these images."""
    live: Array = np.asarray(x.any((2, 3)))
    seen: set[int] = set()
    for first in live:
        channels = np.flatnonzero(first)
        if len(channels) and int(channels[0]) not in seen:
            seen.add(int(channels[0]))
            yield channels, np.flatnonzero(live[:, channels[0]])


def identify(exam: Exam) -> Fact:
    """Measure a convolution or the classifier, and say in which properties it is not the expected one.

    Raises:
        NotIdentified: If it cannot be measured, or the measured one does not predict the held-out probe.
    """
    link, arrays = exam.link, exam.arrays
    if link.kind == "classifier" and (head := identify_head(exam)):
        return head
    expected = as_kernel(arrays[f"{link.layer}.weight"])
    asked, answers = ({part: as_maps(x) for part, x in some.items()} for some in (exam.asked, exam.answers))
    exam = replace(exam, asked=asked, answers=answers)
    found = find_changed_images(exam, expected) or measure(exam, expected)
    colours = (
        colour_differences(found.weight, expected, found.added and found.added[0]) if link.inputs == (IMAGES,) else None
    )
    kernel = None
    if colours is None and not _same(found.weight, expected):
        kernel = recognise(found.weight, expected, arrays, link.layer)

    def law(other: Link, inputs: Arrays, weights: Arrays, config: ResNetConfig, train: bool) -> Array:
        x = as_maps(inputs[other.inputs[0]])
        y = found(x) if other.name == link.name else _at_another(found, kernel, link, other, x, weights)
        return y[:, :, 0, 0] if inputs[other.inputs[0]].ndim == 2 else y

    return exam.fact([*_differences(link, found, expected, kernel, arrays, colours)], exam.error(found), law)


def as_kernel(weight: Array) -> Array:
    """Return a kernel (out, in, height, width) of a convolution's or of the classifier's array."""
    array = np.asarray(weight, np.float64)
    return array[:, :, None, None] if array.ndim == 2 else array


def _same(measured: Array, expected: Array) -> bool:
    return relative_error(expected, measured) <= PREDICTED * 10


def _differences(
    link: Link,
    found: MeasuredConvolution,
    expected: Array,
    kernel: Recognised | None,
    arrays: Arrays,
    colours: list[Difference] | None,
) -> Iterator[Difference]:
    if found.change.words:
        words = f"sees its images {found.change.words}"
        yield Difference("images", found.change.words, "as they are", words, found.change.fault)
    yield from colours or ()
    before = RELU if link.after_relu else NONE
    if found.curve is not before:
        words = f"takes {found.curve.name} of its input, where {before.name} is expected"
        if found.curve is NONE:
            words = "has no activation before it, where a ReLU is expected"
        elif before is NONE:
            words = f"takes {found.curve.name} of its input first, where no activation is expected"
        yield Difference("activation before it", found.curve.name, before.name, words)
    if found.geometry != expected_geometry(link):
        yield _geometry_difference(link, found.geometry)
    if colours is not None:
        pass
    elif kernel is not None:
        yield Difference("kernel", kernel.name, "its own", kernel.words, kernel.fault)
    elif not _same(found.weight, expected):
        words = "its kernel is no array of the checkpoint, nor one that was rearranged, scaled, rounded or partly lost"
        if found.weight.shape == expected.shape:
            share = relative_error(expected, found.weight)
            words += f" (relative L2 difference from its own {number(share)})"
        yield Difference("kernel", "unknown", "its own", words)
    bias = np.asarray(arrays[f"{link.layer}.bias"], np.float64) if f"{link.layer}.bias" in arrays else None
    recognised = recognise_bias(found.bias, bias, arrays, link.layer)
    if recognised:
        words, name, fault = recognised
        yield Difference("bias", name, "its own" if bias is not None else "none", words, fault)


def _geometry_difference(link: Link, geometry: Geometry) -> Difference:
    """Say which facts of the geometry differ: "computes a 3x3 convolution with dilation 2; 1 is expected"."""
    right = expected_geometry(link)
    sizes = ["x".join(str(axis.taps) for axis in each.axes) for each in (geometry, right)]
    pairs = {
        "dilation": [_both(axis.dilation for axis in each.axes) for each in (geometry, right)],
        "stride": [_both(axis.stride for axis in each.axes) for each in (geometry, right)],
        "padding": [_both(_padding_words(axis) for axis in each.axes) for each in (geometry, right)],
        "border": [f"{each.border}" for each in (geometry, right)],
    }
    different = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    measured = {name: pair[0] for name, pair in different.items()}
    wanted = {name: pair[1] for name, pair in different.items()}
    if sizes[0] != sizes[1]:
        measured, wanted = {"size": sizes[0]} | measured, {"size": sizes[1]} | wanted
    said = " and ".join(f"{name} {pair[0]}" for name, pair in different.items() if name != "border")
    if "border" in different:
        said += " and " * bool(said) + f"{geometry.border} beyond the map's border"
    expected = " and ".join(
        [*([f"a {sizes[1]} one"] if sizes[0] != sizes[1] else []), *(pair[1] for pair in different.values())]
    )
    verb = "is" if len(wanted) == 1 else "are"
    words = f"computes a {sizes[0]} convolution{f' with {said}' if said else ''}; {expected} {verb} expected"
    return Difference("geometry", measured, wanted, words, _geometry_fault(link, geometry))


def _geometry_fault(link: Link, geometry: Geometry) -> str:
    axis, right = geometry.height, expected_geometry(link).height
    if geometry.height != geometry.width or geometry.border != "zeros":
        return ""
    if replace(axis, before=0, after=0) == replace(right, before=0, after=0):
        if axis.before == "same":
            return "pad-same-stem" if link.kernel == 7 else "pad-same"
        if right.before == "same" and axis.before == axis.after:
            return "pad-symmetric"
    return ""


def _both(values: Any) -> str:
    """Write a value of height and width, once where they are equal."""
    height, width = map(str, values)
    return height if height == width else f"{height} by {width}"


def _padding_words(axis: Axis) -> str:
    if axis.before == "same":
        return "as TensorFlow's SAME"
    return str(axis.before) if axis.before == axis.after else f"{axis.before} before and {axis.after} behind"


def _at_another(
    found: MeasuredConvolution, kernel: Recognised | None, link: Link, other: Link, x: Array, weights: Arrays
) -> Array:
    """Compute what another convolution would, if it differed from the expected one as the measured one does.

    Raises:
        NotIdentified: If it cannot be said, since the measured kernel is no change of the expected one.
    """
    expected = as_kernel(weights[f"{link.layer}.weight"])
    if kernel is None and not _same(found.weight, expected):
        raise NotIdentified("has a kernel that says nothing about other layers")
    weight = as_kernel(weights[f"{other.layer}.weight"])
    weight = kernel.change(weight) if kernel else weight
    geometry = _carried(found.geometry, expected_geometry(link), expected_geometry(other))
    curve = (
        found.curve if found.curve is not (RELU if link.after_relu else NONE) else (RELU if other.after_relu else NONE)
    )
    y = geometry.convolve(curve(x), weight)
    bias = weights.get(f"{other.layer}.bias")
    missing = f"{link.layer}.bias" in weights and not found.bias.any()
    return y + bias[:, None, None] if bias is not None and not missing else y


def _carried(measured: Geometry, right: Geometry, other: Geometry) -> Geometry:
    """Return another layer's geometry with the facts changed in which the measured one differs from the right one."""
    axes = []
    for one, wanted, own in zip(measured.axes, right.axes, other.axes, strict=True):
        changed = {
            name: getattr(one, name)
            for name in ("taps", "dilation", "stride", "before", "after")
            if getattr(one, name) != getattr(wanted, name)
        }
        axes.append(replace(own, **changed))
    return Geometry(axes[0], axes[1], measured.border)
