"""Blueprints: where an adapter takes its networks and its training from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from conformance.run.capabilities import Differentiable, Drawable, Probed, Tappable, Trainable
from impls.config import ResNetConfig
from weights_convert.sources import Source


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


class BlueprintAdapter(Probed, Tappable, Differentiable, Trainable, Drawable, Protocol):
    """One of the project's own adapters: a dataclass, which `replace` gives another blueprint."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    blueprint: Blueprint
    precision: str

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Make the network with the weights of a file or checkpoint, and forget the one before."""
