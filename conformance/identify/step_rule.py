"""Rules of a training step: the numbers by which an optimizer changes one array, measured by least squares.

A step is taken from the candidate's own state, so that the array, its right gradient and what the optimizer keeps of it
are known before and after. The kept arrays and the change of the array are then sums of known arrays; the factors of
the sums are the learning rate, the decay, the momentum and what multiplies the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from conformance.identify.fact import NotIdentified, relative_error
from conformance.identify.link import Array, Arrays
from impls.recipe import Recipe

PREDICTED = 1e-10
"""Largest relative L2 error that a rule may leave of what an optimizer keeps, and of the change of an array.

It is that of the diagnosis by known faults: gradients of right candidates, which enter here, differ in the last digits,
and means of squares double that. The change is a hundredth of the array at most, so this is 1e-12 of the array."""

ROUNDING = 4 * float(np.finfo(np.float64).eps)
"""Error of a change, relative to the array that is changed, which rounding explains."""


@dataclass(frozen=True)
class StepRule:
    """The numbers by which a step changes one array `w` with the gradient `g`.

    With `e = factor * g + coupled * w`:

    - sgd: `v = kept * v + e`;
    - adamw: `m = kept * m + (1 - kept) * e` and `s = squares_kept * s + (1 - squares_kept) * e * e`;
    - both: `w -= rate * (d + decoupled * w)` with a direction `d` of `DIRECTIONS`; with `after`, `w -= rate * d` and
      then `w -= rate * decoupled * w`.

    Attributes:
        rate: Learning rate.
        factor: Factor of the gradient, that of clipping included.
        coupled: Weight decay that enters the gradient, an L2 penalty.
        decoupled: Weight decay that bypasses what the optimizer keeps.
        after: Whether the decoupled decay acts on what the step has left.
        kept: Share of the velocity, or of the mean of gradients, that is kept.
        squares_kept: Share of the mean of squares that is kept; adamw only.
        direction: Key of `DIRECTIONS`.
        forgets: Whether what is kept is zero after the step, whatever entered it.
        skipped: Whether the array, and what is kept of it, stay as they are.
    """

    rate: float
    factor: float
    coupled: float
    decoupled: float
    kept: float
    squares_kept: float = 0.0
    direction: str = "momentum"
    after: bool = False
    forgets: bool = False
    skipped: bool = False


@dataclass(frozen=True, eq=False)
class StepView:
    """State of one array before and after one step, with everything that its update can be made from.

    Attributes:
        recipe: The recipe.
        step: Number of the steps that have changed the array, this one included.
        gradient: The right gradient at the candidate's own weights, before it is clipped.
        weight: The array before the step.
        kept: What the optimizer kept before, by slot.
        new_weight: The array after the step.
        new_kept: What the optimizer keeps after it, by slot.
        past_squares: The mean of squares after each step so far, this one included; adamw only.
    """

    recipe: Recipe
    step: int
    gradient: Array
    weight: Array
    kept: Arrays
    new_weight: Array
    new_kept: Arrays
    past_squares: Sequence[Array] = ()

    @property
    def change(self) -> Array:
        """Difference of the array before the step and after it."""
        change: Array = self.weight - self.new_weight
        return change


def entering(view: StepView, rule: StepRule) -> Array:
    """Compute what enters the optimizer: the gradient with its factor, and the decay that is coupled to it."""
    entered: Array = rule.factor * view.gradient + rule.coupled * view.weight
    return entered


def velocity(view: StepView, rule: StepRule) -> Array:
    """Compute SGD's new velocity."""
    added: Array = rule.kept * view.kept["momentum_buffer"] + entering(view, rule)
    return added


def _adam(view: StepView, rule: StepRule, mean: Array, square: Array) -> Array:
    corrected = square / (1 - rule.squares_kept**view.step)
    step: Array = mean / (np.sqrt(corrected) + view.recipe.eps)
    return step


def _mean(view: StepView, rule: StepRule) -> Array:
    corrected: Array = view.new_kept["exp_avg"] / (1 - rule.kept**view.step)
    return corrected


def _nadam(view: StepView, rule: StepRule) -> Array:
    """Compute the direction of PyTorch's NAdam, after Dozat 2016, which keeps the product of its momenta in float32."""
    momenta = [rule.kept * (1 - 0.5 * 0.96 ** (0.004 * step)) for step in range(1, view.step + 2)]
    product = float(np.prod(np.array(momenta[:-1], np.float32)))
    old, new = view.kept["exp_avg"], view.new_kept["exp_avg"]
    entered = (new - rule.kept * old) / (1 - rule.kept)  # by what is kept, to the last digit
    mean = (1 - momenta[-2]) / (1 - product) * entered + momenta[-1] / (1 - product * momenta[-1]) * new
    return _adam(view, rule, mean, view.new_kept["exp_avg_sq"])


Direction = Callable[[StepView, StepRule], Array]

DIRECTIONS: dict[str, dict[str, Direction]] = {
    "sgd": {
        "momentum": velocity,
        "nesterov": lambda view, rule: entering(view, rule) + rule.kept * velocity(view, rule),
        "gradient": entering,
        "sign": lambda view, rule: np.sign(velocity(view, rule)),
    },
    "adamw": {
        "adam": lambda view, rule: _adam(view, rule, _mean(view, rule), view.new_kept["exp_avg_sq"]),
        "amsgrad": lambda view, rule: _adam(view, rule, _mean(view, rule), np.max(view.past_squares, axis=0)),
        "nadam": _nadam,
        "uncorrected": lambda view, rule: (
            view.new_kept["exp_avg"] / (np.sqrt(view.new_kept["exp_avg_sq"]) + view.recipe.eps)
        ),
        "sign": lambda view, rule: np.sign(view.new_kept["exp_avg"]),
        "mean": _mean,
    },
}
"""The direction in which an array is moved, for a learning rate of 1, by optimizer and name."""


def right_rule(recipe: Recipe, step: int, dimensions: int, clipped: float) -> StepRule:
    """Make the rule that a recipe asks for.

    Args:
        recipe: The recipe.
        step: Number of the step, counted from 1.
        dimensions: Number of axes of the array.
        clipped: Factor by which clipping multiplies the gradients of the step.
    """
    decay = recipe.weight_decay if recipe.decays(dimensions) else 0.0
    rate = recipe.rate(step - 1)
    if recipe.optimizer == "adamw":
        return StepRule(rate, clipped, 0.0, decay, recipe.beta1, recipe.beta2, "adam")
    return StepRule(rate, clipped, decay, 0.0, recipe.momentum, direction="nesterov" if recipe.nesterov else "momentum")


def predict(view: StepView, rule: StepRule) -> tuple[Array, dict[str, Array]]:
    """Compute what a rule takes off an array, and what the optimizer keeps after it."""
    if rule.skipped:
        return np.zeros_like(view.weight), dict(view.kept)
    entered = entering(view, rule)
    if view.recipe.optimizer == "adamw":
        mean = rule.kept * view.kept["exp_avg"] + (1 - rule.kept) * entered
        squares = rule.squares_kept * view.kept["exp_avg_sq"] + (1 - rule.squares_kept) * entered * entered
        kept = {"exp_avg": mean, "exp_avg_sq": squares}
    else:
        kept = {"momentum_buffer": velocity(view, rule)}
    if rule.forgets:
        kept = {slot: np.zeros_like(array) for slot, array in kept.items()}
    direction = DIRECTIONS[view.recipe.optimizer][rule.direction](view, rule)
    weight = view.weight - rule.rate * direction if rule.after else view.weight
    return rule.rate * (direction + rule.decoupled * weight), kept


def errors(view: StepView, rule: StepRule) -> tuple[float, float]:
    """Return the relative L2 errors that a rule leaves of what is kept, and of the change of the array.

    The second is zero where rounding of the array itself explains what is left.
    """
    with np.errstate(all="ignore"):
        change, kept = predict(view, rule)
        left = float(np.linalg.norm(change - view.change))
        size = float(np.linalg.norm(view.change))
    of_kept = max((relative_error(array, view.new_kept[slot]) for slot, array in kept.items()), default=0.0)
    if rule.skipped:
        return of_kept, left
    if left <= ROUNDING * float(np.linalg.norm(view.weight)):
        return of_kept, 0.0
    return of_kept, left / size if size and np.isfinite(left) else float("inf")


def measure(view: StepView, right: StepRule) -> StepRule:
    """Measure the rule by which an array was changed; properties that need not differ are those of the right rule.

    Raises:
        NotIdentified: If it is none of these rules.
    """
    if max(errors(view, right)) <= PREDICTED:
        return right
    skipped = replace(right, skipped=True)
    if errors(view, skipped) == (0.0, 0.0):
        return skipped
    rule = _measure_kept(view, right)
    return _measure_change(view, rule, right)


def _measure_kept(view: StepView, right: StepRule) -> StepRule:
    """Measure what enters the optimizer, and the shares that it keeps; the fewest that explain what it keeps."""
    if not any(array.any() for array in view.new_kept.values()) and view.change.any():
        return replace(right, forgets=True)
    first = "exp_avg" if view.recipe.optimizer == "adamw" else "momentum_buffer"
    columns = {"factor": view.gradient, "coupled": view.weight, "kept": view.kept[first]}
    share = 1 - right.kept if view.recipe.optimizer == "adamw" else 1.0
    expected = {"factor": share * right.factor, "coupled": share * right.coupled, "kept": right.kept}
    for factors in _fewest(columns, view.new_kept[first], expected):
        share = (1 - factors["kept"] if view.recipe.optimizer == "adamw" else 1.0) or 1.0
        factor, coupled = factors["factor"] / share, factors["coupled"] / share
        rule = replace(right, factor=factor, coupled=coupled, kept=factors["kept"])
        for each in (rule, _with_squares(view, rule)):
            if errors(view, each)[0] <= PREDICTED:
                return _nearest_to(right, each, KEPT, lambda nearer: errors(view, nearer)[0])
    raise NotIdentified("is moved by what is no multiple of its right gradient")


def _with_squares(view: StepView, rule: StepRule) -> StepRule:
    """Measure the share of the mean of squares that is kept, given what enters it."""
    if "exp_avg_sq" not in view.kept:
        return rule
    entered, old = entering(view, rule) ** 2, view.kept["exp_avg_sq"]
    # What is kept is entered + share * (old - entered).
    difference, target = old - entered, view.new_kept["exp_avg_sq"] - entered
    (share,) = _solve([difference], target) if difference.any() else (rule.squares_kept,)
    return replace(rule, squares_kept=share)


KEPT = ("factor", "coupled", "kept", "squares_kept")
"""Fields of a rule that what the optimizer keeps shows."""


def _measure_change(view: StepView, rule: StepRule, right: StepRule) -> StepRule:
    """Measure direction, learning rate and decoupled decay."""
    names = dict.fromkeys([right.direction, *DIRECTIONS[view.recipe.optimizer]])
    for name in names:
        rules = list(_along(view, replace(rule, direction=name), right))
        for each in rules:
            if errors(view, each)[1] <= PREDICTED:
                return _nearest_to(right, each, ("rate", "decoupled"), lambda nearer: errors(view, nearer)[1])
    raise NotIdentified("is moved in a direction that is none of those known")


def _along(view: StepView, rule: StepRule, right: StepRule) -> Iterator[StepRule]:
    """Yield the rules that move an array in a direction, with the fewest numbers that are not the right ones first."""
    with np.errstate(all="ignore"):
        direction = DIRECTIONS[view.recipe.optimizer][rule.direction](view, rule)
    if not np.isfinite(direction).all() or not direction.any():
        yield replace(rule, rate=right.rate, decoupled=right.decoupled)
        return
    rule = replace(rule, rate=right.rate, decoupled=right.decoupled)
    (multiple,) = _solve([direction + right.decoupled * view.weight], view.change)
    yield rule
    yield replace(rule, rate=multiple)
    for after in (False, True):
        weight = view.weight - right.rate * direction if after else view.weight
        if weight.any() and right.rate:
            (shrinking,) = _solve([weight], view.change - right.rate * direction)
            yield replace(rule, decoupled=shrinking / right.rate, after=after)
    if view.weight.any():
        rate, shrinking = _solve([direction, view.weight], view.change)
        yield replace(rule, rate=rate, decoupled=shrinking / rate if rate else 0.0)


def _fewest(columns: Mapping[str, Array], target: Array, expected: Mapping[str, float]) -> Iterator[dict[str, float]]:
    """Find the factors with which arrays add up to another one: none other than expected, then one, then several.

    An array of zeros has the factor that is expected.
    """
    used = [name for name, array in columns.items() if array.any()]
    for count in range(len(used) + 1):
        for free in combinations(used, count):
            fixed = [expected[name] * columns[name] for name in columns if name not in free]
            rest = np.subtract(target, sum(fixed, np.zeros_like(target)))
            yield {**expected, **dict(zip(free, _solve([columns[name] for name in free], rest), strict=True))}


def _solve(columns: Sequence[Array], target: Array) -> list[float]:
    """Solve for the factors of some arrays by least squares; arrays of any size count alike."""
    if not columns:
        return []
    sizes = [float(np.linalg.norm(column)) for column in columns]
    matrix = np.stack([column.ravel() / size for column, size in zip(columns, sizes, strict=True)], 1)
    solution, *_ = np.linalg.lstsq(matrix, target.ravel(), rcond=None)
    return [float(value) / size for value, size in zip(solution, sizes, strict=True)]


def _nearest_to(right: StepRule, rule: StepRule, names: Sequence[str], error: Callable[[StepRule], float]) -> StepRule:
    """Give a rule the right values of all properties that need not differ, and zero where that does as well."""
    for name in names:
        values: list[Any] = [getattr(right, name), 0.0]
        nearer = (replace(rule, **{name: value}) for value in values)
        rule = next((each for each in nearer if error(each) <= PREDICTED), rule)
    return rule
