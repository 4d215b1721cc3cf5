"""Broken ports made to order: any adapter, with faults of the catalogue in its network.

A worker reaches one as `--impl NAME=conformance.selftest.faulty:IMPLEMENTATION/FAULT@PLACE`; further `/FAULT@PLACE` put
several faults into one network. The wrong piece is built by the framework itself, from the wrong text or the wrong
configuration, and takes the right piece's place; so is the training, from the wrong text or by the wrong recipe, and
so is a network that is given no weights.

    conformance run --impl broken=conformance.selftest.faulty:torch/pad-same@stage3.0.conv2
    conformance run --task steps --impl broken=conformance.selftest.faulty:keras/adam-eps@network
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conformance.faults import (
    Graft,
    Injection,
    edited_module,
    find_fault,
    framework_of,
    grafts,
    initial_edits,
    places,
    training_edits,
)
from conformance.oracle.forward import become, faulty_weights
from conformance.run.adapters import Adapter, Given, ReadState, See, TakeStep, load_adapter
from conformance.run.implementations import ORACLE, find_implementation
from impls.config import ResNetConfig
from impls.paths import follow
from impls.recipe import Recipe
from weights_convert import Checkpoint, load


class FaultyAdapter:
    """An adapter whose network has faults; everything else is the right adapter's own."""

    def __init__(self, adapter: Adapter, faults: Sequence[tuple[str, str]]) -> None:
        self.adapter, self.faults = copy(adapter), faults  # a copy: the right one goes on without them

    def __getattr__(self, name: str) -> Any:
        return getattr(self.adapter, name)

    def build(self, config: ResNetConfig, weights: Path) -> None:
        """Make the network with its faults.

        Raises:
            ValueError: If there is no such fault, or it cannot be at that place or in that framework.
        """
        self.built_from = config, weights
        self.injections = [injection_at(fault, place, config) for fault, place in self.faults]
        right = load(weights, config=config)
        wrong = faulty_weights(right.arrays, self.injections, config, self.adapter.precision)  # type: ignore[attr-defined]  # every adapter has it
        checkpoint = replace(right, arrays={name: wrong[name] for name in wrong})
        inner: Any = self.adapter
        inner.build(config, checkpoint)
        module = type(inner.model).__module__
        for injection in self.injections:
            if not injection.fault.can_be_in(framework_of(module)):
                raise ValueError(f"{injection.fault.id} cannot be in {framework_of(module)}: it has no such line")
        for piece in grafts(self.injections, framework_of(module)):
            donor = self._donor(piece, config, checkpoint, module)
            if piece.whole:
                inner.model = donor
            else:
                become(follow(inner.model, piece.place.name), follow(donor, piece.place.name))
        self.module, framework = module, framework_of(module)
        inner.trainer = edited_module(f"impls.{framework}.training", training_edits(self.injections, framework))
        inner.fresh = self.fresh

    def fresh(self) -> Any:
        """Another network like the one that was built, with the same faults."""
        other = FaultyAdapter(copy(self.adapter), self.faults)
        other.build(*self.built_from)
        return other.adapter.model  # type: ignore[attr-defined]  # every adapter has it

    def initial(self, seed: int) -> Mapping[str, np.ndarray]:
        """What the faulty text of the network starts from."""
        drawn: Any = copy(self.adapter)
        drawn.resnet = edited_module(self.module, initial_edits(self.injections, framework_of(self.module))).resnet
        found: Mapping[str, np.ndarray] = drawn.initial(seed)
        return found

    def _donor(self, piece: Graft, config: ResNetConfig, checkpoint: Checkpoint, module: str) -> Any:
        """A network built from a piece's text and configuration, with the same arrays."""
        donor: Any = copy(self.adapter)
        donor.resnet = edited_module(module, piece.edits).resnet
        configured = replace(config, **piece.configured)
        donor.build(configured, replace(checkpoint, config=configured))
        return donor.model

    def images(self, images: np.ndarray) -> np.ndarray:
        """What the network sees of the images: prepared wrongly in the precision that it computes in."""
        images = images.astype(self.adapter.precision)  # type: ignore[attr-defined]  # every adapter has it
        for injection in self.injections:
            images = injection.images(images)
        return images

    def run(self, images: np.ndarray, train: bool, layers: bool) -> Mapping[str, np.ndarray]:
        """The faulty network's activations."""
        return self.adapter.run(self.images(images), train, layers)

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, given: Given = None
    ) -> tuple[float, Mapping[str, np.ndarray]]:
        """The faulty network's gradients, of the faulty loss."""
        return self.adapter.gradients(self.images(images), labels, self.recipe(recipe), train, given)

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """A run of faulty training of the faulty network."""
        step, read = self.adapter.training(self.recipe(recipe))
        return lambda images, labels: step(self.images(images), labels), read

    def recipe(self, recipe: Recipe) -> Recipe:
        """What the faults make of a recipe."""
        for injection in self.injections:
            recipe = injection.recipe(recipe)
        return recipe

    def stream(self, images: np.ndarray, train: bool, see: See) -> Mapping[str, np.ndarray]:
        """The same, shown one by one."""
        return self.adapter.stream(self.images(images), train, see)


def injection_at(fault: str, place: str, config: ResNetConfig) -> Injection:
    """The fault of an id at the place of a name.

    Raises:
        ValueError: If there is no such fault, or it cannot be there.

    Example:
        >>> str(injection_at("eps-keras", "stage1.0.bn2", ResNetConfig()))
        'eps-keras at stage1.0.bn2'
    """
    found = find_fault(fault)
    allowed = {known.name: known for known in found.places(config)}
    if place not in allowed:
        others = [known.name for known in places(config)]
        known = "" if place in others else f"; the places are {', '.join(others)}"
        raise ValueError(f"{fault} cannot be at {place!r} of this network{known}")
    return Injection(found, allowed[place])


def faulty_adapter(text: str) -> FaultyAdapter:
    """The adapter that "IMPLEMENTATION/FAULT@PLACE" names; the implementation may also be the oracle.

    Raises:
        ValueError: If the text is none such.
    """
    implementation, *faults = text.split("/")
    pairs = [tuple(fault.split("@")) for fault in faults]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"a faulty implementation is IMPLEMENTATION/FAULT@PLACE, not {text!r}")
    right = ORACLE if implementation == ORACLE.name else find_implementation(implementation)
    return FaultyAdapter(load_adapter(right.adapter), [(f, p) for f, p in pairs])


def __getattr__(name: str) -> Any:
    """Each faulty adapter as if it were a class of this module, so that a worker's "module:class" reaches it."""
    if "/" not in name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return lambda: faulty_adapter(name)
