"""Convolutions: kernels in a wrong layout or place, biases lost, weights rounded, padding on the wrong side."""

from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np

from conformance.faults.array_changes import changed, exchanged_with_following, left_at, scaled
from conformance.faults.fault import Arrays, Fault, Parameter, model_fault
from conformance.faults.place import NETWORK, Place, at, networks
from conformance.faults.remedies import BIAS, DTYPE, FOLDED, NAMES, PIXELS, Remedies
from impls.config import ResNetConfig

KERNEL = Remedies(
    torch="Bring weight to (out, in, height, width): from (height, width, in, out) by permute(3, 2, 0, 1).",
    flax="Bring kernel to (height, width, in, out): from (out, in, height, width) by transpose(2, 3, 1, 0).",
    keras="Bring kernel to (height, width, in, out): from (out, in, height, width) by transpose(2, 3, 1, 0).",
)
PADDING = Remedies(
    torch="Use padding=kernel // 2 for symmetric padding; for TensorFlow's SAME, pad right and bottom by hand first.",
    flax="Use padding=kernel // 2, or ((1, 1), (1, 1)), for symmetric padding; 'SAME' is TensorFlow's.",
    keras="Pad by hand and use padding='valid' for symmetric padding; 'same' is TensorFlow's.",
)
STRIDED_3X3 = at("conv", kernel=3, stride=2) | NETWORK
SAME_CONDITION = "config.same_padding and kernel == 3", "kernel == 7"


def neighbour(place: Place, kind: str, other: str) -> str:
    """The norm after a convolution, or the convolution before a norm.

    Example:
        >>> neighbour(Place("stage1.0.downsample_conv", "conv"), "conv", "bn")
        'stage1.0.downsample_bn'
    """
    path, dot, layer = place.name.rpartition(".")
    return path + dot + layer.replace(kind, other)


def norm_folded(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
    """Multiply the scale of the norm after a convolution into its kernel and bias; the norm keeps it, too."""
    norm = neighbour(place, "conv", "bn")
    factor = arrays[f"{norm}.weight"] / np.sqrt(arrays[f"{norm}.running_var"] + config.norm_eps)
    names = [f"{place.name}.{leaf}" for leaf in ("weight", "bias") if f"{place.name}.{leaf}" in arrays]
    shapes = [(-1,) + (1,) * (arrays[name].ndim - 1) for name in names]
    return {
        name: (arrays[name] * factor.reshape(shape)).astype(arrays[name].dtype)
        for name, shape in zip(names, shapes, strict=True)
    }


def bias_folded(arrays: Arrays, place: Place, config: ResNetConfig, parameter: float) -> Arrays:
    """Subtract the bias of the convolution before a norm from the running mean; the convolution keeps it, too."""
    name = f"{place.name}.running_mean"
    return {name: arrays[name] - arrays[f"{neighbour(place, 'bn', 'conv')}.bias"]}


def through_int8(weight: np.ndarray) -> np.ndarray:
    """Quantise to 8 bits with one scale for the array, and back."""
    step = np.abs(weight).max() / 127
    rounded: np.ndarray = np.rint(weight / step) * step
    return rounded


kernel_fault = partial(Fault, where=at("conv", kernel=(3, 7)), remedies=KERNEL)
rounding_fault = partial(Fault, where=at("conv"), remedies=DTYPE)
padding_fault = partial(model_fault, where=STRIDED_3X3, remedies=PADDING)
folded_fault = partial(Fault, where=at("conv"), remedies=FOLDED)

ROWS = {
    "kernel-full-transpose": kernel_fault(
        what="the kernel's height and width are exchanged, as a plain transpose() of all its axes does",
        weights=changed("weight", by=lambda kernel: kernel.swapaxes(2, 3)),
        source="tf_texture_net#1",
    ),
    "kernel-io-swap": kernel_fault(
        what="the kernel's input and output channels are exchanged, which fits where there are as many of both",
        where=at("conv", square=True),
        weights=changed("weight", by=lambda kernel: kernel.swapaxes(0, 1)),
    ),
    "kernel-flip": kernel_fault(
        what="the kernel is rotated by 180 degrees: a true convolution, where networks cross-correlate",
        weights=changed("weight", by=lambda kernel: kernel[:, :, ::-1, ::-1]),
    ),
    "kernel-mirrored": kernel_fault(
        what="the kernel is mirrored left to right",
        weights=changed("weight", by=lambda kernel: kernel[:, :, :, ::-1]),
    ),
    "kernel-upside-down": kernel_fault(
        what="the kernel is mirrored top to bottom",
        weights=changed("weight", by=lambda kernel: kernel[:, :, ::-1]),
    ),
    "kernel-reshaped": kernel_fault(
        what="the kernel was reshaped from (height, width, in, out) to (out, in, height, width), not transposed",
        where=at("conv"),
        weights=changed("weight", by=lambda kernel: kernel.transpose(2, 3, 1, 0).reshape(kernel.shape)),
    ),
    "kernel-order": Fault(
        what="the kernel and that of the next block, which has the same shape, are in each other's place",
        where=at("conv", followed=True),
        weights=exchanged_with_following,
        source="tensorflow#33459",
        remedies=NAMES,
    ),
    "channels-rolled": kernel_fault(
        what="the kernel's output channels are shifted by one",
        where=at("conv"),
        weights=changed("weight", by=lambda kernel: np.roll(kernel, 1, axis=0)),
    ),
    "stem-bgr": Fault(
        what="the first kernel's input channels are in the order BGR",
        where=at("conv", name="conv1"),
        weights=changed("weight", by=lambda kernel: kernel[:, ::-1]),
        source="keras#10279",
        remedies=PIXELS,
    ),
    "layer-half": rounding_fault(
        what="the convolution's weights were rounded to float16",
        weights=changed("weight", by=lambda kernel: kernel.astype(np.float16)),
    ),
    "layer-bfloat16": rounding_fault(
        what="the convolution's weights were rounded to bfloat16",
        weights=changed("weight", by=lambda kernel: kernel.astype(ml_dtypes.bfloat16)),
    ),
    "layer-int8": rounding_fault(
        what="the convolution's weights come from a file that was quantised to 8 bits",
        weights=changed("weight", by=through_int8),
    ),
    "bn-folded-twice": folded_fault(
        what="the batch norm was folded into the convolution, and is still applied after it",
        weights=norm_folded,
        source="tf2onnx#1494",
    ),
    "conv-bias-dropped": Fault(
        what="the convolution's bias was left out",
        where=at("conv") & networks(conv_bias=True),
        weights=left_at(bias=0.0),
        source="keras.applications",
        remedies=BIAS,
    ),
    "conv-bias-kept": Fault(
        what="the convolution's bias was folded into the running mean of the norm after it, and is still added",
        where=at("norm") & networks(conv_bias=True),
        weights=bias_folded,
        remedies=FOLDED,
    ),
    "pad-same": padding_fault(
        what="the strided 3x3 pads as TensorFlow's SAME does: one-sided at even sizes, no difference at odd ones",
        config={"same_padding": True},
        source="keras#16363, flax examples/imagenet, tensornets#25",
    ),
    "pad-symmetric": padding_fault(
        what="the strided 3x3 pads both sides alike, where the weights were trained with TensorFlow's SAME",
        config={"same_padding": False},
        source="flax examples/imagenet",
    ),
    "pad-same-stem": padding_fault(
        what="the stem's 7x7 pads as TensorFlow's SAME does: by two pixels and three, not three and three",
        where=at("conv", name="conv1"),
        numpy=SAME_CONDITION,
        torch=(SAME_CONDITION, ("pad_same(x, 3, 2, 0.0)", "pad_same(x, self.kernel_size[0], 2, 0.0)")),
        flax=SAME_CONDITION,
        keras=SAME_CONDITION,
        source="tensornets#25, tensorflow#10747",
    ),
    "kernel-scaled": folded_fault(
        what="the kernel is multiplied by some factor",
        weights=scaled("weight"),
        unknown=Parameter("factor", injected=1.25, starts=(0.5, 1.1, 2.0, 30.0)),
    ),
}
