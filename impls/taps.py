"""Taps: functions through which a model hands out its activations by name.

A tap is a function `(name, value) -> value`. The model passes each named activation through it and continues with what
the tap returns, so a tap may store, compare or replace activations. `recording` returns one that stores them. With it,
`model.activations(x)` returns activations as ordinary values, and works unchanged under `torch.compile`, `nnx.jit` and
`tf.function`.

Example:
    >>> activations = {}
    >>> tap = recording(activations, layers=False)
    >>> tap("stage1.0", 3.0)
    3.0
    >>> activations
    {'stage1.0': 3.0}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Activation = TypeVar("Activation")
Tap = Callable[[str, Activation], Activation]


def untapped(name: str, value: Activation) -> Activation:
    """Return the activation unchanged: the tap that does nothing."""
    return value


def recording(activations: dict[str, Activation], layers: bool) -> Tap[Activation]:
    """Return a tap that stores the activations that pass it.

    Args:
        activations: Dictionary to fill, in the order in which the network runs.
        layers: Whether to store the output of every convolution and norm ("conv1", "stage2.0.bn3") too, not only those
            of stem, blocks, pool and classifier.
    """

    def record(name: str, value: Activation) -> Activation:
        if layers or not is_layer(name):
            activations[name] = value
        return value

    return record


def within(block: str, tap: Tap[Activation]) -> Tap[Activation]:
    """Return a tap for use inside a block: it puts the block's name in front of each name.

    Example:
        >>> within("stage2.0", lambda name, value: name)("bn3", 0.0)
        'stage2.0.bn3'
    """
    if tap is untapped:
        return untapped
    return lambda name, value: tap(f"{block}.{name}", value)


def is_layer(name: str) -> bool:
    """Tell the name of a convolution or norm from that of the stem, a block, the pool or the logits.

    Example:
        >>> is_layer("stage1.0.conv2"), is_layer("stage1.0"), is_layer("logits")
        (True, False, False)
    """
    leaf = name.rpartition(".")[2]
    return leaf.startswith(("conv", "bn", "downsample"))
