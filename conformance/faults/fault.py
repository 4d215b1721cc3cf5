"""What a fault is: a row that says what goes wrong, where it can, and how to make it happen in any implementation.

A row changes one of seven things, in one way for all implementations: the weights (a function on canonical arrays), the
configuration, the text of the model (the four files are one text), the images, the recipe of training, the text of
training, or the model's text in what it draws where no weights are given. Of a fault of gradients it is the model's
text in the frameworks, which differentiate that, and the text of training in NumPy, where the gradients are written
out. An `Injection` is a fault at one place; the oracle and the frameworks are injected with the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from impls.config import ResNetConfig
from impls.recipe import Recipe

Scope = Literal["conv", "norm", "block", "stem", "head", "network", "input"]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Place:
    """Where a fault can be.

    Attributes:
        name: Canonical name of the layer ("stage1.0.conv2", "fc") or block ("stage1.0"), or "stem", "head", "network",
            "input".
        scope: What kind of thing it is; the classifier is of scope "head".
        kernel, stride, in_channels, out_channels: Of a convolution; of a block the stride and both channels.
        projects: Of a block: whether its shortcut has a convolution.
        following: Of a block, or of a layer in it: the same thing in the next block if its arrays have the same shapes.
    """

    name: str
    scope: Scope
    kernel: int = 0
    stride: int = 1
    in_channels: int = 0
    out_channels: int = 0
    projects: bool = False
    following: str = ""


def places(config: ResNetConfig) -> Iterator[Place]:
    """Every place of a network, in the order it runs; the whole network and its input come first.

    Example:
        >>> [place.name for place in places(ResNetConfig())][:6]
        ['input', 'network', 'stem', 'conv1', 'bn1', 'stage1.0']
    """
    yield from (Place("input", "input"), Place("network", "network"), Place("stem", "stem"))
    yield from (Place("conv1", "conv", 7, 2, config.in_channels, config.width), Place("bn1", "norm"))
    blocks = list(config.blocks())
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        twin = ""
        if after is not None and (after.in_channels, after.channels) == (block.in_channels, block.channels):
            twin = after.name
        name, inside, outside = block.name, block.channels, block.out_channels
        yield Place(name, "block", 0, block.stride, block.in_channels, outside, block.projects, twin)
        strides = (block.stride, 1) if config.strided_layer == "conv1" else (1, block.stride)
        convolutions = [
            ("conv1", "bn1", 1, strides[0], block.in_channels, inside),
            ("conv2", "bn2", 3, strides[1], inside, inside),
            ("conv3", "bn3", 1, 1, inside, outside),
        ]
        if block.projects:
            convolutions.append(("downsample_conv", "downsample_bn", 1, block.stride, block.in_channels, outside))
        for conv, norm, kernel, stride, inputs, outputs in convolutions:
            inner = after is not None and after.channels == block.channels and not conv.startswith("downsample")
            same = [f"{after.name}.{layer}" if after and inner else "" for layer in (conv, norm)]
            if conv == "conv1" and not twin:
                same[0] = ""
            yield Place(f"{name}.{conv}", "conv", kernel, stride, inputs, outputs, following=same[0])
            yield Place(f"{name}.{norm}", "norm", following=same[1])
    yield Place("head", "head")


@dataclass(frozen=True)
class Substitution:
    """Text of a model file replaced by another; `old` must stand in the file exactly `count` times."""

    old: str
    new: str
    count: int = 1


Edits = Sequence[Substitution]
FRAMEWORKS = ("numpy", "torch", "flax", "keras")


def in_all(*edits: Substitution) -> Mapping[str, Edits]:
    """The same substitutions in each of the four files, which are line for line alike."""
    return dict.fromkeys(FRAMEWORKS, edits)


class _Parameter:
    """Stands in a row's configuration or recipe for the fault's continuous parameter."""


PARAMETER = _Parameter()
VALUE = "THE_VALUE"
"""Stands for it in the text of training, and in that of what is drawn."""

HERE = "AT_THIS_PLACE"
"""Stands in NumPy's text of gradients for the question whether the layer or block `name` is the fault's place."""


@dataclass(frozen=True)
class Parameter:
    """A number that a fault does not know beforehand and the diagnosis estimates.

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


@dataclass(frozen=True)
class Remedies:
    """What to do about it, one sentence for each framework."""

    torch: str
    flax: str
    keras: str


WeightsChange = Callable[[Arrays, Place, ResNetConfig, float], Arrays]
ImagesChange = Callable[[np.ndarray, float], np.ndarray]


def everywhere(place: Place, config: ResNetConfig) -> bool:
    """A fault that can be at every place of its scopes."""
    return True


@dataclass(frozen=True)
class Fault:
    """One porting bug.

    Attributes:
        id: Its name.
        what: One line.
        scopes: The kinds of place that it can be at.
        seen_in: Where a check can notice it: F inference-mode forward, T train-mode forward, S running statistics,
            P preprocessing, G gradients, O optimizer steps, I initialisation.
        source: Where people met it; "-" if the catalogue's own.
        remedies: What to do.
        weights: Changes canonical arrays: (arrays, place, config, parameter) to those that change.
        config: Fields of `ResNetConfig` that are wrong.
        sources: By framework, how the text of its model is wrong.
        images: Changes the images, (batch, channels, height, width): (images, parameter) to images.
        recipe: Fields of a training recipe that are wrong: a value, or a function (recipe, parameter) to one.
        training: By framework, how the text of its training is wrong.
        initial: By framework, how the text of its model is wrong in what a network is drawn from.
        keeps: Whether it keeps something of one training step for the next, beside what the optimizer should.
        where: Whether it can be at a place of its scopes, in a network.
        precision: The lowest-cost precision in which it shows.
        harmless: Why it changes nothing, and when it would; empty for a fault that has an effect.
        harmless_where: The places and networks of which that is true.
        parameter: The number in it that is not known beforehand.
    """

    id: str
    what: str
    scopes: tuple[Scope, ...]
    seen_in: str
    source: str
    remedies: Remedies
    weights: WeightsChange | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Edits] = field(default_factory=dict)
    images: ImagesChange | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Edits] = field(default_factory=dict)
    initial: Mapping[str, Edits] = field(default_factory=dict)
    keeps: bool = False
    where: Callable[[Place, ResNetConfig], bool] = everywhere
    precision: Literal["float64", "float32"] = "float64"
    harmless: str = ""
    harmless_where: Callable[[Place, ResNetConfig], bool] = everywhere
    parameter: Parameter | None = None

    def places(self, config: ResNetConfig) -> list[Place]:
        """Where the fault can be in a network, in the order it runs."""
        return [place for place in places(config) if place.scope in self.scopes and self.where(place, config)]

    def harmless_at(self, place: Place, config: ResNetConfig) -> str:
        """Why the fault changes nothing at a place; empty where it has an effect."""
        return self.harmless if self.harmless and self.harmless_where(place, config) else ""

    def can_be_in(self, framework: str) -> bool:
        """Whether it can happen in a framework: where its text is to be wrong, it must say how."""
        texts = self.sources.keys() | self.training.keys() | self.initial.keys()
        return not texts or framework in texts

    @property
    def task(self) -> str:
        """The task of `conformance.cases.recipes.TASKS` that sees it first."""
        if self.initial:
            return "initialisation"
        if not (self.recipe or self.training):
            return "forward"
        return "gradients" if "G" in self.seen_in else "steps"


@dataclass(frozen=True)
class Injection:
    """A fault at a place, with a value for its parameter if it has one.

    Example:
        >>> from conformance.faults import find_fault
        >>> eps = find_fault("eps-keras")
        >>> str(Injection(eps, eps.places(ResNetConfig())[0]))
        'eps-keras everywhere'
    """

    fault: Fault
    place: Place
    value: float | None = None

    def __str__(self) -> str:
        if self.place.scope == "network" and self.fault.task != "forward" and not self.fault.sources:
            return self.fault.id
        if self.place.scope == "network":
            return f"{self.fault.id} everywhere"
        return f"{self.fault.id} at {self.place.name}"

    @property
    def parameter(self) -> float:
        """The value of the fault's parameter: the given one, or the one that the self-test injects."""
        if self.value is not None or self.fault.parameter is None:
            return self.value or 0.0
        return self.fault.parameter.injected

    @property
    def configured(self) -> dict[str, Any]:
        """The wrong fields of the configuration."""
        return {name: self.parameter if value is PARAMETER else value for name, value in self.fault.config.items()}

    def recipe(self, recipe: Recipe) -> Recipe:
        """What becomes of a recipe.

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
        if value is PARAMETER:
            return getattr(recipe, name) and self.parameter
        return value(recipe, self.parameter) if callable(value) else value

    def training(self, framework: str) -> tuple[Substitution, ...]:
        """How the text of a framework's training is wrong, at the place and with the parameter's value."""
        return self._filled(self.fault.training.get(framework, ()))

    def initial(self, framework: str) -> tuple[Substitution, ...]:
        """The same of what a framework's model is drawn from."""
        return self._filled(self.fault.initial.get(framework, ()))

    def _filled(self, edits: Edits) -> tuple[Substitution, ...]:
        here = f"(name == {self.place.name!r})" if self.place.scope in ("conv", "norm", "block") else "True"
        return tuple(
            replace(edit, new=edit.new.replace(HERE, here).replace(VALUE, repr(self.parameter))) for edit in edits
        )

    def weights(self, arrays: Arrays, config: ResNetConfig) -> Arrays:
        """The canonical arrays that differ from the right ones."""
        return {} if self.fault.weights is None else self.fault.weights(arrays, self.place, config, self.parameter)

    def images(self, images: np.ndarray) -> np.ndarray:
        """The images that the network sees."""
        if self.fault.images is None:
            return images
        return np.ascontiguousarray(self.fault.images(images, self.parameter))


@dataclass(frozen=True)
class Graft:
    """A piece of the network that is built wrongly: from another text, from another configuration."""

    place: Place
    edits: tuple[Substitution, ...]
    configured: Mapping[str, Any]

    @property
    def whole(self) -> bool:
        """Whether the wrong text is the network's own, so that the whole network is built from it."""
        return self.place.scope in ("stem", "head", "network")


def grafts(injections: Sequence[Injection], framework: str) -> list[Graft]:
    """The pieces to build, the largest first; what several faults do to one piece is done to it together."""
    pieces: dict[str, Graft] = {}
    for injection in injections:
        fault = injection.fault
        if fault.sources.get(framework) or fault.config:
            new = Graft(injection.place, tuple(fault.sources.get(framework, ())), injection.configured)
            key = "network" if new.whole else new.place.name
            old = pieces.get(key, replace(new, edits=(), configured={}))
            pieces[key] = replace(
                new, edits=(*old.edits, *new.edits), configured=dict(old.configured) | dict(new.configured)
            )
    return sorted(pieces.values(), key=lambda graft: (not graft.whole, graft.place.scope != "block"))


def training_edits(injections: Sequence[Injection], framework: str) -> tuple[Substitution, ...]:
    """How the text of training is wrong, by all faults together."""
    return tuple(edit for injection in injections for edit in injection.training(framework))


def initial_edits(injections: Sequence[Injection], framework: str) -> tuple[Substitution, ...]:
    """How the text of what a model is drawn from is wrong, by all faults together."""
    return tuple(edit for injection in injections for edit in injection.initial(framework))
