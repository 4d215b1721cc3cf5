"""The weights of the Flax model under canonical names."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from impls.flax.resnet import ResNet
from impls.paths import variables
from weights_convert import Checkpoint, Source, load
from weights_convert.dialects import find_dialect


def read_weights(model: ResNet) -> Checkpoint:
    """The model's arrays as a checkpoint, to save or to turn into another dialect."""
    arrays = {name: np.asarray(variable[...]) for name, variable in variables(model, model.config, "flax").items()}
    return Checkpoint(arrays, find_dialect("flax"), model.config, where="a Flax model", recognised_by="its config")


def write_weights(model: ResNet, source: Source) -> None:
    """Set every array of the model from a checkpoint, all or none.

    Raises:
        ConversionError: If the checkpoint is another network's, or has a dtype that the model's cannot hold exactly.
    """
    own = variables(model, model.config, "flax")
    dtypes = {name: np.dtype(variable.dtype) for name, variable in own.items()}
    arrays = load(source, config=model.config).arrays_for("flax", dtypes)
    for name, variable in own.items():
        variable.set_value(jnp.asarray(arrays[name], dtypes[name]))
