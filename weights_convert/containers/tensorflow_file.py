"""TensorFlow's checkpoints, through its own reader: an index and its data files, or the single file of version 1.

Sources: tensorflow/core/util/tensor_bundle/tensor_bundle.h (an index beside data files), and
tensorflow/core/lib/io/format.h (the table that the index, and the single file, is).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np

from weights_convert.containers.contents import Contents
from weights_convert.containers.trees import unique_dict
from weights_convert.errors import ConversionError
from weights_convert.metadata import OTHER_VALUES
from weights_convert.packages import import_optional

TABLE_ENDS = bytes.fromhex("57fb808b247547db")
"""The last bytes of a table: `kTableMagicNumber`, the low byte first."""

INDEX = ".index"
PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
"""The endings of the files of a checkpoint, which share the rest of their names."""

NUMBERED = "layer_with_weights-"
SAVE_H5 = "Load it into the model that wrote it, and save that: model.load_weights(...); model.save_weights('a.h5')."


def resolved(path: Path) -> Path:
    """Return the file to open for a checkpoint that is named by its prefix or by any of its files.

    Example:
        >>> resolved(Path("no/model.ckpt-7.data-00000-of-00001"))
        PosixPath('no/model.ckpt-7.data-00000-of-00001')
    """
    if path.is_dir() or (path.exists() and not PART.search(path.name)):
        return path
    prefix = path.with_name(PART.sub("", path.name))
    index = prefix.with_name(prefix.name + INDEX)
    return next((file for file in (index, prefix) if file.is_file()), path)


def is_table(path: Path) -> bool:
    """Return whether a file is a table of TensorFlow, by its last bytes."""
    with path.open("rb") as file:
        file.seek(-min(len(TABLE_ENDS), os.fstat(file.fileno()).st_size), os.SEEK_END)
        return file.read() == TABLE_ENDS


def files(path: Path) -> list[Path]:
    """Return the files of a checkpoint, given its index or its single file."""
    prefix = path.name.removesuffix(INDEX)
    return [path, *(file for file in path.parent.iterdir() if re.match(rf"{re.escape(prefix)}\.data-", file.name))]


def read(path: Path) -> Contents:
    """Read arrays by name; the slashes of a name become dots. Texts are named as values that are no arrays.

    Raises:
        ConversionError: If TensorFlow is not installed, or the file numbers the layers, as `tf.keras` does.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it would print what the processor can do
    tensorflow = import_optional("tensorflow", "keras", str(path))
    reader = tensorflow.train.load_checkpoint(str(path.with_name(path.name.removesuffix(INDEX))))
    kinds = {name: kind.as_numpy_dtype for name, kind in reader.get_variable_to_dtype_map().items()}
    if any(name.startswith(NUMBERED) for name in kinds):
        raise ConversionError(str(path), ["it is a checkpoint of tf.keras, which numbers the layers"], SAVE_H5)
    pairs = [(name.replace("/", "."), reader.get_tensor(name)) for name in sorted(kinds) if kinds[name] is not object]
    texts = {name.replace("/", "."): "of type str" for name in kinds if kinds[name] is object}
    arrays = unique_dict((name, np.asarray(array)) for name, array in pairs)
    return arrays, {OTHER_VALUES: json.dumps(texts)} if texts else {}
