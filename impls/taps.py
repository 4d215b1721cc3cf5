"""Taps: how a model hands out its activations.

A tap is a function `(name, value) -> value`. Models pass each named activation through it and go on with what comes
back. `recording` keeps them, so that `model.activations(x)` returns them as an ordinary value and works unchanged under
`torch.compile`, `nnx.jit` and `tf.function`; a tap may just as well compare and forget, which needs no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Activation = TypeVar("Activation")
Tap = Callable[[str, Activation], Activation]


def untapped(name: str, value: Activation) -> Activation:
    """The tap that does nothing."""
    return value


def recording(activations: dict[str, Activation], layers: bool) -> Tap[Activation]:
    """A tap that stores what passes it: every block's output, with `layers` also that of every convolution and norm.

    Args:
        activations: Filled in the order the network runs.
        layers: Whether to keep the outputs of single layers ("conv1", "stage2.0.bn3") too.
    """

    def keep(name: str, value: Activation) -> Activation:
        if layers or not is_layer(name):
            activations[name] = value
        return value

    return keep


def within(block: str, tap: Tap[Activation]) -> Tap[Activation]:
    """The tap as seen from inside a block: names get the block's in front."""
    if tap is untapped:
        return untapped
    return lambda name, value: tap(f"{block}.{name}", value)


def is_layer(name: str) -> bool:
    """Whether a name is that of one convolution or norm, rather than of a block's output.

    Example:
        >>> is_layer("stage1.0.conv2"), is_layer("stage1.0"), is_layer("logits")
        (True, False, False)
    """
    leaf = name.rpartition(".")[2]
    return leaf.startswith(("conv", "bn", "downsample"))
