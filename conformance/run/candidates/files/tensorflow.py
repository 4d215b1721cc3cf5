"""Adapters of TensorFlow's files: the folder of a SavedModel, and TFLite files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from conformance.run.candidates.graph import GraphCandidate, refuse_quantised
from conformance.run.candidates.survey import Unfit
from weights_convert.errors import first_line

SERVING = "serving_default"
"""The signature that Keras and TensorFlow's servers use."""

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
"""Ending of the key of a variable in a checkpoint."""

NUMBERED = {"_all_variables", "variables", "trainable_variables", "non_trainable_variables"}
"""Lists of variables, in which `model.export` of Keras numbers them."""


class SavedModel:
    """A SavedModel as a function from images to the outputs of its serving signature.

    Args:
        folder: The folder.
        precision: "float64" or "float32"; the graph computes in its own.

    Raises:
        Unfit: If it cannot be read, or has no signature that takes images alone.
    """

    def __init__(self, folder: Path, precision: str) -> None:
        if not (folder / "saved_model.pb").is_file():
            raise Unfit(f"{folder} is no TensorFlow SavedModel: it has no file saved_model.pb")
        self.folder = folder
        try:
            self.model = tf.saved_model.load(str(folder))
        except Exception as error:  # TensorFlow raises errors of many kinds
            raise Unfit(f"{folder} cannot be loaded as a TensorFlow SavedModel: {first_line(error)}") from error
        signatures = dict(self.model.signatures)
        if SERVING not in signatures:
            there_are = ", ".join(signatures) or "none"
            raise Unfit(
                f"{folder} has no signature {SERVING} (it has {there_are}): save it with signatures=..., or by "
                "model.export of Keras"
            )
        self.signature = signatures[SERVING]
        inputs = list(self.signature.structured_input_signature[1].values())
        if len(inputs) != 1 or inputs[0].shape.rank != 4:
            raise Unfit(f"the signature {SERVING} of {folder} takes {inputs}; one batch of images is expected")
        self.input = inputs[0]

    @property
    def shape(self) -> Sequence[int | None]:
        """Shape of the images."""
        shape: Sequence[int | None] = self.input.shape.as_list()
        return shape

    @property
    def float32_only(self) -> str:
        """Say why it cannot be run in float64; empty where it was saved in float64."""
        return "" if self.input.dtype == tf.float64 else f"its graph was saved in {self.input.dtype.name}"

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the variables by their attribute paths; where they were numbered instead, by their names."""
        saved = tf.train.load_checkpoint(str(self.folder / "variables" / "variables"))
        keys = [key for key in saved.get_variable_to_shape_map() if key.endswith(VALUE)]
        paths = {key: path_of(key) for key in keys if key.partition("/")[0] not in NUMBERED}
        if paths:
            return {path: saved.get_tensor(key) for key, path in paths.items()}
        variables = list(self.signature.variables)
        arrays = {variable.name.removesuffix(":0").replace("/", "."): variable.numpy() for variable in variables}
        return arrays if len(arrays) == len(variables) else {}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the signature."""
        outputs = self.signature(**{self.input.name: tf.constant(images, self.input.dtype)})
        return {name: tensor.numpy() for name, tensor in outputs.items()}


def path_of(key: str) -> str:
    """Return the path of a variable in a checkpoint; Keras keeps a kernel as `_kernel`.

    Example:
        >>> path_of("stage2/0/conv1/_kernel/.ATTRIBUTES/VARIABLE_VALUE")
        'stage2.0.conv1.kernel'
    """
    *layer, array = key.removesuffix(VALUE).split("/")
    return ".".join([*layer, array.removeprefix("_")])


class SavedModelCandidate(GraphCandidate):
    """A SavedModel."""

    framework, layout, file = "keras", "NHWC", "a SavedModel"


class LiteFile:
    """A TFLite file as a function from images to the outputs of its graph.

    Args:
        file: The file.
        precision: "float64" or "float32"; the graph computes in its own.

    Raises:
        Unfit: If it cannot be read, is quantised, or takes something else than images.
    """

    def __init__(self, file: Path, precision: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is deprecated: another package takes its place
                self.interpreter = tf.lite.Interpreter(model_path=str(file))
            self.interpreter.allocate_tensors()
        except Exception as error:  # TensorFlow raises errors of many kinds
            raise Unfit(f"{file} cannot be read as a TFLite file: {first_line(error)}") from error
        refuse_quantised(file, (np.dtype(tensor["dtype"]).name for tensor in self.interpreter.get_tensor_details()))
        inputs = self.interpreter.get_input_details()
        if len(inputs) != 1 or len(inputs[0]["shape"]) != 4:
            shapes = [each["shape"].tolist() for each in inputs]
            raise Unfit(f"{file} takes inputs of the shapes {shapes}; one batch of images is expected")
        self.input = inputs[0]

    @property
    def shape(self) -> Sequence[int | None]:
        """Shape of the images."""
        return [int(length) if length > 0 else None for length in self.input["shape_signature"]]

    @property
    def float32_only(self) -> str:
        """Say why it cannot be run in float64."""
        return "TFLite computes in float32"

    def arrays(self) -> dict[str, np.ndarray]:
        """Return none: the converter folds norms, and names arrays anew."""
        return {}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph on images of any size that it takes."""
        self.interpreter.resize_tensor_input(self.input["index"], images.shape, strict=True)
        self.interpreter.allocate_tensors()
        self.interpreter.set_tensor(self.input["index"], images.astype(self.input["dtype"]))
        self.interpreter.invoke()
        return {o["name"]: self.interpreter.get_tensor(o["index"]) for o in self.interpreter.get_output_details()}


class LiteCandidate(GraphCandidate):
    """A TFLite file."""

    framework, layout, file = "keras", "NHWC", "a TFLite file"
