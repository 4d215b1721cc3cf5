"""Faulty candidates: any of the project's adapters, with faults of the catalogue in its network and its training.

A faulty segment is built by the framework itself, from edited text or another configuration, and takes the place of the
correct one; the training likewise, and so does a network that is given no weights. `conformance run` takes one as a
candidate:

    conformance run --impl broken=torch+pad-same@stage3.0.conv2
    conformance run --task steps --impl broken=keras+adam-eps@network
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.faults import Injection, edited_module, find_fault, grafts, initial_edits, places, training_edits
from conformance.oracle.forward import WidenedArrays, become, faulty_weights
from conformance.oracle.gradients import recipe_with
from conformance.run.adapters.blueprint import Blueprint, BlueprintAdapter
from impls.config import ResNetConfig
from impls.paths import follow
from weights_convert import load
from weights_convert.sources import Source


def faulty_adapter(
    adapter: BlueprintAdapter, faults: Sequence[tuple[str, str]], config: ResNetConfig, weights: Source
) -> BlueprintAdapter:
    """Make an adapter whose network has faults, and build the network; everything else is the correct adapter's.

    Args:
        adapter: One of the project's own adapters, after `prepare`.
        faults: Ids with the names of their places.
        config: Configuration of the network, without the faults.
        weights: A file or checkpoint.

    Raises:
        ValueError: If there is no such fault, or it cannot be at that place or in that framework.
    """
    framework = adapter.blueprint.framework
    injections = [injection_at(fault, place, config) for fault, place in faults]
    for injection in injections:
        if not injection.fault.can_be_in(framework):
            raise ValueError(f"{injection.fault.id} cannot be in {framework}: it has no such line")
    checkpoint = load(weights, config=config)
    wrong = faulty_weights(WidenedArrays(checkpoint.arrays, adapter.precision), injections, config)
    faulty = replace(adapter, blueprint=faulty_blueprint(adapter.blueprint, injections, adapter.precision))
    faulty.build(config, replace(checkpoint, arrays=dict(wrong)))
    return faulty


def faulty_blueprint(correct: Blueprint, injections: Sequence[Injection], precision: str) -> Blueprint:
    """Make the blueprint of networks and training with faults, whose images are prepared in a precision."""
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

    def images(images: np.ndarray) -> np.ndarray:
        images = images.astype(precision)
        for injection in injections:
            images = injection.images(images)
        return images

    training = edited_module(f"impls.{framework}.training", training_edits(injections, framework))
    return Blueprint(framework, resnet, training, images, lambda recipe: recipe_with(recipe, injections))


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
