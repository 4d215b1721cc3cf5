"""Running Keras models, in a worker, on the backend that `KERAS_BACKEND` names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.models.devices import KERAS_DEVICES
from benchmarks.models.inputs import LEARNING_RATE, MOMENTUM, Inputs
from benchmarks.models.tables import Comparison, Contender


class KerasEngine:
    """Runs Keras models by `predict` and `train_on_batch`, eagerly, and as compiled functions of the backend."""

    def __init__(self, device: str) -> None:
        with contextlib.suppress(ImportError):  # TensorFlow, then the Triton of PyTorch: that order ends the process
            import triton  # noqa: F401
        import keras

        self.keras = keras
        self.device = KERAS_DEVICES[keras.backend.backend()](device)

    def prepare(self, contender: Contender, comparison: Comparison, weights: Path, folder: Path) -> Callable[[], Any]:
        """A function that does the task once and returns the logits, or the loss."""
        if comparison.precision == "bfloat16":
            self.keras.config.set_dtype_policy("mixed_bfloat16")
        inputs = Inputs.draw(comparison.batch)
        model = contender.build(weights, contender.variant, comparison.precision)
        if comparison.task == "training":
            step = self.our_step(model) if contender.name == "ours" else self.plain_step(model)
            return lambda: step(inputs.channels_last, inputs.labels)
        images = inputs.channels_last
        if comparison.way == "predict":
            return lambda: model.predict(images, batch_size=comparison.batch, verbose=0)
        make: Callable[[Any, Any], Callable[[], Any]] = {
            "eager": self.eager,
            "tf.function": self.tf_function,
            "tf.function, XLA": self.tf_function_xla,
            "jax.jit": self.jax_jit,
        }[comparison.way]
        return make(model, self.keras.ops.convert_to_tensor(images))

    def eager(self, model: Any, images: Any) -> Callable[[], Any]:
        """The model, called as it is."""
        if self.keras.backend.backend() != "torch":
            return lambda: model(images, training=False)
        import torch

        @torch.inference_mode()
        def infer() -> Any:
            return model(images, training=False)

        return infer

    def tf_function(self, model: Any, images: Any, xla: bool = False) -> Callable[[], Any]:
        """The model in a `tf.function`."""
        import tensorflow

        run = tensorflow.function(lambda x: model(x, training=False), jit_compile=xla)
        return lambda: run(images)

    def tf_function_xla(self, model: Any, images: Any) -> Callable[[], Any]:
        """The model in a `tf.function` that XLA compiles."""
        return self.tf_function(model, images, xla=True)

    def jax_jit(self, model: Any, images: Any) -> Callable[[], Any]:
        """The model as a function of its variables under `jax.jit`."""
        import jax

        variables = [
            [variable.value for variable in group]
            for group in (model.trainable_variables, model.non_trainable_variables)
        ]
        run = jax.jit(lambda variables, x: model.stateless_call(*variables, x, training=False)[0])
        return lambda: run(variables, images)

    def our_step(self, model: Any) -> Callable[[Any, Any], float]:
        """A training step of `impls.keras`."""
        from impls.keras import Training
        from impls.recipe import Recipe

        return Training(model, Recipe(learning_rate=LEARNING_RATE, momentum=MOMENTUM)).step

    def plain_step(self, model: Any) -> Callable[[Any, Any], float]:
        """A training step as Keras's guides write it."""
        optimizer = self.keras.optimizers.SGD(LEARNING_RATE, MOMENTUM)
        loss = self.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=optimizer, loss=loss, metrics=[])

        def step(images: Any, labels: Any) -> float:
            model.reset_metrics()
            return float(model.train_on_batch(images, labels))

        return step
