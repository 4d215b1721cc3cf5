"""Checks of zip archives of unknown origin, made before they are unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from weights_convert.errors import ConversionError, first_line

MAX_CONTENT_RATIO = 32
"""The largest ratio of an archive's content to its size. Weights hardly compress, so that real files are near 1."""


def check_directory(path: Path) -> None:
    """Check the list of contents of an archive.

    Of an entry that is marked as a folder, PyTorch's reader (2.14) reads nothing, raises no error, and returns memory
    that nobody wrote. Python's reads its content, so that the checksum agrees.

    Raises:
        ConversionError: If an entry's name leads out of the archive or occurs twice, if it has content and is marked as
            a folder, or if the sizes are those of a bomb.
        zipfile.BadZipFile: If the file is not an archive.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    problems = [f"its entry {name!r} leads out of the archive" for name in names if _leads_out(name)]
    problems += [f"it has several entries {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
    problems += [
        f"its entry {each.filename!r} is marked as a folder and has content" for each in entries if _lies(each)
    ]
    promised, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if promised > size * MAX_CONTENT_RATIO:
        problems.append(f"it promises {promised:,} bytes and holds {size:,}")
    if problems:
        raise ConversionError(str(path), problems)


def check_content(path: Path) -> None:
    """Check the content of an archive against its checksums, for readers that do not.

    An archive whose checksums are all zero passes: PyTorch writes such archives after `set_crc32_options(False)`.

    Raises:
        ConversionError: If an entry is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        has_checksums = any(entry.CRC for entry in archive.infolist())
        damaged = archive.testzip() if has_checksums else None
    if damaged is not None:
        raise ConversionError(str(path), [f"its entry {damaged!r} is damaged (the checksum differs)"])


def has_entry(path: Path, name: str) -> bool:
    """Return whether an archive has an entry with the given name.

    Raises:
        ConversionError: If the list of contents, which stands at the end of the file, is damaged or missing.
    """
    return name in entry_names(path)


def entry_names(path: Path) -> list[str]:
    """Return the names of all entries of an archive.

    Raises:
        ConversionError: If the list of contents, which stands at the end of the file, is damaged or missing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception as error:  # zipfile raises BadZipFile, and other errors for damaged fields
        problem = f"it is not a complete zip archive, as PyTorch and Keras write them: {first_line(error)}"
        raise ConversionError(str(path), [problem]) from error


FOLDER = 0x10
"""The bit of an entry's external attributes that marks a folder of DOS."""


def _lies(entry: zipfile.ZipInfo) -> bool:
    return bool(entry.file_size) and bool(entry.is_dir() or entry.external_attr & FOLDER)


def _leads_out(name: str) -> bool:
    entry = PurePosixPath(name.replace("\\", "/"))
    return entry.is_absolute() or ".." in entry.parts or ":" in name
