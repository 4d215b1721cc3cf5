"""Nested dictionaries of arrays, as Flax and Orbax store them, and dotted names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

VALUE = "value"
"""What Flax NNX calls the array of a variable, where a whole state is saved."""


def flattened(tree: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every array with the keys that lead to it, joined by dots; what is empty or None is passed over.

    Raises:
        ValueError: If something else stands in the tree.

    Example:
        >>> list(flattened({"bn1": {"mean": np.zeros(1)}}))
        [('bn1.mean', array([0.]))]
    """
    if isinstance(tree, Mapping):
        if set(tree) == {VALUE} and prefix:
            yield from flattened(tree[VALUE], prefix)
            return
        for key, value in tree.items():
            yield from flattened(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from flattened(value, f"{prefix}.{index}" if prefix else str(index))
    elif isinstance(tree, np.ndarray | np.generic | int | float):
        yield prefix, np.asarray(tree)
    elif tree is not None:
        raise ValueError(f"{prefix!r} is of type {type(tree).__name__}, where an array is expected")


def unique(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dictionary of pairs, none of which hides another.

    Raises:
        ValueError: If a key occurs twice.

    Example:
        >>> unique([("bn1.mean", 0.0), ("bn1.mean", 1.0)])
        Traceback (most recent call last):
        ...
        ValueError: it names 'bn1.mean' twice
    """
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it names {key!r} twice")
        found[key] = value
    return found


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of `flattened`.

    Example:
        >>> nested({"bn1.mean": np.zeros(1)})
        {'bn1': {'mean': array([0.])}}
    """
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, leaf = name.split(".")
        branch = tree
        for step in path:
            branch = branch.setdefault(step, {})
        branch[leaf] = array
    return tree
