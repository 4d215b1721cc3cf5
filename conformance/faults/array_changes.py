"""Constructors of wrong weights: functions that change the canonical arrays of a layer or block.

Each takes (arrays, place, config, parameter) and gives the arrays that differ. Arrays are canonical:
kernels are (out, in, height, width), the classifier's matrix (classes, features).

Example:
    >>> change = changed("weight", by=lambda kernel: kernel.swapaxes(2, 3))
    >>> arrays = {"conv1.weight": np.arange(4.0).reshape(1, 1, 2, 2)}
    >>> change(arrays, Place("conv1", "conv"), ResNetConfig(), 0.0)["conv1.weight"].ravel()
    array([0., 2., 1., 3.])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from conformance.faults.fault import Arrays, WeightsChange
from conformance.faults.place import Place
from impls.config import ResNetConfig

Array = np.ndarray


def each_changed(leaves: Sequence[str], by: Callable[[Array, ResNetConfig, float], Array]) -> WeightsChange:
    """Some arrays of a layer replaced by a function of each, the configuration and the parameter; the dtype stays."""

    def change(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
        right = {f"{layer_of(place)}.{leaf}": arrays[f"{layer_of(place)}.{leaf}"] for leaf in leaves}
        wrong = {name: by(array, config, parameter) for name, array in right.items()}
        return {name: np.ascontiguousarray(wrong[name]).astype(array.dtype) for name, array in right.items()}

    return change


def changed(*leaves: str, by: Callable[[Array], Array]) -> WeightsChange:
    """Some arrays of a layer replaced by a function of each; the dtype stays."""
    return each_changed(leaves, lambda array, config, parameter: by(array))


def variance_changed(by: Callable[[Array, float], Array]) -> WeightsChange:
    """The running variance of a norm replaced by a function of it and of the network's eps; the dtype stays."""
    return each_changed(["running_var"], lambda variance, config, parameter: by(variance, config.norm_eps))


def scaled(*leaves: str) -> WeightsChange:
    """Some arrays of a layer multiplied by the fault's parameter."""
    return each_changed(leaves, lambda array, config, factor: array * factor)


def left_at(**values: float) -> WeightsChange:
    """Some arrays of a layer left at one value, as before loading."""

    def change(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
        names = {f"{layer_of(place)}.{leaf}": value for leaf, value in values.items()}
        return {name: np.full_like(arrays[name], value) for name, value in names.items()}

    return change


def exchanged(*pairs: tuple[str, str]) -> WeightsChange:
    """Arrays of one layer, or ("conv3.weight") of one block, in each other's place, pair by pair."""

    def change(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
        names = [(f"{place.name}.{first}", f"{place.name}.{second}") for first, second in pairs]
        return {a: arrays[b] for a, b in names} | {b: arrays[a] for a, b in names}

    return change


def norms_exchanged(first: str, second: str) -> WeightsChange:
    """Two norms of one block in each other's place, with all their arrays."""
    leaves = ("weight", "bias", "running_mean", "running_var")
    return exchanged(*((f"{first}.{leaf}", f"{second}.{leaf}") for leaf in leaves))


def exchanged_with_following(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
    """Exchange all arrays of a layer or block with those of the same one in the next block."""
    names = [name for name in arrays if name.startswith(f"{place.name}.")]
    pairs = [(name, place.following + name.removeprefix(place.name)) for name in names]
    return {a: arrays[b] for a, b in pairs} | {b: arrays[a] for a, b in pairs}


def layer_of(place: Place) -> str:
    """The layer that holds a place's arrays; the head's is the classifier."""
    return "fc" if place.scope == "head" else place.name
