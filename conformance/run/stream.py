"""Activations one by one: written to a folder as they are computed, and read back as they are asked for.

A run of the real network has a few hundred megabytes of activations an image; none of the processes holds more than
the one it is at. A port that is given the oracle's folder goes on from the oracle's own activation after each piece, so
that what it errs by in one piece does not reach the next.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conformance.oracle.forward import segment_of
from conformance.run.adapters import Adapter
from conformance.trace import Origin, Trace

ORIGIN = "origin.json"


@dataclass(frozen=True, eq=False)
class Stored(Mapping[str, np.ndarray]):
    """Arrays in a folder, a file each, read when they are asked for and kept by nobody."""

    folder: Path

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self:
            raise KeyError(name)
        array: np.ndarray = np.load(self._file(name))
        return array

    def __contains__(self, name: object) -> bool:
        return self._file(str(name)).exists()

    def __iter__(self) -> Iterator[str]:
        return (file.stem for file in sorted(self.folder.glob("*.npy")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def store(self, name: str, array: np.ndarray) -> None:
        """Write one array."""
        np.save(self._file(name), array)

    def remove(self) -> None:
        """Forget all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


def write_stream(adapter: Adapter, images: np.ndarray, train: bool, folder: Path, truth: Path | None = None) -> None:
    """Run a network and write each activation, and in train mode each statistic, into a new folder.

    Args:
        adapter: Whose network.
        images: Its input.
        train: The mode.
        folder: Where to.
        truth: The oracle's folder of the same case: each piece is then fed the oracle's own activation.
    """
    folder.mkdir(parents=True)
    stored = Stored(folder)
    given = Stored(truth) if truth is not None else {}

    def see(name: str, value: np.ndarray) -> np.ndarray | None:
        stored.store(name, value)
        return given[name] if name == segment_of(name) and name in given else None

    for name, array in adapter.stream(images, train, see).items():
        stored.store(name, array)


def finish_stream(folder: Path, origin: Origin) -> None:
    """Write the origin of the arrays; a folder without it is unfinished."""
    (folder / ORIGIN).write_text(origin.to_json())


def read_stream(folder: Path) -> Trace:
    """A folder as a trace, its arrays still on disk."""
    return Trace(Stored(folder), Origin.from_json((folder / ORIGIN).read_text()))
