"""The containers: kinds of file, or folder, that hold arrays by name.

A container is a row here and a module that reads and writes it. What there is, is recognised by its first bytes and its
contents, never by its name alone; what is to be written, by its name's ending. Every write goes to a temporary place
beside the target, renamed into place.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.containers.atomic import write_atomically
from weights_convert.containers.trial import read_on_trial
from weights_convert.errors import ConversionError, first_line

Arrays = Mapping[str, np.ndarray]
MAGIC_LENGTH = 16
ZIP = b"PK\x03\x04"
OLD_PICKLE = b"\x80\x02"
HDF5 = b"\x89HDF\r\n\x1a\n"
MSGPACK_MAPS = bytes([*range(0x81, 0x90), 0xDE, 0xDF])
"""First bytes: of a zip archive; of PyTorch's files until 1.6, pickles; of HDF5; of a msgpack map that is not empty."""


@dataclass(frozen=True)
class Container:
    """A kind of file or folder.

    Attributes:
        name: For messages.
        endings: Of the names that are written so; none where it is only read.
        matches: Whether what is at a path is one, given its first bytes; those of a folder are empty.
        module: Has the functions `reader(path) -> (arrays, metadata)` and `writer(path, arrays, metadata)`; imported
            when needed.
        keeps_metadata: Whether it can say what it holds.
        folder: Whether it is a folder.
        reader: The name of the function that reads.
        writer: The name of the function that writes.
        dialects: The only dialects that are written so; empty for all.
        default_dialect: The one of a target whose name tells none.
        built: Those of the dialects whose library alone can write it: it builds the model, and only such as it has.
        on_trial: Whether a process of its own reads it first: its library does not stand every damage.
        entries: Of a folder: how the names of all that it holds look (as `fnmatch` has it). An old folder is replaced
            only if it holds nothing else.
        averages: Whether it may hold averaged weights beside the last ones: its reader takes `averaged`.
        splits: Whether it is written as several files where a limit is given: its writer takes `shard_bytes`.
    """

    name: str
    endings: tuple[str, ...]
    matches: Callable[[Path, bytes], bool]
    module: str
    keeps_metadata: bool = False
    folder: bool = False
    reader: str = "read"
    writer: str = "write"
    dialects: tuple[str, ...] = ()
    default_dialect: str | None = None
    built: tuple[str, ...] = ()
    on_trial: bool = False
    entries: tuple[str, ...] = ()
    averages: bool = False
    splits: bool = False


def _within(module: str, function: str) -> Callable[[Path, bytes], bool]:
    """A test in a container's own module, imported when a file or folder asks for it."""
    return lambda path, head: getattr(_module(module), function)(path)


def _is_keras_archive(path: Path, head: bytes) -> bool:
    return head.startswith(ZIP) and _module("archives").holds(path, "model.weights.h5")


CONTAINERS = (
    Container(
        "safetensors",
        endings=(".safetensors",),
        matches=lambda path, head: head[8:9] == b"{",
        module="safetensors_file",
        keeps_metadata=True,
    ),
    Container(
        "Keras archive",
        endings=(".keras",),
        matches=_is_keras_archive,
        module="keras_file",
        keeps_metadata=True,
        dialects=("keras", "keras.applications"),
        default_dialect="keras",
        built=("keras.applications",),
        on_trial=True,
    ),
    Container(
        "PyTorch",
        endings=(".pth", ".pt", ".bin"),
        matches=lambda path, head: head.startswith((ZIP, OLD_PICKLE)),
        module="torch_file",
        averages=True,
    ),
    Container(
        "Keras HDF5",
        endings=(".weights.h5",),
        matches=lambda path, head: head.startswith(HDF5),
        module="hdf5_file",
        keeps_metadata=True,
        dialects=("keras", "keras.applications", "keras-hub"),
        on_trial=True,
    ),
    Container(
        "legacy Keras HDF5",
        endings=(".h5",),
        matches=lambda path, head: False,  # read as the row above
        module="hdf5_file",
        keeps_metadata=True,
        writer="write_legacy",
        dialects=("keras.applications", "transformers-tf"),
    ),
    Container(
        "whole-model Keras HDF5",
        endings=(".model.h5",),
        matches=lambda path, head: False,  # read as those above
        module="keras_models",
        keeps_metadata=True,
        writer="write_h5",
        dialects=("keras.applications",),
        default_dialect="keras.applications",
        built=("keras.applications",),
    ),
    Container(
        "safetensors index",
        endings=(),
        matches=_within("folders", "is_index"),
        module="folders",
        reader="read_index",
        writer="refuse_writing",
    ),
    Container(
        "msgpack",
        endings=(".msgpack",),
        matches=lambda path, head: head[:1] in MSGPACK_MAPS and head[:1] != b"",
        module="msgpack_file",
        dialects=("flax", "flax-linen", "transformers-flax"),
    ),
    Container(
        "Orbax",
        endings=(".orbax",),
        matches=_within("orbax_folder", "matches"),
        module="orbax_folder",
        keeps_metadata=True,
        folder=True,
        dialects=("flax", "flax-linen", "transformers-flax"),
        entries=(
            *("_METADATA", "_CHECKPOINT_METADATA", "_sharding", "manifest.ocdbt", "ocdbt.process_*"),
            *("array_metadatas", "commit_success.txt", "d"),
        ),
    ),
    Container(
        "Keras Hub preset",
        endings=(".keras-hub",),
        matches=_within("folders", "is_preset"),
        module="folders",
        keeps_metadata=True,
        folder=True,
        reader="read_preset",
        writer="write_preset",
        dialects=("keras-hub",),
        default_dialect="keras-hub",
        entries=("config.json", "metadata.json", "model.weights.h5", "task.json", "task.weights.h5"),
        built=("keras-hub",),
    ),
    Container(
        "transformers folder",
        endings=(".transformers",),
        matches=_within("folders", "is_transformers"),
        module="folders",
        keeps_metadata=True,
        folder=True,
        reader="read_transformers",
        writer="write_transformers",
        dialects=("transformers",),
        default_dialect="transformers",
        entries=("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
        splits=True,
    ),
)

LOOKALIKES = {
    b"version https://": "it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"\x80": "it is a pickle, which can run any code when it is read, so it is not read",
    b"<": "it is a web page, not the file that its address promised",
}
"""How a file of no kind may start, and what it is then."""


def recognise(path: Path) -> Container:
    """The kind of a file, by its first bytes.

    Raises:
        ConversionError: If it cannot be opened or is of no known kind.
    """
    try:
        head = b"" if path.is_dir() else _head(path)
    except OSError as error:
        raise ConversionError(str(path), [f"it cannot be opened: {error.strerror or error}"]) from error
    if container := next((c for c in CONTAINERS if c.folder == path.is_dir() and c.matches(path, head)), None):
        return container
    kinds = ", ".join(container.name for container in CONTAINERS if container.folder == path.is_dir())
    if path.is_dir():
        raise ConversionError(str(path), [f"it is a folder of no kind that can be read ({kinds})"])
    unknown = f"it is of no kind that can be read ({kinds}); it starts with {head!r}"
    what = (
        next((what for start, what in LOOKALIKES.items() if head.startswith(start)), unknown) if head else "it is empty"
    )
    raise ConversionError(str(path), [what])


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAGIC_LENGTH)


def read(path: Path, averaged: bool = False) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file.

    Args:
        path: A file or folder.
        averaged: Of a training checkpoint, whether to read the averaged weights in place of the last ones.

    Raises:
        ConversionError: If there is no such file, it is of no known kind, or damaged, or holds no averaged weights.
    """
    container = recognise(path)
    if averaged and not container.averages:
        can = ", ".join(c.name for c in CONTAINERS if c.averages)
        raise ConversionError(
            str(path), [f"a {container.name} file holds no averaged weights beside others; {can} may"]
        )
    choice = {"averaged": averaged} if container.averages else {}
    try:
        if container.on_trial:
            read_on_trial(f"{__name__}.{container.module}", container.reader, path)
        arrays, metadata = getattr(_module(container.module), container.reader)(path, **choice)
    except ConversionError:
        raise
    except Exception as error:  # each library has its own; whatever it is, the file could not be read
        raise ConversionError(str(path), [f"it is no whole {container.name} file: {first_line(error)}"]) from error
    return arrays, metadata


def writable(path: Path) -> Container:
    """The kind of file that a path's ending names, once nothing speaks against writing there.

    Raises:
        ConversionError: If the ending names no kind, or there is no place for the file.
    """
    container = of_name(path)
    endings = ", ".join(ending for c in CONTAINERS for ending in c.endings)
    in_the_way = container is not None and path.exists() and not _replaceable(path, container)
    problems = [
        problem
        for problem, holds in (
            (f"its ending names no kind of file that can be written; known are {endings}", container is None),
            (f"the directory {str(path.parent)!r} does not exist", not path.parent.is_dir()),
            ("there is something that is no file of this kind, and is left alone", in_the_way),
            ("it is write-protected", path.is_file() and not os.access(path, os.W_OK)),
        )
        if holds
    ]
    if problems or container is None:
        raise ConversionError(str(path), problems)
    return container


def _replaceable(path: Path, container: Container) -> bool:
    """Whether what is at a path may give way: a file to a file, a folder to one of its kind, if it holds nothing else.

    Nobody's notes or training state go with an old folder; a file is known to be meant by its name alone.
    """
    if not (container.folder and path.is_dir()):
        return path.is_file() and not container.folder
    held = [entry.name for entry in path.iterdir()]
    foreign = [name for name in held if not any(fnmatchcase(name, known) for known in container.entries)]
    return bool(held) and not foreign and container.matches(path, b"")


def of_name(path: Path) -> Container | None:
    """The kind whose ending a name has; the longest ending counts."""
    named = [(len(ending), c) for c in CONTAINERS for ending in c.endings if path.name.endswith(ending)]
    return max(named, key=lambda pair: pair[0])[1] if named else None


def without_ending(path: Path) -> str:
    """A name without the ending that names its kind.

    Example:
        >>> without_ending(Path("resnet50.keras.weights.h5"))
        'resnet50.keras'
    """
    endings = [ending for c in CONTAINERS for ending in c.endings if path.name.endswith(ending)]
    return path.name.removesuffix(max(endings, key=len, default=path.suffix))


def byte_count(text: str) -> int:
    """The bytes that a size means: a number with B, KB, MB, GB, or with KiB, MiB, GiB, which count in 1024s.

    Raises:
        ValueError: If it is no size, or none of a byte or more.

    Example:
        >>> byte_count("50MB"), byte_count("1.5 GiB")
        (50000000, 1610612736)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?)(i?)B", text.strip(), re.IGNORECASE)
    unit = (1024 if match[3] else 1000) ** " KMG".index(match[2].upper() or " ") if match else 0
    if match is None or (count := int(float(match[1]) * unit)) < 1:
        raise ValueError(f"{text!r} is no size, such as 500KB, 50MB or 2GiB")
    return count


def write(path: Path, arrays: Arrays, metadata: Mapping[str, str], shard_bytes: int | None = None) -> None:
    """Write a file or folder of the kind that its ending names: completely, or not at all.

    Args:
        path: The target.
        arrays: By the names of the dialect.
        metadata: What a checkpoint says of itself; "dialect" and "config" decide where some kinds put the arrays.
        shard_bytes: Of arrays in one file, at most; of the kinds that can be split.

    Raises:
        ConversionError: If the ending names no kind, or the file cannot be written.
    """
    container = writable(path)
    if shard_bytes is not None and not container.splits:
        can = ", ".join(ending for c in CONTAINERS if c.splits for ending in c.endings)
        raise ConversionError(str(path), [f"a {container.name} target is not split; those that are end in {can}"])
    if container.dialects and metadata["dialect"] not in container.dialects:
        problem = f"{container.name} files hold {', '.join(container.dialects)}, not {metadata['dialect']}"
        raise ConversionError(str(path), [problem])
    writer = getattr(_module(container.module), container.writer)
    limits = {"shard_bytes": shard_bytes} if container.splits else {}
    try:
        write_atomically(path, lambda temporary: writer(temporary, arrays, metadata, **limits), container.folder)
    except ConversionError as error:  # which names the temporary file
        raise ConversionError(str(path), error.problems, error.advice) from error
    except Exception as error:  # a full disk is an OSError to one library, and its own error to another
        raise ConversionError(str(path), [f"it cannot be written: {first_line(error)}"]) from error


def _module(name: str) -> Any:
    return importlib.import_module(f"weights_convert.containers.{name}")
