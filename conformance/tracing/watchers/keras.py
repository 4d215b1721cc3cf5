"""Watches a Keras network, on any backend, through a `call` of each layer that stands in for the layer's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from conformance.run.candidates.keras import all_layers
from conformance.tracing.watchers import Store


@contextmanager
def watch(model: Any, store: Store) -> Iterator[None]:
    """Store what every layer returns, in the order in which they finish; a layer within a graph goes by its name."""
    layers = {id(layer): (path, layer) for path, layer in all_layers(model).items()} | {id(model): ("output", model)}

    def around(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if name == "output":
                store("input", (*args, *kwargs.values()))
            output = call(*args, **kwargs)
            store(name, output)
            return output

        return watched

    for name, layer in layers.values():
        vars(layer)["call"] = around(name, layer.call)
    try:
        yield
    finally:
        for _, layer in layers.values():
            vars(layer).pop("call", None)
