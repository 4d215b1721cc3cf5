"""What is run: a case is one network, one input, one mode and one task; what comes of it has names in a fixed order."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from conformance.cases.recipes import RECIPES
from impls.config import ResNetConfig
from impls.taps import is_layer
from weights_convert.shapes import expected_shapes
from weights_convert.table import RUNNING_STATISTICS

Mode = Literal["inference", "train"]
MODES: tuple[Mode, ...] = ("inference", "train")
"""Inference normalises by the running statistics; train by the batch's own, and updates the running ones."""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        variant: Key of the network in the job.
        input: Name of the input in the job.
        mode: Whether norms use running or batch statistics.
        layers: Whether every convolution and norm is recorded, not only blocks; of steps, whether every step is.
        task: Of `conformance.cases.recipes.TASKS`; or "backward", which float32 makes of "gradients": those at the
            oracle's own activations.
        recipe: Key of `conformance.cases.recipes.RECIPES`; of steps only.
    """

    variant: str
    input: str
    mode: Mode
    layers: bool = False
    task: str = "forward"
    recipe: str = ""

    @property
    def slug(self) -> str:
        """A file name without ending; the input's name may hold any character."""
        safe = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in self.input)
        parts = [self.variant, safe, self.mode, *["layers"] * self.layers]
        parts += [] if self.task == "forward" else [self.task, *filter(None, [self.recipe])]
        return "--".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)

    @property
    def words(self) -> str:
        """Task and recipe in words; empty for a forward run."""
        return "" if self.task == "forward" else " ".join(filter(None, [self.task, self.recipe]))


def activation_names(config: ResNetConfig, layers: bool = False) -> list[str]:
    """List the activations of a network in the order it computes them; with `layers`, those inside the blocks too.

    Example:
        >>> from impls.config import VARIANTS
        >>> activation_names(VARIANTS["v1.5"])[:3], activation_names(VARIANTS["v1.5"], layers=True)[:4]
        (['stem', 'stage1.0', 'stage1.1'], ['conv1', 'bn1', 'stem', 'stage1.0.conv1'])
    """
    names = ["conv1", "bn1", "stem"]
    for block in config.blocks():
        inside = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3"]
        if block.projects:
            inside += ["downsample_conv", "downsample_bn"]
        names += [*(f"{block.name}.{layer}" for layer in inside), block.name]
    names += ["pool", *["logits"] * bool(config.num_classes)]
    return [name for name in names if layers or not is_layer(name)]


def statistic_names(config: ResNetConfig) -> list[str]:
    """List the running statistics of a network in the order of its norms: what a run in train mode leaves behind."""
    layers = activation_names(config, layers=True)
    norms = [name for name in layers if name.rpartition(".")[2].startswith(("bn", "downsample_bn"))]
    return [f"{norm}.{leaf}" for norm in norms for leaf in ("running_mean", "running_var")]


def is_judged(case: Case, precision: str) -> bool:
    """Whether errors of a case have a limit: not those of training in float32.

    There a value near zero is above it in one build and below it in another, and a gradient goes through or does not: a
    few such values move gradients by up to 6e-2, and so steps. Judged are gradients at the oracle's activations.

    Example:
        >>> is_judged(Case("v1.5", "noise", "train", task="steps", recipe="sgd"), "float32")
        False
    """
    return precision != "float32" or case.task not in ("gradients", "steps")


def expected_names(case: Case, config: ResNetConfig) -> list[str]:
    """Every array that a case promises, in the order in which a fault in it would show.

    Example:
        >>> from impls.config import VARIANTS
        >>> expected_names(Case("v1.5", "noise", "train", task="gradients"), VARIANTS["v1.5"])[:2]
        ['loss', 'gradient.fc.bias']
    """
    parameters = parameter_names(config)
    if case.task in ("gradients", "backward"):
        return ["loss", *(f"gradient.{name}" for name in reversed(parameters)), "gradient.input"]
    if case.task == "steps":
        state = [*statistic_names(config), *parameters]
        state += [f"{slot}.{name}" for slot in RECIPES[case.recipe].slots for name in parameters]
        first, last = ([f"{moment}.{name}" for name in state] for moment in MOMENTS)
        return [*first, "losses", *last]
    if case.task == "initialisation":
        return [f"initial.{name}" for name in expected_shapes(config)]
    return [*activation_names(config, case.layers), *(statistic_names(config) if case.mode == "train" else [])]


MOMENTS = ("first", "last")
"""The steps after which the state is kept."""

OFFSET = re.compile(r"(.*conv\d?|([a-z_]+\.)?bn1)\.bias")
"""Arrays whose gradient is noise in train mode, wholly or for some channels, and so is what an optimizer keeps of it.

A convolution's bias moves all that the norm behind it subtracts the mean of. The bias of the stem's norm does so for a
channel that every window of the max pool sees above zero.
"""


def parameter_names(config: ResNetConfig) -> list[str]:
    """Every array that has a gradient, in the order the network runs."""
    return [name for name in expected_shapes(config) if not name.endswith(RUNNING_STATISTICS)]


def labels_for(batch: int, classes: int) -> np.ndarray:
    """A class for each image of a batch, none the same while there are enough: (batch,) integers.

    Example:
        >>> labels_for(3, 1000)
        array([11, 48, 85])
    """
    return (11 + 37 * np.arange(batch)) % classes


PADDING = 24
"""Rows: as many as show in a few windows of the max pool."""


def padded(images: np.ndarray) -> np.ndarray:
    """A batch of which the last image is lower and padded with zeros, as images of unequal sizes are; one as it is.

    Before the max pool all pixels there are equal, and its gradient must go to the first of them. More than a little of
    it is not wanted: sums of equal values round to one side, and a ReLU near zero chooses for all of them at once.

    Example:
        >>> padded(np.ones((2, 1, 64, 1)))[:, 0, :, 0].sum(1)
        array([64., 40.])
    """
    images = images.copy()
    if len(images) > 1:
        images[-1, :, max(images.shape[2] - PADDING, (images.shape[2] + 1) // 2) :] = 0
    return images


def training_batches(images: np.ndarray, classes: int, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A batch for each step: the images moved sideways, further each time, their labels moved on."""
    labels = labels_for(len(images), classes)
    return [(np.roll(images, 5 * step, axis=3), (labels + step) % classes) for step in range(steps)]
