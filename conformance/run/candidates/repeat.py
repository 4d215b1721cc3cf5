"""The first look at a candidate: the smallest input, twice in inference mode, before anything is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from conformance.cases.names import activation_names
from conformance.cases.segments import segment_of
from conformance.run.candidates.survey import Unfit
from conformance.run.capabilities import Arrays
from impls.config import ResNetConfig
from impls.taps import is_layer

ORDER_OF_SUMS = {"float64": 1e-10, "float32": 1e-3}
"""Two runs that differ by less than this differ in the order of their sums; by more, in what they compute. A coin that
dropout or an augmentation tosses changes logits by some percent."""

BELOW_FLOAT32 = 2.0**-35
"""A relative change of the images that float64 sees and float32 does not: its numbers are 2^-23 apart."""

MORE = 2.0**10
"""Factor of a second, larger change of the images. Activations in float64 then change by so much more."""

AS_MUCH_MORE = 1.5
"""Activations change by `MORE` up to this factor, either way. Measured on ResNet-50 of torchvision and on small
networks, it is 1 within 6e-6 at every layer. Behind one rounding to float32 it was 14 (0.18 where logits alone are
rounded), and behind one to bfloat16 0, since the smaller change is lost."""


class Examined(Protocol):
    """The part of a candidate that is examined."""

    config: ResNetConfig
    precision: str

    def record(self, images: np.ndarray, train: bool, layers: bool) -> Arrays:
        """The activations of a run."""

    def canonical_state(self) -> Mapping[str, np.ndarray]:
        """Copies of all arrays by canonical name."""


def examine(candidate: Examined, images: np.ndarray) -> list[str]:
    """Run an input twice, and see that nothing changes that must not.

    Args:
        candidate: The candidate, with its weights.
        images: The smallest input, (batch, channels, height, width) float32.

    Returns:
        Names of the activations that the runs show, in the order in which they are seen.

    Raises:
        Unfit: If two runs differ, if weights change in inference mode, or if it computes float32 where float64 was
            asked for.
    """
    before = candidate.canonical_state()
    first = candidate.record(images, False, True)
    second = candidate.record(images, False, True)
    check_weights(before, candidate.canonical_state())
    for name in shown(candidate.config, first):
        error = distance(first[name], second[name]) if name in second else np.inf
        if error > ORDER_OF_SUMS[candidate.precision]:
            raise Unfit(
                f"two runs of the same input in inference mode differ by {error:.1e} (relative L2): something is drawn "
                "at random there (dropout left on, an augmentation), or is kept from one run to the next",
                layer=name,
                error=float(error) if np.isfinite(error) else None,
            )
    if candidate.precision == "float64":  # last: what is random would seem to be rounded
        check_float64(candidate, images, first)
    return list(first)


def out_of_order(config: ResNetConfig, called: Sequence[str]) -> str:
    """Say which layers are called before those that they are computed from, in words; empty if none are.

    Args:
        config: The network.
        called: Activations, in the order in which they are seen.

    Example:
        >>> out_of_order(ResNetConfig(), ["stage1.0.conv1", "stage1.0.bn2", "stage1.0.conv2"])
        'stage1.0.bn2 is called before stage1.0.conv2'
    """
    place = {name: number for number, name in enumerate(called)}
    branches: dict[tuple[str, bool], list[str]] = {}
    for name in activation_names(config, layers=True):
        if name in place and is_layer(name):
            branches.setdefault((segment_of(name), "downsample" in name), []).append(name)
    pairs = [pair for branch in branches.values() for pair in pairwise(branch) if place[pair[0]] > place[pair[1]]]
    if not pairs:
        return ""
    (before, after), more = pairs[0], f", and {len(pairs) - 1} others alike" if len(pairs) > 1 else ""
    return f"{after} is called before {before}{more}"


def check_float64(candidate: Examined, images: np.ndarray, first: Arrays) -> None:
    """See that float64 is computed in float64 from the images to the logits.

    Raises:
        Unfit: If an output has another dtype, if a change of the images that float32 cannot hold is lost or grows on
            the way, or if any other one changes nothing.
    """
    names = list(dict.fromkeys(name for name in ("stem", *shown(candidate.config, first)) if name in first))
    for name in dict.fromkeys((*names[:1], *names[-1:])):
        if first[name].dtype != np.float64:
            raise Unfit(f"its {name} is {first[name].dtype} where float64 goes in", lacks="float64")
    small, large = (
        candidate.record(images.astype(np.float64) * (1 + change), False, True)
        for change in (BELOW_FLOAT32, MORE * BELOW_FLOAT32)
    )
    for name in names:
        changes = distance(first[name], small[name]), distance(first[name], large[name])
        if not any(changes) and name == names[0]:
            check_depends(candidate, images, first, name)
        if any(changes) and not changes[1] / AS_MUCH_MORE <= MORE * changes[0] <= changes[1] * AS_MUCH_MORE:
            raise Unfit(
                f"it computes in float32 or less inside: its {name} changes by {changes[0]:.0e} where the images "
                f"change by {BELOW_FLOAT32:.0e}, and by {changes[1]:.0e} where they change {MORE:.0f} times as much",
                lacks="float64",
            )


def check_depends(candidate: Examined, images: np.ndarray, first: Arrays, name: str) -> None:
    """See that an activation which small changes of the images leave as it is depends on them at all.

    Raises:
        Unfit: If it does not; and if it does, since float64 would have seen those changes.
    """
    if np.array_equal(first[name], candidate.record(2 * images, False, True)[name]):
        raise Unfit(
            f"its {name} is the same for other images: it does not depend on them, or what is seen there last is "
            "another call",
            layer=name,
        )
    raise Unfit(
        f"it computes in float32 or less inside: its {name} does not notice a change of the images by "
        f"{MORE * BELOW_FLOAT32:.0e}",
        lacks="float64",
    )


def check_weights(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """See that a run in inference mode leaves the weights as they are.

    Raises:
        Unfit: If an array changed.
    """
    changed = [name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)]
    if changed:
        raise Unfit(
            f"{len(changed)} of its arrays change during a run in inference mode, {changed[0]} first: its norms update "
            "their running statistics, so it is in train mode there",
            layer=changed[0].rpartition(".")[0],
        )


def shown(config: ResNetConfig, arrays: Arrays) -> list[str]:
    """List the activations that a run shows, in the order in which the network computes them."""
    return [name for name in activation_names(config, layers=True) if name in arrays]


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the relative L2 distance of two arrays; infinite if shapes differ, zero if they are equal bit for bit."""
    if first.shape != second.shape:
        return np.inf
    if np.array_equal(first, second, equal_nan=True):
        return 0.0
    norm = float(np.linalg.norm(first.astype(np.float64)))
    return float(np.linalg.norm(first.astype(np.float64) - second) / norm) if norm else np.inf
