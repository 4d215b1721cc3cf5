"""The oracle's gradients, segment by segment from the loss to the images, right or with faults in them.

A fault is tried where it can be, and only what lies between its segment and the images is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np

from conformance.cases.batches import labels_for
from conformance.cases.recipes import LOSS
from conformance.cases.segments import input_name, segment_names
from conformance.faults import Arrays, EditError, Injection, edited_module, training_edits
from conformance.oracle.forward import WidenedArrays, build_network
from impls.config import ResNetConfig
from impls.numpy.resnet import ResNet
from impls.paths import follow
from impls.recipe import Recipe

Array = np.ndarray
TRAINING_MODULE = "impls.numpy.training"


def training_with(injections: Sequence[Injection]) -> Any:
    """Make the oracle's training module with faults in its text, in the first order in which every edit matches.

    Raises:
        EditError: If there is no such order.
    """
    for order in permutations(injections):
        try:
            return edited_module(TRAINING_MODULE, training_edits(order, "numpy"))
        except EditError as error:
            clash = error
    raise clash


def recipe_with(recipe: Recipe, injections: Sequence[Injection]) -> Recipe:
    """Apply faults to a recipe, one after the other.

    Raises:
        ValueError: If nothing can be trained by what comes of it.
    """
    for injection in injections:
        recipe = injection.recipe(recipe)
    return recipe


@dataclass(eq=False)
class SegmentedGradients:
    """The gradients of a network's loss, segment by segment, from the head to the stem.

    Attributes:
        config: The network, with a classifier.
        arrays: Its canonical arrays.
        images: (batch, channels, height, width).
        train: Whether norms use the batch's statistics.
    """

    config: ResNetConfig
    arrays: Arrays
    images: Array
    train: bool

    @cached_property
    def segments(self) -> Sequence[str]:
        """The segments in the order that gradients pass them."""
        return segment_names(self.config)[::-1]

    @cached_property
    def model(self) -> ResNet:
        """The right network: faults of gradients leave its forward pass as it is."""
        model: ResNet = build_network(self.config, WidenedArrays(self.arrays, "float64"))
        return model.train(self.train)

    @cached_property
    def activations(self) -> Mapping[str, Array]:
        """The right network's activations, of every layer."""
        return self.model.activations(self.images.astype(np.float64), layers=True)

    def run(
        self, injections: Sequence[Injection], start: str = "head", entering: Array | None = None, module: Any = None
    ) -> Iterator[tuple[str, Array, dict[str, Array]]]:
        """Compute the gradients segment by segment, from one on towards the images.

        Args:
            injections: Faults.
            start: The first segment.
            entering: The gradient with respect to the output of `start`; not needed for the head.
            module: Training module in the place of that with the faults.

        Yields:
            A segment, the gradient with respect to its input, and its arrays by the names that cases give them: "loss",
            "gradient.fc.bias", ...

        Raises:
            ValueError: If the faults cannot be there together.
        """
        module, recipe = module or training_with(injections), recipe_with(LOSS, injections)
        labels = labels_for(len(self.images), self.config.num_classes)
        dy: Array = np.empty(0) if entering is None else entering
        for segment in self.segments[self.segments.index(start) :]:
            gradients: dict[str, Array] = {}
            source = input_name(segment, self.config)
            x = self.images.astype(np.float64) if source is None else self.activations[source]
            if segment == "head":
                dy = module.head(self.model, self.activations, x, labels, recipe, gradients)
            elif segment == "stem":
                module.stem(self.model, self.activations, x, dy, gradients)
            else:
                dy = module.bottleneck(follow(self.model, segment), segment, self.activations, x, dy, gradients)
            arrays = {f"gradient.{name}": gradient for name, gradient in gradients.items()}
            if segment == "head":
                arrays["loss"] = np.array([module.loss(self.activations["logits"], labels, recipe)])
            yield segment, dy, arrays
