"""Writing a file or folder completely or not at all: to a temporary name beside it, then renamed into place."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write_to: Callable[[Path], None], folder: bool = False) -> None:
    """Let `write_to` write a temporary file or folder beside `path`, then rename it into place.

    Whatever happens, `path` holds its old content or all of the new. Nothing temporary is left behind, except by a
    process that is killed: it leaves a hidden name. If `path` is a symbolic link, the file that it points to is
    replaced.

    Args:
        path: The target.
        write_to: Writes to the path that it is given. A file exists there already and is empty; a folder does not.
        folder: Whether the target is a folder.
    """
    path = path.resolve()
    temporary = path.with_name(f".{secrets.token_hex(4)}.partial")
    try:
        if folder:
            write_to(temporary)
            files = [file for file in temporary.rglob("*") if file.is_file()]
        else:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            write_to(temporary)
            temporary.chmod(mode)  # safetensors makes files that only their owner can read
            files = [temporary]
        for file in files:
            _sync(file)
        _put_in_place(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename the finished file or folder to its final name.

    No system call replaces a folder that is not empty. Linux can exchange two names in one step; elsewhere the old
    folder is renamed first; a process killed between the two renames leaves both folders, hidden, beside the target.
    """
    if not path.is_dir():
        temporary.replace(path)
        return
    if _exchange(temporary, path):
        return  # the old folder now has the temporary name, and is removed under it
    aside = path.with_name(f"{temporary.name}.old")
    path.replace(aside)
    try:
        temporary.replace(path)
    except BaseException:
        aside.replace(path)
        raise
    shutil.rmtree(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two paths in one step; return False where the operating or file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk and would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
