"""Traces: the arrays that one candidate computed for one case, and their origin; a safetensors file on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from conformance.cases.case import Case

ORIGIN_FILE = "origin.json"

FORMAT_VERSION = 3
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
        versions: Package to installed version, and the version of Python.
        in_force: Operation to the precision that was measured for it.
        fed: Whether each segment was fed the oracle's own input.
        not_shown: Arrays that the candidate cannot show, each with the reason; they are not compared.
        sketched: Arrays that are kept as sketches, each with the shape that it had.
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
    not_shown: Mapping[str, str] = field(default_factory=dict)
    sketched: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
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
            for shapes in ("parameters", "sketched"):
                fields[shapes] = {name: tuple(shape) for name, shape in fields[shapes].items()}
            return cls(**fields)
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise TraceError(f"the file says nothing readable about the origin of its arrays ({error!r})") from error


@dataclass(frozen=True, eq=False)
class ArrayFolder(Mapping[str, np.ndarray]):
    """Arrays in a folder, one file each, read whenever they are asked for and kept by nobody.

    A run of the real network has a few hundred megabytes of activations per image; so no process holds more than the
    one it is at.
    """

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
        np.save(self._file(name), storable(array))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


@dataclass(frozen=True, eq=False)
class Without(Mapping[str, np.ndarray]):
    """Arrays without some of them; the others are read when they are asked for."""

    arrays: Mapping[str, np.ndarray]
    names: Collection[str]

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.names:
            raise KeyError(name)
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.arrays if name not in self.names)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, eq=False)
class Trace:
    """Arrays by canonical name, in canonical axis order, and their origin.

    On disk a trace is a safetensors file, or a folder where its arrays are streamed into it one by one.

    Attributes:
        arrays: Activations by name; in train mode also the running statistics afterwards.
        origin: How they came about.
        path: The file or folder that it was read from.
    """

    arrays: Mapping[str, np.ndarray]
    origin: Origin
    path: Path | None = None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape that an array has, or had before it was sketched."""
        return self.origin.sketched.get(name) or self.arrays[name].shape

    def without(self, reasons: Mapping[str, str]) -> Trace:
        """Return the trace with some arrays as not shown, each for a reason."""
        origin = replace(self.origin, not_shown={**self.origin.not_shown, **reasons})
        return replace(self, arrays=Without(self.arrays, reasons), origin=origin)

    def save(self, path: Path) -> None:
        """Write the trace; the file appears under its name when it is complete."""
        partial = path.with_suffix(".partial")
        arrays = {name: np.ascontiguousarray(storable(array)) for name, array in self.arrays.items()}
        save_file(arrays, partial, {"origin": self.origin.to_json()})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read a trace from a file, or from a folder, whose arrays stay on disk until they are asked for.

        Raises:
            OSError: If there is no such file.
            safetensors.SafetensorError: If it is damaged.
            TraceError: If it holds no trace of this format version; the message names the file.
        """
        try:
            if path.is_dir():
                return cls(ArrayFolder(path), Origin.from_json((path / ORIGIN_FILE).read_text()), path)
            with safe_open(path, framework="numpy") as file:
                origin = Origin.from_json((file.metadata() or {}).get("origin", "{}"))
                return cls({name: file.get_tensor(name) for name in file.keys()}, origin, path)  # noqa: SIM118
        except TraceError as error:
            raise TraceError(f"{path}: {error}") from error

    def remove(self) -> None:
        """Remove the file or folder that the trace was read from; the arrays of a folder cannot be read afterwards."""
        if self.path is not None and self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        elif self.path is not None:
            self.path.unlink(missing_ok=True)


def storable(array: np.ndarray) -> np.ndarray:
    """Widen an array of a dtype that is not NumPy's own, like bfloat16, to float32, which holds all its values.

    A file would give back bytes without a meaning.

    Example:
        >>> import ml_dtypes
        >>> storable(np.ones(2, ml_dtypes.bfloat16))
        array([1., 1.], dtype=float32)
    """
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def finish_folder(folder: Path, origin: Origin) -> Trace:
    """Write the origin of the arrays in a folder, which makes it a trace; a folder without it is unfinished."""
    (folder / ORIGIN_FILE).write_text(origin.to_json())
    return Trace.load(folder)
