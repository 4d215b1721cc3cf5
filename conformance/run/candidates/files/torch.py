"""Adapter of PyTorch programs that `torch.export` made: the object itself, or a `.pt2` file.

A program is unflattened into modules, whose hooks show the activations. It is fixed to inference mode.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from conformance.run.candidates.options import Options
from conformance.run.candidates.survey import Survey, Unfit
from conformance.run.candidates.torch import TorchCandidate
from weights_convert.errors import first_line


class ExportedFile:
    """A program in a `.pt2` file.

    Args:
        file: The file.
        precision: "float64" or "float32"; the program is converted when it is run.

    Raises:
        Unfit: If it cannot be read.
    """

    def __init__(self, file: Path, precision: str) -> None:
        try:
            self.program = torch.export.load(file)
        except Exception as error:  # PyTorch raises errors of many kinds
            raise Unfit(f"{file} cannot be read as a program of torch.export: {first_line(error)}") from error


class ExportedProgram(TorchCandidate):
    """A `torch.export.ExportedProgram`, unflattened."""

    def __init__(self, model: torch.export.ExportedProgram, options: Options) -> None:
        check_inference(model)
        super().__init__(without_assertions(torch.export.unflatten(model)), options)
        self.input_shape = input_shape(model)
        self.cannot["train"] = "an exported program is fixed to the mode that it was exported in"
        self.cannot["steps"] = "an exported program is a graph for inference"

    def survey(self) -> Survey:
        """Describe the program without running it."""
        batch, *others = (length if isinstance(length, int) else None for length in self.input_shape)
        height, width = others[:2] if self.options.layout == "NHWC" else others[1:]
        sides = (height, width) if height is not None and width is not None else None
        return replace(super().survey(), sides=sides, batch=batch)


class ExportedFileCandidate(ExportedProgram):
    """A `.pt2` file, which keeps its weights."""

    def __init__(self, model: ExportedFile, options: Options) -> None:
        super().__init__(model.program, options)
        self.cannot["weights"] = "a .pt2 file keeps its weights"


def check_inference(program: torch.export.ExportedProgram) -> None:
    """Check that a program was exported in inference mode.

    Raises:
        Unfit: If a norm in it uses the statistics of the batch.
    """
    norms = [node for node in program.graph.nodes if "batch_norm" in str(node.target)]
    training = [node for node in norms if len(node.args) > TRAINING and node.args[TRAINING] is True]
    if training:
        raise Unfit(
            f"{len(training)} of the {len(norms)} norms of the program are fixed to train mode: "
            "call the module's eval() before torch.export.export"
        )


TRAINING = 5
"""Place of the argument `training` among those of PyTorch's operators for batch norms."""


def input_shape(program: torch.export.ExportedProgram) -> tuple[Any, ...]:
    """Return the shape of the program's only input; an integer where an axis is fixed.

    Raises:
        Unfit: If it takes something else than images.
    """
    names = program.graph_signature.user_inputs
    shapes = [tuple(node.meta["val"].shape) for node in program.graph.nodes if node.name in names]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise Unfit(f"a program of one batch of images is expected; this one takes {len(names)} inputs, {shapes}")
    return shapes[0]


def without_assertions(module: torch.nn.Module) -> torch.nn.Module:
    """Remove, in place, what asserts the dtype that a program was exported in, so that it runs in another one."""
    graphs: list[Any] = [each.graph for each in module.modules() if hasattr(each, "graph")]
    for graph in graphs:
        for node in list(graph.nodes):
            if node.target is torch.ops.aten._assert_tensor_metadata.default:
                graph.erase_node(node)
    return module
