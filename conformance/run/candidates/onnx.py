"""Adapter of ONNX files, run by ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from conformance.run.candidates.function import FunctionCandidate
from conformance.run.candidates.options import Options
from conformance.run.candidates.survey import Survey, Unfit

NEEDED = "pip install 'resnet-parity[onnx]'"


class OnnxFile:
    """An ONNX file as a function from images to the outputs of its graph.

    Args:
        file: The file.

    Raises:
        Unfit: If the packages that read and run it are missing, or it cannot be read.
    """

    def __init__(self, file: Path) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise Unfit(
                f"an ONNX file needs the packages onnx and onnxruntime ({error.name} is missing): {NEEDED}"
            ) from error
        try:
            options = onnxruntime.SessionOptions()
            options.use_deterministic_compute = True
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            self.model = onnx.load(str(file))
        except Exception as error:  # each of the two raises errors of its own
            raise Unfit(f"{file} cannot be read as an ONNX file: {error}") from error

    @property
    def input(self) -> Any:
        """The graph's input."""
        return self.session.get_inputs()[0]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are stored in the graph, by name."""
        import onnx

        return {each.name: onnx.numpy_helper.to_array(each) for each in self.model.graph.initializer}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph; image by image, where its batch is fixed to one."""
        names = [output.name for output in self.session.get_outputs()]
        batches = np.split(images, len(images)) if self.input.shape[0] == 1 else [images]
        runs = [self.session.run(names, {self.input.name: batch}) for batch in batches]
        return {name: np.concatenate(values) for name, values in zip(names, zip(*runs, strict=True), strict=True)}


class OnnxCandidate(FunctionCandidate):
    """An ONNX file. Its weights are read back where they are whole; an exporter may have folded the norms."""

    function: OnnxFile

    def __init__(self, function: OnnxFile, options: Options) -> None:
        super().__init__(function, options)
        self.cannot = {
            "float64": "the arrays of its graph, and the convolutions of ONNX Runtime, are float32",
            "train": "an ONNX file is a graph for inference",
            "weights": "an ONNX file keeps its weights",
        }

    def survey(self) -> Survey:
        """Describe the graph, and write its arrays to a file where they were asked for."""
        arrays = self.function.arrays()
        if self.options.own_weights:
            from safetensors.numpy import save_file

            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, self.options.own_weights)
        shapes = {name: array.shape for name, array in arrays.items()}
        return Survey(
            self.kind.name,
            "torch",
            shapes,
            self.packages,
            cannot=self.cannot,
            weights=self.options.own_weights,
            sides=self.sides(self.function.input.shape),
        )

    def sides(self, shape: Any) -> tuple[int, int] | None:
        """Height and width of the images that the graph is fixed to; None if it takes any."""
        height, width = shape[1:3] if self.options.layout == "NHWC" else shape[2:4]
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None
