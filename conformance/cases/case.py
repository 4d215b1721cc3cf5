"""Cases: what is run. A case is one network, one input, one mode and one task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from zlib import crc32

Mode = Literal["inference", "train"]
MODES: tuple[Mode, ...] = ("inference", "train")
"""How norms normalise: by the running statistics, or by the batch's own, which update the running ones."""

PRECISIONS = ("float64", "float32")
"""float64 shows that the mathematics is the same; float32 that the arithmetic is as good as it can be."""

TASKS = ("forward", "gradients", "steps", "initialisation")
"""Tasks that a user can ask for: activations, gradients of the loss, training steps, initial weights."""


@dataclass(frozen=True)
class Case:
    """One thing to compute.

    Attributes:
        variant: Key of the network in the plan.
        input: Name of the input in the plan.
        mode: Whether norms use running statistics or the batch's.
        layers: Whether every convolution and norm is recorded, not only segments; of training steps, whether the state
            is recorded after every step.
        task: One of `TASKS`; or "backward", gradients at the oracle's activations, which float32 runs for "gradients".
        recipe: Key of `conformance.cases.recipes.RECIPES`; of training steps only.
    """

    variant: str
    input: str
    mode: Mode
    layers: bool = False
    task: str = "forward"
    recipe: str = ""

    @property
    def slug(self) -> str:
        """File name without ending, another for every case; the input's name may hold any character."""
        safe = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in self.input)
        if safe != self.input:  # "my cat.png" and "my_cat.png" are two inputs
            safe += f"-{crc32(self.input.encode()):08x}"
        parts = [self.variant, safe, self.mode, *["layers"] * self.layers]
        return "--".join([*parts, *self.words.split()])

    @property
    def words(self) -> str:
        """Task and recipe in words; empty for a forward run."""
        return "" if self.task == "forward" else " ".join(filter(None, [self.task, self.recipe]))


REPORTED_IN_FLOAT32 = ("gradients", "steps")
"""Tasks whose errors in float32 have no limit.

A value near zero is above it in one build and below it in another, and a gradient goes through a ReLU or does not: a
few such values move gradients by up to 6e-2, and so steps. In float32 gradients at the oracle's activations are judged.
"""


def is_judged(case: Case, precision: str) -> bool:
    """Tell whether errors of a case have a limit.

    Example:
        >>> is_judged(Case("v1.5", "noise", "train", task="steps", recipe="sgd"), "float32")
        False
    """
    return precision != "float32" or case.task not in REPORTED_IN_FLOAT32
