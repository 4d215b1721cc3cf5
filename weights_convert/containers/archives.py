"""Zip archives from anywhere: refused before they are unpacked if they climb out or promise more than they hold."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from weights_convert.errors import ConversionError, first_line

MOST_EXPANSION = 32
"""How often larger than the archive its content may be; weights, which hardly compress, are stored as they are."""


def check_archive(path: Path) -> None:
    """Look at an archive's list of contents.

    Raises:
        ConversionError: If a name leads out of the archive, occurs twice, or the sizes are those of a bomb.
        zipfile.BadZipFile: If it is none.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    problems = [
        f"its entry {entry.filename!r} leads out of the archive" for entry in entries if _climbs(entry.filename)
    ]
    names = [entry.filename for entry in entries]
    problems += [f"it has several entries {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
    promised, real = sum(entry.file_size for entry in entries), path.stat().st_size
    if promised > real * MOST_EXPANSION:
        problems.append(f"it promises {promised:,} bytes and holds {real:,}")
    if problems:
        raise ConversionError(str(path), problems)


def check_content(path: Path) -> None:
    """Hold an archive's content against its checksums, for readers that do not.

    Where all are zero there are none: PyTorch writes such archives after `set_crc32_options(False)`.

    Raises:
        ConversionError: If an entry is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        checked = any(entry.CRC for entry in archive.infolist())
        damaged = archive.testzip() if checked else None
    if damaged is not None:
        raise ConversionError(str(path), [f"its entry {damaged!r} is damaged (the checksum differs)"])


def holds(path: Path, name: str) -> bool:
    """Whether an archive has an entry of that name.

    Raises:
        ConversionError: If the list of its contents is damaged, or cut off: it stands at the end.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return name in archive.namelist()
    except Exception as error:  # zipfile has an error for no archive, and trips over the fields of a damaged one
        problem = f"it is no whole zip archive, as PyTorch and Keras write them: {first_line(error)}"
        raise ConversionError(str(path), [problem]) from error


def _climbs(name: str) -> bool:
    entry = PurePosixPath(name.replace("\\", "/"))
    return entry.is_absolute() or ".." in entry.parts or ":" in name
