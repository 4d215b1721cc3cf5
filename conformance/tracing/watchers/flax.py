"""Watches networks in Flax: Linen modules through intercepted calls, NNX modules through the calls of their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from flax import linen, nnx

from conformance.tracing.watchers import Store


@contextmanager
def watch_linen(model: Any, store: Store) -> Iterator[None]:
    """Store what every module returns within an `apply` of the network; initialisation is no run."""
    inside = 0

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal inside
        module = context.module
        is_network = not module.path and isinstance(module, type(model))
        if context.method_name != "__call__" or module.is_initializing() or not (is_network or inside):
            return call(*args, **kwargs)
        if is_network:
            store("input", (*args, *kwargs.values()))
        inside += is_network
        try:
            output = call(*args, **kwargs)
        finally:
            inside -= is_network
        store("output" if is_network else ".".join(module.path), output)
        return output

    with linen.intercept_methods(intercept):
        yield


@contextmanager
def watch_nnx(model: Any, store: Store) -> Iterator[None]:
    """Store what every module returns; for that time the classes of the modules call through a function of ours."""
    names = {id(module): ".".join(map(str, path)) or "output" for path, module in nnx.iter_modules(model)}
    classes: set[Any] = {type(module) for _, module in nnx.iter_modules(model) if callable(module)}
    own = {each: vars(each).get("__call__") for each in classes}

    def around(watched: type, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def watching(module: Any, *args: Any, **kwargs: Any) -> Any:
            name = names.get(id(module), "") if type(module) is watched else ""  # else it is a call of super()
            if name == "output":
                store("input", (*args, *kwargs.values()))
            output = call(module, *args, **kwargs)
            if name:
                store(name, output)
            return output

        return watching

    calls = {each: around(each, each.__call__) for each in classes}  # all are made before any is set: some inherit
    try:
        for each, call in calls.items():
            each.__call__ = call
        yield
    finally:
        for each, before in own.items():
            if before is None:
                del each.__call__
            else:
                each.__call__ = before
