"""A trace: what one implementation computed for one case. A safetensors file of canonically named arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


@dataclass(frozen=True, eq=False)
class Trace:
    """Arrays by canonical name, in canonical axis order, and what is known of how they came about.

    Attributes:
        arrays: Activations by name; in train mode also the running statistics afterwards.
        about: Implementation, versions, device, precision in force, hashes of weights and input: plain JSON values.
    """

    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the trace; the file appears under its name when it is complete."""
        partial = path.with_suffix(".partial")
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        save_file(arrays, partial, {"about": json.dumps(dict(self.about))})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read a trace.

        Raises:
            OSError: If there is no such file.
            safetensors.SafetensorError: If it is damaged.
        """
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return cls({name: file.get_tensor(name) for name in file.keys()}, about)  # noqa: SIM118 (no mapping)
