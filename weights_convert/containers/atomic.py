"""Writing completely or not at all: to a temporary place beside the target, renamed into place."""

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

    Whatever happens, `path` holds its old content or the whole new one, and nothing temporary stays behind but what a
    killed process leaves under a hidden name. Of a symbolic link, the file that it points to is written.
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
    """Rename what is written to its name.

    No call replaces a folder that holds something. Linux exchanges two names at once; elsewhere the old folder steps
    aside, and a process killed between the two renames leaves both, hidden, beside the target.
    """
    if not path.is_dir():
        temporary.replace(path)
        return
    if _exchanged(temporary, path):
        return  # the old one now has the temporary's name, and goes with it
    aside = path.with_name(f"{temporary.name}.old")
    path.replace(aside)
    try:
        temporary.replace(path)
    except BaseException:
        aside.replace(path)
        raise
    shutil.rmtree(aside)


def _exchanged(one: Path, other: Path) -> bool:
    """Give two paths each other's names in one step; False where the system, or the place, cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _sync(path: Path) -> None:
    """See to it that a file, or the names in a folder, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
