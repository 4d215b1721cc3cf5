"""Sums of branch and shortcut: which activations are added, with which weights, and which activation follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np

from conformance.identify.curve import CURVES, NONE, RELU, Curve, leaky, rounded
from conformance.identify.fact import PREDICTED, Difference, Exam, Fact, Law, NotIdentified, number, relative_error
from conformance.identify.geometry import solve
from conformance.identify.kernel import describe_order
from conformance.identify.link import Array, Arrays, Link

BATCH, SIDES = 4, (6, 8)
"""Images, and height and width, of the probes of sums."""

NO_WEIGHT = 1e-11
"""Largest weight that counts as zero."""

AFTER = ("no activation", "ReLU", "ReLU6", "SiLU", "GELU", "GELU in its tanh form", "ELU", "hard swish", "tanh")
"""Activations that are tried behind a sum; leaky ones are tried, too."""


@dataclass(frozen=True)
class MeasuredSum:
    """A weighted sum of activations, each behind a curve of its own, and the curve behind the sum.

    Attributes:
        terms: For each activation that is added: its name, its weight and its curve.
        after: The curve behind the sum.
    """

    terms: tuple[tuple[str, float, Curve], ...]
    after: Curve

    def __call__(self, inputs: Mapping[str, Array]) -> Array:
        """Compute the sum of activations by name."""
        total = sum(weight * curve(inputs[name]) for name, weight, curve in self.terms)
        return self.after(np.asarray(total))


def questions(
    link: Link, random: np.random.Generator, sources: Mapping[str, tuple[int, int]]
) -> dict[str, dict[str, Array]]:
    """Make activations of noise for all that a block has of the same shape as its sum.

    Args:
        link: The sum.
        random: Source of the numbers.
        sources: Activation name to its channels and the factor of its height and width to those of the sum.

    Returns:
        By part of the measurement, arrays by activation name.
    """
    return {
        part: {
            name: random.normal(0.0, 3.0, (BATCH, channels, SIDES[0] * factor, SIDES[1] * factor))
            for name, (channels, factor) in sources.items()
        }
        for part in ("first", "held-out")
    }


def measure(asked: Mapping[str, Mapping[str, Array]], answers: Mapping[str, Array]) -> tuple[MeasuredSum, float]:
    """Measure a sum: from the first probe, with the error that it leaves of the held-out one.

    Raises:
        NotIdentified: If no weighted sum of the block's activations explains the outputs.
    """
    first, held_out = answers["first"], answers["held-out"]
    if not np.all(np.isfinite(first)):
        raise NotIdentified("gives NaN or infinity for ordinary numbers")
    inputs = {name: array for name, array in asked["first"].items() if array.shape == first.shape}
    if not inputs:
        raise NotIdentified(f"has another shape than branch and shortcut: {first.shape}")
    for after, terms in _candidates(inputs, first):
        found = MeasuredSum(terms, after)
        error = relative_error(found(asked["held-out"]), held_out)
        if error <= PREDICTED:
            return found, error
    raise NotIdentified("is no weighted sum of the activations of its block behind a known activation")


def describe_scaled_branch(exam: Exam) -> Difference | None:
    """Recognise a branch that is weighed anew for each image or channel, behind which a ReLU stands; None if it is not.

    Where the sum is above zero, each image and channel tells the weight of its branch and of its shortcut.
    """
    inputs, y = [exam.asked["first"].get(name) for name in exam.link.inputs], exam.answers["first"]
    if any(x is None or x.shape != y.shape for x in inputs):
        return None
    branch, shortcut = (np.asarray(x) for x in inputs)
    weights = np.full(y.shape[:2], np.nan)
    for image, channel in np.ndindex(*y.shape[:2]):
        live = y[image, channel] > 0
        if live.sum() < 4:
            continue
        columns = np.stack([branch[image, channel][live], shortcut[image, channel][live]], 1)
        solution, *_ = np.linalg.lstsq(columns, y[image, channel][live], rcond=None)
        left = columns @ solution - y[image, channel][live]
        if np.linalg.norm(left) > 1e-10 * np.linalg.norm(y[image, channel]) or abs(solution[1] - 1) > 1e-9:
            return None
        weights[image, channel] = solution[0]
    if np.nanmax(np.nanmax(weights, 1) - np.nanmin(weights, 1)) <= 1e-9:
        each = ", ".join(number(value) for value in dict.fromkeys(float(f"{w:.9g}") for w in np.nanmean(weights, 1)))
        words = f"adds the branch with a weight of its own for each image ({each} here), as stochastic depth does"
        return Difference("weight of the branch", "per image", 1.0, words)
    low, high = float(np.nanmin(weights)), float(np.nanmax(weights))
    words = (
        f"adds the branch with a weight of its own for each image and channel ({number(low)} to {number(high)} here)"
    )
    return Difference("weight of the branch", "per image and channel", 1.0, f"{words}, as squeeze-and-excitation does")


def identify_permuted(exam: Exam) -> Fact | None:
    """Recognise a sum behind a ReLU whose branch or shortcut has its channels in another order; None if it is none."""
    before = RELU if exam.link.after_relu else NONE
    for moved, kept in ((1, 0), (0, 1)):
        y = exam.answers["first"]
        inputs = [exam.asked["first"].get(name) for name in exam.link.inputs]
        if any(x is None or x.shape != y.shape for x in inputs):
            return None
        left = [before(np.asarray(inputs[0])), np.asarray(inputs[1])]
        order = _order_behind_relu(y, left[kept], left[moved])
        if order is None:
            continue
        compute = partial(_permuted_sum, before, order, moved)
        if exam.error(lambda values, c=compute: c(values, exam.link.inputs)) <= PREDICTED:
            role = ("branch", "shortcut")[moved]
            words, name, _ = describe_order(order, role)
            said = words.replace(f"its {role} channels", f"the channels of its {role}").replace(
                f" {role} channels", f" channels of its {role}"
            )
            difference = Difference(f"channels of the {role}", name, "in order", said)
            return exam.fact([difference], 0.0, _law(compute))
    return None


def _order_behind_relu(y: Array, kept: Array, moved: Array) -> Array | None:
    """Find the channel of one summand for each channel of a sum, where the sum is above zero; None if there is none."""
    order = np.empty(y.shape[1], int)
    for channel in range(y.shape[1]):
        live = y[:, channel] > 0
        rest = (y - kept)[:, channel][live]
        distances = np.abs(moved.swapaxes(0, 1)[:, live] - rest).max(1, initial=0.0)
        order[channel] = distances.argmin()
        if not live.any() or distances.min() > 1e-9:
            return None
    return order


def _permuted_sum(before: Curve, order: Array, moved: int, inputs: Mapping[str, Array], names: Sequence[str]) -> Array:
    parts = [before(inputs[names[0]]), inputs[names[1]]]
    parts[moved] = parts[moved][:, order]
    result: Array = np.maximum(parts[0] + parts[1], 0)
    return result


def _maximum(inputs: Mapping[str, Array], names: Sequence[str]) -> Array:
    larger: Array = np.maximum(np.maximum(inputs[names[0]], inputs[names[1]]), 0)
    return larger


Pair = Callable[[Mapping[str, Array], Sequence[str]], Array]
"""Takes activations by name, and the names of branch and shortcut, to a sum's output."""

PAIRS: dict[str, Pair] = {
    "the larger of branch and shortcut": _maximum,
    "the absolute value of the sum": lambda inputs, names: np.abs(inputs[names[0]] + inputs[names[1]]),
    "the square of the sum": lambda inputs, names: (inputs[names[0]] + inputs[names[1]]) ** 2,
    "the product of branch and shortcut": lambda inputs, names: np.maximum(inputs[names[0]] * inputs[names[1]], 0),
}
"""Functions of branch and shortcut that are no sums, in words."""


def _candidates(inputs: Mapping[str, Array], y: Array) -> Iterator[tuple[Curve, tuple[tuple[str, float, Curve], ...]]]:
    """Yield sums that explain an output: least squares solve for what is added where the last curve can be undone."""
    afters = [curve for curve in CURVES if curve.name in AFTER]
    for after, kind in product([RELU, *afters], PARTS):
        known, values = undone(after, y)
        if known.sum() < 64:
            continue
        columns = {(name, curve.name): curve(x)[known] for name, x in inputs.items() for curve in PARTS[kind]}
        try:
            solution = solve(np.stack(list(columns.values()), 1), values[:, None])[:, 0]
        except NotIdentified:
            continue
        left = np.stack(list(columns.values()), 1) @ solution - values
        if np.linalg.norm(left) > PREDICTED * np.linalg.norm(values):
            continue
        weights = dict(zip(columns, solution, strict=True))
        terms = tuple(_terms(weights, inputs))
        yield after, terms
        if after is RELU:
            yield from ((curve, terms) for curve in _leaky(terms, inputs, y))


PARTS = {
    "plain": (NONE,),
    "broken lines": (NONE, RELU),
    "curves": tuple(curve for curve in CURVES if curve.name in ("ReLU", "ReLU6", "SiLU", "GELU", "ELU", "tanh")),
}
"""Curves whose combinations are tried on each term; the first makes every ReLU, leaky ReLU and absolute value."""


def _terms(weights: Mapping[tuple[str, str], float], inputs: Mapping[str, Array]) -> Iterator[tuple[str, float, Curve]]:
    """Yield the terms of a sum: an identity and a ReLU of one activation are together one broken line."""
    curves = {curve.name: curve for curve in CURVES}
    for name in inputs:
        own = {
            curve: weight for (source, curve), weight in weights.items() if source == name and abs(weight) > NO_WEIGHT
        }
        if NONE.name in own:
            below = own[NONE.name]
            above = below + own.get(RELU.name, 0.0)
            if abs(above - below) <= NO_WEIGHT:
                yield name, rounded(above), NONE
            elif abs(above) > NO_WEIGHT:
                yield name, rounded(above), leaky(rounded(below / above))
        else:
            yield from ((name, rounded(weight), curves[curve]) for curve, weight in own.items())


def undone(after: Curve, y: Array) -> tuple[Array, Array]:
    """Undo a curve where that is possible: where it is known, and the values before it there.

    All curves here rise for numbers above 1, so what they give for those can be undone by bisection.
    """
    if after is NONE:
        return np.ones(y.shape, bool), y.ravel()
    if after is RELU:
        return y > 0, y[y > 0]
    top = float(after(np.array([5.5]))[0])
    known = (y > float(after(np.array([1.0]))[0])) & (y < top)
    low, high = np.ones(int(known.sum())), np.full(int(known.sum()), 6.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = after(middle) < y[known]
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return known, (low + high) / 2


def _leaky(terms: tuple[tuple[str, float, Curve], ...], inputs: Mapping[str, Array], y: Array) -> Iterator[Curve]:
    """Yield the leaky ReLU whose slope the outputs below zero tell."""
    before = MeasuredSum(terms, NONE)(inputs)
    negative = before < -1e-3
    if negative.any():
        slope = rounded(float((y[negative] * before[negative]).sum() / (before[negative] ** 2).sum()))
        if slope not in (0.0, 1.0):
            yield leaky(slope)


def identify(exam: Exam) -> Fact:
    """Measure a sum, and say in which properties it is not the expected one.

    Raises:
        NotIdentified: If no weighted sum explains the outputs.
    """
    link = exam.link
    for words, function in PAIRS.items():
        if exam.error(lambda values, f=function: f(values, link.inputs)) <= PREDICTED:
            difference = Difference("sum", words, "sum", f"takes {words}; ReLU of the sum is expected")
            return exam.fact([difference], 0.0, _law(function))
    try:
        found, error = measure(exam.asked, exam.answers)
    except NotIdentified:
        if permuted := identify_permuted(exam):
            return permuted
        scaled = describe_scaled_branch(exam)
        if scaled is None:
            raise
        return exam.fact([scaled])
    branch, shortcut = link.inputs
    before = RELU if link.after_relu else NONE
    differences = [*_differences(found, branch, shortcut, before)]

    def law(other: Link, inputs: Arrays, arrays: Arrays, config: object, train: bool) -> Array:
        terms = tuple((_renamed(name, link, other), weight, curve) for name, weight, curve in found.terms)
        return MeasuredSum(terms, found.after)(inputs)

    return replace(exam.fact(differences, error, law), fault=_fault(differences))


def _fault(differences: Sequence[Difference]) -> str:
    """Return the catalogue's row that says all differences of a sum; empty if there is none."""
    faults = {difference.fault for difference in differences}
    if faults == {"relu-after-missing", "relu-before-add"}:
        return "relu-on-branch"
    return faults.pop() if len(differences) == 1 else ""


def _law(function: Pair) -> Law:
    return lambda link, inputs, *rest: function(inputs, link.inputs)


def _renamed(name: str, link: Link, other: Link) -> str:
    """Return the activation that plays the same part in another block."""
    roles = dict(zip(link.inputs, other.inputs, strict=True))
    if link.name == other.name:
        return name
    if name in roles:
        return roles[name]
    if name.startswith(f"{link.name}."):
        return other.name + name.removeprefix(link.name)
    raise NotIdentified("adds an activation that other blocks do not have")


def _differences(found: MeasuredSum, branch: str, shortcut: str, before: Curve) -> Iterator[Difference]:
    terms: dict[str, list[tuple[float, Curve]]] = {}
    for name, weight, curve in found.terms:
        terms.setdefault(name, []).append((weight, curve))
    if found.after is not RELU:
        words = f"has {found.after.name} after the addition, where a ReLU is expected"
        yield Difference(
            "activation after the addition",
            found.after.name,
            RELU.name,
            words,
            "relu-after-missing" if found.after is NONE else "",
        )
    for name, role, curve in ((branch, "branch", before), (shortcut, "shortcut", NONE)):
        if name not in terms:
            words = f"does not add the {role} ({name})"
            yield Difference(role, "missing", "added", words, "shortcut-missing" if role == "shortcut" else "")
            continue
        for weight, measured in terms[name]:
            if measured != curve:
                yield _curve_difference(role, measured, curve)
            if weight != 1.0:
                yield Difference(
                    f"weight of the {role}", weight, 1.0, f"adds {number(weight)} times the {role}; once is expected"
                )
    for name in terms.keys() - {branch, shortcut}:
        times = ", ".join(
            f"{number(weight)} times {curve.name + ' of ' if curve is not NONE else ''}{name}"
            for weight, curve in terms[name]
        )
        fault = "shortcut-bn-missing" if name.endswith("downsample_conv") and shortcut not in terms else ""
        yield Difference("added", name, "nothing else", f"adds {times}", fault)


def _curve_difference(role: str, measured: Curve, curve: Curve) -> Difference:
    words = f"takes {measured.name} of the {role} before the addition; {curve.name} is expected"
    if curve is NONE:
        words = f"takes {measured.name} of the {role} before the addition, where no activation is expected"
    faults = {
        ("branch", RELU.name, NONE.name): "relu-before-add",
        ("branch", NONE.name, RELU.name): "relu-before-add-missing",
        ("shortcut", RELU.name, NONE.name): "shortcut-relu",
    }
    fault = faults.get((role, measured.name, curve.name), "")
    return Difference(f"activation of the {role}", measured.name, curve.name, words, fault)
