"""Read and write the weights of the NumPy model under canonical names, which are the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from impls.paths import put
from weights_convert import Checkpoint, Source, fit
from weights_convert.dialects import find_dialect
from weights_convert.fine_tuning import Head, Stem
from weights_convert.live import named_variables

if TYPE_CHECKING:
    from impls.numpy.resnet import ResNet


def read_weights(model: ResNet) -> Checkpoint:
    """Collect every array of the model in a checkpoint.

    Nothing is copied; later training leaves the checkpoint as it is, since the model replaces its arrays.

    Example:
        >>> from impls.numpy import resnet50
        >>> read_weights(resnet50("v1.5", num_classes=10)).arrays["fc.weight"].shape
        (10, 2048)
    """
    arrays = named_variables(model, model.config, "canonical")
    return Checkpoint(arrays, find_dialect("canonical"), model.config, where="the oracle", recognised_by="its config")


def write_weights(model: ResNet, source: Source, head: Head = "kept", stem: Stem = "kept") -> None:
    """Set every array of the model from a checkpoint; if it does not fit, the model stays as it was.

    Args:
        model: Keeps its dtypes (`ResNet.astype`); weights of a narrower dtype are widened.
        source: A checkpoint, a file of one, or arrays by name, as `weights_convert.load` takes them.
        head: "kept" sets the classifier, too; "new" leaves it as it is, whatever that of the source is.
        stem: "kept" sets the first convolution; "sum" sets it to the sum over the source's input channels.

    Raises:
        ConversionError: If the checkpoint belongs to another network, or has a dtype that the model's cannot hold
            exactly.
    """
    checkpoint = fit(source, model.config, head, stem)
    like = named_variables(model, checkpoint.config, "canonical")
    for name, array in copy_arrays(checkpoint, like).items():
        put(model, name, array)


def copy_arrays(checkpoint: Checkpoint, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copy the arrays of a checkpoint, each in the dtype of the array of the same name in `like`.

    Raises:
        ConversionError: If the checkpoint lacks an array, or has a dtype that cannot be converted exactly.
    """
    dtypes = {name: array.dtype for name, array in like.items()}
    return {name: array.astype(dtypes[name]) for name, array in checkpoint.arrays_for("canonical", dtypes).items()}
