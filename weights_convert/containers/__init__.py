"""The containers: kinds of file that hold arrays by name.

A container is a row here and a module that reads and writes it. A file is recognised by its first bytes, never by its
name; a file to write by its name's ending. Every write goes to a temporary file beside the target, renamed into place.
"""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        keeps_metadata: Whether a file of this kind can say what it holds.
    """

    name: str
    endings: tuple[str, ...]
    starts: Callable[[bytes], bool]
    module: str
    keeps_metadata: bool


CONTAINERS = (
    Container(
        "safetensors",
        endings=(".safetensors",),
        starts=lambda head: head[8:9] == b"{",
        module="safetensors_file",
        keeps_metadata=True,
    ),
    Container(
        "PyTorch",
        endings=(".pth", ".pt"),
        starts=lambda head: head.startswith((b"PK\x03\x04", b"\x80\x02")),  # zip; until PyTorch 1.6, a pickle
        module="torch_file",
        keeps_metadata=False,
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
        with path.open("rb") as file:
            head = file.read(MAGIC_LENGTH)
    except OSError as error:
        raise ConversionError(str(path), [f"it cannot be opened: {error.strerror or error}"]) from error
    if container := next((c for c in CONTAINERS if c.starts(head)), None):
        return container
    kinds = ", ".join(container.name for container in CONTAINERS)
    unknown = f"it is of no kind that can be read ({kinds}); it starts with {head!r}"
    what = (
        next((what for start, what in LOOKALIKES.items() if head.startswith(start)), unknown) if head else "it is empty"
    )
    raise ConversionError(str(path), [what])


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file.

    Raises:
        ConversionError: If there is no such file, it is of no known kind, or damaged.
    """
    container = recognise(path)
    try:
        arrays, metadata = _module(container).read(path)
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
    container = next((c for c in CONTAINERS if path.suffix in c.endings), None)
    endings = ", ".join(ending for c in CONTAINERS for ending in c.endings)
    problems = [
        problem
        for problem, holds in (
            (f"its ending names no kind of file that can be written; known are {endings}", container is None),
            (f"the directory {str(path.parent)!r} does not exist", not path.parent.is_dir()),
            ("it is no file, and is left alone", path.exists() and not path.is_file()),
            ("it is write-protected", path.is_file() and not os.access(path, os.W_OK)),
        )
        if holds
    ]
    if problems or container is None:
        raise ConversionError(str(path), problems)
    return container


def write(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Write a file of the kind that its ending names: completely, or not at all.

    Raises:
        ConversionError: If the ending names no kind, or the file cannot be written.
    """
    module = _module(writable(path))
    try:
        write_atomically(path, lambda temporary: module.write(temporary, arrays, metadata))
    except ConversionError:
        raise
    except Exception as error:  # a full disk is an OSError to one library, and its own error to another
        raise ConversionError(str(path), [f"it cannot be written: {first_line(error)}"]) from error


def write_atomically(path: Path, write_to: Callable[[Path], None]) -> None:
    """Let `write_to` write a temporary file beside `path`, then rename it into place.

    Whatever happens, `path` holds its old content or the whole new one, and no temporary file stays behind. Of a
    symbolic link, the file that it points to is written.
    """
    path = path.resolve()
    temporary = path.with_name(f".{secrets.token_hex(4)}.partial")
    temporary.touch(exist_ok=False)
    try:
        mode = temporary.stat().st_mode
        write_to(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # safetensors makes files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def first_line(error: Exception) -> str:
    """An error in one line: some libraries' messages are a page, and some are empty."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def _module(container: Container) -> Any:
    return importlib.import_module(f"weights_convert.containers.{container.module}")
