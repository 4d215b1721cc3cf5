"""The data model of faults: a row says what goes wrong, where it can be, and how to make it happen in any candidate.

A row changes one of seven things, in the same way for all candidates: the weights (a function of canonical
arrays), the configuration, the text of the model (the four files read alike), the images, the recipe of training, the
text of training, or the text of the model where it draws initial weights. A fault of gradients changes two texts: that
of the model in the frameworks, which differentiate it, and that of training in NumPy, where the gradients are written
out. An `Injection` is a fault at one place; the oracle and the frameworks are given the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any, Literal

import numpy as np

from conformance.faults.edit import FRAMEWORKS, HERE, VALUE, Edits, FrameworkEdits, Pairs, by_framework, replaced
from conformance.faults.place import TRAINING, Place, Where, networks_without, places
from conformance.faults.remedies import Remedies
from impls.config import ResNetConfig
from impls.recipe import Recipe

Arrays = Mapping[str, np.ndarray]
WeightsChange = Callable[[Arrays, Place, ResNetConfig, float], Arrays]
ImagesChange = Callable[[np.ndarray, float], np.ndarray]


class Seen(Enum):
    """Where a check can notice a fault."""

    FORWARD = "inference mode"
    FORWARD_FLOAT64 = "inference mode (float64 only)"
    FORWARD_TRAIN = "train mode"
    STATISTICS = "running statistics"
    PREPROCESSING = "preprocessing"
    GRADIENTS = "gradients"
    STEPS = "training steps"
    INITIALISATION = "initial weights"


@dataclass(frozen=True)
class Parameter:
    """A number in a fault that is not known beforehand, and that the diagnosis estimates.

    In a row's configuration or recipe it stands for the value of its field.

    Attributes:
        name: What it is called ("eps").
        injected: The value that the self-test injects.
        starts: Where the estimate may start from.
        positive: Whether it is above zero; it is then searched on a logarithmic scale.
    """

    name: str
    injected: float
    starts: tuple[float, ...]
    positive: bool = True


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One porting bug.

    Attributes:
        id: Its name, which is its key in the rows.
        what: What is wrong, in one line.
        where: The places where it can be.
        remedies: What to do about it, in each framework.
        source: Where people met it: issues ("keras#16363"), libraries, papers; "-" if no report is known.
        seen_in: Where a check can notice it.
        weights: Changes canonical arrays: a function of (arrays, place, config, parameter) to the arrays that differ.
        config: Wrong fields of `ResNetConfig`: a value, or the parameter; a network that has these values anyway cannot
            have the fault.
        model: Substitutions in the text of the model, by framework.
        images: Changes images of (batch, channels, height, width): a function of (images, parameter) to images.
        recipe: Wrong fields of a training recipe: a value, the parameter, or a function of (recipe, parameter) to one.
        training: Substitutions in the text of training, by framework.
        initial: Substitutions in the text of the model that change what initial weights are drawn from, by framework.
        keeps: Whether it hands something from one training step to the next, beside the optimizer's own state.
        precision: The lowest-cost precision in which it shows.
        harmless: Why it changes nothing, and when it would; empty for a fault that has an effect.
        harmless_where: The places where that is so; None for all.
        unknown: The number in the other changes that is not known beforehand.
    """

    id: str = ""
    what: str
    where: Where
    remedies: Remedies
    source: str = "-"
    seen_in: tuple[Seen, ...] = (Seen.FORWARD,)
    weights: WeightsChange | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    model: FrameworkEdits = field(default_factory=dict)
    images: ImagesChange | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    training: FrameworkEdits = field(default_factory=dict)
    initial: FrameworkEdits = field(default_factory=dict)
    keeps: bool = False
    precision: Literal["float64", "float32"] = "float64"
    harmless: str = ""
    harmless_where: Where | None = None
    unknown: Parameter | None = None

    @property
    def parameter(self) -> Parameter | None:
        """The number in it that is not known beforehand."""
        values = (self.unknown, *self.config.values(), *self.recipe.values())
        return next((value for value in values if isinstance(value, Parameter)), None)

    @property
    def condition(self) -> Where:
        """The places where it can be, in networks whose configuration it would change."""
        fixed = {name: value for name, value in self.config.items() if not isinstance(value, Parameter)}
        return self.where & networks_without(**fixed) if fixed else self.where

    def places(self, config: ResNetConfig) -> list[Place]:
        """Where the fault can be in a network, in the order it runs."""
        condition = self.condition
        return [place for place in places(config) if condition.holds(place, config)]

    def harmless_at(self, place: Place, config: ResNetConfig) -> str:
        """Why the fault changes nothing at a place; empty where it has an effect."""
        return self.harmless if self.harmless_where is None or self.harmless_where.holds(place, config) else ""

    def can_be_in(self, framework: str) -> bool:
        """Tell whether a framework can have the fault: if a text is to be wrong, the row must say how."""
        texts = self.model.keys() | self.training.keys() | self.initial.keys()
        return not texts or framework in texts

    @property
    def task(self) -> str:
        """The task of `conformance.cases.recipes.TASKS` that sees it first."""
        if self.initial:
            return "initialisation"
        if not (self.recipe or self.training):
            return "forward"
        return "gradients" if Seen.GRADIENTS in self.seen_in else "steps"


def text_fault(text: Literal["model", "training", "initial"], **facts: Any) -> Fault:
    """Make a fault in a text, whose substitutions in each framework are arguments named after the frameworks.

    Args:
        text: Which text it is in.
        facts: Fields of `Fault`; `numpy`, `torch`, `flax` and `keras`, pairs of texts (old, new); and `line`, the old
            text, where the frameworks' arguments are new texts alone.
    """
    edits = {framework: facts.pop(framework) for framework in FRAMEWORKS if framework in facts}
    line = facts.pop("line", None)
    facts[text] = by_framework(**edits) if line is None else replaced(line, **edits)
    return Fault(**facts)


def gradient_fault(*, numpy: Pairs, **facts: Any) -> Fault:
    """Make a fault of gradients that no forward pass shows, in the frameworks' models and in NumPy's training."""
    return text_fault("model", seen_in=(Seen.GRADIENTS,), training=by_framework(numpy=numpy), **facts)


model_fault = partial(text_fault, "model")
"""A fault in the text of the model."""

initial_fault = partial(text_fault, "initial", seen_in=(Seen.INITIALISATION,))
"""A fault in what initial weights are drawn from."""

loss_fault = partial(text_fault, "training", where=TRAINING, seen_in=(Seen.GRADIENTS, Seen.STEPS))
"""A fault of the loss, which gradients show."""

step_fault = partial(text_fault, "training", where=TRAINING, seen_in=(Seen.STEPS,))
"""A fault of the optimizer, the schedule or the step, which the state after some steps shows."""


@dataclass(frozen=True)
class Injection:
    """A fault at a place, with a value for its parameter if it has one.

    Attributes:
        fault: The fault.
        place: Where it is.
        value: Of its parameter; None for the one that the self-test injects.
        mode: The mode in which alone it is there; empty for both.

    Example:
        >>> from conformance.faults import find_fault
        >>> eps = find_fault("eps-keras")
        >>> str(Injection(eps, eps.places(ResNetConfig())[0]))
        'eps-keras everywhere'
        >>> str(Injection(eps, eps.places(ResNetConfig())[1], mode="train"))
        'eps-keras at bn1 in train mode alone'
    """

    fault: Fault
    place: Place
    value: float | None = None
    mode: str = ""

    def __str__(self) -> str:
        alone = f" in {self.mode} mode alone" if self.mode else ""
        if self.place.scope != "network":
            return f"{self.fault.id} at {self.place.name}{alone}"
        of_network = self.fault.task == "forward" or self.fault.model
        return f"{self.fault.id} everywhere{alone}" if of_network else self.fault.id

    def is_there(self, train: bool) -> bool:
        """Tell whether the fault is there in a mode."""
        return self.mode in ("", "train" if train else "inference")

    @property
    def parameter(self) -> float:
        """The value of the fault's parameter: this injection's own, or the one that the self-test injects."""
        if self.value is not None or self.fault.parameter is None:
            return self.value or 0.0
        return self.fault.parameter.injected

    @property
    def configured(self) -> dict[str, Any]:
        """The wrong fields of the configuration."""
        return {
            name: self.parameter if isinstance(value, Parameter) else value for name, value in self.fault.config.items()
        }

    def recipe(self, recipe: Recipe) -> Recipe:
        """The wrong recipe that the fault makes of a right one.

        Raises:
            ValueError: If the parameter's value is one with which nothing can be trained.

        Example:
            >>> from conformance.faults import find_fault
            >>> late = find_fault("milestones-late")
            >>> injection = Injection(late, late.places(ResNetConfig())[0])
            >>> injection.recipe(Recipe(schedule="steps", milestones=(3, 6))).milestones
            (4, 7)
        """
        wrong = {name: self._in_recipe(name, value, recipe) for name, value in self.fault.recipe.items()}
        return replace(recipe, **wrong)

    def _in_recipe(self, name: str, value: Any, recipe: Recipe) -> Any:
        """A field's wrong value; a parameter takes the place of what a recipe has, not of what it leaves out."""
        if isinstance(value, Parameter):
            return getattr(recipe, name) and self.parameter
        return value(recipe, self.parameter) if callable(value) else value

    def training(self, framework: str) -> Edits:
        """Substitutions in the text of a framework's training, for this place and parameter."""
        return self._filled(self.fault.training.get(framework, ()))

    def initial(self, framework: str) -> Edits:
        """Substitutions in the text that a framework's initial weights are drawn by, for this parameter."""
        return self._filled(self.fault.initial.get(framework, ()))

    def _filled(self, edits: Edits) -> Edits:
        """Substitutions with this place and this parameter's value for what stands for them."""
        here = f"(name == {self.place.name!r})" if self.place.scope in ("conv", "norm", "block") else "True"
        return tuple(
            edit._replace(new=edit.new.replace(HERE, here).replace(VALUE, repr(self.parameter))) for edit in edits
        )

    def weights(self, arrays: Arrays, config: ResNetConfig) -> Arrays:
        """The canonical arrays that differ from the right ones."""
        return {} if self.fault.weights is None else self.fault.weights(arrays, self.place, config, self.parameter)

    def images(self, images: np.ndarray) -> np.ndarray:
        """The images that the network sees, (batch, channels, height, width)."""
        if self.fault.images is None:
            return images
        return np.ascontiguousarray(self.fault.images(images, self.parameter))


@dataclass(frozen=True)
class Graft:
    """A part of the network that is built wrongly: from another text, from another configuration.

    Attributes:
        place: The part.
        edits: Substitutions in the text of the model.
        configured: Wrong fields of the configuration.
    """

    place: Place
    edits: Edits
    configured: Mapping[str, Any]

    @property
    def whole(self) -> bool:
        """Tell whether the wrong text is the network's own, so that the whole network is built from it."""
        return self.place.scope in ("stem", "head", "network")


def grafts(injections: Sequence[Injection], framework: str) -> list[Graft]:
    """The parts to build wrongly, the largest first; several faults of one part are built into it together."""
    parts: dict[str, Graft] = {}
    for injection in injections:
        fault = injection.fault
        if fault.model.get(framework) or fault.config:
            new = Graft(injection.place, fault.model.get(framework, ()), injection.configured)
            key = "network" if new.whole else new.place.name
            old = parts.get(key, replace(new, edits=(), configured={}))
            parts[key] = replace(
                new, edits=(*old.edits, *new.edits), configured=dict(old.configured) | dict(new.configured)
            )
    return sorted(parts.values(), key=lambda graft: (not graft.whole, graft.place.scope != "block"))


def training_edits(injections: Sequence[Injection], framework: str) -> Edits:
    """Substitutions in the text of a framework's training, of all faults together."""
    return tuple(edit for injection in injections for edit in injection.training(framework))


def initial_edits(injections: Sequence[Injection], framework: str) -> Edits:
    """Substitutions in the text that a framework's initial weights are drawn by, of all faults together."""
    return tuple(edit for injection in injections for edit in injection.initial(framework))
