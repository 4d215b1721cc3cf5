"""impls.flax, run eagerly; and compiled, which must compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from conformance.run.adapters import (
    DeviceMissing,
    Given,
    ReadState,
    See,
    TakeStep,
    canonical_arrays,
    canonical_shapes,
    channels_first,
    channels_last,
    nhwc,
    running_statistics,
)
from impls.config import ResNetConfig
from impls.flax import ResNet, read_training, read_weights, resnet, training
from impls.recipe import Recipe


class FlaxAdapter:
    """The Flax model; subclasses run it in another way."""

    resnet, trainer = staticmethod(resnet), training

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
        """jnp.matmul on the device."""
        return np.asarray(jax.numpy.matmul(left, right))

    def convolve(self, images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """lax.conv on the device."""
        return np.asarray(jax.lax.conv(jax.numpy.asarray(images), jax.numpy.asarray(kernel), (1, 1), "VALID"))

    def build(self, config: ResNetConfig, weights: Path) -> None:
        """Load the network, its parameters in the precision asked for."""
        self.built_from = replace(config, dtype=self.precision), weights
        self.model = self.resnet(*self.built_from)

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The model's own NNX state, its paths read by the table."""
        state = nnx.to_flat_state(nnx.state(self.model, (nnx.Param, nnx.BatchStat)))
        return canonical_shapes({".".join(map(str, path)): variable.shape for path, variable in state}, "flax")

    def run(self, images: np.ndarray, train: bool, layers: bool) -> Mapping[str, np.ndarray]:
        """Activations, and running statistics after a train-mode run."""
        statistics = running_statistics(self.model, self.model.config, "flax")
        before = {name: variable[...] for name, variable in statistics.items()}
        self.model.set_attributes(use_running_average=not train, raise_if_not_found=False)
        activations = self.activations(jax.numpy.asarray(channels_last(images), self.precision), layers)
        arrays = {name: channels_first(np.asarray(value)) for name, value in activations.items()}
        if train:
            arrays |= {name: np.asarray(variable[...]) for name, variable in statistics.items()}
            for name, variable in statistics.items():
                variable[...] = before[name]
        return arrays

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, given: Given = None
    ) -> tuple[float, Mapping[str, np.ndarray]]:
        """By nnx.grad, compiled as a whole: operation by operation takes longer. Running statistics are put back."""
        statistics = running_statistics(self.model, self.model.config, "flax")
        before = {name: variable[...] for name, variable in statistics.items()}
        self.model.set_attributes(use_running_average=not train, raise_if_not_found=False)
        inputs = jax.numpy.asarray(channels_last(images), self.precision)
        taps = given and jax.tree.map(lambda array: jax.numpy.asarray(nhwc(array), self.precision), dict(given))
        value, (parameters, image_gradient) = loss_and_gradients(
            self.model, inputs, labels, taps, recipe, self.trainer.loss
        )
        for name, variable in statistics.items():
            variable[...] = before[name]
        own = {".".join(map(str, path)): np.asarray(v[...]) for path, v in nnx.to_flat_state(parameters)}
        return float(value), canonical_arrays(own, "flax") | {"input": channels_first(np.asarray(image_gradient))}

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """A run of training from the weights of the file."""
        run = self.trainer.Training(self.fresh(), recipe)

        def step(images: np.ndarray, labels: np.ndarray) -> float:
            return run.step(jax.numpy.asarray(channels_last(images), self.precision), jax.numpy.asarray(labels))

        return step, lambda: read_training(run).to("canonical")

    def fresh(self) -> ResNet:
        """Another network like the one that was built."""
        return resnet(*self.built_from)

    def initial(self, seed: int) -> Mapping[str, np.ndarray]:
        """What another network like it starts from."""
        return read_weights(self.resnet(self.built_from[0], seed=seed)).to("canonical").arrays

    def stream(self, images: np.ndarray, train: bool, see: See) -> Mapping[str, np.ndarray]:
        """Every activation shown, none kept; the running statistics after a train-mode run."""

        def tap(name: str, value: jax.Array) -> jax.Array:
            given = see(name, channels_first(np.asarray(value)))
            return value if given is None else jax.numpy.asarray(nhwc(given), self.precision)

        def activations(images: jax.Array, layers: bool) -> dict[str, Any]:
            self.model(images, tap=tap)
            return {}

        streaming = copy(self)
        streaming.activations = activations  # type: ignore[method-assign]  # `run` does all the rest
        return streaming.run(images, train, layers=True)

    def activations(self, images: jax.Array, layers: bool) -> dict[str, Any]:
        """The model's activations."""
        return self.model.activations(images, layers)


class Jit(FlaxAdapter):
    """Through nnx.jit, the forward pass as a whole."""

    def activations(self, images: jax.Array, layers: bool) -> dict[str, Any]:
        """The model's activations."""
        found: dict[str, Any] = compiled_activations(self.model, images, layers)
        return found


def take_activations(model: ResNet, images: jax.Array, layers: bool) -> dict[str, Any]:
    """The model's activations."""
    return model.activations(images, layers)


compiled_activations: Callable[..., Any] = nnx.jit(take_activations, static_argnums=2)
"""The same, compiled; what comes out is sorted by name."""


def take_gradients(
    model: ResNet,
    images: jax.Array,
    labels: jax.Array,
    given: Mapping[str, jax.Array] | None,
    recipe: Recipe,
    loss: Callable[..., jax.Array],
) -> Any:
    """The loss, and its gradients with respect to parameters and images, at the given activations if there are any."""

    def tap(name: str, value: jax.Array) -> jax.Array:
        return value if given is None else given[name] + (value - jax.lax.stop_gradient(value))

    def loss_of(model: ResNet, images: jax.Array) -> jax.Array:
        return loss(model(images, tap=tap), labels, recipe)

    return nnx.value_and_grad(loss_of, argnums=(0, 1))(model, images)


loss_and_gradients: Callable[..., Any] = nnx.jit(take_gradients, static_argnums=(4, 5))
"""The same, compiled."""
