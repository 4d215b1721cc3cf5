"""Watchers: how each framework shows what the modules of a network return while it runs. One row for each kind.

A watcher is a context manager that hands every call to a `Store`, under the module's path. It imports its framework,
and is imported when a network of that framework is recorded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from conformance.run.candidates.kinds import imported_class

Layout = Literal["NCHW", "NHWC"]

Store = Callable[[str, Any], None]
"""Keeps a value under the path of a module; "input" and "output" are those of the network."""


@dataclass(frozen=True)
class Watcher:
    """A kind of network that is watched.

    Attributes:
        name: What it is called in messages.
        network: The class of its networks, "module:class".
        function: Watches one, "module:function".
        layout: Axes of images that its framework is used to.
    """

    name: str
    network: str
    function: str
    layout: Layout = "NHWC"

    def watch(self, model: Any, store: Store) -> AbstractContextManager[None]:
        """Watch a network while it is run."""
        module, _, name = self.function.partition(":")
        watching: AbstractContextManager[None] = getattr(importlib.import_module(module), name)(model, store)
        return watching


HERE = "conformance.tracing.watchers"

WATCHERS = (
    Watcher("keras.Layer", "keras:Layer", f"{HERE}.keras:watch"),  # on PyTorch it is a torch.nn.Module, too
    Watcher("torch.nn.Module", "torch.nn:Module", f"{HERE}.torch:watch", "NCHW"),
    Watcher("flax.linen.Module", "flax.linen:Module", f"{HERE}.flax:watch_linen"),
    Watcher("flax.nnx.Module", "flax.nnx:Module", f"{HERE}.flax:watch_nnx"),
)


def find_watcher(model: Any) -> Watcher:
    """Find the row of a network.

    Raises:
        TypeError: If there is none; the message lists what is recorded.
    """
    for watcher in WATCHERS:
        network = imported_class(watcher.network)
        if network is not None and isinstance(model, network):
            return watcher
    listed = ", ".join(watcher.name for watcher in WATCHERS)
    raise TypeError(f"a {type(model).__name__} is not recorded; what can be is one of {listed}")
