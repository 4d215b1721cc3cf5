"""Facts of training steps: what differs in the rules of arrays, steps and recipes, gathered and put into words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from conformance.cases.names import OFFSET
from conformance.cases.recipes import RECIPES, STEPS
from conformance.identify.fact import LISTED, Fact, number
from conformance.identify.step_rule import PREDICTED, StepRule


class Place(NamedTuple):
    """An array in a step of a recipe."""

    recipe: str
    step: int
    name: str


@dataclass(frozen=True)
class Spread:
    """The values of a property in the steps and recipes in which that of some arrays differs from the right one.

    Attributes:
        recipes: The recipes.
        measured: Measured value by step.
        expected: The right value by step.
        everywhere: Whether these are all arrays.
        norms: Norm of all right gradients together by step.
    """

    recipes: tuple[str, ...]
    measured: Mapping[int, Any]
    expected: Mapping[int, Any]
    everywhere: bool
    norms: Mapping[int, float]

    @property
    def constant(self) -> bool:
        """Tell whether the measured value is the same in all steps, and the expected one, too."""
        return all(len({*map(_key, values.values())}) == 1 for values in (self.measured, self.expected))

    @property
    def value(self) -> Any:
        """The measured value of the first step."""
        return next(iter(self.measured.values()))

    @property
    def right(self) -> Any:
        """The right value of the first step."""
        return next(iter(self.expected.values()))


@dataclass(frozen=True)
class Property:
    """A property of rules that facts are about.

    Attributes:
        name: The property.
        value: Takes a rule and the recipe to the property's value.
        words: Says how it differs, as a predicate.
        put: Gives a rule another value of the property.
    """

    name: str
    value: Callable[[StepRule, str], Any]
    words: Callable[[Spread], str]
    put: Callable[[StepRule, str, Any], StepRule]


def _share(rule: StepRule, recipe: str) -> float:
    """Return the learning rate as a share of the recipe's full one: what schedule and warm-up make of it."""
    return rule.rate / RECIPES[recipe].learning_rate


def _rate_words(spread: Spread) -> str:
    ratios = {step: spread.measured[step] / spread.expected[step] for step in spread.measured}
    if len(ratios) == STEPS and len({*map(_key, ratios.values())}) == 1:
        ratio = ratios[1]
        words = f"is moved with {number(ratio)} times the learning rate that is expected"
        average = f", as where an average of the weights with a share of {number(1 - ratio)} stands in their place"
        return words + (average if spread.everywhere and 0 < ratio < 1 else "")
    measured, expected = _listed(spread.measured), _listed(spread.expected)
    are = "is" if len(spread.measured) == 1 else "are"
    words = f"is moved with a learning rate of {measured} of its full value"
    return f"{words}; by warm-up and schedule {expected} {are} expected"


def _factor_words(spread: Spread) -> str:
    if spread.constant or len({_key(spread.measured[s] / spread.expected[s]) for s in spread.measured}) == 1:
        return f"has its gradient multiplied by a factor of {number(spread.value / spread.right)}"
    joint = {_key(value * spread.norms[step]) for step, value in spread.measured.items()}
    if len(joint) == 1 and spread.everywhere:
        return f"has its gradient scaled so that all gradients together have the norm {number(*joint)} in each step"
    measured, expected = _listed(spread.measured), _listed(spread.expected)
    return f"has its gradient multiplied by {measured}; by clipping {expected} is expected"


def _decay_words(spread: Spread) -> str:
    return f"has {_decay(spread.value)}; {_decay(spread.right)} is expected"


def _decay(value: tuple[float, float, bool]) -> str:
    coupled, decoupled, after = value
    parts = []
    if coupled:
        parts.append(f"a weight decay of {number(coupled)} that enters its gradient")
    if decoupled:
        when = "after the step, on what the step has left" if after else "beside the step"
        parts.append(f"a weight decay of {number(decoupled)} {when}")
    return " and ".join(parts) or "no weight decay"


def _kept_words(what: str) -> Callable[[Spread], str]:
    return lambda spread: (
        f"keeps a share of {_listed(spread.measured)} of {what}; {_listed(spread.expected)} is expected"
    )


DIRECTION_WORDS = {
    "momentum": "its velocity",
    "nesterov": "Nesterov's step ahead",
    "gradient": "its gradient alone, without momentum",
    "sign": "the sign of what the optimizer keeps, as in Lion or signSGD",
    "adam": "Adam's step",
    "amsgrad": "AMSGrad's step, in which the largest mean of squares so far divides",
    "nadam": "NAdam's step, which looks ahead as Nesterov's momentum does",
    "uncorrected": "Adam's step without the correction of its means for their start at zero",
    "mean": "the mean of its gradients, which no mean of squares divides",
}
"""Directions of `conformance.identify.step_rule.DIRECTIONS` in words."""


def _skipped_words(spread: Spread) -> str:
    return "is not trained: no step changes it" if len(spread.measured) == STEPS else "stays as it is"


def _direction_words(spread: Spread) -> str:
    return f"is moved by {DIRECTION_WORDS[spread.value]}; by {DIRECTION_WORDS[spread.right]} is expected"


def _put_decay(rule: StepRule, recipe: str, value: tuple[float, float, bool]) -> StepRule:
    coupled, decoupled, after = value
    return replace(rule, coupled=coupled, decoupled=decoupled, after=after)


def _field(name: str) -> dict[str, Any]:
    return {
        "value": lambda rule, recipe: getattr(rule, name),
        "put": lambda rule, recipe, value: replace(rule, **{name: value}),
    }


PROPERTIES = (
    Property("skipped", words=_skipped_words, **_field("skipped")),
    Property("direction", words=_direction_words, **_field("direction")),
    Property(
        "learning rate",
        _share,
        _rate_words,
        lambda rule, recipe, value: replace(rule, rate=value * RECIPES[recipe].learning_rate),
    ),
    Property("factor of the gradient", words=_factor_words, **_field("factor")),
    Property("weight decay", lambda rule, recipe: (rule.coupled, rule.decoupled, rule.after), _decay_words, _put_decay),
    Property("momentum", words=_kept_words("its velocity or mean of gradients"), **_field("kept")),
    Property("squares kept", words=_kept_words("its mean of squares"), **_field("squares_kept")),
    Property(
        "forgets", words=lambda spread: "has its velocity or means set to zero after the step", **_field("forgets")
    ),
)
"""The properties of rules, in the order in which facts about them are said."""


def gathered(
    rules: Mapping[Place, StepRule], rights: Mapping[Place, StepRule], norms: Mapping[tuple[str, int], float]
) -> tuple[list[Fact], dict[Place, StepRule]]:
    """Say what differs between rules and the right ones, once for all arrays, steps and recipes that are alike.

    Args:
        rules: The measured rule of each array in each step.
        rights: The right ones.
        norms: Norm of all right gradients together, by recipe and step.

    Returns:
        The facts, and the rules that they amount to: the right ones, with the values that are said.
    """
    facts, said = [], dict(rights)
    every = list(dict.fromkeys(place.name for place in rules))
    for each in PROPERTIES:
        found: dict[tuple[Any, ...], dict[str, list[str]]] = {}
        for (recipe, name), values in _deviating(each, rules, rights).items():
            expected = {step: each.value(rights[Place(recipe, step, name)], recipe) for step in values}
            found.setdefault(_signature(values, expected), {}).setdefault(recipe, []).append(name)
        for (steps, *_), by_recipe in found.items():
            for names, recipes in _alike(by_recipe).items():
                places = [Place(recipes[0], step, names[0]) for step in steps]
                everywhere = {*names} >= {name for name in every if not OFFSET.fullmatch(name)}
                for recipe in reversed(recipes):
                    measured = {
                        step: _typical([each.value(rules[Place(recipe, step, name)], recipe) for name in names])
                        for step in steps
                    }
                    for place in (Place(recipe, step, name) for step in steps for name in names):
                        said[place] = each.put(said[place], recipe, measured[place.step])
                expected = {place.step: each.value(rights[place], place.recipe) for place in places}
                of_steps = {step: norms[recipes[0], step] for step in steps}
                facts.append(_fact(each, Spread(recipes, measured, expected, everywhere, of_steps), names, every))
    return facts, said


def _signature(measured: Mapping[int, Any], expected: Mapping[int, Any]) -> tuple[Any, ...]:
    """Return what deviations that are said together have in common: the steps, and their values.

    Where all values are the same multiple of the right ones, that multiple is enough.
    """
    steps = tuple(measured)
    numbers = [value for value in (*measured.values(), *expected.values()) if isinstance(value, float) and value]
    if len(numbers) == 2 * len(steps):
        ratios = {_key(measured[step] / expected[step]) for step in steps}
        if len(ratios) == 1:
            return (steps, *ratios)
    return steps, *((_key(measured[step]), _key(expected[step])) for step in steps)


def _deviating(
    each: Property, rules: Mapping[Place, StepRule], rights: Mapping[Place, StepRule]
) -> dict[tuple[str, str], dict[int, Any]]:
    """Collect the values of a property that are not the right ones, by recipe and array, and by step."""
    found: dict[tuple[str, str], dict[int, Any]] = {}
    for place, rule in rules.items():
        value = each.value(rule, place.recipe)
        if value != each.value(rights[place], place.recipe):
            found.setdefault((place.recipe, place.name), {})[place.step] = value
    return found


def _alike(by_recipe: Mapping[str, Sequence[str]]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Gather the recipes in which a value is that of the same arrays."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for recipe, names in by_recipe.items():
        found[tuple(names)] = (*found.get(tuple(names), ()), recipe)
    return found


def _fact(each: Property, spread: Spread, names: Sequence[str], every: Sequence[str]) -> Fact:
    where = _where(each, spread)
    subject = array_words(names, every) + where
    measured = {str(step): _plain(value) for step, value in spread.measured.items()}
    expected = {str(step): _plain(value) for step, value in spread.expected.items()}
    return Fact(
        names[0],
        "training step",
        each.words(spread),
        {each.name: measured},
        {each.name: expected},
        PREDICTED,
        layers=tuple(names),
        subject=subject,
    )


def _where(each: Property, spread: Spread) -> str:
    """Say in which steps and recipes something differs; nothing where it does in all."""
    steps = list(spread.measured)
    first = 2 if each.name in ("momentum", "squares kept") else 1  # the first step keeps nothing yet
    words = "" if steps == list(range(1, STEPS + 1)) or steps == list(range(first, STEPS + 1)) else step_words(steps)
    recipes = "" if len(spread.recipes) == len(RECIPES) else f" of {joined(spread.recipes)}"
    if not words and recipes:
        words = " in every step"
    return f",{words}{recipes}," if words else ""


def step_words(steps: Sequence[int]) -> str:
    """Name steps.

    Example:
        >>> step_words([3]), step_words([2, 5]), step_words([4, 5, 6, 7, 8])
        (' in step 3', ' in steps 2 and 5', ' from step 4 on')
    """
    if len(steps) == 1:
        return f" in step {steps[0]}"
    if list(steps) == list(range(steps[0], STEPS + 1)):
        return f" from step {steps[0]} on"
    return f" in steps {joined(map(str, steps))}"


def array_words(names: Sequence[str], every: Sequence[str]) -> str:
    """Name some arrays in the fewest words; arrays whose gradient is noise need not be among them.

    Example:
        >>> array_words(["fc.weight", "fc.bias"], ["conv1.weight", "fc.weight", "fc.bias"])
        'each of fc.weight and fc.bias'
    """
    if len(names) == 1:
        return names[0]
    sure = {name for name in names if not OFFSET.fullmatch(name)}
    for words, among in _groups(every):
        if {name for name in among if not OFFSET.fullmatch(name)} == sure:
            return f"each {words}"
    rest = [name for name in every if name not in sure and not OFFSET.fullmatch(name)]
    if len(names) > LISTED >= len(rest):
        return f"each array but {joined(rest)}"
    if len(names) <= LISTED:
        return f"each of {joined(names)}"
    return f"each of {', '.join(names[: LISTED - 1])} and {len(names) - LISTED + 1} others alike"


def _groups(every: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield groups of arrays that have a name of their own, the largest first."""

    def is_kernel(name: str) -> bool:
        return name.endswith(".weight") and not _is_norm(name)

    yield "array", [*every]
    yield "kernel of a convolution or classifier", [name for name in every if is_kernel(name)]
    yield "scale, offset and bias (all arrays but kernels)", [name for name in every if not is_kernel(name)]
    yield "scale and offset of a norm", [name for name in every if _is_norm(name)]
    yield "scale of a norm", [name for name in every if _is_norm(name) and name.endswith(".weight")]
    yield "kernel of a convolution", [name for name in every if is_kernel(name) and not name.startswith("fc")]
    for stage in ("stage1", "stage2", "stage3", "stage4"):
        yield f"array of {stage}", [name for name in every if name.startswith(f"{stage}.")]


def _is_norm(name: str) -> bool:
    layer = name.split(".")[-2]
    return layer.startswith("bn") or layer.endswith("_bn")


def _listed(values: Mapping[int, Any]) -> str:
    distinct = list(values.values())
    return number(distinct[0]) if len({*map(_key, distinct)}) == 1 else joined(map(number, distinct))


def joined(parts: Iterable[str]) -> str:
    """Join words by commas and "and"."""
    *some, last = parts
    return f"{', '.join(some)} and {last}" if some else last


def _key(value: Any) -> Any:
    """Round a value to six digits, by which values of several arrays are recognised as the same."""
    if isinstance(value, tuple):
        return tuple(map(_key, value))
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _typical(values: Sequence[Any]) -> Any:
    """Return the number that measured values stand for: one of six digits if it is that near, else their median."""
    first = values[0]
    if isinstance(first, tuple):
        return tuple(_typical(part) for part in zip(*values, strict=True))
    if not isinstance(first, float):
        return first
    median = float(np.median(values))
    near = float(f"{median:.6g}")
    return near if abs(near - median) <= 1e-9 * abs(median) else median


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
