"""Adapter of ONNX files, run by ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conformance.run.candidates.graph import GraphCandidate
from conformance.run.candidates.survey import Unfit

NEEDED = "pip install 'resnet-parity[onnx]'"

DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
"""NumPy's names of ONNX Runtime's types."""


class OnnxFile:
    """An ONNX file as a function from images to the outputs of its graph.

    Args:
        file: The file.
        precision: "float64" or "float32".

    Raises:
        Unfit: If the packages that read and run it are missing, or it cannot be read.
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

    @property
    def shape(self) -> Sequence[Any]:
        """Shape of the images."""
        shape: Sequence[Any] = self.input.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the images."""
        return np.dtype(DTYPES[self.input.type])

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are stored in the graph, by name."""
        import onnx

        return {each.name: onnx.numpy_helper.to_array(each) for each in self.model.graph.initializer}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph."""
        names = [output.name for output in self.session.get_outputs()]
        outputs = self.session.run(names, {self.input.name: images})
        return dict(zip(names, outputs, strict=True))


class OnnxCandidate(GraphCandidate):
    """An ONNX file."""

    framework, file = "torch", "an ONNX file"
