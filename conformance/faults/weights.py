"""How weights go wrong: functions on canonical arrays, each giving back the arrays that it changes.

All have the signature (arrays, place, config, parameter) -> changed arrays. Kernels are (out, in, height, width).
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from conformance.faults.fault import Arrays, Place, WeightsChange
from impls.config import ResNetConfig

Array = np.ndarray


def on_leaf(leaf: str, change: Callable[[Array], Array]) -> WeightsChange:
    """One array of a layer, changed."""

    def changed(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
        name = f"{layer_of(place)}.{leaf}"
        array = arrays[name]
        return {name: np.ascontiguousarray(change(array)).astype(array.dtype)}

    return changed


def scaled(*leaves: str) -> WeightsChange:
    """Some arrays of a layer, multiplied by the parameter."""

    def changed(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
        names = [f"{layer_of(place)}.{leaf}" for leaf in leaves]
        return {name: (arrays[name] * parameter).astype(arrays[name].dtype) for name in names}

    return changed


def filled(**values: float) -> WeightsChange:
    """Some arrays of a layer as they were before loading: all one value."""

    def changed(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
        names = {f"{layer_of(place)}.{leaf}": value for leaf, value in values.items()}
        return {name: np.full_like(arrays[name], value) for name, value in names.items()}

    return changed


def exchanged(first: str, second: str) -> WeightsChange:
    """Two arrays of one layer, or (with dots) of one block, in each other's place."""

    def changed(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
        one, other = f"{place.name}.{first}", f"{place.name}.{second}"
        return {one: arrays[other], other: arrays[one]}

    return changed


def norms_exchanged(first: str, second: str) -> WeightsChange:
    """Two norms of one block in each other's place, with all their arrays."""

    def changed(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
        leaves = ("weight", "bias", "running_mean", "running_var")
        pairs = [(f"{place.name}.{first}.{leaf}", f"{place.name}.{second}.{leaf}") for leaf in leaves]
        return {a: arrays[b] for a, b in pairs} | {b: arrays[a] for a, b in pairs}

    return changed


def exchanged_with_following(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
    """All arrays of a layer or block, exchanged with those of its twin in the next block."""
    own = [name for name in arrays if name.startswith(f"{place.name}.")]
    pairs = [(name, place.following + name.removeprefix(place.name)) for name in own]
    return {a: arrays[b] for a, b in pairs} | {b: arrays[a] for a, b in pairs}


def norm_folded(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
    """The norm's scale multiplied into the convolution before it, and still applied after it."""
    norm = norm_after(place.name)
    factor = arrays[f"{norm}.weight"] / np.sqrt(arrays[f"{norm}.running_var"] + config.norm_eps)
    names = [f"{place.name}.{leaf}" for leaf in ("weight", "bias") if f"{place.name}.{leaf}" in arrays]
    shapes = [(-1,) + (1,) * (arrays[name].ndim - 1) for name in names]
    return {
        name: (arrays[name] * factor.reshape(shape)).astype(arrays[name].dtype)
        for name, shape in zip(names, shapes, strict=True)
    }


def bias_folded(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
    """The convolution's bias taken off the running mean, and still added by the convolution."""
    name = f"{place.name}.running_mean"
    return {name: arrays[name] - arrays[f"{conv_before(place.name)}.bias"]}


def eps_outside_root(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
    """A variance that makes sqrt(variance + eps) what sqrt(right variance) + eps is."""
    name, eps = f"{place.name}.running_var", config.norm_eps
    return {name: ((np.sqrt(arrays[name]) + eps) ** 2 - eps).astype(arrays[name].dtype)}


def inverse_deviation(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
    """1 / sqrt(variance + eps), as some formats store it, read as the variance."""
    name = f"{place.name}.running_var"
    return {name: (1 / np.sqrt(arrays[name] + config.norm_eps)).astype(arrays[name].dtype)}


def pooled_map_reordered(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
    """The classifier's columns in the order (height, width, channel) where they were (channel, height, width)."""
    weight, side = arrays["fc.weight"], 1  # both pools leave a map of one pixel
    maps = weight.reshape(len(weight), -1, side, side)
    return {"fc.weight": np.ascontiguousarray(maps.transpose(0, 2, 3, 1)).reshape(weight.shape)}


def classes_rolled(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
    """The classifier's rows moved by one: a background class came first."""
    return {name: np.roll(arrays[name], 1, axis=0) for name in ("fc.weight", "fc.bias")}


def square_root(variance: Array) -> Array:
    """The standard deviation."""
    deviation: Array = np.sqrt(variance)
    return deviation


def turned(weight: Array) -> Array:
    """Height and width exchanged."""
    return weight.swapaxes(2, 3)


def channels_exchanged(weight: Array) -> Array:
    """Input and output channels exchanged."""
    return weight.swapaxes(0, 1)


def rotated(weight: Array) -> Array:
    """By 180 degrees."""
    return weight[:, :, ::-1, ::-1]


def mirrored(weight: Array) -> Array:
    """Left for right."""
    return weight[:, :, :, ::-1]


def upside_down(weight: Array) -> Array:
    """Top for bottom."""
    return weight[:, :, ::-1]


def reshaped_from_channels_last(weight: Array) -> Array:
    """The numbers of (height, width, in, out) read in the order of (out, in, height, width)."""
    return weight.transpose(2, 3, 1, 0).reshape(weight.shape)


def reshaped_matrix(weight: Array) -> Array:
    """The numbers of (in, out) read in the order of (out, in)."""
    return weight.T.reshape(weight.shape)


def inputs_reversed(weight: Array) -> Array:
    """Input channels in the opposite order."""
    return weight[:, ::-1]


def outputs_rolled(weight: Array) -> Array:
    """Output channels moved by one."""
    return np.roll(weight, 1, axis=0)


def through_float16(weight: Array) -> Array:
    """Rounded to float16."""
    return weight.astype(np.float16)


def through_bfloat16(weight: Array) -> Array:
    """Rounded to bfloat16."""
    return weight.astype(ml_dtypes.bfloat16)


def through_int8(weight: Array) -> Array:
    """Quantised to 8 bits with one scale for the array."""
    step = np.abs(weight).max() / 127
    rounded: Array = np.rint(weight / step) * step
    return rounded


def layer_of(place: Place) -> str:
    """The layer that holds a place's arrays; the head's is the classifier."""
    return "fc" if place.scope == "head" else place.name


def norm_after(conv: str) -> str:
    """The norm that follows a convolution.

    Example:
        >>> norm_after("stage1.0.downsample_conv"), norm_after("conv1")
        ('stage1.0.downsample_bn', 'bn1')
    """
    path, dot, leaf = conv.rpartition(".")
    return f"{path}{dot}{leaf.replace('conv', 'bn')}"


def conv_before(norm: str) -> str:
    """The convolution before a norm."""
    path, dot, leaf = norm.rpartition(".")
    return f"{path}{dot}{leaf.replace('bn', 'conv')}"
