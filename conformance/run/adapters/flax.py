"""Adapter of the Flax implementation, run eagerly; and compiled, which must compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx

from conformance.run.adapters.blueprint import Blueprint
from conformance.run.adapters.canonical import (
    RunningStatistics,
    canonical_arrays,
    canonical_shapes,
    channels_first,
    channels_last,
    framework_tap,
    replacing,
)
from conformance.run.capabilities import EVERYTHING, Arrays, ArrayTap, Capability, DeviceMissing, ReadState, TakeStep
from impls.config import ResNetConfig
from impls.flax import ResNet, read_training, read_weights, resnet, training
from impls.recipe import Recipe
from weights_convert.sources import Source

CORRECT = Blueprint("flax", resnet, training)


@dataclass(eq=False)
class FlaxAdapter:
    """The Flax model; subclasses run it in another way.

    Attributes:
        blueprint: Where networks and training come from.
        precision: The dtype of parameters and images, from `prepare` on.
    """

    capabilities: ClassVar[frozenset[Capability]] = EVERYTHING
    blueprint: Blueprint = CORRECT
    precision: str = "float64"
    built_from: tuple[ResNetConfig, Source] = field(init=False)
    model: ResNet = field(init=False)

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

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Load the network, its parameters in the precision asked for."""
        self.built_from = replace(config, dtype=self.precision), weights
        self.model = self.network()

    def network(self) -> ResNet:
        """Build another network with the weights that `build` was given."""
        network: ResNet = self.blueprint.resnet(*self.built_from)
        return network

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The model's own NNX state, its paths read by the conversion table."""
        state = nnx.to_flat_state(nnx.state(self.model, (nnx.Param, nnx.BatchStat)))
        return canonical_shapes({".".join(map(str, path)): variable.shape for path, variable in state}, "flax")

    @property
    def statistics(self) -> RunningStatistics:
        """Running statistics of the network."""
        return RunningStatistics(self.model, "flax", lambda variable: np.array(variable[...]), set_variable)

    def record(self, images: np.ndarray, train: bool, layers: bool) -> Arrays:
        """Return activations, and running statistics after a train-mode run."""
        self.set_mode(train)
        with self.statistics.put_back():
            activations = self.activations(self.tensor(images), layers)
            arrays = {name: to_canonical(value) for name, value in activations.items()}
            return arrays | (self.statistics.arrays() if train else {})

    def activations(self, images: jax.Array, layers: bool) -> dict[str, Any]:
        """Return the model's activations."""
        return self.model.activations(images, layers)

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass every activation through a tap; return the running statistics after a train-mode run."""
        self.set_mode(train)
        with self.statistics.put_back():
            self.model(self.tensor(images), tap=framework_tap(tap, to_canonical, self.tensor))
            return self.statistics.arrays() if train else {}

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, activations: Arrays | None = None
    ) -> tuple[float, Arrays]:
        """Differentiate by nnx.grad, compiled as a whole: operation by operation takes longer."""
        self.set_mode(train)
        replacements = None
        if activations is not None:
            replacements = {name: self.tensor(array) for name, array in activations.items()}
        with self.statistics.put_back():
            value, (parameters, image_gradient) = loss_and_gradients(
                self.model, self.tensor(images), labels, replacements, recipe, self.blueprint.training.loss
            )
        gradients = {".".join(map(str, path)): np.asarray(v[...]) for path, v in nnx.to_flat_state(parameters)}
        return float(value), canonical_arrays(gradients, "flax") | {"input": to_canonical(image_gradient)}

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """Begin a run of training from the weights of the file."""
        run = self.blueprint.training.Training(self.network(), recipe)

        def step(images: np.ndarray, labels: np.ndarray) -> float:
            loss: float = run.step(self.tensor(images), jax.numpy.asarray(labels))
            return loss

        return step, lambda: read_training(run).to("canonical")

    def initial(self, seed: int) -> Arrays:
        """Draw the arrays of a network without weights."""
        return read_weights(self.blueprint.resnet(self.built_from[0], seed=seed)).to("canonical").arrays

    def set_mode(self, train: bool) -> None:
        """Let norms use the batch's statistics, or the running ones."""
        self.model.set_attributes(use_running_average=not train, raise_if_not_found=False)

    def tensor(self, array: np.ndarray) -> jax.Array:
        """Copy a canonical array to the device, in the framework's axis order and the precision asked for."""
        return jax.numpy.asarray(channels_last(array), self.precision)


class Jit(FlaxAdapter):
    """The model through nnx.jit, the forward pass as a whole."""

    def activations(self, images: jax.Array, layers: bool) -> dict[str, Any]:
        """Return the activations from the compiled function."""
        activations: dict[str, Any] = compiled_activations(self.model, images, layers)
        return activations


def to_canonical(value: jax.Array) -> np.ndarray:
    """Copy an activation into an array, NCHW."""
    return channels_first(np.asarray(value))


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
