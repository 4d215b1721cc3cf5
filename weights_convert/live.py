"""Models that a framework has built: reading their arrays, and writing into them.

No framework is imported here. A model or tensor exists only where its framework is loaded, so that `sys.modules` tells
what it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from impls.config import ResNetConfig
from impls.paths import follow
from weights_convert.dialects import find_dialect
from weights_convert.shapes import expected_shapes
from weights_convert.tensors import to_numpy, to_torch

Variable = Any
"""A tensor of PyTorch, a variable of Flax NNX or Keras, or an array of NumPy."""


@dataclass(frozen=True)
class Backend:
    """The way to the arrays of one framework's models.

    Attributes:
        where: The model, for messages.
        is_model: Tells a model, given the framework's module.
        is_array: Tells a tensor or array, given the framework's module.
        variables: Returns the variables of a model by dotted name.
        read: Copies a variable into an array.
        assign: Copies an array of the same dtype into a variable.
    """

    where: str
    is_model: Callable[[Any, Any], bool]
    is_array: Callable[[Any, Any], bool]
    variables: Callable[[Any, Any], Mapping[str, Variable]]
    read: Callable[[Any, Variable], np.ndarray]
    assign: Callable[[Any, Variable, np.ndarray], None]


def _torch_assign(torch: Any, tensor: Any, array: np.ndarray) -> None:
    with torch.no_grad():
        tensor.copy_(to_torch(torch, array))


def _flax_variables(nnx: Any, model: Any) -> dict[str, Variable]:
    """Return all variables but the states of random number generators."""
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.Variable) and not isinstance(node, nnx.RngState)
    }


def _keras_variables(keras: Any, model: Any, prefix: str = "") -> dict[str, Variable]:
    """Return the variables of all layers, by the names of the models around a layer, the layer and the variable."""
    found: dict[str, Variable] = {}
    for layer in model.layers:
        name = f"{prefix}{layer.name}."
        if isinstance(layer, keras.Model):
            found |= _keras_variables(keras, layer, name)
        else:
            found |= {f"{name}{variable.name}": variable for variable in layer.variables}
    return found


BACKENDS: dict[str, Backend] = {
    "keras": Backend(
        "a Keras model",
        is_model=lambda keras, value: isinstance(value, keras.Model),
        is_array=lambda keras, value: isinstance(value, keras.Variable),
        variables=_keras_variables,
        read=lambda keras, variable: np.array(keras.ops.convert_to_numpy(variable)),
        assign=lambda keras, variable, array: variable.assign(array),
    ),
    "flax.nnx": Backend(
        "a Flax model",
        is_model=lambda nnx, value: isinstance(value, nnx.Module),
        is_array=lambda nnx, value: isinstance(value, nnx.Variable | sys.modules["jax"].Array),
        variables=_flax_variables,
        read=lambda nnx, variable: np.asarray(variable[...]),
        assign=lambda nnx, variable, array: variable.set_value(sys.modules["jax"].numpy.asarray(array)),
    ),
    "torch": Backend(
        "a PyTorch model",
        is_model=lambda torch, value: isinstance(value, torch.nn.Module),
        is_array=lambda torch, value: isinstance(value, torch.Tensor),
        variables=lambda torch, model: model.state_dict(keep_vars=True),
        read=to_numpy,
        assign=_torch_assign,
    ),
}
"""The frameworks by the module that is loaded where a model of theirs exists.

Keras comes first: on its PyTorch backend, a Keras model is a module of PyTorch as well.
"""

OUR_DIALECTS = {"torch": "canonical", "flax": "flax", "keras": "keras"}
"""The dialect whose names are the attribute paths of a model of `impls`, by its framework."""


@dataclass(frozen=True)
class LiveModel:
    """A model, with the way to its arrays.

    Attributes:
        variables: Its variables by dotted name.
        config: Its network, if it is a model of `impls`; no other model says what it computes.
        framework: The module of its framework.
        backend: The row of its framework.
    """

    variables: Mapping[str, Variable]
    config: ResNetConfig | None
    framework: Any
    backend: Backend

    def read(self, name: str) -> np.ndarray:
        """Return the array of a variable; it may share the memory of the model."""
        return self.backend.read(self.framework, self.variables[name])

    def assign(self, name: str, array: np.ndarray) -> None:
        """Copy an array of the same dtype into a variable."""
        self.backend.assign(self.framework, self.variables[name], array)


def _loaded() -> Iterator[tuple[Any, Backend]]:
    """Yield the frameworks that are loaded, each with its backend."""
    for name, backend in BACKENDS.items():
        if (module := sys.modules.get(name)) is not None:
            yield module, backend


def open_model(model: Any) -> LiveModel | None:
    """Return the way to the arrays of a model; None if it is no model of a framework that is loaded."""
    for framework, backend in _loaded():
        if backend.is_model(framework, model):
            config = getattr(model, "config", None)
            if type(model).__module__.startswith("impls.") and isinstance(config, ResNetConfig):
                dialect = OUR_DIALECTS[type(model).__module__.split(".")[1]]
                return LiveModel(named_variables(model, config, dialect), config, framework, backend)
            return LiveModel(backend.variables(framework, model), None, framework, backend)
    return None


def named_variables(model: Any, config: ResNetConfig, dialect: str) -> dict[str, Any]:
    """Collect every array of a model by its attribute path.

    Args:
        model: A model of `impls`.
        config: The model's configuration; it says which arrays there are.
        dialect: Name of the dialect whose names are the model's attribute paths: "canonical" for NumPy, else the
            framework's name.

    Returns:
        Path to NumPy array, `torch.Tensor`, `nnx.Variable` or `keras.Variable`, in canonical order.

    Raises:
        AttributeError: If the model lacks a layer that the configuration promises.
    """
    paths = find_dialect(dialect).write_names(expected_shapes(config)).values()
    return {path: follow(model, path) for path, _ in paths}


def array_leaves(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[Any, Any]]:
    """Yield every value of nested mappings by dotted name, tensors and variables of loaded frameworks as arrays."""
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and not isinstance(value, np.ndarray):
            yield from array_leaves(value, str(name))
            continue
        backend = next((pair for pair in _loaded() if pair[1].is_array(pair[0], value)), None)
        yield name, value if backend is None else backend[1].read(backend[0], value)
