"""Faulty candidates: any of the project's adapters, with faults of the catalogue in its network and its training.

A faulty segment is built by the framework itself, from edited text or another configuration, and takes the place of the
correct one; the training likewise, and so does a network that is given no weights. `conformance run` takes one as a
candidate:

    conformance run --impl broken=torch+pad-same@stage3.0.conv2
    conformance run --task steps --impl broken=keras+adam-eps@network
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.faults import Injection, edited_module, find_fault, grafts, initial_edits, places, training_edits
from conformance.oracle.forward import become, faulty_weights
from conformance.run.adapters.blueprint import Blueprint, BlueprintAdapter
from conformance.run.capabilities import Arrays, ArrayTap, Capability, ReadState, TakeStep
from impls.config import ResNetConfig
from impls.paths import follow
from impls.recipe import Recipe
from weights_convert import load
from weights_convert.sources import Source


class FaultyAdapter:
    """An adapter whose network has faults; everything else is the correct adapter's.

    Args:
        adapter: One of the project's own adapters, after `prepare`.
        faults: Ids with the names of their places.
    """

    def __init__(self, adapter: BlueprintAdapter, faults: Sequence[tuple[str, str]]) -> None:
        self.adapter, self.faults = adapter, faults
        self.capabilities: frozenset[Capability] = adapter.capabilities

    def prepare(self, device: str, precision: str) -> str:
        """Prepare the correct adapter."""
        return self.adapter.prepare(device, precision)

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Make the network with its faults.

        Raises:
            ValueError: If there is no such fault, or it cannot be at that place or in that framework.
        """
        framework = self.adapter.blueprint.framework
        self.injections = [injection_at(fault, place, config) for fault, place in self.faults]
        for injection in self.injections:
            if not injection.fault.can_be_in(framework):
                raise ValueError(f"{injection.fault.id} cannot be in {framework}: it has no such line")
        checkpoint = load(weights, config=config)
        wrong = faulty_weights(checkpoint.arrays, self.injections, config, self.adapter.precision)
        self.adapter = replace(self.adapter, blueprint=faulty_blueprint(self.adapter.blueprint, self.injections))
        self.adapter.build(config, replace(checkpoint, arrays={name: wrong[name] for name in wrong}))

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """List the faulty network's own arrays."""
        return self.adapter.parameters()

    def images(self, images: np.ndarray) -> np.ndarray:
        """Prepare images as the faults do, in the precision that the network computes in."""
        images = images.astype(self.adapter.precision)
        for injection in self.injections:
            images = injection.images(images)
        return images

    def recipe(self, recipe: Recipe) -> Recipe:
        """Change a recipe as the faults do."""
        for injection in self.injections:
            recipe = injection.recipe(recipe)
        return recipe

    def record(self, images: np.ndarray, train: bool, layers: bool) -> Arrays:
        """Return the faulty network's activations."""
        return self.adapter.record(self.images(images), train, layers)

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass the faulty network's activations through a tap."""
        return self.adapter.run_tapped(self.images(images), train, tap)

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, activations: Arrays | None = None
    ) -> tuple[float, Arrays]:
        """Return the faulty network's gradients, of the faulty loss."""
        return self.adapter.gradients(self.images(images), labels, self.recipe(recipe), train, activations)

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """Begin a run of faulty training of the faulty network."""
        step, read = self.adapter.training(self.recipe(recipe))
        return lambda images, labels: step(self.images(images), labels), read

    def initial(self, seed: int) -> Arrays:
        """Draw the arrays of a network without weights by the faulty text."""
        return self.adapter.initial(seed)


def faulty_blueprint(correct: Blueprint, injections: Sequence[Injection]) -> Blueprint:
    """Make the blueprint of networks and training with faults."""
    framework, module = correct.framework, f"impls.{correct.framework}.resnet"

    def resnet(config: ResNetConfig, weights: Any = None, *, seed: int | None = None) -> Any:
        if weights is None:
            return edited_module(module, initial_edits(injections, framework)).resnet(config, seed=seed)
        network = correct.resnet(config, weights)
        for graft in grafts(injections, framework):
            checkpoint = replace(weights, config=replace(weights.config, **graft.configured))
            donor = edited_module(module, graft.edits).resnet(replace(config, **graft.configured), checkpoint)
            if graft.whole:
                network = donor
            else:
                become(follow(network, graft.place.name), follow(donor, graft.place.name))
        return network

    edits = training_edits(injections, framework)
    return Blueprint(framework, resnet, edited_module(f"impls.{framework}.training", edits))


def injection_at(fault: str, place: str, config: ResNetConfig) -> Injection:
    """Make the injection of a fault, by its id, at a place, by its name.

    Raises:
        ValueError: If there is no such fault, or it cannot be there.

    Example:
        >>> str(injection_at("eps-keras", "stage1.0.bn2", ResNetConfig()))
        'eps-keras at stage1.0.bn2'
    """
    row = find_fault(fault)
    allowed = {known.name: known for known in row.places(config)}
    if place not in allowed:
        others = [known.name for known in places(config)]
        known = "" if place in others else f"; the places are {', '.join(others)}"
        raise ValueError(f"{fault} cannot be at {place!r} of this network{known}")
    return Injection(row, allowed[place])
