"""Probes: numbers of the suite's own choice that take the place of a layer's input, to measure what the layer computes.

A probe runs the network on a small image, replaces activations on the way, and stops at the layer whose output is
wanted. Convolutions and norms take maps of any size, so a probe has the batch and the size that its question needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FEED = "feed."
"""Start of the file names of activations; the images are "images.npy"."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A run of a network with activations replaced.

    Attributes:
        name: Unique within a run, and a file name.
        images: What the network runs on, (batch, channels, height, width) float32.
        feeds: Activation name to the array that takes its place. It may have another batch, height and width than the
            activation, but the same channels: (batch, channels, height, width), of the pool (batch, features).
        target: Name of the activation that is wanted; the run stops there. Empty runs to the end and keeps every
            activation as it was computed, before it was replaced.
        train: Whether norms use the batch's statistics.
    """

    name: str
    images: np.ndarray
    feeds: Mapping[str, np.ndarray] = field(default_factory=dict)
    target: str = ""
    train: bool = False

    def save(self, folder: Path) -> None:
        """Write the arrays into a new folder, one file each."""
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", self.images)
        for name, array in self.feeds.items():
            np.save(folder / f"{FEED}{name}.npy", array)

    @classmethod
    def load(cls, folder: Path, target: str, train: bool) -> Probe:
        """Read a probe that `save` wrote; the arrays stay on disk until they are used."""
        feeds = {
            file.stem.removeprefix(FEED): np.load(file, mmap_mode="r") for file in sorted(folder.glob(f"{FEED}*.npy"))
        }
        return cls(folder.name, np.load(folder / "images.npy"), feeds, target, train)


@dataclass(frozen=True, eq=False)
class Probed:
    """The result of a probe.

    Attributes:
        arrays: The wanted activation by name; of a probe without a target, every activation and, in train mode, the
            running statistics after the run.
        failure: Why the probe could not run; empty where it did.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    failure: str = ""
