"""The cache of single files: each is fetched once, verified, and kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from weights_convert.containers import recognise
from weights_convert.errors import ConversionError, first_line
from weights_convert.remote.download import PartialFile, RemoteFile, download

CACHE = "~/.cache/resnet-parity/files"
CACHE_VARIABLE = "RESNET_PARITY_CACHE"
"""The folder of the cache, and the environment variable that names another one."""

LONGEST_NAME = 255
"""Characters of a file name that common file systems accept."""


def fetch_file(file: RemoteFile, show_progress: bool, cache: Path | None) -> Path:
    """Return the path of a file in the cache, and fetch it first if it is not there or not what it should be.

    Args:
        file: The file.
        show_progress: Whether to show a progress bar.
        cache: The folder of the cache; None for the default.

    Raises:
        ConversionError: If the file cannot be fetched, is not what it should be, or cannot be kept.
    """
    folder = (cache or Path(os.environ.get(CACHE_VARIABLE) or CACHE).expanduser()).resolve()
    url_hash = hashlib.md5(file.url.encode(), usedforsecurity=False).hexdigest()
    kept = folder / f"{url_hash}-{urlsplit(file.url).path.rpartition('/')[2][len(url_hash) + 1 - LONGEST_NAME :]}"
    partial = PartialFile(folder / f"{url_hash}.part", folder / f"{url_hash}.version")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{url_hash}.lock"):
            if not kept.exists() or _error(kept, file):
                download(file, partial, show_progress)
                try:
                    if error := _error(partial.content, file):
                        raise error
                    partial.content.replace(kept)
                finally:
                    partial.discard()
    except OSError as failure:
        problem = f"it cannot be kept in {str(folder)!r}: {first_line(failure)}"
        raise ConversionError(file.address, [problem], f"Name another folder with {CACHE_VARIABLE}.") from failure
    return kept


def _error(path: Path, file: RemoteFile) -> ConversionError | None:
    """Return an error if a file is of no kind that can be read, or does not have the expected hash."""
    try:
        recognise(path)
    except ConversionError as error:
        return ConversionError(file.address, error.problems)
    if file.digest is None:
        return None
    algorithm, _, digits = file.digest.partition(":")
    with path.open("rb") as opened:
        actual = hashlib.file_digest(opened, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if actual.startswith(digits):
        return None
    problem = f"its {algorithm} is {actual[: len(digits)]}, expected {digits}"
    return ConversionError(file.address, [problem], "It was damaged on its way, or is not the file it should be.")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock so that no two processes fetch the same file, where the operating system has file locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
