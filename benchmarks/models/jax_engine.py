"""Running Flax models and plain functions of JAX, in a worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.models.devices import JaxDevice
from benchmarks.models.inputs import LEARNING_RATE, MOMENTUM, Inputs
from benchmarks.models.plain_jax import plain_resnet50, plain_step
from benchmarks.models.tables import Comparison, Contender


class JaxEngine:
    """Runs Flax models and plain functions of JAX eagerly and compiled."""

    def __init__(self, device: str) -> None:
        import jax

        self.jax, self.device = jax, JaxDevice(device)

    def prepare(self, contender: Contender, comparison: Comparison, weights: Path, folder: Path) -> Callable[[], Any]:
        """A function that does the task once and returns the logits, or the loss."""
        inputs = Inputs.draw(comparison.batch)
        images, labels = self.jax.numpy.asarray(inputs.channels_last), self.jax.numpy.asarray(inputs.labels)
        model = contender.build(weights, contender.variant, comparison.precision)
        kind = "flax" if contender.name == "ours" else "plain"
        make = getattr(self, f"{kind}_{comparison.task}")
        return make(model, images, labels, comparison)

    def flax_inference(self, model: Any, images: Any, labels: Any, comparison: Comparison) -> Callable[[], Any]:
        """Our model, called as it is, under `nnx.jit`, with its graph cached, or split once under `jax.jit`."""
        from flax import nnx

        model.eval()
        if comparison.way == "eager":
            return lambda: model(images)
        jitted = nnx.jit(lambda model, x: model(x))
        if comparison.way == "jit":
            return lambda: jitted(model, images)
        if comparison.way == "jit, cached_partial":
            cached = nnx.cached_partial(jitted, model)
            return lambda: cached(images)
        graph, state = nnx.split(model)
        pure = self.jax.jit(lambda state, x: nnx.merge(graph, state)(x))
        return lambda: pure(state, images)

    def flax_training(self, model: Any, images: Any, labels: Any, comparison: Comparison) -> Callable[[], Any]:
        """Our training step, the same with its graph cached, or split once under `jax.jit` with donated arrays."""
        from flax import nnx

        from impls.flax import Training
        from impls.flax.training import take_step, train_step
        from impls.recipe import Recipe

        recipe = Recipe(learning_rate=LEARNING_RATE, momentum=MOMENTUM)
        training = Training(model, recipe)
        if comparison.way == "jit":
            return lambda: training.step(images, labels)
        model.train()
        if comparison.way == "jit, cached_partial":
            cached = nnx.cached_partial(train_step, model, training.optimizer)
            return lambda: cached(images, labels, recipe)
        graph, state = nnx.split((model, training.optimizer))

        def step(state: Any, images: Any, labels: Any) -> tuple[Any, Any]:
            model, optimizer = nnx.merge(graph, state)
            loss = take_step(model, optimizer, images, labels, recipe)
            return loss, nnx.state((model, optimizer))

        pure, held = self.jax.jit(step, donate_argnums=0), [state]

        def train() -> Any:
            loss, held[0] = pure(held[0], images, labels)
            return loss

        return train

    def plain_inference(self, arrays: Any, images: Any, labels: Any, comparison: Comparison) -> Callable[[], Any]:
        """The plain network."""
        dtype = "bfloat16" if comparison.precision == "bfloat16" else "float32"

        def network(arrays: Any, x: Any) -> Any:
            return plain_resnet50(arrays, x, train=False, dtype=dtype)[0]

        run = network if comparison.way == "eager" else self.jax.jit(network)
        return lambda: run(arrays, images)

    def plain_training(self, arrays: Any, images: Any, labels: Any, comparison: Comparison) -> Callable[[], Any]:
        """The plain network's step, its arrays donated."""
        dtype = "bfloat16" if comparison.precision == "bfloat16" else "float32"
        running = {name: array for name, array in arrays.items() if name.endswith((".mean", ".var"))}
        trained = {name: array for name, array in arrays.items() if name not in running}
        held = [trained, running, self.jax.tree.map(self.jax.numpy.zeros_like, trained)]
        step = self.jax.jit(partial(plain_step, dtype=dtype), donate_argnums=(0, 1, 2))

        def train() -> Any:
            *held[:], loss = step(*held, images, labels)
            return loss

        return train
