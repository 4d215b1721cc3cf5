"""The conversion table: what each framework calls an array, and in which order it keeps its axes.

Seven facts carry the whole conversion. The canonical form is PyTorch's: its names, out-in-height-width kernels. A
letter names an axis (O out, I in, H height, W width, C channels); permutations and inverses are derived from them.

Sources: the parameter pages of `torch.nn`, `flax.nnx` and `keras.layers`.
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
    """An array inside a layer: its name there, and a letter for each axis."""

    name: str
    axes: str

    @classmethod
    @cache
    def parse(cls, text: str) -> Leaf:
        """From "kernel HWIO".

        Example:
            >>> Leaf.parse("kernel HWIO")
            Leaf(name='kernel', axes='HWIO')
        """
        name, axes = text.split()
        return cls(name, axes)


@dataclass(frozen=True)
class Rule:
    """One array of one kind of layer, as each framework names it and orders its axes."""

    kind: Kind
    torch: str
    flax: str
    keras: str

    def leaf(self, framework: Framework) -> Leaf:
        """The column of that framework."""
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
"""The last row is for the one variant whose convolutions have a bias (keras.applications)."""

RUNNING_STATISTICS = ("running_mean", "running_var")
"""The leaves, in PyTorch's names, that training updates without a gradient."""


@dataclass(frozen=True)
class Slot:
    """What an optimizer keeps for each parameter, in that parameter's own axis order, as each framework names it."""

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
"""Sources: the state of `torch.optim.SGD` and `AdamW`; `optax.TraceState` and `ScaleByAdamState`; the attributes of
`keras.optimizers.SGD` and `Adam`, which hold a list in the order of the trainable variables."""


@cache
def find_rule(kind: Kind, framework: Framework, leaf: str) -> Rule | None:
    """The row for an array of that name in a layer of that kind; None where there is none.

    Example:
        >>> find_rule("norm", "keras", "gamma").torch
        'weight C'
    """
    return next((rule for rule in RULES if rule.kind == kind and rule.leaf(framework).name == leaf), None)


def permutation(source: str, target: str) -> tuple[int, ...]:
    """The order in which to take the axes `source` to get `target`.

    Example:
        >>> permutation("OIHW", "HWIO")
        (2, 3, 1, 0)
    """
    return tuple(source.index(axis) for axis in target)


def reorder(array: np.ndarray, rule: Rule, source: Framework, target: Framework) -> np.ndarray:
    """The array with the target's axis order: a view, no number is touched or copied.

    Raises:
        ValueError: If the array has not as many axes as the rule says.
    """
    return array.transpose(permutation(rule.leaf(source).axes, rule.leaf(target).axes))
