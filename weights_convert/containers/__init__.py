"""The containers: kinds of file that hold arrays by name.

A container is a row here and a module that reads and writes it. A file is recognised by its first bytes, never by its name;
a file to write by its name's ending. Every write goes to a temporary file beside the target and is renamed into place.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weights_convert.errors import ConversionError

Arrays = Mapping[str, np.ndarray]
MAGIC_LENGTH = 16


@dataclass(frozen=True)
class Container:
    """A kind of file.

    Attributes:
        name: For messages.
        endings: Of file names that are written so.
        starts: Whether a file with these first bytes is one.
        module: Has `read(path) -> (arrays, metadata)` and `write(path, arrays, metadata)`; imported when needed.
    """

    name: str
    endings: tuple[str, ...]
    starts: Callable[[bytes], bool]
    module: str


CONTAINERS = (
    Container("safetensors", (".safetensors",), lambda head: head[8:9] == b"{", "safetensors_file"),
    Container("PyTorch", (".pth", ".pt"), lambda head: head.startswith((b"PK\x03\x04", b"\x80\x02")), "torch_file"),
)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file.

    Raises:
        ConversionError: If there is no such file, it is of no known kind, or damaged.
    """
    container = recognise(path)
    try:
        return _module(container).read(path)
    except ConversionError:
        raise
    except Exception as error:  # each library has its own; whatever it is, the file could not be read
        raise ConversionError(str(path), [f"it is no complete {container.name} file: {error}"]) from error


def recognise(path: Path) -> Container:
    """The kind of a file, by its first bytes.

    Raises:
        ConversionError: If it cannot be opened or is of no known kind.
    """
    try:
        with path.open("rb") as file:
            head = file.read(MAGIC_LENGTH)
    except OSError as error:
        raise ConversionError(str(path), [f"it cannot be opened: {error.strerror}"]) from error
    for container in CONTAINERS:
        if container.starts(head):
            return container
    kinds = ", ".join(container.name for container in CONTAINERS)
    raise ConversionError(str(path), [f"it is of no kind that can be read ({kinds}); it starts with {head!r}"])


def write(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Write a file of the kind that its ending names: completely, or not at all.

    Raises:
        ConversionError: If the ending names no kind, or the file cannot be written.
    """
    container = next((c for c in CONTAINERS if path.suffix in c.endings), None)
    if container is None:
        endings = ", ".join(ending for c in CONTAINERS for ending in c.endings)
        raise ConversionError(str(path), [f"its ending names no kind of file that can be written; known are {endings}"])
    module = _module(container)
    try:
        write_atomically(path, lambda temporary: module.write(temporary, arrays, metadata))
    except OSError as error:
        raise ConversionError(str(path), [f"it cannot be written: {error.strerror or error}"]) from error


def write_atomically(path: Path, write_to: Callable[[Path], None]) -> None:
    """Let `write_to` write a temporary file beside `path`, then rename it into place.

    Whatever happens, `path` holds its old content or the whole new one, and no temporary file stays behind.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(descriptor)
    temporary = Path(name)
    try:
        write_to(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _module(container: Container):
    return importlib.import_module(f"weights_convert.containers.{container.module}")
