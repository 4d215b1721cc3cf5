"""Recordings: the traces of one candidate, in a file that is read without running anything that it holds.

A recording is one safetensors file. Its metadata say, as JSON, which candidate was run on which network and where; its
arrays are those of the traces, under the precision and the case, and the images that went in. A hash of all that tells
a damaged file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from conformance.cases.case import Case
from conformance.cases.inputs import Input, content_hash
from conformance.cases.sketch import SUMS, sketch
from conformance.trace import Origin, Trace, TraceError
from impls.config import ResNetConfig
from impls.taps import is_layer
from weights_convert.containers.atomic import write_atomically

RECORDING_VERSION = 1
"""Version of the file's metadata; a recording of another version is refused."""


class Key(NamedTuple):
    """The name of a trace in a recording."""

    precision: str
    case: Case

    def __str__(self) -> str:
        return f"{self.precision}/{self.case.slug}"


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording of all that a candidate computed, with what somebody else needs to judge it.

    Attributes:
        candidate: Name of what was run.
        config: The network that it is held against.
        traces: Its traces by precision and case, in the order they ran.
        inputs: The images that went in.
        weights: Content hash of the weights.
        weights_from: Where the weights came from, in words.
        seed: Seed of synthetic weights; None where they were a file's or the model's own.
        environment: Platform and processors of the machine.
        notes: What is to be said about the candidate, a line for each.
        not_recorded: What could not be recorded, a line for each.
        path: The file that it was read from.
    """

    candidate: str
    config: ResNetConfig
    traces: Mapping[Key, Trace]
    inputs: Sequence[Input]
    weights: str
    weights_from: str
    seed: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    not_recorded: Sequence[str] = ()
    path: Path | None = None

    @property
    def name(self) -> str:
        """The file and the candidate, as reports name the recording."""
        return f"{self.path.name} ({self.candidate})" if self.path else self.candidate

    @property
    def precisions(self) -> list[str]:
        """Precisions that it holds."""
        return list(dict.fromkeys(key.precision for key in self.traces))

    def images(self, name: str) -> np.ndarray:
        """Images of the input of that name: (batch, channels, height, width)."""
        return {input.name: input.images for input in self.inputs}[name]

    def save(self, path: Path) -> None:
        """Write the recording, completely or not at all.

        Raises:
            OSError: If it cannot be written; a file that was there before is then as it was.
        """
        arrays = {f"inputs/{number}": input.images for number, input in enumerate(self.inputs)}
        for key, trace in self.traces.items():
            arrays |= {f"{key}/{name}": array for name, array in trace.arrays.items()}
        write_hashed(path, "recording", self._facts(), arrays)

    def _facts(self) -> dict[str, Any]:
        return {
            "format_version": RECORDING_VERSION,
            "candidate": self.candidate,
            "config": self.config.to_dict(),
            "weights": {"sha256": self.weights, "from": self.weights_from, "seed": self.seed},
            "environment": dict(self.environment),
            "notes": list(self.notes),
            "not_recorded": list(self.not_recorded),
            "inputs": [
                {"name": input.name, "source": input.source, "is_picture": input.is_picture} for input in self.inputs
            ],
            "traces": [trace.origin.to_json() for trace in self.traces.values()],
        }

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a recording; the arrays of its traces stay on disk until they are asked for.

        Raises:
            TraceError: If there is no such file, or if it is damaged, of another version, or no recording; the message
                names the file.
        """
        with naming_the_file(path):
            none = "it is no recording: a file that `conformance record` wrote is expected"
            facts, arrays = read_hashed(path, "recording", RECORDING_VERSION, none)
            origins = [Origin.from_json(text) for text in facts["traces"]]
            traces = {
                key: Trace(arrays.below(f"{key}/"), origin, path)
                for key, origin in ((Key(origin.precision, origin.case), origin) for origin in origins)
            }
            recording = cls(
                facts["candidate"],
                ResNetConfig.from_dict(facts["config"]),
                traces,
                [Input(images=arrays[f"inputs/{number}"], **each) for number, each in enumerate(facts["inputs"])],
                facts["weights"]["sha256"],
                facts["weights"]["from"],
                facts["weights"]["seed"],
                facts["environment"],
                facts["notes"],
                facts["not_recorded"],
                path,
            )
            check_recording(recording)
        return recording


def write_hashed(path: Path, key: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays and facts with a hash of both, completely or not at all."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(facts)
    metadata = {key: text, "sha256": hash_of(text, sorted(contiguous.items()))}
    write_atomically(path, lambda partial: save_file(contiguous, partial, metadata))


def read_hashed(path: Path, key: str, version: int, none: str) -> tuple[dict[str, Any], ArraysOfFile]:
    """Read what `write_hashed` wrote; arrays stay on disk until they are asked for.

    Args:
        path: The file.
        key: The key of the facts in the file's metadata.
        version: The version that the facts must state.
        none: What to say of a file without the key.

    Raises:
        TraceError: If the file lacks the key, is of another version, or is damaged.
    """
    file: Any = safe_open(path, framework="numpy")
    metadata = file.metadata() or {}
    if key not in metadata:
        raise TraceError(none)
    facts: dict[str, Any] = json.loads(metadata[key])
    if (found := facts.get("format_version")) != version:
        raise TraceError(
            f"the recording has format version {found}, and this release reads version {version}: record it again with "
            "this release"
        )
    arrays = ArraysOfFile(file, {name: name for name in sorted(file.keys())})
    if hash_of(metadata[key], arrays.items()) != metadata.get("sha256"):
        raise TraceError("it is damaged: its arrays are not those that were written; record it again")
    return facts, arrays


@contextmanager
def naming_the_file(path: Path) -> Iterator[None]:
    """Turn the errors of a file that is missing, damaged or of another kind into a TraceError that names it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TraceError(f"{path}: it cannot be read as a recording: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, TraceError) else f"its metadata cannot be read: {error!r}"
        raise TraceError(f"{path}: {reason}") from error


def check_recording(recording: Recording) -> None:
    """Check that traces and inputs belong together.

    Raises:
        TraceError: If a trace is of other weights, of another candidate or of images that the file does not hold.
    """
    hashes = {input.name: content_hash(input.images) for input in recording.inputs}
    for key, trace in recording.traces.items():
        origin = trace.origin
        if (origin.candidate, origin.weights) != (recording.candidate, recording.weights):
            raise TraceError(f"{key} is a trace of another candidate or of other weights")
        if hashes.get(origin.case.input) != origin.input:
            raise TraceError(f"{key} is a trace of other images than the file holds")
    if not recording.traces:
        raise TraceError("it holds no trace")


def hash_of(text: str, arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """Compute the SHA-256 of metadata and of named arrays, in the order in which they come."""
    digest = hashlib.sha256(text.encode())
    for name, array in arrays:
        digest.update(f"{name} {content_hash(array)}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ArraysOfFile(Mapping[str, np.ndarray]):
    """Arrays of a safetensors file, each read when it is asked for.

    Attributes:
        file: The open file.
        names: Name of an array to its name in the file.
    """

    file: Any
    names: Mapping[str, str]

    def __getitem__(self, name: str) -> np.ndarray:
        array: np.ndarray = self.file.get_tensor(self.names[name])
        return array

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def below(self, prefix: str) -> ArraysOfFile:
        """Select the arrays whose names begin so, and take that away."""
        names = {name.removeprefix(prefix): full for name, full in self.names.items() if name.startswith(prefix)}
        return ArraysOfFile(self.file, names)


def sketched(trace: Trace, small: bool) -> Trace:
    """Replace large arrays of a forward run by sketches: those of layers, and with `small` those of blocks, too.

    A sketch is summed in float64 and then rounded to the dtype of the array.
    """
    arrays, shapes = {}, dict(trace.origin.sketched)
    for name, array in trace.arrays.items():
        arrays[name] = array
        if array.size > SUMS and (small or is_layer(name)):
            arrays[name] = sketch(array.astype(np.float64), largest=SUMS).astype(array.dtype)
            shapes[name] = array.shape
    return Trace(arrays, replace(trace.origin, sketched=shapes), trace.path)
