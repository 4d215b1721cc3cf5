"""The oracle's weights under canonical names, which are its own."""

from __future__ import annotations

from impls.numpy.resnet import ResNet
from impls.paths import follow, variables
from weights_convert import Checkpoint, Source, load
from weights_convert.dialects import find_dialect


def read_weights(model: ResNet) -> Checkpoint:
    """The model's arrays as a checkpoint, to save or to turn into another dialect."""
    arrays = variables(model, model.config, "canonical")
    return Checkpoint(arrays, find_dialect("canonical"), model.config, where="the oracle", recognised_by="its config")


def write_weights(model: ResNet, source: Source) -> None:
    """Set every array of the model from a checkpoint, in the dtype that the model has now.

    Raises:
        ConversionError: If the checkpoint is another network's, or has a dtype that the model's cannot hold exactly.
    """
    own = variables(model, model.config, "canonical")
    dtypes = {name: array.dtype for name, array in own.items()}
    arrays = load(source, config=model.config).arrays_for("canonical", dtypes)
    for name, dtype in dtypes.items():
        path, _, leaf = name.rpartition(".")
        setattr(follow(model, path), leaf, arrays[name].astype(dtype))
