"""Nested dictionaries of arrays, as Flax and Orbax store them, and their dotted names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

VALUE = "value"
"""The key under which Flax NNX stores the array of a variable, where a whole state is saved."""


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield every array with the keys that lead to it, joined by dots. None and empty containers are skipped.

    Raises:
        ValueError: If the tree holds anything else.

    Example:
        >>> list(flatten({"bn1": {"mean": np.zeros(1)}}))
        [('bn1.mean', array([0.]))]
    """
    if isinstance(tree, Mapping) and set(tree) == {VALUE} and prefix:
        yield from flatten(tree[VALUE], prefix)
    elif isinstance(tree, Mapping | list | tuple):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, np.ndarray | np.generic | int | float):
        yield prefix, np.asarray(tree)
    elif tree is not None:
        raise ValueError(f"{prefix!r} is of type {type(tree).__name__}, expected an array")


def nest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Turn arrays with dotted names into nested dictionaries: the inverse of `flatten`.

    Example:
        >>> nest({"bn1.mean": np.zeros(1)})
        {'bn1': {'mean': array([0.])}}
    """
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, leaf = name.split(".")
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        branch[leaf] = array
    return tree


def unique_dict(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return a dictionary of pairs, and refuse pairs with the same key.

    Raises:
        ValueError: If a key occurs twice.

    Example:
        >>> unique_dict([("bn1.mean", 0.0), ("bn1.mean", 1.0)])
        Traceback (most recent call last):
        ...
        ValueError: the name 'bn1.mean' occurs twice
    """
    result: dict[Any, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the name {key!r} occurs twice")
        result[key] = value
    return result
