"""Hiding: an adapter whose taps show some arrays wrongly, used as if it did not show them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from conformance.run.capabilities import Arrays, ArrayTap


class Hiding:
    """An adapter that records no array of certain names, and that nothing is fed to there.

    Args:
        adapter: The adapter, whose other methods stay as they are.
        names: The arrays, by canonical name.
    """

    def __init__(self, adapter: Any, names: Collection[str]) -> None:
        self.adapter, self.names = adapter, names

    def __getattr__(self, name: str) -> Any:
        return getattr(self.adapter, name)

    def record(self, images: np.ndarray, train: bool, layers: bool) -> Arrays:
        """Return the arrays of a run, without those that are hidden."""
        arrays = self.adapter.record(images, train, layers)
        return {name: array for name, array in arrays.items() if name not in self.names}

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass every activation through a tap but those that are hidden, from which the network goes on."""

        def pass_by(name: str, value: np.ndarray) -> np.ndarray | None:
            return None if name in self.names else tap(name, value)

        statistics: Arrays = self.adapter.run_tapped(images, train, pass_by)
        return statistics
