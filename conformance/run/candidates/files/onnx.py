"""Adapter of ONNX files, run by ONNX Runtime on the CPU, and in float64 by the reference evaluator of onnx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conformance.run.candidates.graph import GraphCandidate, refuse_quantised
from conformance.run.candidates.survey import Unfit

NEEDED = "pip install 'resnet-parity[onnx]'"


class OnnxFile:
    """An ONNX file as a function from images to the outputs of its graph.

    In float32 it is run by ONNX Runtime, whose convolutions know no float64; in float64 by onnx's reference evaluator,
    with every array and conversion of float32 turned to float64.

    Args:
        file: The file.
        precision: "float64" or "float32".

    Raises:
        Unfit: If the packages that read and run it are missing, it cannot be read, or it is quantised.
    """

    def __init__(self, file: Path, precision: str) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise Unfit(
                f"an ONNX file needs the packages onnx and onnxruntime ({error.name} is missing): {NEEDED}"
            ) from error
        try:
            self.model = onnx.load(str(file))
            self.run = run_in_float64(self.model) if precision == "float64" else run_in_float32(onnxruntime, file)
        except Exception as error:  # each of the two raises errors of its own
            raise Unfit(f"{file} cannot be read as an ONNX file: {error}") from error
        refuse_quantised(file, (array.dtype.name for array in self.arrays().values()))
        stored = self.arrays()
        inputs = [each for each in self.model.graph.input if each.name not in stored]
        if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
            raise Unfit(f"{file} takes {', '.join(each.name for each in inputs)}; one batch of images is expected")
        self.input = inputs[0]

    @property
    def float32_only(self) -> str:
        """Say why it cannot be run in float64: weights with folded norms are no longer those of the network exactly."""
        kinds = Counter(node.op_type for node in self.model.graph.node)
        norms, convolutions = kinds["BatchNormalization"], kinds["Conv"]
        if norms >= convolutions:
            return ""
        folded = convolutions - norms
        return f"the norms of {folded} of its {convolutions} convolutions are folded into weights, rounded to float32"

    @property
    def shape(self) -> Sequence[int | None]:
        """Shape of the images."""
        return [axis.dim_value or None for axis in self.input.type.tensor_type.shape.dim]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are stored in the graph, by name."""
        import onnx

        return {each.name: onnx.numpy_helper.to_array(each) for each in self.model.graph.initializer}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph."""
        names = [output.name for output in self.model.graph.output]
        return dict(zip(names, self.run(names, {self.input.name: images}), strict=True))


Run = Callable[[Sequence[str], Mapping[str, np.ndarray]], Sequence[np.ndarray]]
"""Computes outputs, by name, of a graph whose inputs are given by name."""


def run_in_float32(onnxruntime: Any, file: Path) -> Run:
    """Run a file by ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.use_deterministic_compute = True
    run: Run = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]).run
    return run


def run_in_float64(model: Any) -> Run:
    """Run a graph by onnx's reference evaluator; the model is converted in place."""
    from onnx.reference import ReferenceEvaluator

    convert_to_float64(model)
    evaluator = ReferenceEvaluator(model)
    for node in evaluator.rt_nodes_:
        if hasattr(node, "epsilon"):  # a graph holds its attributes in float32: over 53 norms that is 2e-11
            node.epsilon = as_written(node.epsilon)
    run: Run = evaluator.run
    return run


def as_written(number: float) -> float:
    """Return the shortest decimal that is this number in float32, as a person wrote it.

    Example:
        >>> as_written(9.999999747378752e-06)
        1e-05
    """
    return float(str(np.float32(number)))


def convert_to_float64(model: Any) -> None:
    """Turn every array, declared type and conversion of float32 in a model to float64, in place."""
    import onnx

    single, double = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    graph, functions = model.graph, model.functions
    attributes = [attribute for part in (graph, *functions) for node in part.node for attribute in node.attribute]
    for tensor in [*graph.initializer, *(attribute.t for attribute in attributes if attribute.HasField("t"))]:
        if tensor.data_type == single:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == single:
            value.type.tensor_type.elem_type = double
    for attribute in attributes:
        if attribute.name in ("to", "dtype") and attribute.i == single:
            attribute.i = double


class OnnxCandidate(GraphCandidate):
    """An ONNX file."""

    framework, file = "torch", "an ONNX file"
