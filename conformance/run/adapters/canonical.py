"""Between a framework's conventions and the canonical ones: axis orders, names, running statistics, taps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from conformance.cases.names import statistic_names
from conformance.run.capabilities import ArrayTap
from impls.paths import follow
from impls.taps import Tap, untapped
from weights_convert.dialects import find_dialect
from weights_convert.table import reorder, reorder_shape

Tensor = TypeVar("Tensor")


def channels_first(array: np.ndarray) -> np.ndarray:
    """Reorder NHWC to NCHW; arrays of fewer axes stay as they are."""
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def channels_last(array: np.ndarray) -> np.ndarray:
    """Reorder NCHW to NHWC, contiguous in memory; arrays of fewer axes stay as they are."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array


def canonical_shapes(shapes: Mapping[str, tuple[int, ...]], dialect: str) -> dict[str, tuple[int, ...]]:
    """Canonical names and shapes of a dialect's arrays; a name that the dialect does not know is kept."""
    spoken, canonical = find_dialect(dialect), {}
    for name, shape in shapes.items():
        if reading := spoken.read_name(name):
            name, shape = reading[0], reorder_shape(shape, reading[1], spoken.framework, "torch")
        canonical[name] = shape
    return canonical


def canonical_arrays(arrays: Mapping[str, np.ndarray], dialect: str) -> dict[str, np.ndarray]:
    """Arrays of a dialect under canonical names and in canonical layout."""
    spoken = find_dialect(dialect)
    return {
        canonical: reorder(arrays[name], rule, spoken.framework, "torch")
        for name, (canonical, rule) in spoken.read_names(arrays).items()
    }


@dataclass(frozen=True)
class RunningStatistics:
    """Running statistics of a model, which a train-mode run updates.

    Attributes:
        model: A model of any framework, with a `config`.
        dialect: Dialect of its attribute paths.
        read: Copies one of the framework's variables into an array.
        write: Sets a variable to the numbers of an array.
    """

    model: Any
    dialect: str
    read: Callable[[Any], np.ndarray]
    write: Callable[[Any, np.ndarray], object]

    def variables(self) -> dict[str, Any]:
        """The framework's own variables by canonical name."""
        spoken = find_dialect(self.dialect)
        return {name: follow(self.model, spoken.write_name(name)[0]) for name in statistic_names(self.model.config)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of the statistics by canonical name."""
        return {name: self.read(variable) for name, variable in self.variables().items()}

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Set the statistics at the end to what they are now."""
        before = self.arrays()
        try:
            yield
        finally:
            for name, variable in self.variables().items():
                self.write(variable, before[name])


def framework_tap(
    tap: ArrayTap, to_array: Callable[[Tensor], np.ndarray], to_tensor: Callable[[np.ndarray], Tensor]
) -> Tap[Tensor]:
    """Make a tap of a framework's tensors from one of canonical arrays."""

    def pass_on(name: str, value: Tensor) -> Tensor:
        replacement = tap(name, to_array(value))
        return value if replacement is None else to_tensor(replacement)

    return pass_on


def replacing(activations: Mapping[str, Any] | None, stop_gradient: Callable[[Any], Any]) -> Tap[Any]:
    """Make a tap that replaces each activation and passes the gradient on to the one computed; None changes nothing.

    The number that goes on is a + (x - x), whose gradient with respect to x is one.
    """
    if activations is None:
        return untapped
    return lambda name, value: activations[name] + (value - stop_gradient(value))
