"""The conversion table: the name and the axis order of each array in each framework.

Seven rows carry the whole conversion; an eighth serves the one variant whose convolutions have a bias. The canonical
form is PyTorch's. A letter stands for an axis (O output channels, I input channels, H height, W width, C channels), and
1 for an axis of that size; permutations and their inverses are derived from the letters.

Sources: the reference pages of `torch.nn`, `flax.nnx` and `keras.layers`; TF-Slim's `layers.conv2d` and `batch_norm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

Framework = Literal["torch", "flax", "keras", "slim"]
Kind = Literal["conv", "norm", "linear"]

UNIT = "1"
"""The letter of an axis of size 1, which is in one framework alone."""


@dataclass(frozen=True)
class Leaf:
    """An array of a layer in one framework: its name, and a letter for each of its axes, or 1."""

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

    def fits(self, shape: Sequence[int]) -> bool:
        """Return whether an array of this shape has the axes.

        Example:
            >>> Leaf.parse("weights 11IO").fits((1, 1, 2048, 1000)), Leaf.parse("weights 11IO").fits((3, 3, 64, 64))
            (True, False)
        """
        return len(shape) == len(self.axes) and all(
            size == 1 for axis, size in zip(self.axes, shape, strict=True) if axis == UNIT
        )


@dataclass(frozen=True)
class Rule:
    """A row of the table: one array of one kind of layer, as each framework names it and orders its axes."""

    kind: Kind
    torch: str
    flax: str
    keras: str
    slim: str

    def leaf(self, framework: Framework) -> Leaf:
        """Return the array's name and axes in a framework."""
        return Leaf.parse(getattr(self, framework))


RULES: tuple[Rule, ...] = (
    Rule("conv", torch="weight OIHW", flax="kernel HWIO", keras="kernel HWIO", slim="weights HWIO"),
    Rule("norm", torch="weight C", flax="scale C", keras="gamma C", slim="gamma C"),
    Rule("norm", torch="running_mean C", flax="mean C", keras="moving_mean C", slim="moving_mean C"),
    Rule("norm", torch="running_var C", flax="var C", keras="moving_variance C", slim="moving_variance C"),
    Rule("norm", torch="bias C", flax="bias C", keras="beta C", slim="beta C"),
    Rule("linear", torch="weight OI", flax="kernel IO", keras="kernel IO", slim="weights 11IO"),
    Rule("linear", torch="bias O", flax="bias O", keras="bias O", slim="biases O"),
    Rule("conv", torch="bias O", flax="bias O", keras="bias O", slim="biases O"),
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
    """Return the order in which to take the axes `source` so that they become `target`, both without axes of size 1.

    Raises:
        ValueError: If `target` has an axis that `source` lacks.

    Example:
        >>> permutation("OIHW", "HWIO"), permutation("OI", "11IO")
        ((2, 3, 1, 0), (1, 0))
    """
    letters = source.replace(UNIT, "")
    return tuple(letters.index(axis) for axis in target.replace(UNIT, ""))


def reorder(array: np.ndarray, rule: Rule, source: Framework, target: Framework) -> np.ndarray:
    """Return a view of an array with its axes in the order of another framework; no number is copied.

    Args:
        array: In the axis order of `source`.
        rule: The row of the array.
        source: The framework whose axis order the array has.
        target: The framework whose axis order is wanted.

    Raises:
        ValueError: If the array does not fit the axes of the rule.
    """
    before, after = rule.leaf(source), rule.leaf(target)
    if not before.fits(array.shape):
        raise ValueError(f"the axes {before.axes} don't match an array of the shape {array.shape}")
    squeezed = array[tuple(0 if axis == UNIT else slice(None) for axis in before.axes)]
    moved = squeezed.transpose(permutation(before.axes, after.axes))
    return moved[tuple(None if axis == UNIT else slice(None) for axis in after.axes)]


def reorder_shape(shape: tuple[int, ...], rule: Rule, source: Framework, target: Framework) -> tuple[int, ...]:
    """Return the shape that an array of this shape has after `reorder`.

    Example:
        >>> reorder_shape((64, 3, 7, 7), RULES[0], "torch", "flax")
        (7, 7, 3, 64)
    """
    sizes = dict(zip(rule.leaf(source).axes, shape, strict=True)) | {UNIT: 1}
    return tuple(sizes[axis] for axis in rule.leaf(target).axes)
