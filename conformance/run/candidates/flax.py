"""Adapters of Flax modules as they are: Linen modules, with their variables or without, and NNX modules.

A Linen module's calls are intercepted by `flax.linen.intercept_methods`. A layer of an NNX module is replaced, for the
time of a run, by one that calls it.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx, traverse_util
from flax.core import unfreeze

from conformance.run.adapters.flax import FlaxAdapter
from conformance.run.candidates.candidate import ModelCandidate
from conformance.run.candidates.hooks import Hook, ValueTap, untapped
from conformance.run.candidates.options import select_output
from conformance.run.capabilities import Arrays, ArrayTap, ReadState, TakeStep
from impls.flax import training
from impls.paths import follow, put
from impls.recipe import Recipe
from weights_convert import TrainingState
from weights_convert.shapes import Shape

TRAIN_ARGUMENTS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""Arguments by which modules are asked for train mode, and the value that asks for it."""

USUAL_IMAGES = {"NHWC": (1, 224, 224, 3), "NCHW": (1, 3, 224, 224)}
"""Shape of the images that a Linen module is initialised with, where it comes without variables, by layout."""


class FlaxCandidate(ModelCandidate, FlaxAdapter):
    """Base of the candidates of Linen and NNX: layouts, and gradients by JAX."""

    framework = "flax"
    train_argument: str

    def laid_out(self, images: Any) -> jax.Array:
        """Return NCHW images in the precision and with the axes that the module takes."""
        array = jnp.asarray(images, self.precision)
        return array if self.options.layout == "NCHW" else jnp.transpose(array, (0, 2, 3, 1))

    def mode(self, train: bool) -> dict[str, bool]:
        """The argument that asks for a mode."""
        if not self.train_argument:
            return {}
        asks = TRAIN_ARGUMENTS.get(self.train_argument, True)
        return {self.train_argument: asks if train else not asks}

    def logits(self, returned: Any, tap: ValueTap) -> jax.Array:
        """Select the logits, and let them pass the tap, which cannot replace them."""
        selected: jax.Array = select_output(returned, self.options.output, lambda v: isinstance(v, jax.Array))
        tap(self.output_name, selected)
        return selected

    def to_canonical_arrays(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return arrays by the model's own names under canonical names, in canonical axis order."""
        known = self.naming.arrays
        return {
            known[name][0]: self.naming.to_canonical(name, np.asarray(a)) for name, a in arrays.items() if name in known
        }

    @abstractmethod
    def trainable(self) -> Trainable:
        """Make a copy of the model that can be trained."""

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """Train a copy by optax, set up as for our own model; the model itself stays as it is."""
        run = training.Training(self.trainable(), recipe)  # type: ignore[arg-type]  # any NNX module will do

        def step(images: np.ndarray, labels: np.ndarray) -> float:
            return float(run.take_step(self.laid_out(images), jnp.asarray(labels), recipe))

        def arrays(variables: Mapping[str, Any]) -> Arrays:
            of_network = {name.removeprefix(Trainable.PREFIX): variable[...] for name, variable in variables.items()}
            return self.to_canonical_arrays(of_network)

        def read() -> TrainingState:
            slots = {slot: arrays(variables) for slot, variables in run.slots().items()}
            return self.training_state(run, arrays(by_path(run.model)), slots)

        return step, read

    @contextmanager
    def leaving_as_it_was(self) -> Iterator[None]:
        """Compute float64 where it is asked for, in this block alone; modules are put back by a subclass."""
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            yield


class LinenCandidate(FlaxCandidate):
    """A Linen module, with its variables or without."""

    def __init__(self, model: Any, options: Any) -> None:
        module, variables = model if isinstance(model, tuple) else (model, None)
        super().__init__(module, options)
        self.given = None if variables is None else unfreeze(dict(variables))
        self.train_argument = find_train_argument(type(module).__call__, options.train_argument)
        if not self.train_argument:
            self.cannot["train"] = (
                f"its call has no argument that asks for train mode (it looks for {', '.join(TRAIN_ARGUMENTS)}; "
                "--train-argument names another)"
            )

    @property
    def usual_images(self) -> tuple[int, ...]:
        """The shape of the images that the module is initialised with."""
        return USUAL_IMAGES[self.options.layout or "NHWC"]

    @property
    def variables(self) -> dict[str, Any]:
        """The variables, made for the usual images where there are none."""
        if self.given is None:
            images = jnp.zeros(self.usual_images)
            initialise = jax.jit(lambda key: self.module.init(key, images, **self.mode(False)))
            self.given = unfreeze(dict(initialise(jax.random.key(0))))
        return self.given

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every array, and compute none."""
        if self.given is not None:
            return {name: tuple(array.shape) for name, array in flat(self.given).items()}
        images = jax.ShapeDtypeStruct(self.usual_images, jnp.float32)
        made = jax.eval_shape(lambda key, x: self.module.init(key, x, **self.mode(False)), jax.random.key(0), images)
        return {name: tuple(array.shape) for name, array in flat(unfreeze(dict(made))).items()}

    def named_arrays(self) -> dict[str, np.ndarray]:
        """Copies of all variables, by their paths with the collection in front."""
        return {name: np.array(array) for name, array in flat(self.variables).items()}

    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Make variables of arrays, in the precision asked for."""
        own = flat(self.variables)
        merged = {name: jnp.asarray(arrays.get(name, array), self.precision) for name, array in own.items()}
        self.given = traverse_util.unflatten_dict(merged, sep=".")

    def layer_paths(self) -> Collection[str]:
        """Every path that an array's path begins with."""
        paths = [self.naming.path_of(name).split(".") for name in self.naming.arrays]
        return {".".join(path[:depth]) for path in paths for depth in range(1, len(path) + 1)}

    def apply(self, variables: Any, images: jax.Array, train: bool, tap: ValueTap, hooks: Sequence[Hook]) -> Any:
        """Run the module; returns its logits, and the variables that the run updates."""
        by_path: dict[str, list[Hook]] = {}
        for hook in hooks:
            by_path.setdefault(hook.path, []).append(hook)

        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            path = ".".join(context.module.scope.path) if context.module.scope is not None else ""
            if context.method_name == "__call__":
                for hook in by_path.get(path, ()):
                    call = hook.around(tap, call)
            return call(*args, **kwargs)

        mutable = [name for name in variables if name != "params"] if train else False
        with linen.intercept_methods(intercept), self.running(images.shape):
            returned = self.module.apply(variables, images, mutable=mutable, **self.mode(train))
        output, updated = returned if train else (returned, {})
        return self.logits(output, tap), updated

    def run(self, images: np.ndarray, train: bool, tap: ArrayTap, hooks: Sequence[Hook]) -> Arrays:
        """Run the module; its activations pass the tap. Variables are values: nothing is put back."""
        _, updated = self.apply(self.variables, self.laid_out(images), train, self.array_tap(tap), hooks)
        return self.to_canonical_arrays(flat(unfreeze(dict(updated))))

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, activations: Arrays | None = None
    ) -> tuple[float, Arrays]:
        """Differentiate by jax.value_and_grad, compiled as a whole."""
        tap, hooks = self.replacing(activations)
        others = {name: collection for name, collection in self.variables.items() if name != "params"}

        def loss_of(params: Any, images: jax.Array) -> jax.Array:
            variables = {"params": params, **others}
            logits, _ = self.apply(variables, self.laid_out(images), train, tap, hooks)
            return training.loss(logits, jnp.asarray(labels), recipe)

        differentiate = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1)))
        value, (params, image_gradient) = differentiate(self.variables["params"], jnp.asarray(images, self.precision))
        gradients = self.to_canonical_arrays(flat({"params": params}))
        return float(value), gradients | {"input": np.asarray(image_gradient)}

    def trainable(self) -> Trainable:
        """Make an NNX module of the variables, by their paths, in which a call of the Linen module updates them."""
        kinds = {name: nnx.Param if name.startswith("params.") else nnx.BatchStat for name in flat(self.variables)}
        held = nnx.Dict({name: kinds[name](array) for name, array in flat(self.variables).items()})

        def logits_of(held: Any, images: jax.Array) -> jax.Array:
            variables = traverse_util.unflatten_dict({name: held[name][...] for name in kinds}, sep=".")
            logits: jax.Array
            logits, updated = self.apply(variables, images, True, untapped, ())
            for name, array in flat(unfreeze(dict(updated))).items():
                held[name][...] = array
            return logits

        return Trainable(held, logits_of)

    @contextmanager
    def leaving_as_it_was(self) -> Iterator[None]:
        """Keep the variables that there were."""
        given = self.given
        try:
            with super().leaving_as_it_was():
                yield
        finally:
            self.given = given


class NnxCandidate(FlaxCandidate):
    """An NNX module. A copy of it is run, so that it stays as it is."""

    def __init__(self, model: Any, options: Any) -> None:
        super().__init__(nnx.clone(model), options)
        self.train_argument = find_train_argument(type(model).__call__, options.train_argument)

    def shapes(self) -> dict[str, Shape]:
        """Return the shapes of parameters and running statistics."""
        return {name: tuple(variable.shape) for name, variable in by_path(self.module).items()}

    def decays(self) -> set[float]:
        """Return the shares of the running statistic that norms keep."""
        return {norm.momentum for _, norm in nnx.iter_modules(self.module) if isinstance(norm, nnx.BatchNorm)}

    def named_arrays(self) -> dict[str, np.ndarray]:
        """Copies of parameters and running statistics."""
        return {name: np.array(variable[...]) for name, variable in by_path(self.module).items()}

    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set variables, all of them in the precision asked for."""
        for path, variable in by_path(self.module).items():
            array = arrays.get(path, variable[...])
            follow(self.module, path).set_value(jnp.asarray(array, self.precision))

    def layer_paths(self) -> Collection[str]:
        """Paths of all modules."""
        return {".".join(map(str, path)) for path, _ in nnx.iter_modules(self.module) if path}

    def call(self, module: Any, images: jax.Array, train: bool, tap: ValueTap, hooks: Sequence[Hook]) -> jax.Array:
        """Run a module of this structure; its activations pass the tap, and its logits."""
        (module.train if train else module.eval)()
        with tapped(module, tap, hooks), self.running(images.shape):
            returned = module(images, **self.mode(train))
        return self.logits(returned, tap)

    def run(self, images: np.ndarray, train: bool, tap: ArrayTap, hooks: Sequence[Hook]) -> Arrays:
        """Run the module, in train mode a copy of it; its activations pass the tap."""
        module = nnx.clone(self.module) if train else self.module
        self.call(module, self.laid_out(images), train, self.array_tap(tap), hooks)
        statistics = {name: v[...] for name, v in by_path(module).items() if isinstance(v, nnx.BatchStat)}
        return self.to_canonical_arrays(statistics) if train else {}

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, activations: Arrays | None = None
    ) -> tuple[float, Arrays]:
        """Differentiate by jax.value_and_grad, compiled as a whole."""
        tap, hooks = self.replacing(activations)
        graph, *states = nnx.split(self.module, nnx.Param, ...)
        parameters, others = states

        def loss_of(parameters: Any, images: jax.Array) -> jax.Array:
            module = nnx.merge(graph, parameters, others, copy=True)
            logits = self.call(module, self.laid_out(images), train, tap, hooks)
            return training.loss(logits, jnp.asarray(labels), recipe)

        differentiate = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1)))
        value, (found, image_gradient) = differentiate(parameters, jnp.asarray(images, self.precision))
        gradients = {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(found)}
        return float(value), self.to_canonical_arrays(gradients) | {"input": np.asarray(image_gradient)}

    def trainable(self) -> Trainable:
        """Copy the module."""
        return Trainable(nnx.clone(self.module), lambda module, images: self.call(module, images, True, untapped, ()))


class Trainable(nnx.Module):
    """A network as an NNX module from images, with the axes that it takes, to its logits in train mode.

    Args:
        network: Holds the variables.
        logits: Computes the logits, given the network and images.
    """

    PREFIX = "network."

    def __init__(self, network: Any, logits: Callable[[Any, jax.Array], jax.Array]) -> None:
        self.network, self.logits = network, nnx.static(logits)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Return the logits."""
        logits: jax.Array = self.logits(self.network, images)
        return logits


def by_path(module: Any) -> dict[str, Any]:
    """Collect parameters and running statistics of an NNX module by path."""
    pairs = nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    return {".".join(map(str, path)): variable for path, variable in pairs}


class Tapped(nnx.Module):
    """A layer whose activation passes a tap."""

    def __init__(self, layer: Any, hook: Hook, tap: ValueTap) -> None:
        self.layer, self.call = layer, nnx.static(hook.around(tap, layer))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer."""
        return self.call(*args, **kwargs)


@contextmanager
def tapped(module: Any, tap: ValueTap, hooks: Sequence[Hook]) -> Iterator[None]:
    """Let activations of an NNX module pass a tap, by layers that stand in for others; the innermost first."""
    replaced = []
    for hook in sorted(hooks, key=lambda hook: -hook.path.count(".")):
        layer = follow(module, hook.path)
        replaced.append((hook.path, layer))
        put(module, hook.path, Tapped(layer, hook, tap))
    try:
        yield
    finally:
        for path, layer in reversed(replaced):
            put(module, path, layer)


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested dictionaries; the keys are joined by dots."""
    return {str(name): array for name, array in traverse_util.flatten_dict(dict(tree), sep=".").items()}


def find_train_argument(call: Callable[..., Any], given: str) -> str:
    """Find the argument by which a module is asked for train mode; empty if there is none."""
    if given:
        return given
    parameters = inspect.signature(call).parameters
    return next((name for name in TRAIN_ARGUMENTS if name in parameters), "")
