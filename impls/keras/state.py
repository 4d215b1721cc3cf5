"""Read and write the weights of the Keras model under canonical names.

`impls/torch/state.py` and `impls/flax/state.py` have the same functions and lines; read them side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import ml_dtypes  # noqa: F401 (makes NumPy know the name "bfloat16")
import numpy as np
from keras import ops

from weights_convert import Checkpoint, Source, fit
from weights_convert.dialects import find_dialect
from weights_convert.fine_tuning import Head, Stem
from weights_convert.live import named_variables

if TYPE_CHECKING:
    from impls.keras.resnet import ResNet


def read_weights(model: ResNet) -> Checkpoint:
    """Copy every array of the model into a checkpoint.

    Returns:
        Parameters and running statistics as NumPy arrays in the model's dtypes (bfloat16 by `ml_dtypes`), named and
        laid out as the model's framework has them.

    Example:
        >>> from impls.keras import resnet50
        >>> read_weights(resnet50("v1.5", num_classes=10)).to("canonical").save("weights.safetensors")
    """
    arrays = read_variables(named_variables(model, model.config, "keras"))
    return Checkpoint(arrays, find_dialect("keras"), model.config, where="a Keras model", recognised_by="its config")


def write_weights(model: ResNet, source: Source, head: Head = "kept", stem: Stem = "kept") -> None:
    """Set every array of the model from a checkpoint; if it does not fit, the model stays as it was.

    Args:
        model: Keeps its dtypes; weights of a narrower dtype are widened.
        source: A checkpoint, a file of one, or arrays by name, as `weights_convert.load` takes them.
        head: "kept" sets the classifier, too; "new" leaves it as it is, whatever that of the source is.
        stem: "kept" sets the first convolution; "sum" sets it to the sum over the source's input channels.

    Raises:
        ConversionError: If the checkpoint belongs to another network, or has a dtype that the model's cannot hold
            exactly.
    """
    checkpoint = fit(source, model.config, head, stem)
    write_variables(named_variables(model, checkpoint.config, "keras"), checkpoint)


def read_variables(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Copy variables into arrays of the same names."""
    return {name: to_numpy(variable) for name, variable in variables.items()}


def write_variables(variables: Mapping[str, keras.Variable], checkpoint: Checkpoint) -> None:
    """Set variables from the arrays of a checkpoint; if one does not fit, all stay as they were.

    Raises:
        ConversionError: If the checkpoint lacks an array, or has a dtype that a variable cannot hold exactly.
    """
    dtypes = {name: numpy_dtype(variable) for name, variable in variables.items()}
    arrays = checkpoint.arrays_for("keras", dtypes)
    for name, variable in variables.items():
        assign(variable, np.ascontiguousarray(arrays[name], dtypes[name]))


def numpy_dtype(variable: keras.Variable) -> np.dtype[Any]:
    """Return the NumPy dtype of a variable; bfloat16 is that of `ml_dtypes`."""
    return np.dtype(variable.dtype)


def to_numpy(variable: keras.Variable) -> np.ndarray:
    """Copy a variable, from any device, into an array."""
    return np.array(ops.convert_to_numpy(variable))


def assign(variable: keras.Variable, array: np.ndarray) -> None:
    """Copy an array of the same dtype into a variable."""
    variable.assign(array)
