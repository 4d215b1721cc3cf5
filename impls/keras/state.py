"""The weights of the Keras model under canonical names."""

from __future__ import annotations

import ml_dtypes  # noqa: F401 (makes NumPy know the name "bfloat16")
import numpy as np
from keras import ops

from impls.keras.resnet import ResNet
from impls.paths import variables
from weights_convert import Checkpoint, Source, load
from weights_convert.dialects import find_dialect


def read_weights(model: ResNet) -> Checkpoint:
    """The model's arrays as a checkpoint, to save or to turn into another dialect."""
    own = variables(model, model.config, "keras")
    arrays = {name: np.array(ops.convert_to_numpy(variable)) for name, variable in own.items()}
    return Checkpoint(arrays, find_dialect("keras"), model.config, where="a Keras model", recognised_by="its config")


def write_weights(model: ResNet, source: Source) -> None:
    """Set every array of the model from a checkpoint, all or none.

    Raises:
        ConversionError: If the checkpoint is another network's, or has a dtype that the model's cannot hold exactly.
    """
    own = variables(model, model.config, "keras")
    dtypes = {name: np.dtype(variable.dtype) for name, variable in own.items()}
    arrays = load(source, config=model.config).arrays_for("keras", dtypes)
    for name, variable in own.items():
        variable.assign(np.ascontiguousarray(arrays[name], dtypes[name]))
