"""The types of the arrays and the metadata that containers hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""Arrays by name."""

Metadata = Mapping[str, str]
"""The metadata of a checkpoint, as `Checkpoint.metadata` returns it."""

Contents = tuple[dict[str, np.ndarray], dict[str, str]]
"""The arrays and the metadata that a reader returns."""

ReadFile = Callable[[Path], Contents]
"""A function that reads a file of any container. Readers of containers that consist of files are given it."""
