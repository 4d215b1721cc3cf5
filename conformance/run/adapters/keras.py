"""Adapter of the Keras implementation, run eagerly on the backend that KERAS_BACKEND names; and compiled."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

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
from impls.config import ResNetConfig
from impls.keras import read_weights, resnet, training
from impls.recipe import Recipe
from impls.taps import Tap
from weights_convert.live import named_variables
from weights_convert.sources import Source

CORRECT = Blueprint("keras", resnet, training)


@dataclass(eq=False)
class KerasAdapter(BlueprintAdapter):
    """The Keras model; subclasses run it in another way.

    Attributes:
        eager, xla: How TensorFlow runs a training step.
        functions: The function from images to activations, as this adapter runs functions, by train mode and layers.
    """

    read_weights, stop_gradient = staticmethod(read_weights), staticmethod(keras.ops.stop_gradient)
    eager: ClassVar[bool] = True
    xla: ClassVar[bool] = False
    blueprint: Blueprint = CORRECT
    functions: dict[tuple[bool, bool], Callable[..., Any]] = field(init=False)

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
        """Multiply by keras.ops.matmul on the device."""
        return to_numpy(keras.ops.matmul(keras.ops.convert_to_tensor(left), keras.ops.convert_to_tensor(right)))

    def convolve(self, images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """Convolve by keras.ops.conv on the device."""
        images, kernel = map(keras.ops.convert_to_tensor, (channels_last(images), kernel.transpose(2, 3, 1, 0)))
        return self.array(keras.ops.conv(images, kernel, 1, "valid", "channels_last"))

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Load the network, and forget the functions of the one before."""
        super().build(config, weights)
        self.functions = {}

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The arrays that the table reaches by attribute path, and any other that Keras itself lists."""
        reached = named_variables(self.model, self.model.config, "keras")
        shapes = canonical_shapes({name: tuple(variable.shape) for name, variable in reached.items()}, "keras")
        listed = len(self.model.trainable_variables) + len(self.model.non_trainable_variables)
        return shapes | {f"unreached variable {number}": () for number in range(listed - len(shapes))}

    @property
    def statistics(self) -> RunningStatistics:
        """Running statistics of the network."""
        return RunningStatistics(self.model, "keras", lambda v: np.array(to_numpy(v)), lambda v, array: v.assign(array))

    def activations(self, images: Any, train: bool, layers: bool) -> Any:
        """Return the model's activations."""
        if (train, layers) not in self.functions:
            function = partial(self.model.activations, layers=layers, training=train)
            self.functions[train, layers] = self.compiled(function)
        return self.functions[train, layers](images)

    def run_model(self, images: Any, train: bool, tap: Tap[Any]) -> object:
        """Run the model with a tap."""
        return self.model(images, training=train, tap=tap)

    def differentiate(
        self, images: Any, labels: np.ndarray, recipe: Recipe, train: bool, activations: Tensors | None
    ) -> tuple[float, Arrays]:
        """Differentiate by the backend's own means."""
        reached = named_variables(self.model, self.model.config, "keras")
        parameters = {name: variable for name, variable in reached.items() if variable.trainable}
        tap = replacing(activations, self.stop_gradient)

        def loss(inputs: Any) -> Any:
            return self.blueprint.training.loss(self.model(inputs, training=train, tap=tap), labels, recipe)

        differentiate = partial(DIFFERENTIATE[keras.backend.backend()], loss, parameters)
        value, gradients, image_gradient = self.compiled(differentiate)(images)
        arrays = canonical_arrays({name: to_numpy(gradient) for name, gradient in gradients.items()}, "keras")
        return float(value), arrays | {"input": self.array(image_gradient)}

    def begin_training(self, recipe: Recipe) -> Any:
        """Build the network to train, and its optimizer; steps are run as this adapter runs functions."""
        run = super().begin_training(recipe)
        run.model.run_eagerly, run.model.jit_compile = self.eager, self.xla
        return run

    def step(self, run: Any, images: np.ndarray, labels: Any) -> float:
        """Take one step of a run of training."""
        return float(run.step(channels_last(self.blueprint.images(images)).astype(self.precision), labels))

    def tensor(self, array: np.ndarray) -> Any:
        """Make the backend's tensor of a canonical array, in the framework's axis order and the precision asked for."""
        return keras.ops.convert_to_tensor(channels_last(array).astype(self.precision))

    def array(self, tensor: Any) -> np.ndarray:
        """Turn an activation of any backend into an array, NCHW."""
        return channels_first(to_numpy(tensor))

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Turn a function of tensors into the one that is run: itself, operation by operation."""
        return function


class Compiled(KerasAdapter):
    """The model in a tf.function, as `fit` and `predict` run it."""

    eager = False

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Turn a function of tensors into a graph of TensorFlow's.

        Raises:
            NotImplementedError: On another backend.
        """
        if keras.backend.backend() != "tensorflow":
            raise NotImplementedError("the Keras model is compiled on its TensorFlow backend only")
        import tensorflow as tf

        graph: Callable[..., Any] = tf.function(function, jit_compile=self.xla)
        return graph


class Xla(Compiled):
    """The model in a tf.function that XLA compiles (`jit_compile=True`)."""

    xla = True


def to_numpy(tensor: Any) -> np.ndarray:
    """Turn a tensor of any backend into an array."""
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
