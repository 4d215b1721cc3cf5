"""Kernels: a measured kernel compared with the array that should be there, and with what people make of it by mistake.

A kernel is recognised as a change of an array that can be made of any other layer's array, too, so that a bug of a
whole class of layers is said once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import permutations

import ml_dtypes
import numpy as np

from conformance.identify.fact import number, relative_error
from conformance.identify.link import NORM_LEAVES, Array, Arrays

SAME = 1e-11
"""Largest relative L2 error at which a measured array counts as another one; measurements err by less than 1e-13."""

Change = Callable[[Array], Array]


@dataclass(frozen=True)
class Recognised:
    """A measured array in terms of the checkpoint's.

    Attributes:
        words: What it is, as a clause: "its kernel is mirrored left to right".
        name: The same in one word, for data.
        change: Makes the measured array of the one that should be there.
        fault: Id of the catalogue's row that says the same.
    """

    words: str
    name: str
    change: Change
    fault: str = ""


def recognise(measured: Array, expected: Array, arrays: Arrays, layer: str) -> Recognised | None:
    """Recognise a measured kernel; None if it is nothing that is known.

    Args:
        measured: (out, in, height, width).
        expected: The array that should be there, of any shape.
        arrays: Every array of the checkpoint, by name.
        layer: Path of the layer.
    """
    for candidate in _candidates(measured, expected, arrays, layer):
        if relative_error(candidate.change(expected), measured) <= SAME:
            return candidate
    return None


def _candidates(measured: Array, expected: Array, arrays: Arrays, layer: str) -> Iterator[Recognised]:
    if not measured.any():
        yield Recognised("its kernel is zero", "zero", np.zeros_like)
    for change in REARRANGED:
        yield change
    for change in ROUNDED:
        yield change
    yield from _partly_zero(measured, expected)
    yield from _scaled(measured, expected, arrays, layer)
    yield from _permuted(measured, expected)
    yield from _other_arrays(measured, arrays, layer)
    yield from _reshaped(measured, expected)
    yield from _shifted(measured, expected)
    yield from _cut(measured, expected)
    yield from _grouped(measured)
    yield from _as_initialised(measured)


def _swap(weight: Array) -> Array:
    return weight.transpose(1, 0, 2, 3)


REARRANGED = (
    Recognised("its kernel is rotated by 180 degrees", "flipped", lambda w: w[:, :, ::-1, ::-1], "kernel-flip"),
    Recognised("its kernel is mirrored left to right", "mirrored", lambda w: w[:, :, :, ::-1], "kernel-mirrored"),
    Recognised("its kernel is mirrored top to bottom", "upside down", lambda w: w[:, :, ::-1], "kernel-upside-down"),
    Recognised(
        "its kernel's height and width are exchanged",
        "height and width exchanged",
        lambda w: w.transpose(0, 1, 3, 2),
        "kernel-full-transpose",
    ),
    Recognised("its kernel is rotated by 90 degrees", "rotated", lambda w: np.rot90(w, 1, (2, 3))),
    Recognised("its kernel is rotated by 270 degrees", "rotated", lambda w: np.rot90(w, 3, (2, 3))),
    Recognised(
        "its kernel is mirrored along its second diagonal",
        "transposed along the second diagonal",
        lambda w: w[:, :, ::-1, ::-1].transpose(0, 1, 3, 2),
    ),
    Recognised("its kernel's input and output channels are exchanged", "in and out exchanged", _swap, "kernel-io-swap"),
    Recognised(
        "all axes of its kernel are reversed: input and output channels, height and width",
        "all axes reversed",
        lambda w: w.transpose(1, 0, 3, 2),
    ),
    Recognised(
        "its kernel's input and output channels are exchanged, and it is rotated by 180 degrees",
        "in and out exchanged, flipped",
        lambda w: _swap(w)[:, :, ::-1, ::-1],
    ),
    Recognised("its kernel has the opposite sign", "negated", np.negative),
    Recognised("its input channels are in reverse order", "input channels reversed", lambda w: w[:, ::-1]),
    Recognised("its output channels are in reverse order", "output channels reversed", lambda w: w[::-1]),
    Recognised(
        "the halves of its input channels are exchanged",
        "halves of input channels exchanged",
        lambda w: np.roll(w, w.shape[1] // 2, 1),
    ),
    Recognised(
        "the halves of its output channels are exchanged",
        "halves of output channels exchanged",
        lambda w: np.roll(w, len(w) // 2, 0),
    ),
)
"""Kernels that are the right numbers in another order."""


def _quantised(weight: Array, bits: int, per_channel: bool) -> Array:
    axes = (1, 2, 3) if per_channel else None
    step = np.abs(weight).max(axis=axes, keepdims=True) / (2 ** (bits - 1) - 1)
    step = np.where(step == 0, 1.0, step)
    result: Array = np.rint(weight / step) * step
    return result


def _as(dtype: type, weight: Array) -> Array:
    return weight.astype(dtype).astype(np.float64)


ROUNDED = (
    Recognised("its kernel is rounded to float16", "rounded to float16", partial(_as, np.float16), "layer-half"),
    Recognised(
        "its kernel is rounded to bfloat16", "rounded to bfloat16", partial(_as, ml_dtypes.bfloat16), "layer-bfloat16"
    ),
    Recognised(
        "its kernel is quantised to 8 bits", "quantised to 8 bits", partial(_quantised, bits=8, per_channel=False)
    ),
    Recognised(
        "its kernel is quantised to 8 bits, each output channel by its own step",
        "quantised to 8 bits per channel",
        partial(_quantised, bits=8, per_channel=True),
        "layer-int8",
    ),
    Recognised("its kernel is rounded to float8 (e4m3)", "rounded to float8", partial(_as, ml_dtypes.float8_e4m3fn)),
)
"""Kernels that are rounded."""


def _scaled(measured: Array, expected: Array, arrays: Arrays, layer: str) -> Iterator[Recognised]:
    """Yield a factor of the whole kernel, of each output channel, or of each input channel."""
    if measured.shape != expected.shape:
        return
    size = float((expected**2).sum())
    if size:
        factor = float((measured * expected).sum()) / size
        words = f"its kernel is multiplied by {number(factor)}"
        yield Recognised(words, f"multiplied by {number(factor)}", lambda w: w * factor, "kernel-scaled")
    for axis, side in ((0, "output"), (1, "input")):
        others = tuple(set(range(4)) - {axis})
        sizes = (expected**2).sum(others, keepdims=True)
        factors = (measured * expected).sum(others, keepdims=True) / np.where(sizes == 0, 1.0, sizes)
        if axis == 0:
            yield from _folded(factors.ravel(), arrays, layer)
        low, high = float(factors.min()), float(factors.max())
        words = (
            f"its kernel is multiplied by a factor of its own for each {side} channel, {number(low)} to {number(high)}"
        )
        if factors.size <= 4:
            listed = ", ".join(map(number, factors.ravel()))
            words = f"its kernel is multiplied by {listed}, one for each {side} channel"
        if factors.size < measured.size:
            yield Recognised(words, f"scaled per {side} channel", partial(np.multiply, factors))


def _folded(factors: Array, arrays: Arrays, layer: str) -> Iterator[Recognised]:
    """Yield the factors of a norm that was folded into the kernel."""
    norm = layer.replace("conv", "bn") if "downsample" not in layer else layer.replace("_conv", "_bn")
    if f"{norm}.running_var" not in arrays:
        return
    scale, _, _, variance = (arrays[f"{norm}.{leaf}"] for leaf in NORM_LEAVES)
    live = scale != 0
    with np.errstate(all="ignore"):
        eps = np.median((scale[live] / factors[live]) ** 2 - variance[live])
        folded = scale / np.sqrt(variance + max(0.0, float(eps)))
    if live.any() and relative_error(folded, factors) <= SAME * 100:
        words = f"its kernel is multiplied by the scale of the norm {norm} behind it, as when that was folded into it"
        yield Recognised(words, "norm folded in", partial(np.multiply, factors[:, None, None, None]), "bn-folded-twice")


def _shifted(measured: Array, expected: Array) -> Iterator[Recognised]:
    """Yield output channels that are shifted, with others where there are none left: a class more or less in front."""
    if measured.shape[1:] != expected.shape[1:]:
        return
    for shift in (1, -1):
        rows = measured[shift:] if shift > 0 else measured[:shift]
        own = expected if shift > 0 else expected[-shift:]
        count = min(len(rows), len(own))
        if count > 1 and relative_error(own[:count], rows[:count]) <= SAME:
            place = "first" if shift > 0 else "last"
            words = f"its output channels are shifted by {shift}, and the {place} one is none of the checkpoint's"
            yield Recognised(words, f"output channels shifted by {shift}", partial(_constant, measured))


def _cut(measured: Array, expected: Array) -> Iterator[Recognised]:
    """Yield the right output channels, and fewer or more of them, as with another number of classes."""
    place = _right_end(measured, expected)
    if place:
        sizes = f"it has {len(measured)} output channels, where {len(expected)} are expected"
        words = f"{sizes}: the {place} {min(len(measured), len(expected))} are right"
        yield Recognised(words, f"{len(measured)} output channels", partial(_constant, measured))


def _right_end(measured: Array, expected: Array) -> str:
    """Tell at which end two arrays with other numbers of rows are equal: "first", "last" or nothing."""
    count = min(len(measured), len(expected))
    if len(measured) == len(expected):
        return ""
    ends = {"first": slice(None, count), "last": slice(-count, None)}
    return next((name for name, end in ends.items() if relative_error(expected[end], measured[end]) <= SAME), "")


def _as_initialised(measured: Array) -> Iterator[Recognised]:
    """Yield the usual distribution that a kernel seems to be drawn from: by its largest number and its deviation."""
    fan_in, fan_out = (int(measured.shape[axis] * np.prod(measured.shape[2:])) for axis in (1, 0))
    deviation, peak = float(measured.std()), float(np.abs(measured).max())
    if measured.size < 64 or deviation == 0 or abs(measured.mean()) > 5 * deviation / np.sqrt(measured.size):
        return
    tolerance = 5 / np.sqrt(2 * measured.size)
    bounds = {"1 / sqrt(fan-in)": fan_in**-0.5, "sqrt(6 / (fan-in + fan-out))": (6 / (fan_in + fan_out)) ** 0.5}
    bounds["sqrt(6 / fan-in)"] = (6 / fan_in) ** 0.5
    for words, bound in bounds.items():
        if 0.9 * bound < peak <= bound * (1 + 1e-6) and abs(deviation * 3**0.5 / bound - 1) < tolerance:
            said = f"its kernel is none of the checkpoint's: it looks as initialised, uniform up to {words}"
            yield Recognised(said, "as initialised", partial(_constant, measured))
    deviations = {"sqrt(2 / fan-out)": (2 / fan_out) ** 0.5, "sqrt(2 / fan-in)": (2 / fan_in) ** 0.5}
    deviations |= {"sqrt(1 / fan-in)": fan_in**-0.5, "0.01": 0.01}
    for words, expected in deviations.items():
        if abs(deviation / expected - 1) < tolerance:
            said = f"its kernel is none of the checkpoint's: it looks as initialised, normal with deviation {words}"
            yield Recognised(said, "as initialised", partial(_constant, measured))


def _permuted(measured: Array, expected: Array) -> Iterator[Recognised]:
    """Yield an order of output or input channels, found by assignment on the products of the kernels' channels."""
    if measured.shape != expected.shape:
        return
    for axis, side in ((0, "output"), (1, "input")):
        order = assignment(np.moveaxis(measured, axis, 0), np.moveaxis(expected, axis, 0))
        if order is not None:
            words, name, fault = describe_order(order, side)
            yield Recognised(words, name, partial(np.take, indices=order, axis=axis), fault)


def assignment(measured: Array, expected: Array) -> Array | None:
    """Find the order in which the rows of one array are those of another; None if a row is none of them.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(4, 5))
        >>> assignment(rows[[2, 0, 1, 3]], rows)
        array([2, 0, 1, 3])
    """
    left, right = (array.reshape(len(array), -1) for array in (measured, expected))
    distances = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
    order: Array = np.abs(distances).argmin(1)
    return order if relative_error(right[order], left) <= SAME else None


def describe_order(order: Array, side: str) -> tuple[str, str, str]:
    """Describe an order of channels: in words, in one word, and by the catalogue's row.

    Example:
        >>> describe_order(np.array([3, 0, 1, 2]), "output")[0]
        'its output channels are shifted by 1'
    """
    count = len(order)
    own = np.arange(count)
    if len(set(order.tolist())) < count:
        words = f"its {side} channels repeat: only {len(set(order.tolist()))} of {count} are there"
        return words, f"{side} channels repeated", ""
    if count == 3 and side == "input" and [*order] == [2, 1, 0]:
        return "its input channels are in the order BGR", "BGR", "stem-bgr"
    for shift in range(1, count):
        if np.array_equal(order, np.roll(own, shift)):
            back = shift if shift <= count // 2 else shift - count
            fault = "channels-rolled" if back == 1 and side == "output" else ""
            return f"its {side} channels are shifted by {back}", f"{side} channels shifted by {back}", fault
    for groups in range(2, count // 2 + 1):
        if count % groups == 0 and np.array_equal(order, own.reshape(groups, -1).T.ravel()):
            words = f"its {side} channels are in another order: shuffled as {groups} groups of {count // groups}"
            return words, f"{side} channels shuffled", ""
    text = np.array(sorted(range(count), key=str))
    if np.array_equal(order, text):
        return f"its {side} channels are sorted as text: 10 before 2", f"{side} channels sorted as text", ""
    moved = int((order != own).sum())
    return f"{moved} of its {count} {side} channels are in another order", f"{side} channels permuted", ""


def _other_arrays(measured: Array, arrays: Arrays, layer: str) -> Iterator[Recognised]:
    """Yield every other array of the checkpoint with as many numbers, as it is and in the other order of its axes."""
    for name, array in arrays.items():
        if array.size != measured.size or array.ndim not in (2, 4) or name == f"{layer}.weight":
            continue
        other = np.asarray(array.reshape(*array.shape, 1, 1) if array.ndim == 2 else array, np.float64)
        path = name.removesuffix(".weight")
        for change in (None, *REARRANGED[:4], REARRANGED[7]):
            kernel = change.change(other) if change else other
            if kernel.shape == measured.shape:
                where = f", and {change.name}" if change else ""
                yield Recognised(f"its kernel is that of {path}{where}", f"that of {path}", partial(_constant, kernel))


def _constant(array: Array, expected: Array) -> Array:
    return array


def _reshaped(measured: Array, expected: Array) -> Iterator[Recognised]:
    """Yield kernels that were reshaped from another order of axes, not transposed."""
    letters = ("out", "in", "height", "width")
    for axes in permutations(range(4)):
        if axes != (0, 1, 2, 3):
            order = ", ".join(letters[axis] for axis in axes)
            fault = "kernel-reshaped" if axes == (2, 3, 1, 0) else ""
            words = f"its kernel was reshaped from ({order}) to (out, in, height, width), not transposed"
            yield Recognised(words, f"reshaped from ({order})", partial(_reshape, axes, measured.shape), fault)
    for axes in permutations(range(4)):
        if axes != (0, 1, 2, 3):
            order = ", ".join(letters[axis] for axis in axes)
            words = f"its kernel was reshaped to ({order}) and then transposed back"
            yield Recognised(words, f"reshaped to ({order})", partial(_reshape_back, axes))


def _reshape(axes: tuple[int, ...], shape: tuple[int, ...], weight: Array) -> Array:
    return weight.transpose(axes).reshape(shape if weight.size == np.prod(shape) else weight.shape)


def _reshape_back(axes: tuple[int, ...], weight: Array) -> Array:
    turned = weight.reshape([weight.shape[axis] for axis in axes])
    return turned.transpose(np.argsort(axes))


def _partly_zero(measured: Array, expected: Array) -> Iterator[Recognised]:
    """Yield the right kernel with zeros in some places: of input channels, of pixels, of groups, or anywhere."""
    if measured.shape != expected.shape:
        return
    mask = np.abs(measured) > SAME * np.abs(expected).max()
    if mask.all() or not mask.any():
        return
    keep = partial(np.multiply, mask)
    groups = _groups(mask)
    taps = mask.any((0, 1))
    if groups > 1:
        yield Recognised(f"it has {groups} groups", f"{groups} groups", keep)
    elif not taps.all():
        words = f"{int((~taps).sum())} of the {taps.size} pixels of its kernel are zero"
        yield Recognised(words, "pixels zero", keep)
    for axis, side in ((0, "output"), (1, "input")):
        live = mask.any(tuple(set(range(4)) - {axis}))
        if not live.all():
            words = f"its kernel is zero in {int((~live).sum())} of {live.size} {side} channels"
            yield Recognised(words, f"zero in {side} channels", keep)
    share = 1 - mask.mean()
    yield Recognised(f"{share:.0%} of its kernel is zero", "partly zero", keep)


def _grouped(measured: Array) -> Iterator[Recognised]:
    """Yield a kernel that has groups, whatever its numbers are."""
    groups = _groups(np.abs(measured) > SAME * np.abs(measured).max())
    if groups > 1:
        words = (
            f"it has {groups} groups; 1 is expected, and its numbers are not those of the right kernel in these places"
        )
        yield Recognised(words, f"{groups} groups", partial(_constant, measured))


def _groups(mask: Array) -> int:
    """Return the number of groups of a grouped convolution whose kernel stands in a dense one; 1 if it is none."""
    live = mask.any((2, 3))
    for groups in range(min(live.shape), 1, -1):
        if live.shape[0] % groups == 0 and live.shape[1] % groups == 0:
            blocks = np.kron(np.eye(groups, dtype=bool), np.ones([side // groups for side in live.shape], bool))
            if not (live & ~blocks).any():
                return groups
    return 1


def recognise_bias(measured: Array, expected: Array | None, arrays: Arrays, layer: str) -> tuple[str, str, str] | None:
    """Recognise an offset per output channel: in words, in one word, and by the catalogue's row.

    Args:
        measured: (out,).
        expected: The bias that should be there; None for none.
        arrays: Every array of the checkpoint, by name.
        layer: Path of the layer.

    Returns:
        None where it is the expected one.
    """
    size = float(np.abs(measured).max(initial=0.0))
    if expected is None and size <= SAME:
        return None
    if expected is not None and relative_error(expected, measured) <= SAME:
        return None
    if expected is not None and _right_end(measured, expected):
        return None  # what is said of the kernel tells its size
    if expected is not None and size <= SAME:
        return "its bias is missing", "missing", "fc-bias-dropped" if layer == "fc" else "conv-bias-dropped"
    for name, array in arrays.items():
        if array.shape == measured.shape and relative_error(np.asarray(array, np.float64), measured) <= SAME:
            words = f"it adds the array {name}" if expected is None else f"its bias is the array {name}"
            return words, name, ""
    if expected is not None and measured.shape == expected.shape:
        order = assignment(measured[:, None], expected[:, None])
        if order is not None:
            return "its bias is in another order", "permuted", ""
    words = "it adds a bias, where none is expected" if expected is None else "its bias is another one"
    return words, "other", ""
