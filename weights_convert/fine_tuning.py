"""Fitting a checkpoint to a model that is to be fine-tuned: other classes, or images of one channel."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from impls.config import ResNetConfig
from weights_convert.checkpoint import Checkpoint
from weights_convert.errors import ConversionError
from weights_convert.inspection import inspect, load
from weights_convert.recognition import only_linear_layer
from weights_convert.sources import Source, open_source
from weights_convert.table import reorder

Head = Literal["kept", "new"]
"""The choice between the classifier of a checkpoint and the model's own random one."""

Stem = Literal["kept", "sum"]
"""The choice between the first convolution of a checkpoint as it is and its sum over the input channels."""


def fit(source: Source, config: ResNetConfig, head: Head = "kept", stem: Stem = "kept") -> Checkpoint:
    """Read a checkpoint for a model that may have another classifier, or take images of one channel.

    Args:
        source: A source that `load` takes.
        config: The network of the model.
        head: "new" leaves out the classifier, whatever it is made of.
        stem: "sum" adds up the input channels of the first convolution, for a model of one channel.

    Returns:
        The checkpoint; with a new head, its configuration has no classes.

    Raises:
        ConversionError: If the rest does not fit the model.
        ValueError: If `head` or `stem` has another value, or the stem is summed for more than one channel.

    Example:
        >>> from weights_convert.dialects import find_dialect
        >>> from weights_convert.shapes import expected_shapes
        >>> sizes = {"depths": (1, 1, 1, 1), "width": 1}
        >>> arrays = {name: np.ones(shape) for name, shape in expected_shapes(ResNetConfig(**sizes)).items()}
        >>> ten_grey = ResNetConfig(num_classes=10, in_channels=1, **sizes)
        >>> float(fit(arrays, ten_grey, head="new", stem="sum").arrays["conv1.weight"][0, 0, 0, 0])
        3.0
    """
    for name, value, values in (("head", head, ("kept", "new")), ("stem", stem, ("kept", "sum"))):
        if value not in values:
            raise ValueError(f"{name} must be {' or '.join(map(repr, values))}, not {value!r}")
    if stem == "sum" and config.in_channels != 1:
        raise ValueError(f"stem='sum' is for a model of one input channel, and this one has {config.in_channels}")
    source_config = replace(
        config,
        num_classes=0 if head == "new" else config.num_classes,
        in_channels=ResNetConfig.in_channels if stem == "sum" else config.in_channels,
    )
    checkpoint = load(source, config=source_config, drop_head=head == "new")
    return sum_stem(checkpoint) if stem == "sum" else checkpoint


def sum_stem(checkpoint: Checkpoint) -> Checkpoint:
    """Add up the input channels of the first convolution.

    A grey image then gives the logits that the network gives for three equal channels. That is what a grey image
    becomes if each channel is normalised by the same mean and standard deviation.

    Returns:
        A checkpoint of one input channel. The sums are computed in float64 and rounded to the checkpoint's dtype.
    """
    canonical = checkpoint.to("canonical")
    kernel = canonical.arrays["conv1.weight"]
    summed = kernel.astype(np.float64).sum(axis=1, keepdims=True).astype(kernel.dtype)
    line = f"the {kernel.shape[1]} input channels of the first convolution added up"
    arrays = {**canonical.arrays, "conv1.weight": summed}
    return canonical.changed(line, arrays, in_channels=1).to(checkpoint.dialect.name)


def head_from(checkpoint: Checkpoint, source: Source) -> Checkpoint:
    """Replace the classifier of a checkpoint by that of another source.

    Args:
        checkpoint: A checkpoint, with a classifier or without one.
        source: A network with a classifier, or a file that holds one linear layer and nothing else, as linear probes
            are saved.

    Raises:
        ConversionError: If the source has no classifier, several linear layers, or one of another size or dtype.
    """
    where, weight, bias = _linear(source)
    features = checkpoint.config.width * 32
    dtypes = {array.dtype for array in checkpoint.arrays.values()}
    problems = []
    if weight.ndim != 2 or weight.shape[1] != features or bias.shape != weight.shape[:1]:
        problems.append(f"its classifier is {weight.shape} and {bias.shape}; the network has {features} features")
    if not {weight.dtype, bias.dtype} <= dtypes:
        listed = " and ".join(sorted(map(str, dtypes)))
        problems.append(f"its classifier is {weight.dtype}, and the network {listed}")
    if problems:
        raise ConversionError(where, problems)
    canonical = checkpoint.without_head().to("canonical")
    arrays = {**canonical.arrays, "fc.weight": weight, "fc.bias": bias}
    line = f"classifier of {len(weight)} classes taken from {where}"
    return canonical.changed(line, arrays, num_classes=len(weight)).to(checkpoint.dialect.name)


def _linear(source: Source) -> tuple[str, np.ndarray, np.ndarray]:
    """Return a source's name in messages, and the weight (classes, features) and bias of its classifier."""
    if isinstance(source, Checkpoint):
        where, arrays = source.where, source.to("canonical").arrays
    else:
        opened = open_source(source)
        where, layer = opened.where, only_linear_layer(opened.arrays)
        if layer is not None:
            framework, readings = layer
            arrays = {
                canonical: reorder(opened.arrays[name], rule, framework, "torch")
                for name, (canonical, rule) in readings.items()
                if rule.leaf(framework).fits(opened.arrays[name].shape)
            }
        else:
            inspection = inspect(source)
            if inspection.problems:
                raise ConversionError(where, inspection.problems, inspection.advice)
            arrays = dict(inspection.canonical())
    if not {"fc.weight", "fc.bias"} <= arrays.keys():
        raise ConversionError(where, ["it has no classifier of one linear layer"])
    return where, arrays["fc.weight"], arrays["fc.bias"]
