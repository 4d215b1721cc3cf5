"""The graph of a whole Keras model, from its serialised configuration: which layer follows which. Nothing is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from weights_convert.configurations.fields import Findings, as_json
from weights_convert.configurations.keras_layers import (
    BUILT_PARTS,
    CONTAINERS,
    LAYER_PARTS,
    LAYERS,
    MODEL_PARTS,
    WITHOUT_EFFECT,
)

MAX_DEPTH = 8
"""The deepest nesting of models in models."""


class UnreadableGraph(ValueError):
    """A model that is no graph of single layers; the message says why."""


@dataclass(frozen=True)
class Layer:
    """A layer of a model.

    Attributes:
        name: Its name.
        kind: Its class.
        config: Its fields.
        inputs: The keys of the layers before it.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    inputs: tuple[str, ...]


@dataclass
class Graph:
    """The layers of a model, with those of the models in it, and how they are connected.

    Attributes:
        layers: Each layer by its key, which is its name after the names of the models that it is in.
        output: The key of the layer whose output is the model's.
    """

    layers: dict[str, Layer] = field(default_factory=dict)
    output: str = ""
    aliases: dict[str, str] = field(default_factory=dict, repr=False)

    def find(self, key: str) -> Layer:
        """Return the layer with this key, or the first before it that has an effect.

        Raises:
            UnreadableGraph: If there is no such layer.
        """
        for _ in range(len(self.layers) + len(self.aliases) + 1):
            if key in self.aliases:
                key = self.aliases[key]
            elif key not in self.layers:
                raise UnreadableGraph(f"it refers to a layer {key!r}, which it does not have")
            elif is_without_effect(self.layers[key]):
                (key,) = self.layers[key].inputs
            else:
                return self.layers[key]
        raise UnreadableGraph(f"its layer {key!r} comes after itself")


def is_without_effect(layer: Layer) -> bool:
    """Return whether a layer returns its input in inference."""
    linear = layer.kind == "Activation" and layer.config.get("activation") == "linear"
    return (linear or layer.kind in WITHOUT_EFFECT) and len(layer.inputs) == 1


def read_graph(model: Mapping[str, Any], source: str, findings: Findings) -> Graph:
    """Read the graph of a model, and add every part that is unknown to the findings.

    Raises:
        UnreadableGraph: If it is no graph of layers, each of which is used once.
    """
    graph = Graph()
    graph.output = _add_model(graph, model, "", None, source, findings)
    return graph


def _add_model(
    graph: Graph, model: Mapping[str, Any], scope: str, before: str | None, source: str, findings: Findings
) -> str:
    """Add the layers of a model to a graph, and return the key of the one whose output is the model's.

    Args:
        graph: What is added to.
        model: The serialised model.
        scope: Stands before the names of its layers.
        before: The key of the layer that feeds it, for a model in a model.
        source: The configuration, for messages.
        findings: What unknown parts are added to.
    """
    if scope.count("/") > MAX_DEPTH:
        raise UnreadableGraph(f"it nests models deeper than {MAX_DEPTH}")
    config = model["config"]
    is_chain = model["class_name"] == "Sequential"
    _note_unknown(model, (*LAYER_PARTS, *BUILT_PARTS), source, "model.", findings)
    _note_unknown(config, MODEL_PARTS, source, f"{model['class_name']}.", findings)
    previous, images = before, []
    for layer in config["layers"]:
        name, kind = str(layer["config"].get("name", layer.get("name"))), class_of(layer)
        _note_unknown(layer, (*LAYER_PARTS, *BUILT_PARTS), f"{source}, layer {name}", "layer.", findings)
        key = f"{scope}{name}"
        if key in graph.layers or key in graph.aliases:
            raise UnreadableGraph(f"it has two layers {name!r}")
        if is_chain:
            inputs: tuple[str, ...] = () if previous is None or kind == "InputLayer" else (previous,)
            previous = key if kind != "InputLayer" or before is None else before
        else:
            inputs = tuple(f"{scope}{known}" for known in _inputs(layer, name, kind))
        if kind == "InputLayer":
            images.append(key)
        if kind == "InputLayer" and before is not None:
            graph.aliases[key] = before
        elif kind in CONTAINERS:
            if len(inputs) != 1:
                raise UnreadableGraph(f"its model {name!r} has {len(inputs)} inputs")
            graph.aliases[key] = _add_model(graph, layer, f"{key}/", inputs[0], source, findings)
        else:
            graph.layers[key] = Layer(name, kind, layer["config"], inputs)
    if len(images) > 1:
        raise UnreadableGraph(f"it has {len(images)} inputs: {', '.join(images)}")
    return str(previous) if is_chain else f"{scope}{_single(config['output_layers'])}"


def class_of(layer: Mapping[str, Any]) -> str:
    """Return the class of a layer; one that is not Keras's own is named with its package.

    Example:
        >>> class_of({"class_name": "Add", "module": "keras.layers", "registered_name": None})
        'Add'
        >>> class_of({"class_name": "Add", "module": "mine", "registered_name": "mine>Add"})
        'mine>Add'
    """
    name, module, registered = str(layer["class_name"]), layer.get("module"), layer.get("registered_name")
    if registered not in (None, name):
        return str(registered)
    is_kerass = module is None or str(module).split(".")[0] in ("keras", "tf_keras")
    return name if is_kerass and (name in LAYERS or name in CONTAINERS or ">" not in name) else f"{module}>{name}"


def _inputs(layer: Mapping[str, Any], name: str, kind: str) -> list[str]:
    """Return the names of the layers before a layer, in the form of Keras 2 or of Keras 3."""
    nodes = layer.get("inbound_nodes", [])
    if len(nodes) > 1:
        raise UnreadableGraph(f"its layer {name!r} is used {len(nodes)} times")
    histories: list[Sequence[Any]] = []
    for node in nodes:
        if isinstance(node, Mapping):
            _check_call(node.get("kwargs", {}), name, kind)
            _add_histories(node.get("args", []), histories, name)
        else:
            for history in node:
                _check_call(history[3] if len(history) > 3 else {}, name, kind)
                histories.append(history)
    if any(tuple(history[1:3]) != (0, 0) for history in histories):
        raise UnreadableGraph(f"its layer {name!r} takes a second output of another layer")
    return [str(history[0]) for history in histories]


def _add_histories(argument: Any, histories: list[Sequence[Any]], name: str) -> None:
    """Add the history of every tensor among the arguments of a call."""
    if isinstance(argument, Mapping) and argument.get("class_name") == "__keras_tensor__":
        histories.append(argument["config"]["keras_history"])
    elif isinstance(argument, list):
        for inner in argument:
            _add_histories(inner, histories, name)
    else:
        raise UnreadableGraph(f"its layer {name!r} is called with {as_json(argument)}")


def _check_call(arguments: Mapping[str, Any], name: str, kind: str) -> None:
    """Raise an error for an argument of a call that may change what a layer computes in inference.

    Keras writes `training=true` for every layer that augments images, and `predict` overrides it.
    """
    augments = kind in WITHOUT_EFFECT and kind.startswith("Random")
    harmless = {"mask": (None,), "training": (None, False, *([True] if augments else []))}
    for argument, value in arguments.items():
        if value not in harmless.get(argument, ()):
            call = f"{argument}={as_json(value)}"
            raise UnreadableGraph(f"its layer {name!r} is called with {call}, and does not compute as in inference")


def _single(outputs: Any) -> str:
    """Return the name of the only output layer."""
    if isinstance(outputs, list) and len(outputs) == 1 and isinstance(outputs[0], list):
        outputs = outputs[0]
    if not (isinstance(outputs, list) and len(outputs) == 3 and isinstance(outputs[0], str)):
        raise UnreadableGraph(f"it has other outputs than one: {as_json(outputs)}")
    if outputs[1:] != [0, 0]:
        raise UnreadableGraph(f"its output is a second one of {outputs[0]!r}")
    return outputs[0]


def _note_unknown(parts: Mapping[str, Any], known: Sequence[str], place: str, prefix: str, findings: Findings) -> None:
    findings.unclassified += [(place, f"{prefix}{name}", value) for name, value in parts.items() if name not in known]
