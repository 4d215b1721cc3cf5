"""Adapter of the Flax implementation, run eagerly; and compiled, which must compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from conformance.run.adapters.blueprint import Blueprint, BlueprintAdapter, Tensors
from conformance.run.adapters.canonical import (
    RunningStatistics,
    canonical_arrays,
    canonical_shapes,
    channels_first,
    channels_last,
    replacing,
)
from conformance.run.capabilities import Arrays, DeviceMissing
from impls.flax import ResNet, read_weights, resnet, training
from impls.recipe import Recipe
from impls.taps import Tap

CORRECT = Blueprint("flax", resnet, training)


@dataclass(eq=False)
class FlaxAdapter(BlueprintAdapter):
    """The Flax model; subclasses run it in another way."""

    read_weights, stop_gradient = staticmethod(read_weights), staticmethod(jax.lax.stop_gradient)
    blueprint: Blueprint = CORRECT

    def prepare(self, device: str, precision: str) -> str:
        """JAX's switches are environment variables; here the device is asserted, since JAX falls back to the CPU."""
        found = jax.devices()[0]
        if device == "gpu" and found.platform != "gpu":
            raise DeviceMissing(f"JAX sees no GPU (its first device is {found.platform})")
        self.precision = precision
        return "cpu" if found.platform == "cpu" else found.device_kind

    def switches(self) -> Mapping[str, str]:
        """The precision settings, read back."""
        return {
            "jax_enable_x64": str(jax.config.values["jax_enable_x64"]),
            "jax_default_matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
        }

    def multiply(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Multiply by jnp.matmul on the device."""
        return np.asarray(jax.numpy.matmul(left, right))

    def convolve(self, images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """Convolve by lax.conv on the device."""
        return np.asarray(jax.lax.conv(jax.numpy.asarray(images), jax.numpy.asarray(kernel), (1, 1), "VALID"))

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The model's own NNX state, its paths read by the conversion table."""
        state = nnx.to_flat_state(nnx.state(self.model, (nnx.Param, nnx.BatchStat)))
        return canonical_shapes({".".join(map(str, path)): variable.shape for path, variable in state}, "flax")

    @property
    def statistics(self) -> RunningStatistics:
        """Running statistics of the network."""
        return RunningStatistics(self.model, "flax", lambda variable: np.array(variable[...]), set_variable)

    def activations(self, images: jax.Array, train: bool, layers: bool) -> Any:
        """Return the model's activations."""
        return self.model_in_mode(train).activations(images, layers)

    def run_model(self, images: jax.Array, train: bool, tap: Tap[jax.Array]) -> object:
        """Run the model with a tap."""
        return self.model_in_mode(train)(images, tap=tap)

    def differentiate(
        self, images: jax.Array, labels: np.ndarray, recipe: Recipe, train: bool, activations: Tensors | None
    ) -> tuple[float, Arrays]:
        """Differentiate by nnx.grad, compiled as a whole: operation by operation takes longer."""
        model, loss = self.model_in_mode(train), self.blueprint.training.loss
        value, (parameters, of_images) = loss_and_gradients(model, images, labels, activations, recipe, loss)
        gradients = {".".join(map(str, path)): np.asarray(v[...]) for path, v in nnx.to_flat_state(parameters)}
        return float(value), canonical_arrays(gradients, "flax") | {"input": self.array(of_images)}

    def step(self, run: Any, images: np.ndarray, labels: Any) -> float:
        """Take one step of a run of training."""
        return super().step(run, images, jax.numpy.asarray(labels))

    def model_in_mode(self, train: bool) -> ResNet:
        """Let the model's norms use the batch's statistics, or the running ones."""
        model: ResNet = self.model
        model.set_attributes(use_running_average=not train, raise_if_not_found=False)
        return model

    def tensor(self, array: np.ndarray) -> jax.Array:
        """Copy a canonical array to the device, in the framework's axis order and the precision asked for."""
        return jax.numpy.asarray(channels_last(array), self.precision)

    def array(self, tensor: jax.Array) -> np.ndarray:
        """Copy an activation into an array, NCHW."""
        return channels_first(np.asarray(tensor))


class Jit(FlaxAdapter):
    """The model through nnx.jit, the forward pass as a whole."""

    def activations(self, images: jax.Array, train: bool, layers: bool) -> Any:
        """Return the activations from the compiled function."""
        return compiled_activations(self.model_in_mode(train), images, layers)


def set_variable(variable: nnx.Variable[Any], array: np.ndarray) -> None:
    """Set a variable of the model to the numbers of an array."""
    variable[...] = jax.numpy.asarray(array)


def take_activations(model: ResNet, images: jax.Array, layers: bool) -> dict[str, Any]:
    """Return the activations of a model."""
    return model.activations(images, layers)


compiled_activations: Callable[..., Any] = nnx.jit(take_activations, static_argnums=2)
"""`take_activations` compiled; its result is sorted by name."""


def take_gradients(
    model: ResNet,
    images: jax.Array,
    labels: jax.Array,
    activations: Mapping[str, jax.Array] | None,
    recipe: Recipe,
    loss: Callable[..., jax.Array],
) -> Any:
    """Return the loss and its gradients with respect to parameters and images, at given activations if any."""
    tap = replacing(activations, jax.lax.stop_gradient)

    def loss_of(model: ResNet, images: jax.Array) -> jax.Array:
        return loss(model(images, tap=tap), labels, recipe)

    return nnx.value_and_grad(loss_of, argnums=(0, 1))(model, images)


loss_and_gradients: Callable[..., Any] = nnx.jit(take_gradients, static_argnums=(4, 5))
"""`take_gradients` compiled."""
