"""The containers: the kinds of files and folders that hold arrays by name.

A container is a row of `CONTAINERS` and a module that reads and writes it. To read, the container is recognised by the
content of the file; to write, it is selected by the ending of the name. Every write goes to a temporary place beside
the target and is renamed into place.
"""

from __future__ import annotations

import importlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from weights_convert.containers import tensorflow_file
from weights_convert.containers.atomic import write_atomically
from weights_convert.containers.contents import Arrays, Contents, Metadata
from weights_convert.containers.trial import read_on_trial
from weights_convert.dialects import DIALECTS, WRITTEN
from weights_convert.errors import ConversionError, first_line

MAGIC_LENGTH = 16
ZIP = b"PK\x03\x04"
OLD_PICKLE = b"\x80\x02"
HDF5 = b"\x89HDF\r\n\x1a\n"
MSGPACK_MAPS = bytes([*range(0x81, 0x90), 0xDE, 0xDF])
"""First bytes of a zip archive, of PyTorch's files until 1.6, of HDF5, and of a msgpack map that is not empty."""


@dataclass(frozen=True)
class Container:
    """A kind of file or folder that holds arrays by name.

    Attributes:
        name: The name in messages.
        endings: The endings of file names that select it for writing; none if it is only read.
        module: The module with its functions, imported when needed.
        matches: For files, a function that returns whether a path is of this kind, given its first bytes. For folders,
            the module has a function `is_folder(path)`.
        keeps_metadata: Whether it can hold metadata.
        folder: Whether it is a folder.
        reader: Name of the function `(path) -> (arrays, metadata)`.
        writer: Name of the function `(path, arrays, metadata)`.
        dialects: The only dialects that it can hold; empty for all.
        default_dialect: The dialect of a target whose name does not state one.
        library_only: The dialects among them that only their library can write, by building its own model.
        on_trial: Whether to read it in a process of its own first, since a damaged file can crash its library.
        packages: The packages to import before the limits of a trial begin.
        entries: For a folder, patterns (as of `fnmatch`) of the names in it. A folder that holds anything else is not
            replaced.
        has_files: Whether it consists of files of other containers: the reader takes `read_file`.
        has_shards: Whether it may be split into several files: the writer takes `shard_bytes`.
    """

    name: str
    endings: tuple[str, ...]
    module: str
    matches: Callable[[Path, bytes], bool] = lambda path, head: False
    keeps_metadata: bool = True
    folder: bool = False
    reader: str = "read"
    writer: str = "write"
    dialects: tuple[str, ...] = ()
    default_dialect: str | None = None
    library_only: tuple[str, ...] = ()
    on_trial: bool = False
    packages: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    has_files: bool = False
    has_shards: bool = False

    def recognises(self, path: Path, head: bytes) -> bool:
        """Return whether a path is of this kind, given the first bytes if it is a file."""
        if self.folder != path.is_dir():
            return False
        return bool(_module(self.module).is_folder(path)) if self.folder else self.matches(path, head)


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


def _is_keras_archive(path: Path, head: bytes) -> bool:
    return head.startswith(ZIP) and _module("archives").has_entry(path, "model.weights.h5")


CONTAINERS = (
    Container(
        "safetensors",
        endings=(".safetensors",),
        module="safetensors_file",
        matches=lambda path, head: head[8:9] == b"{",
    ),
    Container(
        "Keras archive",
        endings=(".keras",),
        module="keras_file",
        matches=_is_keras_archive,
        dialects=("keras", "keras.applications"),
        default_dialect="keras",
        library_only=("keras.applications",),
        on_trial=True,
    ),
    Container(
        "NumPy archive",
        endings=(".npz",),
        module="npz_file",
        matches=lambda path, head: head.startswith(ZIP) and _module("npz_file").is_npz(path),
        keeps_metadata=False,
    ),
    Container(
        "PyTorch",
        endings=(".pth", ".pt", ".bin"),
        module="torch_file",
        matches=lambda path, head: head.startswith((ZIP, OLD_PICKLE)),
        keeps_metadata=False,
    ),
    Container(
        "Keras HDF5",
        endings=(".weights.h5",),
        module="hdf5_file",
        matches=lambda path, head: head.startswith(HDF5),
        dialects=("keras", "keras.applications", "keras-hub"),
        on_trial=True,
    ),
    Container(
        "legacy Keras HDF5",  # read as the row above
        endings=(".h5",),
        module="hdf5_file",
        writer="write_legacy",
        dialects=("keras.applications", "transformers-tf"),
    ),
    Container(
        "whole-model Keras HDF5",  # read as the rows above
        endings=(".model.h5",),
        module="keras_models",
        writer="write_h5",
        dialects=("keras.applications",),
        default_dialect="keras.applications",
        library_only=("keras.applications",),
    ),
    Container(
        "safetensors index",
        endings=(),
        module="transformers_folder",
        matches=lambda path, head: path.name.endswith(".index.json"),
        reader="read_index",
        has_files=True,
    ),
    Container(
        "msgpack",
        endings=(".msgpack",),
        module="msgpack_file",
        matches=lambda path, head: head[:1] in MSGPACK_MAPS and head[:1] != b"",
        keeps_metadata=False,
        dialects=("flax", "flax-linen", "transformers-flax"),
    ),
    Container(
        "TensorFlow checkpoint",
        endings=(),
        module="tensorflow_file",
        matches=lambda path, head: _module("tensorflow_file").is_table(path),
        on_trial=True,
        packages=("tensorflow",),
    ),
    Container(
        "Orbax",
        endings=(".orbax",),
        module="orbax_folder",
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
        module="keras_hub_preset",
        folder=True,
        dialects=("keras-hub",),
        default_dialect="keras-hub",
        library_only=("keras-hub",),
        entries=("config.json", "metadata.json", "model.weights.h5", "task.json", "task.weights.h5"),
        has_files=True,
    ),
    Container(
        "transformers folder",
        endings=(".transformers",),
        module="transformers_folder",
        folder=True,
        dialects=("transformers",),
        default_dialect="transformers",
        entries=("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
        has_files=True,
        has_shards=True,
    ),
)
"""Every container. A file that several rows match is read as the first of them."""

LOOKALIKES = {
    b"version https://": "it is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`",
    b"\x80": "it is a pickle, which can run any code when it is read, and is therefore not read",
    b"<": "it is a web page, not the file that its address promised",
}
"""The first bytes of files that are often taken for checkpoints, and what such a file is."""


def recognise(path: Path) -> Container:
    """Return the container of a file or folder, recognised by its content.

    Raises:
        ConversionError: If it cannot be opened, or is of no known kind.
    """
    path = tensorflow_file.resolved(path)
    is_folder = path.is_dir()
    try:
        check_regular(path)
        head = b"" if is_folder else _head(path)
    except OSError as error:
        raise ConversionError(str(path), [f"it cannot be opened: {error.strerror or error}"]) from error
    if container := next((container for container in CONTAINERS if container.recognises(path, head)), None):
        return container
    kinds = ", ".join(container.name for container in CONTAINERS if container.folder == is_folder)
    if is_folder:
        problem = f"it is a folder of no kind that can be read ({kinds})"
    elif not head:
        problem = "it is empty"
    else:
        unknown = f"it is of no kind that can be read ({kinds}); it starts with {head!r}"
        problem = next((what for start, what in LOOKALIKES.items() if head.startswith(start)), unknown)
        if tensorflow_file.PART.search(path.name):
            problem = "it is a part of a TensorFlow checkpoint, whose .index file is not beside it"
    raise ConversionError(str(path), [problem])


def check_regular(path: Path) -> None:
    """Raise an error if a path is neither a folder nor a regular file: opening a named pipe would wait for its writer.

    Raises:
        ConversionError: If it is a pipe, a socket or a device.
        OSError: If there is nothing.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ConversionError(str(path), ["it is a pipe, a socket or a device, not a file that can be read"])


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAGIC_LENGTH)


def read(path: Path) -> Contents:
    """Read the arrays and the metadata of a file or folder.

    Raises:
        ConversionError: If there is no such file, or it is of no known kind or damaged.
    """
    path = tensorflow_file.resolved(path)
    container = recognise(path)
    options = {"read_file": read} if container.has_files else {}
    try:
        if container.folder and not container.has_files:  # its library opens whatever is in it
            for entry in path.rglob("*"):
                check_regular(entry)
        if container.on_trial:
            read_on_trial(f"{__name__}.{container.module}", container.reader, path, container.packages)
        contents: Contents = getattr(_module(container.module), container.reader)(path, **options)
        return contents
    except ConversionError:
        raise
    except Exception as error:  # each library has its own errors; any of them means that the file cannot be read
        problem = f"it is not a complete {container.name} file: {first_line(error)}"
        raise ConversionError(str(path), [problem]) from error


def writable(path: Path) -> Container:
    """Return the container that the ending of a name selects, if the target can be written.

    Raises:
        ConversionError: If the ending selects no container, or something is in the way of the target.
    """
    container = for_name(path)
    endings = ", ".join(ending for c in CONTAINERS for ending in c.endings)
    problems = []
    if container is None:
        problems.append(f"its ending selects no kind of file that can be written ({endings})")
    if not path.parent.is_dir():
        problems.append(f"the directory {str(path.parent)!r} does not exist")
    if container is not None and path.exists() and not _is_replaceable(path, container):
        problems.append("something else has this name, and is left alone")
    if path.is_file() and not os.access(path, os.W_OK):
        problems.append("it is write-protected")
    if problems or container is None:
        raise ConversionError(str(path), problems)
    return container


def _is_replaceable(path: Path, container: Container) -> bool:
    """Return whether a target may be replaced: a file by a file, a folder by one of its kind without other files."""
    if not (container.folder and path.is_dir()):
        return path.is_file() and not container.folder
    names = [entry.name for entry in path.iterdir()]
    foreign = [name for name in names if not any(fnmatchcase(name, known) for known in container.entries)]
    return bool(names) and not foreign and container.recognises(path, b"")


def _ending(path: Path) -> tuple[str, Container] | None:
    """Return the longest ending of a name that selects a container, and the container."""
    endings = [(ending, c) for c in CONTAINERS for ending in c.endings if path.name.endswith(ending)]
    return max(endings, key=lambda pair: len(pair[0]), default=None)


def for_name(path: Path) -> Container | None:
    """Return the container that the ending of a name selects; None if there is none."""
    ending = _ending(path)
    return ending[1] if ending else None


def without_ending(path: Path) -> str:
    """Return a name without the ending that selects its container.

    Example:
        >>> without_ending(Path("resnet50.keras.weights.h5"))
        'resnet50.keras'
    """
    ending = _ending(path)
    return path.name.removesuffix(ending[0] if ending else path.suffix)


def byte_count(text: str) -> int:
    """Return the number of bytes in a size: B, KB, MB and GB count in 1000s, KiB, MiB and GiB in 1024s.

    Raises:
        ValueError: If the text is not a size of at least one byte.

    Example:
        >>> byte_count("50MB"), byte_count("1.5 GiB")
        (50000000, 1610612736)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?)(i?)B", text.strip(), re.IGNORECASE)
    unit = (1024 if match[3] else 1000) ** " KMG".index(match[2].upper() or " ") if match else 0
    if match is None or (count := int(float(match[1]) * unit)) < 1:
        raise ValueError(f"{text!r} is not a size, such as 500KB, 50MB or 2GiB")
    return count


def write(path: Path, arrays: Arrays, metadata: Metadata, shard_bytes: int | None = None) -> None:
    """Write a file or folder of the container that the ending of its name selects, completely or not at all.

    Args:
        path: The target.
        arrays: Arrays by the names of the dialect.
        metadata: The metadata of the checkpoint; "dialect" and "config" decide where some containers put the arrays.
        shard_bytes: The most bytes of arrays in one file, for a container that can be split.

    Raises:
        ConversionError: If the ending selects no container, or the target cannot be written.
    """
    container = writable(path)
    if shard_bytes is not None and not container.has_shards:
        endings = ", ".join(ending for c in CONTAINERS if c.has_shards for ending in c.endings)
        raise ConversionError(str(path), [f"a {container.name} target cannot be split; only {endings} can"])
    dialect = DIALECTS.get(metadata.get("dialect", ""))
    if dialect is not None and not dialect.is_written:
        problem = f"{dialect.name} is read only: its library builds no variant under these names"
        raise ConversionError(str(path), [problem], f"Write one of {', '.join(WRITTEN)}.")
    if container.dialects and metadata["dialect"] not in container.dialects:
        problem = f"{container.name} files hold {', '.join(container.dialects)}, not {metadata['dialect']}"
        raise ConversionError(str(path), [problem])
    writer = getattr(_module(container.module), container.writer)
    options = {"shard_bytes": shard_bytes} if container.has_shards else {}
    try:
        write_atomically(path, lambda temporary: writer(temporary, arrays, metadata, **options), container.folder)
    except ConversionError as error:  # it names the temporary file
        raise ConversionError(str(path), error.problems, error.advice) from error
    except Exception as error:  # each library has its own error for a full disk
        raise ConversionError(str(path), [f"it cannot be written: {first_line(error)}"]) from error
