"""Files from the network, checked and kept, so that each is fetched once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weights_convert.errors import ConversionError, first_line
from weights_convert.packages import needed
from weights_convert.remote.download import Part, Wanted
from weights_convert.remote.download import download as fetch_into

CACHE = "~/.cache/resnet-parity/files"
CACHE_VARIABLE = "RESNET_PARITY_CACHE"
"""Where files are kept, and the environment variable that says otherwise."""


def fetch_file(wanted: Wanted, shown: bool, cache: Path | None) -> Path:
    """A single file, from the cache or from the network."""
    pooch = needed("pooch", "hub", wanted.address)
    folder = cache or Path(os.environ.get(CACHE_VARIABLE) or CACHE).expanduser()
    name = pooch.utils.unique_file_name(wanted.url)  # starts with the hash of the address
    part = Part(folder / f"{name[:32]}.part", folder / f"{name[:32]}.version")

    def download(url: str, target: str, _: Any) -> None:
        """What pooch calls for a file that it has not, with a temporary name."""
        fetch_into(wanted, part, shown)
        try:
            wanted.check(part.file)
            part.file.replace(target)
        finally:
            part.discard()

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f"{name[:32]}.lock"), _quiet(pooch.get_logger()):
            kept = folder / name
            if kept.exists() and not _is(kept, wanted):
                kept.unlink()
            return Path(pooch.retrieve(wanted.url, None, name, folder, downloader=download))
    except OSError as error:
        problem = f"it cannot be kept in {str(folder)!r}: {first_line(error)}"
        raise ConversionError(wanted.address, [problem], f"Name another folder with {CACHE_VARIABLE}.") from error


def _is(file: Path, wanted: Wanted) -> bool:
    try:
        wanted.check(file)
    except ConversionError:
        return False
    return True


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process fetches the same file; where the system cannot tell, do not."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep what a library would say of its success from standard error."""

    def warnings(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    logger.addFilter(warnings)
    try:
        yield
    finally:
        logger.removeFilter(warnings)
