"""Adapter of Keras models as they are: functional, sequential and subclassed ones, on any backend.

A layer's activation is seen by a `call` of its own that stands in for the layer's, for the time of a run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

from conformance.run.adapters.canonical import channels_last
from conformance.run.adapters.keras import DIFFERENTIATE, KerasAdapter, to_numpy
from conformance.run.candidates.candidate import ModelCandidate
from conformance.run.candidates.hooks import Hook, ValueTap, in_order, untapped
from conformance.run.candidates.options import select_output
from conformance.run.candidates.survey import Survey
from conformance.run.capabilities import Arrays, ArrayTap, ReadState, TakeStep
from conformance.run.implementations import PARTS_IN_FLOAT32
from impls.config import ResNetConfig
from impls.keras import training
from impls.recipe import Recipe
from weights_convert import TrainingState
from weights_convert.shapes import Shape
from weights_convert.sources import Source
from weights_convert.table import SLOTS


class KerasCandidate(ModelCandidate, KerasAdapter):
    """A `keras.Model`, run as it is."""

    framework = "keras"

    def __init__(self, model: Any, options: Any) -> None:
        super().__init__(model, options)
        if keras.backend.backend() != "tensorflow":
            self.cannot["float64"] = PARTS_IN_FLOAT32

    def survey(self) -> Survey:
        """Describe the model without running it."""
        return replace(super().survey(), sides=self.input_sides())

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every variable."""
        return {name: tuple(variable.shape) for name, variable in self.variables().items()}

    def decays(self) -> set[float]:
        """Return the shares of the running statistic that norms keep."""
        return {layer.momentum for layer in self.layers().values() if hasattr(layer, "momentum")}

    def input_sides(self) -> tuple[int, int] | None:
        """Height and width of the images that a graph is fixed to; None if it takes any."""
        shape = getattr(self.module, "input_shape", None)
        sides = tuple(shape[2:] if self.options.layout == "NCHW" else shape[1:3]) if shape else (None, None)
        return None if None in sides else (int(sides[0]), int(sides[1]))

    def layers(self) -> dict[str, Any]:
        """All layers that hold no others, by path."""
        return dict(leaf_layers(self.module))

    def variables(self) -> dict[str, Any]:
        """All variables, by the path of their layer and their own name."""
        return {
            f"{path}.{variable.name}": variable
            for path, layer in self.layers().items()
            for variable in layer.variables
            if "seed_generator" not in variable.path
        }

    def named_arrays(self) -> dict[str, np.ndarray]:
        """Copies of all variables."""
        return {name: np.array(to_numpy(variable)) for name, variable in self.variables().items()}

    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Assign arrays to variables."""
        variables = self.variables()
        for name, array in arrays.items():
            variables[name].assign(array)

    def layer_paths(self) -> Collection[str]:
        """Paths of all layers, those that hold others included."""
        return all_layers(self.module).keys()

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Give the model the weights, find its layers, and see which of its variables are frozen."""
        super().build(config, weights)
        found = {hook.name: hook for hook in self.hooks} | graph_hooks(self.layers(), self.naming.layers(), config)
        self.hooks, self.not_shown = in_order(found, config)
        variables, canonical = self.variables(), self.naming.canonical_names()
        trained = [name for name in canonical if not canonical[name].endswith(("running_mean", "running_var"))]
        self.trained = {name: variables[name] for name in trained if variables[name].trainable}
        frozen = [canonical[name] for name in trained if not variables[name].trainable]
        self.not_shown |= {f"gradient.{name}": "it is frozen (trainable is False)" for name in frozen}
        if frozen:
            self.cannot["steps"] = f"{len(frozen)} variables are frozen (trainable is False), {frozen[0]} among them"
        if any("bn" in name for name in frozen):
            self.cannot["train"] = "norms that are frozen (trainable is False) stay in inference mode in Keras"

    @contextmanager
    def tapped(self, tap: ValueTap, hooks: Sequence[Hook]) -> Iterator[None]:
        """Let activations pass the tap."""
        layers, changed = all_layers(self.module), []
        for hook in hooks:
            layer = layers[hook.path]
            vars(layer)["call"] = hook.around(tap, layer.call)
            changed.append(layer)
        try:
            yield
        finally:
            for layer in changed:
                vars(layer).pop("call", None)

    @contextmanager
    def put_back(self, train: bool) -> Iterator[None]:
        """Set the variables that a train-mode run updates to what they were."""
        kept = [(v, np.array(to_numpy(v))) for v in self.module.non_trainable_variables] if train else []
        try:
            yield
        finally:
            for variable, array in kept:
                variable.assign(array)

    def forward(self, images: Any, train: bool, tap: ValueTap, hooks: Sequence[Hook]) -> Any:
        """Run the model on images in its own layout; its activations pass the tap, and its logits."""
        with self.running(images.shape), self.tapped(tap, hooks):
            returned = self.module(images, training=train)
        logits = select_output(returned, self.options.output, keras.ops.is_tensor)
        tap(self.output_name, logits)
        return logits

    def laid_out(self, array: np.ndarray) -> np.ndarray:
        """Return a canonical array with the axes that the model's layers have."""
        return array if self.options.layout == "NCHW" else channels_last(array)

    def array(self, tensor: Any) -> np.ndarray:
        """Return an activation as a canonical array."""
        return to_numpy(tensor) if self.options.layout == "NCHW" else super().array(tensor)

    def tensor(self, array: np.ndarray) -> Any:
        """Make the backend's tensor of a canonical array."""
        return keras.ops.convert_to_tensor(self.laid_out(array).astype(self.precision))

    def run(self, images: np.ndarray, train: bool, tap: ArrayTap, hooks: Sequence[Hook]) -> Arrays:
        """Run the model; copies of its activations pass the tap."""
        self.restore()
        with self.put_back(train):
            self.forward(self.tensor(images), train, self.array_tap(tap), hooks)
            return self.running_statistics() if train else {}

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, activations: Arrays | None = None
    ) -> tuple[float, Arrays]:
        """Differentiate by the backend's own means; frozen variables are left out."""
        tap, hooks = self.replacing(activations)

        def loss(inputs: Any) -> Any:
            return training.loss(self.forward(inputs, train, tap, hooks), labels, recipe)

        differentiate: Callable[..., Any] = partial(DIFFERENTIATE[keras.backend.backend()], loss, self.trained)
        self.restore()
        with self.put_back(train):
            value, gradients, image_gradient = differentiate(self.tensor(images))
        known = self.naming.canonical_names()
        arrays = {known[name]: self.naming.to_canonical(name, to_numpy(g)) for name, g in gradients.items()}
        return float(to_numpy(value)), arrays | {"input": self.array(image_gradient)}

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """Train the model by `train_on_batch`, compiled as our own model is; the next run starts afresh.

        The model is trained inside another one, so that it stays compiled, or not, as its user has it.
        """
        self.keep_untrained()
        network = LogitsOnly(self)
        run = training.Training(network, recipe)
        network.run_eagerly, network.jit_compile = self.eager, self.xla
        known, variables = self.naming.canonical_names(), self.variables()
        positions = {id(variable): number for number, variable in enumerate(network.trainable_variables)}

        def step(images: np.ndarray, labels: np.ndarray) -> float:
            return run.step(self.laid_out(images).astype(self.precision), labels)

        def slot_arrays(slot: str) -> Arrays:
            kept = getattr(run.optimizer, SLOTS[slot].keras)
            arrays = {name: to_numpy(kept[positions[id(variables[name])]]) for name in self.trained}
            return {known[name]: self.naming.to_canonical(name, array) for name, array in arrays.items()}

        def read() -> TrainingState:
            slots = {slot: slot_arrays(slot) for slot in recipe.slots}
            return self.training_state(run, self.canonical_state(), slots)

        return step, read

    @contextmanager
    def leaving_as_it_was(self) -> Iterator[None]:
        """Put back the model's variables and Keras's dtype."""
        kept, floatx = [(v, np.array(to_numpy(v))) for v in self.module.variables], keras.config.floatx()
        try:
            yield
        finally:
            keras.config.set_floatx(floatx)
            for variable, array in kept:
                variable.assign(array)


class LogitsOnly(keras.Model):  # type: ignore[misc]  # a keras.Model is Any
    """A model that returns a candidate's logits alone, which is what training needs."""

    def __init__(self, candidate: KerasCandidate) -> None:
        super().__init__(dtype=candidate.precision)
        self.candidate, self.module = candidate, candidate.module

    def call(self, images: Any, training: bool = False) -> Any:
        """Return the logits of images in the candidate's layout."""
        return self.candidate.forward(images, training, untapped, ())


def is_graph(layer: Any) -> bool:
    """Tell whether a layer is a functional or sequential model, whose layers have names of their own."""
    return isinstance(layer, keras.Sequential) or (isinstance(layer, keras.Model) and hasattr(layer, "operations"))


def children(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield the layers within a layer: of a graph by name, of another by attribute, index or key."""
    if is_graph(layer):
        yield from ((child.name, child) for child in layer.layers)
        return
    modules = dict(layer.named_children()) if hasattr(layer, "named_children") else {}  # PyTorch keeps layers there
    for attribute, value in (vars(layer) | modules).items():
        if not attribute.startswith("_"):
            yield from ((f"{attribute}{step}", child) for step, child in in_value(value))


def in_value(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the layers in the value of an attribute: itself, or those of a list or dictionary."""
    if isinstance(value, keras.layers.Layer):
        yield "", value
    elif isinstance(value, list | tuple | dict):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from ((f".{key}{step}", child) for step, child in in_value(item))


def all_layers(model: Any, prefix: str = "") -> dict[str, Any]:
    """Collect all layers of a model by path; a layer within a graph is known by its name alone."""
    found: dict[str, Any] = {}
    for name, child in children(model):
        path = name if is_graph(model) else f"{prefix}{name}"
        found |= {path: child} | all_layers(child, f"{path}.")
    return found


def leaf_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the layers that hold no others, with their paths."""
    return ((path, layer) for path, layer in all_layers(model).items() if not any(True for _ in children(layer)))


def graph_hooks(layers: Mapping[str, Any], paths: Mapping[str, str], config: ResNetConfig) -> dict[str, Hook]:
    """Find the layers of a graph whose outputs are those of stem and blocks: what the next layer takes.

    Args:
        layers: Layers by path.
        paths: Path of each layer by canonical name.
        config: The network.
    """
    found: dict[str, Hook] = {}
    names = ["stem", *(block.name for block in config.blocks())]
    takers = [*(paths.get(f"{name}.conv1", "") for name in names[1:]), pooling_layer(layers, paths)]
    for name, taker in zip(names, takers, strict=True):
        source = source_of(layers.get(taker), layers)
        if source:
            found[name] = Hook(name, source)
    return found


def pooling_layer(layers: Mapping[str, Any], paths: Mapping[str, str]) -> str:
    """Find the layer before the classifier that takes a feature map."""
    path = source_of(layers.get(paths.get("fc", "")), layers)
    while path and len(layers[path].input.shape) != 4:
        path = source_of(layers[path], layers)
    return path


def source_of(layer: Any, layers: Mapping[str, Any]) -> str:
    """Return the path of the layer whose output a layer of a graph takes, before any padding; empty if not known."""
    try:
        source = layer.input._keras_history.operation
    except (AttributeError, ValueError):  # it was called several times, or in no graph
        return ""
    if isinstance(source, keras.layers.ZeroPadding2D):
        return source_of(source, layers)
    return next((path for path, known in layers.items() if known is source), "")
