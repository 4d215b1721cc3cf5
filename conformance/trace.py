"""Traces: the arrays that one candidate computed for one case, and their origin; a safetensors file on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from conformance.cases.case import Case

FORMAT_VERSION = 1
"""Version of the origin's fields on disk; a trace of another version is refused."""


class TraceError(ValueError):
    """A file that holds no trace, or a trace of another format version."""


@dataclass(frozen=True)
class Origin:
    """How a trace came about.

    Attributes:
        case: What was run.
        candidate: Name of what ran it: an implementation, the oracle, a reference build.
        precision: "float64" or "float32", as asked for.
        weights: Content hash of the weights.
        input: Content hash of the input's images.
        parameters: Canonical name and shape of every array that the model itself lists.
        device: Name of the device; "cpu" for the processor.
        versions: Package to installed version.
        in_force: Operation to the precision that was measured for it.
        fed: Whether each segment was fed the oracle's own input.
        format_version: Version of these fields on disk.
    """

    case: Case
    candidate: str
    precision: str
    weights: str = ""
    input: str = ""
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    in_force: Mapping[str, str] = field(default_factory=dict)
    fed: bool = False
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the fields as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Origin:
        """Read what `to_json` returned.

        Raises:
            TraceError: If the text is no origin, or one of another format version.

        Example:
            >>> origin = Origin(Case("v1.5", "noise", "train"), "torch", "float64", parameters={"fc.bias": (10,)})
            >>> Origin.from_json(origin.to_json()) == origin
            True
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            version = fields.get("format_version")
            if version != FORMAT_VERSION:
                raise TraceError(
                    f"the trace has format version {version}, and this release reads version {FORMAT_VERSION}: "
                    "run the case again with this release"
                )
            fields["case"] = Case(**fields["case"])
            fields["parameters"] = {name: tuple(shape) for name, shape in fields["parameters"].items()}
            return cls(**fields)
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise TraceError(f"the file says nothing readable about the origin of its arrays ({error!r})") from error


@dataclass(frozen=True, eq=False)
class Trace:
    """Arrays by canonical name, in canonical axis order, and their origin.

    Attributes:
        arrays: Activations by name; in train mode also the running statistics afterwards.
        origin: How they came about.
    """

    arrays: Mapping[str, np.ndarray]
    origin: Origin

    def save(self, path: Path) -> None:
        """Write the trace; the file appears under its name when it is complete."""
        partial = path.with_suffix(".partial")
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        save_file(arrays, partial, {"origin": self.origin.to_json()})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read a trace.

        Raises:
            OSError: If there is no such file.
            safetensors.SafetensorError: If it is damaged.
            TraceError: If it holds no trace of this format version; the message names the file.
        """
        with safe_open(path, framework="numpy") as file:
            try:
                origin = Origin.from_json((file.metadata() or {}).get("origin", "{}"))
            except TraceError as error:
                raise TraceError(f"{path}: {error}") from error
            return cls({name: file.get_tensor(name) for name in file.keys()}, origin)  # noqa: SIM118 (no mapping)
