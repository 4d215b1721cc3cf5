"""Pools: the stem's windows and the head's map, recognised among pools of every kind, window, stride and padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from conformance.identify.curve import CURVES, NONE, RELU, Curve, leaky, rounded
from conformance.identify.fact import PREDICTED, Difference, Exam, Fact, NotIdentified, law_of, number, relative_error
from conformance.identify.geometry import Axis, likely_strides, solve
from conformance.identify.kernel import assignment
from conformance.identify.link import Array, Link
from impls.config import ResNetConfig

HEAD_SIDES = (7, 7)
"""Height and width of the map of the head's pool."""


def _mean(windows: Array, inside: Array) -> Array:
    result: Array = windows.mean((4, 5))
    return result


def _mean_inside(windows: Array, inside: Array) -> Array:
    result: Array = windows.sum((4, 5)) / inside.sum((4, 5))
    return result


REDUCTIONS: dict[str, tuple[float, Callable[[Array, Array], Array], str]] = {
    "maximum": (-np.inf, lambda w, inside: w.max((4, 5)), "the maximum"),
    "maximum with zeros": (0.0, lambda w, inside: w.max((4, 5)), "the maximum, with zeros around the map"),
    "mean": (0.0, _mean, "the mean, padded zeros counted"),
    "mean inside": (0.0, _mean_inside, "the mean of the pixels within the map"),
    "sum": (0.0, lambda w, inside: w.sum((4, 5)), "the sum"),
    "minimum": (np.inf, lambda w, inside: w.min((4, 5)), "the minimum"),
    "pick": (0.0, lambda w, inside: w[..., 0, 0], "the first pixel"),
}
"""Functions of a window: the value around the map, the function of windows and of which pixels are inside, words."""


@dataclass(frozen=True)
class StemPool:
    """The end of the stem: activations, and a pool between them.

    Attributes:
        curve: The activation before the pool.
        reduction: Key of `REDUCTIONS`.
        height, width: The windows.
        after: The activation after the pool.
    """

    curve: Curve
    reduction: str
    height: Axis
    width: Axis
    after: Curve = NONE

    def __call__(self, x: Array) -> Array:
        """Compute the pool of a map."""
        around, reduce, _ = REDUCTIONS[self.reduction]
        x = self.curve(x)
        windows = self._windows(x, around)
        inside = self._windows(np.ones((1, 1, *x.shape[2:])), 0.0)
        with np.errstate(all="ignore"):
            return self.after(reduce(windows, inside))

    def _windows(self, x: Array, around: float) -> Array:
        axes = (self.height, self.width)
        pads = [axis.padding(size) for axis, size in zip(axes, x.shape[2:], strict=True)]
        if min(map(min, pads)) < 0:
            raise ValueError("negative padding")
        padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=around)
        every = sliding_window_view(padded, (self.height.taps, self.width.taps), axis=(2, 3))
        return every[:, :, :: self.height.stride, :: self.width.stride]


def stem_questions(link: Link, random: np.random.Generator) -> dict[str, Array]:
    """Make maps of noise of even and odd sides, in which numbers above 6 and below zero occur."""
    (channels,) = link.channels
    sides = {"even": (12, 15), "odd": (15, 12), "held-out": (14, 17)}
    return {name: random.normal(-1.5, 3.0, (2, channels, *pair)) for name, pair in sides.items()}


def identify_stem(exam: Exam) -> Fact:
    """Recognise the stem's activation and pool.

    Raises:
        NotIdentified: If it is none of the known ones.
    """
    for pool in _stem_pools(exam.asked, exam.answers):
        try:
            right = all(exam.error(pool, part) <= PREDICTED for part in ("even", "odd"))
        except ValueError:
            continue
        if right:
            return _stem_fact(exam, pool)
    raise NotIdentified("is no pool of a known kind behind a known activation")


def _stem_pools(asked: Mapping[str, Array], answers: Mapping[str, Array]) -> Iterator[StemPool]:
    """Yield pools that give the right size; each is first tried on one channel."""
    x, y = asked["even"][:1, :1], answers["even"][:1, :1]
    if answers["even"].shape[1] != asked["even"].shape[1]:
        raise NotIdentified(f"has {answers['even'].shape[1]} channels, where {asked['even'].shape[1]} are expected")
    strides = [likely_strides([(asked[p].shape[axis], answers[p].shape[axis]) for p in asked]) for axis in (2, 3)]
    pads: list[int | str] = [1, "same", 0, 2, 3]
    rules = [(pad, pad) for pad in pads] + [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)]
    for taps, (before, behind), reduction, *pair in product((3, 2, 1, 4, 5), rules, REDUCTIONS, *strides):
        axes = [Axis(taps, 1, stride, before, behind) for stride in pair]
        sizes = [axis.output(size) for axis, size in zip(axes, x.shape[2:], strict=True)]
        if (reduction == "pick") != (taps == 1):
            continue
        if sizes != [*y.shape[2:]] or (isinstance(before, int) and max(before, int(behind)) > taps):
            continue
        plain = StemPool(NONE, reduction, axes[0], axes[1])
        for curve in (RELU, *(curve for curve in CURVES if curve is not RELU), *_leaky(plain, asked, answers)):
            for pool in (
                StemPool(curve, reduction, axes[0], axes[1]),
                *([StemPool(NONE, reduction, axes[0], axes[1], curve)] if curve is not NONE else []),
            ):
                if relative_error(pool(x), y) <= PREDICTED:
                    yield pool


def _leaky(plain: StemPool, asked: Mapping[str, Array], answers: Mapping[str, Array]) -> Iterator[Curve]:
    """Yield the leaky ReLU whose slope the outputs below zero tell: the largest number keeps its place behind it."""
    if plain.reduction == "maximum":
        before, after = plain(asked["even"]), answers["even"]
        negative = before < 0
        if before.shape == after.shape and negative.any():
            slope = float((after[negative] / before[negative]).mean())
            if slope > 0:
                yield leaky(rounded(slope))


def _stem_fact(exam: Exam, pool: StemPool) -> Fact:
    pad: int | str = "same" if exam.config.same_padding else 1
    differences = []
    error = exam.error(pool)
    if error > PREDICTED:
        raise NotIdentified(f"pools small maps as {REDUCTIONS[pool.reduction][2]} would, and others not")
    if pool.curve is not RELU and not (pool.curve is NONE and pool.after is RELU):
        words = f"takes {pool.curve.name} before the pool, where ReLU is expected"
        if pool.curve is NONE and pool.after is NONE:
            words = "has no ReLU before the pool"
        elif pool.curve is NONE:
            words = f"takes {pool.after.name} after the pool, where ReLU before it is expected"
        found = pool.curve.name if pool.after is NONE else f"{pool.after.name} after the pool"
        fault = "stem-relu-missing" if pool.curve is NONE and pool.after is NONE else ""
        differences.append(Difference("activation", found, "ReLU", words, fault))
    elif pool.curve is NONE and not pool.reduction.startswith("maximum"):
        words = "takes the ReLU after the pool, not before it"
        differences.append(Difference("activation", "ReLU after the pool", "ReLU before it", words, "pool-before-relu"))
    expected = Axis(3, 1, 2, pad, pad)
    measured, wanted = [], []
    if not pool.reduction.startswith("maximum"):
        measured.append(REDUCTIONS[pool.reduction][2])
        wanted.append("the maximum")
    if (pool.height, pool.width) != (expected, expected):
        measured.append(_window_words(pool.height, pool.width))
        wanted.append(_window_words(expected, expected))
    if pool.reduction == "pick" and pool.height.stride == 1:
        words = f"has no pool; the maximum of {_window_words(expected, expected)} is expected"
        differences.append(Difference("pool", "none", " of ".join(wanted), words, "pool-missing"))
    elif measured:
        words = f"takes {' of '.join(measured) if len(measured) == 2 else _clause(measured[0])}"
        words += f"; {' of '.join(wanted) if len(wanted) == 2 else _clause(wanted[0])} is expected"
        differences.append(
            Difference("pool", " of ".join(measured), " of ".join(wanted), words, _pool_fault(pool, exam.config))
        )
    return exam.fact(differences, error, law_of(pool))


def _clause(words: str) -> str:
    return words if words.startswith("the ") else f"the maximum of {words}"


def _window_words(height: Axis, width: Axis) -> str:
    pads = [
        "SAME padding"
        if axis.before == "same"
        else f"padding {axis.before}" + (f" and {axis.after}" if axis.after != axis.before else "")
        for axis in (height, width)
    ]
    return f"{height.taps}x{width.taps} windows at stride {height.stride}, {pads[0]}"


def _pool_fault(pool: StemPool, config: ResNetConfig) -> str:
    if not pool.reduction.startswith("maximum"):
        return "pool-average" if pool.reduction.startswith("mean") else ""
    axis = pool.height
    if (axis.taps, axis.stride) == (3, 2) and axis.before == axis.after and pool.height == pool.width:
        return {"same": "pool-same", 0: "pool-valid", 1: "pool-symmetric" if config.same_padding else ""}.get(
            axis.before, ""
        )
    return "pool-missing" if (axis.taps, axis.stride) == (1, 1) else ""


def head_questions(link: Link, random: np.random.Generator, usual: tuple[int, int]) -> dict[str, Array]:
    """Make maps of noise for the head's pool: of one size for all, and of the size that an image gives."""
    (channels,) = link.channels
    sides = {"first": HEAD_SIDES, "held-out": HEAD_SIDES, f"first{USUAL}": usual, f"held-out{USUAL}": usual}
    return {name: random.normal(0.0, 1.0, (2, channels, *pair)) for name, pair in sides.items()}


USUAL = " of the usual size"
"""Ends the names of the parts whose maps are of the size that an image gives."""


HEAD_POOLS: dict[str, tuple[Callable[[Array], Array], str]] = {
    "mean": (lambda x: x.mean((2, 3)), ""),
    "maximum": (lambda x: x.max((2, 3)), "head-max"),
    "sum": (lambda x: x.sum((2, 3)), ""),
    "minimum": (lambda x: x.min((2, 3)), ""),
    "median": (lambda x: np.median(x, (2, 3)), ""),
    "root of the mean square": (lambda x: np.sqrt((x**2).mean((2, 3))), ""),
    "mean after a ReLU": (lambda x: np.maximum(x, 0).mean((2, 3)), ""),
    "sum of mean and maximum": (lambda x: x.mean((2, 3)) + x.max((2, 3)), ""),
    "mean of mean and maximum": (lambda x: (x.mean((2, 3)) + x.max((2, 3))) / 2, ""),
    "root of the mean square of a ReLU": (lambda x: np.sqrt((np.maximum(x, 0) ** 2).mean((2, 3))), ""),
    "generalised mean of power 3": (lambda x: np.cbrt((np.maximum(x, 1e-6) ** 3).mean((2, 3))), ""),
    "middle pixel": (lambda x: x[:, :, x.shape[2] // 2, x.shape[3] // 2], ""),
    "first pixel": (lambda x: x[:, :, 0, 0], ""),
    "mean over the height, then the maximum over the width": (lambda x: x.mean(2).max(2), ""),
}
"""Functions that a head may apply to a map, in words, and the catalogue's row."""


def identify_head(exam: Exam) -> Fact:
    """Recognise the head's pool, or measure the weight of each pixel of the map.

    Raises:
        NotIdentified: If it is none of the known ones, and no weighted sum of the pixels.
    """
    asked, answers = exam.asked, exam.answers
    usual = USUAL if answers["first"].size != np.prod(asked["first"].shape[:2]) else ""
    x, y = asked[f"first{usual}"], answers[f"first{usual}"]
    y = y.reshape(len(y), -1)
    other, held_out = asked[f"held-out{usual}"], answers[f"held-out{usual}"].reshape(len(y), -1)
    for name, (compute, fault) in HEAD_POOLS.items():
        expected = compute(x)
        order = assignment(y.T, expected.T) if y.shape == expected.shape else None
        if order is None:
            continue
        whole = partial(_in_order, compute, order)
        error = relative_error(whole(other), held_out)
        differences = []
        if name != "mean":
            words = f"takes the {name} of the map; the mean is expected"
            differences.append(Difference("pool", name, "mean", words, fault))
        if not np.array_equal(order, np.arange(len(order))):
            words = "its features are in another order"
            differences.append(Difference("order of features", "permuted", "its own", words))
        if error <= PREDICTED and differences:
            return exam.fact(differences, error, law_of(whole))
    return _weighted(exam, x, y, other, held_out)


def _in_order(compute: Callable[[Array], Array], order: Array, x: Array) -> Array:
    return compute(x)[:, order]


def _weighted(exam: Exam, x: Array, y: Array, held_out: Array, answer: Array) -> Fact:
    """Measure the weight of each pixel of the map.

    Raises:
        NotIdentified: If the output is no weighted sum of the pixels.
    """
    if y.shape != x.shape[:2]:
        raise NotIdentified(f"gives {y.shape[1]} features, where {x.shape[1]} are expected")
    pixels = x.shape[2] * x.shape[3]
    weights = solve(x.reshape(-1, pixels), y.reshape(-1, 1))
    error = relative_error((held_out.reshape(-1, pixels) @ weights).reshape(answer.shape), answer)
    if error > PREDICTED:
        raise NotIdentified("is no weighted sum of a map's pixels")
    weights = np.where(np.abs(weights) < 1e-13, 0.0, weights)[:, 0]
    live = weights.reshape(x.shape[2:]) != 0
    same = np.ptp(weights[weights != 0]) < 1e-12
    if same and live.all():
        factor = float(weights[0] * pixels)
        words = f"takes {number(factor)} times the mean of the map; the mean is expected"
        return exam.fact([Difference("pool", factor, 1.0, words)], error, law_of(lambda x: factor * x.mean((2, 3))))
    words = f"weighs {int(live.sum())} of the {pixels} pixels of a {x.shape[2]}x{x.shape[3]} map"
    words += f", each by {number(float(weights[weights != 0][0]))}" if same else ", each differently"
    words += f"; all of them by {number(1 / pixels)} are expected"
    return exam.fact([Difference("pool", int(live.sum()), pixels, words)], error)
