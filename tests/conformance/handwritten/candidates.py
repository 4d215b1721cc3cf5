"""Candidates of the catalogue by name: `tests.conformance.handwritten.candidates:ID` is an adapter of a row's model."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from tests.conformance.handwritten.catalogue import catalogue

CANDIDATES = {
    "torchvision": "torchvision_networks:TorchvisionCandidate",
    "linen": "linen_networks:LinenCandidate",
    "keras": "keras_networks:KerasCandidate",
}
"""The class that makes a candidate of each library, from a row's function or script."""


def candidate(library: str) -> Any:
    """Import the class of a library's candidates."""
    module, _, name = CANDIDATES[library].partition(":")
    return getattr(importlib.import_module(f"tests.conformance.handwritten.{module}"), name)


def __getattr__(name: str) -> Any:
    """Make the adapter of a row; "right-torchvision" and its like are networks without an edit."""
    if name.startswith("right-"):
        return candidate(name.removeprefix("right-"))
    row = None if name.startswith("__") else catalogue().get(name)
    if row is None:
        raise AttributeError(name)
    return partial(candidate(row.library), **{"script" if isinstance(row.make, type) else "edit": row.make})
