"""impls.keras, run eagerly on the backend that KERAS_BACKEND names, TensorFlow by default; and compiled."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

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
from impls.keras import read_training, read_weights, resnet, training
from impls.paths import named_variables
from impls.recipe import Recipe


class KerasAdapter:
    """The Keras model; subclasses run it in another way."""

    resnet, trainer = staticmethod(resnet), training
    eager, xla = True, False

    def prepare(self, device: str, precision: str) -> str:
        """The backend's own switches, and Keras's dtype."""
        self.precision = precision
        keras.config.set_floatx(precision)
        name = PREPARE[keras.backend.backend()]()
        if device == "gpu" and name == "cpu":
            raise DeviceMissing(f"Keras sees no GPU on its {keras.backend.backend()} backend")
        return name

    def switches(self) -> Mapping[str, str]:
        """Backend and dtype, read back."""
        return {"backend": keras.backend.backend(), "floatx": keras.config.floatx()}

    def multiply(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """keras.ops.matmul on the device."""
        return to_numpy(keras.ops.matmul(keras.ops.convert_to_tensor(left), keras.ops.convert_to_tensor(right)))

    def convolve(self, images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """keras.ops.conv on the device."""
        images, kernel = map(keras.ops.convert_to_tensor, (channels_last(images), kernel.transpose(2, 3, 1, 0)))
        return channels_first(to_numpy(keras.ops.conv(images, kernel, 1, "valid", "channels_last")))

    def build(self, config: ResNetConfig, weights: Path) -> None:
        """Load the network."""
        self.built_from = replace(config, dtype=self.precision), weights
        self.model = self.resnet(*self.built_from)

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The arrays that the table reaches by attribute path, and any other that Keras itself lists."""
        reached = named_variables(self.model, self.model.config, "keras")
        found = canonical_shapes({name: tuple(variable.shape) for name, variable in reached.items()}, "keras")
        listed = len(self.model.trainable_variables) + len(self.model.non_trainable_variables)
        return found | {f"unreached variable {number}": () for number in range(listed - len(found))}

    def run(self, images: np.ndarray, train: bool, layers: bool) -> Mapping[str, np.ndarray]:
        """Activations, and running statistics after a train-mode run."""
        statistics = running_statistics(self.model, self.model.config, "keras")
        before = {name: np.array(to_numpy(variable)) for name, variable in statistics.items()} if train else {}
        activations = self.activations(channels_last(images).astype(self.precision), train, layers)
        arrays = {name: channels_first(to_numpy(value)) for name, value in activations.items()}
        if train:
            arrays |= {name: np.array(to_numpy(variable)) for name, variable in statistics.items()}
            for name, variable in statistics.items():
                variable.assign(before[name])
        return arrays

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, given: Given = None
    ) -> tuple[float, Mapping[str, np.ndarray]]:
        """By the backend's own differentiation; running statistics are put back."""
        statistics = running_statistics(self.model, self.model.config, "keras")
        before = {name: np.array(to_numpy(variable)) for name, variable in statistics.items()}
        own = named_variables(self.model, self.model.config, "keras")
        parameters = {name: variable for name, variable in own.items() if variable.trainable}
        taps = given and {name: self.tensor(nhwc(array)) for name, array in given.items()}

        def tap(name: str, value: Any) -> Any:
            return value if taps is None else taps[name] + (value - keras.ops.stop_gradient(value))

        def loss(inputs: Any) -> Any:
            return self.trainer.loss(self.model(inputs, training=train, tap=tap), labels, recipe)

        differentiate = partial(DIFFERENTIATE[keras.backend.backend()], loss, parameters)
        value, found, image_gradient = self.compiled(differentiate)(self.tensor(channels_last(images)))
        for name, variable in statistics.items():
            variable.assign(before[name])
        arrays = canonical_arrays({name: to_numpy(gradient) for name, gradient in found.items()}, "keras")
        return float(value), arrays | {"input": channels_first(to_numpy(image_gradient))}

    def tensor(self, array: np.ndarray) -> Any:
        """The backend's tensor of an array, in the precision asked for."""
        return keras.ops.convert_to_tensor(array.astype(self.precision))

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """A run of training from the weights of the file."""
        run = self.trainer.Training(self.fresh(), recipe)
        run.model.run_eagerly, run.model.jit_compile = self.eager, self.xla

        def step(images: np.ndarray, labels: np.ndarray) -> float:
            return run.step(channels_last(images).astype(self.precision), labels)

        return step, lambda: read_training(run).to("canonical")

    def fresh(self) -> keras.Model:
        """Another network like the one that was built."""
        return resnet(*self.built_from)

    def initial(self, seed: int) -> Mapping[str, np.ndarray]:
        """What another network like it starts from."""
        return read_weights(self.resnet(self.built_from[0], seed=seed)).to("canonical").arrays

    def stream(self, images: np.ndarray, train: bool, see: See) -> Mapping[str, np.ndarray]:
        """Every activation shown, none kept; the running statistics after a train-mode run."""

        def tap(name: str, value: Any) -> Any:
            given = see(name, channels_first(to_numpy(value)))
            return value if given is None else self.tensor(nhwc(given))

        def activations(images: np.ndarray, train: bool, layers: bool) -> dict[str, Any]:
            self.model(images, training=train, tap=tap)
            return {}

        streaming = copy(self)
        streaming.activations = activations  # type: ignore[method-assign]  # `run` does all the rest
        return streaming.run(images, train, layers=True)

    def activations(self, images: np.ndarray, train: bool, layers: bool) -> dict[str, Any]:
        """The model's activations."""
        found: dict[str, Any] = self.compiled(lambda images: self.model.activations(images, layers, training=train))(
            images
        )
        return found

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """How a function of tensors is run: as it is, operation by operation."""
        return function


class Compiled(KerasAdapter):
    """In a tf.function, as `fit` and `predict` run it."""

    eager = False

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As a graph of TensorFlow's.

        Raises:
            NotImplementedError: On another backend.
        """
        if keras.backend.backend() != "tensorflow":
            raise NotImplementedError("the Keras model is compiled on its TensorFlow backend only")
        import tensorflow as tf

        graph: Callable[..., Any] = tf.function(function, jit_compile=self.xla)
        return graph


class Xla(Compiled):
    """In a tf.function that XLA compiles (`jit_compile=True`)."""

    xla = True


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor of any backend as an array."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def _prepare_tensorflow() -> str:
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(0)
    gpus = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu")) if gpus else "cpu"


def _prepare_jax() -> str:
    import jax

    found = jax.devices()[0]
    return "cpu" if found.platform == "cpu" else str(found.device_kind)


def _prepare_torch() -> str:
    import torch

    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # set at run time
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.use_deterministic_algorithms(True)
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


PREPARE = {"tensorflow": _prepare_tensorflow, "jax": _prepare_jax, "torch": _prepare_torch}


Gradients = tuple[Any, dict[str, Any], Any]
"""The loss, its gradients with respect to the parameters, and that with respect to the images."""


def _differentiate_tensorflow(loss: Callable[[Any], Any], parameters: Mapping[str, Any], images: Any) -> Gradients:
    import tensorflow as tf

    own = {name: variable.value for name, variable in parameters.items()}
    with tf.GradientTape() as tape:
        tape.watch(images)
        value = loss(images)
    zero = tf.UnconnectedGradients.ZERO  # where none arrives
    return value, *tape.gradient(value, (own, images), unconnected_gradients=zero)


def _differentiate_jax(loss: Callable[[Any], Any], parameters: Mapping[str, Any], images: Any) -> Gradients:
    import jax

    def stateless(values: Mapping[str, Any], images: Any) -> Any:
        with keras.StatelessScope(state_mapping=[(parameters[name], values[name]) for name in parameters]):
            return loss(images)

    own = {name: variable.value for name, variable in parameters.items()}
    value, found = jax.jit(jax.value_and_grad(stateless, argnums=(0, 1)))(own, images)  # one by one takes minutes
    return value, *found


def _differentiate_torch(loss: Callable[[Any], Any], parameters: Mapping[str, Any], images: Any) -> Gradients:
    import torch

    images = images.detach().requires_grad_()
    value = loss(images)
    wanted = [*(variable.value for variable in parameters.values()), images]
    *found, image_gradient = torch.autograd.grad(value, wanted, materialize_grads=True)  # zeros where none arrives
    return value, dict(zip(parameters, found, strict=True)), image_gradient


DIFFERENTIATE = {"tensorflow": _differentiate_tensorflow, "jax": _differentiate_jax, "torch": _differentiate_torch}
