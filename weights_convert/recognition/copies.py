"""Replicated trees of Flax: every array has a leading axis of equal copies, one for each device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from weights_convert.errors import listed
from weights_convert.recognition.subtrees import Subtree

UNEQUAL = "average them over the devices and save one: flax.jax_utils.unreplicate(sync_batch_stats(state))"


def without_copies(
    arrays: Mapping[str, np.ndarray], tree: Subtree
) -> tuple[Mapping[str, np.ndarray], list[str], list[str]]:
    """Return the arrays of a source without the axis of copies, if each array of a network has the same one.

    Args:
        arrays: All arrays by name in the source.
        tree: The network.

    Returns:
        The arrays, notes of what was done, and problems: the copies of an array may differ, as running statistics do
        that were not averaged over the devices.
    """
    axes = {name: rule.leaf(tree.dialect.framework).axes for name, (_, rule) in tree.readings.items()}
    counts = {arrays[name].shape[0] if arrays[name].ndim == len(axes[name]) + 1 else 0 for name in axes}
    if len(counts) != 1 or 0 in counts or tree.dialect.framework != "flax":
        return arrays, [], []
    (count,) = counts
    unequal = [name for name in axes if any(not _same_bits(copy, arrays[name][0]) for copy in arrays[name][1:])]
    if unequal:
        names = listed(map(repr, unequal))
        return arrays, [], [f"each array holds {count} copies, and those of {names} differ; {UNEQUAL}"]
    single = {name: array[0] if name in axes else array for name, array in arrays.items()}
    return single, [f"each array held {count} equal copies, of which one is read"], []


def _same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    return first.tobytes() == second.tobytes()
