"""Blueprints: where an adapter takes its networks and its training from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Blueprint:
    """Where an adapter takes its networks and its training from.

    A faulty candidate is an adapter with another blueprint: everything else is the correct one's.

    Attributes:
        framework: Name of the implementation under `impls`.
        resnet: Builds a network, as `impls.torch.resnet` does: from a configuration, with the weights of a file or
            checkpoint, or drawn from a `seed`.
        training: Module or namespace with the names of `impls.<framework>.training` that the adapter uses.
    """

    framework: str
    resnet: Callable[..., Any]
    training: Any
