"""Adapter of model files that are graphs for inference: they keep their weights, and show their logits alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from conformance.run.candidates.function import FunctionCandidate
from conformance.run.candidates.options import Options
from conformance.run.candidates.survey import Survey, Unfit
from weights_convert.table import Framework


class Graph(Protocol):
    """A graph that was read from a file."""

    @property
    def shape(self) -> Sequence[Any]:
        """Shape of its input; an axis that is no integer takes any length."""

    @property
    def float32_only(self) -> str:
        """Say why it cannot be run in float64; empty where it can."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that are stored in the graph, by name; none where they are not what they were made from."""

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """Run the graph; returns its outputs by name."""


class GraphCandidate(FunctionCandidate):
    """A graph. Its weights are read back where they are whole; an exporter may have folded the norms.

    Attributes:
        framework: The framework whose column of the conversion table its arrays follow.
        file: Its kind of file, for messages.
    """

    framework: ClassVar[Framework]
    file: ClassVar[str]
    function: Graph

    def __init__(self, function: Graph, options: Options) -> None:
        super().__init__(function, options)
        self.cannot = {"train": f"{self.file} is a graph for inference", "weights": f"{self.file} keeps its weights"}
        if function.float32_only:
            self.cannot["float64"] = function.float32_only

    def survey(self) -> Survey:
        """Describe the graph, and write its arrays to a file where they were asked for."""
        arrays = self.function.arrays()
        if self.options.own_weights:
            from safetensors.numpy import save_file

            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, self.options.own_weights)
        batch, *others = (length if isinstance(length, int) else None for length in self.function.shape)
        height, width = others[:2] if self.layout == "NHWC" else others[1:]
        return Survey(
            self.kind.name,
            self.framework,
            {name: array.shape for name, array in arrays.items()},
            self.packages,
            cannot=self.cannot,
            weights=self.options.own_weights,
            sides=None if height is None or width is None else (height, width),
            batch=batch,
        )


LOW_PRECISIONS = {"int8", "uint8", "int16", "float16", "bfloat16"}


def refuse_quantised(file: Path, types: Iterable[str]) -> None:
    """Refuse a file that holds arrays of a low precision.

    Raises:
        Unfit: If one of the types is a low precision.
    """
    if low := LOW_PRECISIONS.intersection(types):
        raise Unfit(
            f"{file} is quantised (it holds arrays of {', '.join(sorted(low))}): it does not compute in float32, "
            "and is not compared"
        )
