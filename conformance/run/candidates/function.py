"""Adapter of a function from images to logits, of which nothing else is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from conformance.cases.names import activation_names
from conformance.run.candidates.candidate import forward_failed
from conformance.run.candidates.options import Layout, Options, select_output
from conformance.run.candidates.repeat import examine
from conformance.run.candidates.survey import Survey
from conformance.run.capabilities import Arrays, Capability, Examination
from impls.config import ResNetConfig
from weights_convert.sources import Source


class FunctionCandidate:
    """A function that takes images, a NumPy array (batch, channels, height, width), and returns logits.

    Args:
        function: The function.
        options: What the user says about it.

    Attributes:
        layout: Axes of the images that it takes.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.EXAMINE})
    layout: Layout = "NCHW"
    kind: Any
    packages: tuple[str, ...] = ()

    def __init__(self, function: Callable[[np.ndarray], Any], options: Options) -> None:
        self.function, self.options, self.layout = function, options, options.layout or self.layout
        self.cannot = {
            "weights": "it shows no weights",
            "train": "a function of images has no train mode",
        }
        self.not_shown: dict[str, str] = {}

    def survey(self) -> Survey:
        """Describe the function, as far as anything is known."""
        return Survey(self.kind.name, "torch", {}, self.packages, cannot=self.cannot)

    def prepare(self, device: str, precision: str) -> str:
        """Remember the precision; the function runs where it likes."""
        self.precision = precision
        return "cpu"

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Remember the network that it is held against; the function keeps its weights."""
        self.config = config
        reason = self.kind.activations
        self.not_shown = {"parameters": reason, **dict.fromkeys(activation_names(config, layers=True), reason)}

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Return none: they are not shown."""
        return {}

    def canonical_state(self) -> dict[str, np.ndarray]:
        """Return none: they are not shown."""
        return {}

    def examine(self, images: np.ndarray) -> Examination:
        """Run the smallest input twice; see `repeat.examine`."""
        examine(self, images)
        return Examination(self.cannot, self.not_shown)

    def record(self, images: np.ndarray, train: bool, layers: bool) -> Arrays:
        """Return the logits."""
        laid_out = images.transpose(0, 2, 3, 1) if self.layout == "NHWC" else images
        given = np.ascontiguousarray(laid_out, self.precision)
        try:
            returned = self.function(given)
        except (RuntimeError, TypeError, ValueError) as error:
            other = "NCHW" if self.layout == "NHWC" else "NHWC"
            raise forward_failed(error, given.shape, "" if self.options.layout else other) from error
        logits = np.asarray(select_output(returned, self.options.output, is_array))
        return {"logits" if self.config.num_classes else "pool": logits}

    @contextmanager
    def leaving_as_it_was(self) -> Iterator[None]:
        """Change nothing: the function is only called."""
        yield


def is_array(value: Any) -> bool:
    """Tell whether a value is an array of some framework."""
    return hasattr(value, "shape") and hasattr(value, "__array__")
