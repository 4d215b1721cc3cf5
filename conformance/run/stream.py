"""Streaming: activations are written to a folder one by one as they are computed, and the oracle's are fed from one.

A candidate that is fed goes on from the oracle's own activation after each segment, so that an error in one segment
does not reach the next.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conformance.cases.segments import segment_of
from conformance.run.capabilities import Tappable
from conformance.trace import ArrayFolder


def write_stream(adapter: Tappable, images: np.ndarray, train: bool, folder: Path, feed: Path | None = None) -> None:
    """Run a network and write each activation, and in train mode each running statistic, into a new folder.

    Args:
        adapter: Adapter that has built the network.
        images: Input (batch, channels, height, width).
        train: Whether norms use the batch's statistics.
        folder: Folder to make.
        feed: The oracle's folder of the same case: each segment is then fed the oracle's own activation.
    """
    folder.mkdir(parents=True)
    stored = ArrayFolder(folder)
    oracle = ArrayFolder(feed) if feed is not None else {}

    def tap(name: str, value: np.ndarray) -> np.ndarray | None:
        stored.store(name, value)
        return oracle[name] if name == segment_of(name) and name in oracle else None

    for name, array in adapter.run_tapped(images, train, tap).items():
        stored.store(name, array)
