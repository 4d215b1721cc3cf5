"""The conversion table: the name and the axis order of each array in each framework.

Seven rows carry the whole conversion; an eighth serves the one variant whose convolutions have a bias. The canonical
form is PyTorch's. A letter stands for an axis (O output channels, I input channels, H height, W width, C channels);
permutations and their inverses are derived from the letters.

Sources: the reference pages of `torch.nn`, `flax.nnx` and `keras.layers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

Framework = Literal["torch", "flax", "keras"]
Kind = Literal["conv", "norm", "linear"]


@dataclass(frozen=True)
class Leaf:
    """An array of a layer in one framework: its name, and a letter for each of its axes."""

    name: str
    axes: str

    @classmethod
    @cache
    def parse(cls, text: str) -> Leaf:
        """Build a leaf from its name and axes, separated by a space.

        Example:
            >>> Leaf.parse("kernel HWIO")
            Leaf(name='kernel', axes='HWIO')
        """
        name, axes = text.split()
        return cls(name, axes)


@dataclass(frozen=True)
class Rule:
    """A row of the table: one array of one kind of layer, as each framework names it and orders its axes."""

    kind: Kind
    torch: str
    flax: str
    keras: str

    def leaf(self, framework: Framework) -> Leaf:
        """Return the array's name and axes in a framework."""
        return Leaf.parse(getattr(self, framework))


RULES: tuple[Rule, ...] = (
    Rule("conv", torch="weight OIHW", flax="kernel HWIO", keras="kernel HWIO"),
    Rule("norm", torch="weight C", flax="scale C", keras="gamma C"),
    Rule("norm", torch="running_mean C", flax="mean C", keras="moving_mean C"),
    Rule("norm", torch="running_var C", flax="var C", keras="moving_variance C"),
    Rule("norm", torch="bias C", flax="bias C", keras="beta C"),
    Rule("linear", torch="weight OI", flax="kernel IO", keras="kernel IO"),
    Rule("linear", torch="bias O", flax="bias O", keras="bias O"),
    Rule("conv", torch="bias O", flax="bias O", keras="bias O"),
)
"""All rows; the last one serves variant keras, whose convolutions have a bias."""

RUNNING_STATISTICS = ("running_mean", "running_var")
"""The canonical leaf names of the arrays that training updates without a gradient."""


@dataclass(frozen=True)
class Slot:
    """An array that an optimizer keeps for each parameter, with the parameter's axes, as each framework names it."""

    torch: str
    flax: str
    keras: str


SLOTS: dict[str, Slot] = {
    slot.torch: slot
    for slot in (
        Slot(torch="momentum_buffer", flax="trace", keras="momentums"),
        Slot(torch="exp_avg", flax="mu", keras="_momentums"),
        Slot(torch="exp_avg_sq", flax="nu", keras="_velocities"),
    )
}
"""Every slot by its name in PyTorch.

Sources: the state of `torch.optim.SGD` and `AdamW`; `optax.TraceState` and `ScaleByAdamState`; the attributes of
`keras.optimizers.SGD` and `Adam`, which are lists in the order of the trainable variables.
"""


@cache
def find_rule(kind: Kind, framework: Framework, leaf: str) -> Rule | None:
    """Return the row of the array that a framework calls `leaf` in a layer of this kind; None if there is none.

    Example:
        >>> find_rule("norm", "keras", "gamma").torch
        'weight C'
    """
    return next((rule for rule in RULES if rule.kind == kind and rule.leaf(framework).name == leaf), None)


def permutation(source: str, target: str) -> tuple[int, ...]:
    """Return the order in which to take the axes `source` so that they become `target`.

    Raises:
        ValueError: If `target` has an axis that `source` lacks.

    Example:
        >>> permutation("OIHW", "HWIO")
        (2, 3, 1, 0)
    """
    return tuple(source.index(axis) for axis in target)


def reorder(array: np.ndarray, rule: Rule, source: Framework, target: Framework) -> np.ndarray:
    """Return a view of an array with its axes in the order of another framework; no number is copied.

    Args:
        array: In the axis order of `source`.
        rule: The row of the array.
        source: The framework whose axis order the array has.
        target: The framework whose axis order is wanted.

    Raises:
        ValueError: If the array has another number of axes than the rule.
    """
    return array.transpose(permutation(rule.leaf(source).axes, rule.leaf(target).axes))


def reorder_shape(shape: tuple[int, ...], rule: Rule, source: Framework, target: Framework) -> tuple[int, ...]:
    """Return the shape that an array of this shape has after `reorder`.

    Example:
        >>> reorder_shape((64, 3, 7, 7), RULES[0], "torch", "flax")
        (7, 7, 3, 64)
    """
    return tuple(shape[axis] for axis in permutation(rule.leaf(source).axes, rule.leaf(target).axes))
