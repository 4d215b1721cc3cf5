"""NumPy's `.npz` files: zip archives of arrays. Objects in them, which would be pickles, are never read."""

from __future__ import annotations

import warnings
from pathlib import Path

import ml_dtypes
import numpy as np

from weights_convert.containers.archives import check_content, check_directory, entry_names
from weights_convert.containers.contents import Arrays, Contents, Metadata
from weights_convert.containers.trees import unique_dict

ENDING = ".npy"
"""The ending of every entry."""


def is_npz(path: Path) -> bool:
    """Return whether a zip archive holds arrays of NumPy and nothing else.

    Raises:
        ConversionError: If the list of contents is damaged.
    """
    names = entry_names(path)
    return bool(names) and all(name.endswith(ENDING) for name in names)


def read(path: Path) -> Contents:
    """Read arrays by name; the slashes of a path become dots. These files have no metadata.

    Raises:
        ConversionError: If an entry is damaged, or the sizes are those of a bomb.
        ValueError: If an array holds objects, or a name occurs twice.
    """
    check_directory(path)
    check_content(path)
    with warnings.catch_warnings(), np.load(path, allow_pickle=False) as archive:
        warnings.filterwarnings("ignore", "Reading `.npy`", UserWarning)  # of files of Python 2, which are read rightly
        pairs = [(name.replace("/", "."), _as_written(archive[name])) for name in archive.files]
    return unique_dict(pairs), {}


def _as_written(array: np.ndarray) -> np.ndarray:
    """Return an array in its dtype; the format stores bfloat16 as two bytes without a name."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == "V2" else array


def write(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write arrays by name. The format has no place for the metadata."""
    with path.open("wb") as file:  # NumPy would add its ending to a name
        np.savez(file, allow_pickle=False, **{name: np.ascontiguousarray(array) for name, array in arrays.items()})
