"""A ResNet's weights in some dialect: what they are, the same in another dialect, and as a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from impls.config import ResNetConfig
from weights_convert import containers
from weights_convert.dialects import find_dialect
from weights_convert.errors import ConversionError
from weights_convert.metadata import of_network
from weights_convert.naming import Dialect
from weights_convert.table import reorder

FOLD = (
    "--fold-conv-bias (weights_convert.fold_conv_bias) moves them into the running means: "
    "the same function in inference, of variant v1."
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The arrays of one network in one dialect, and what network it is.

    Attributes:
        arrays: In the dialect's names and axis orders, and in the source's own dtypes.
        dialect: Whose names and axes these are.
        config: The network they belong to.
        dropped: Names in the source that were left out on purpose, and why.
        where: What the source was, for messages.
        recognised_by: How the variant is known.
        changes: What was done to the numbers, on request: one line each.
    """

    arrays: Mapping[str, np.ndarray]
    dialect: Dialect
    config: ResNetConfig
    dropped: Mapping[str, str] = field(default_factory=dict)
    where: str = "these arrays"
    recognised_by: str = ""
    changes: tuple[str, ...] = ()

    def to(self, dialect: str) -> Checkpoint:
        """The same weights as another dialect names and lays them out: views, nothing is copied.

        Raises:
            ValueError: If there is no such dialect.
            ConversionError: If its network has no place for the biases that this one's convolutions have.
        """
        source, target, arrays = self.dialect, find_dialect(dialect), {}
        if self.config.conv_bias and target.bias_free:
            problem = f"its convolutions have biases, and those of {target.name}'s network have none"
            raise ConversionError(self.where, [problem], FOLD)
        readings = source.read_names(self.arrays)
        written = target.write_names(canonical for canonical, _ in readings.values())
        for name, array in self.arrays.items():
            canonical, rule = readings[name]  # a checkpoint holds only names of its dialect
            arrays[written[canonical][0]] = reorder(array, rule, source.framework, target.framework)
        return replace(self, arrays=arrays, dialect=target)

    def arrays_for(self, dialect: str, dtypes: Mapping[str, np.dtype[Any]]) -> Mapping[str, np.ndarray]:
        """The arrays as a dialect has them, for a model whose own arrays have these dtypes.

        Raises:
            ConversionError: If a dtype of the model's cannot hold the checkpoint's numbers exactly.
        """
        arrays = self.to(dialect).arrays
        problems = [
            f"{name!r} is {arrays[name].dtype}, and the model's {dtype} cannot hold that exactly"
            for name, dtype in dtypes.items()
            if not np.can_cast(arrays[name].dtype, dtype, "safe")
        ]
        if problems:
            raise ConversionError(self.where, problems, "Build the model with the checkpoint's dtype (dtype=...).")
        return arrays

    def save(self, path: str | os.PathLike[str], *, max_shard_size: int | str | None = None) -> None:
        """Write a file or folder, in the container that the path's ending names, completely or not at all.

        Args:
            path: The target.
            max_shard_size: Of arrays in one file of a folder, at most: bytes, or as in "50MB". None puts all in one.

        Raises:
            ConversionError: If no container has that ending, or the file cannot be written.
            ValueError: If the size is none.
        """
        limit = containers.byte_count(max_shard_size) if isinstance(max_shard_size, str) else max_shard_size
        containers.write(Path(path), self.arrays, self.metadata(), limit)

    def metadata(self) -> dict[str, str]:
        """What the file says of itself."""
        return {
            **of_network(self.config, self.dialect.name),
            "dtype": ", ".join(self.dtypes()),
            "content_hash": self.content_hash(),
            **({"changes": "; ".join(self.changes)} if self.changes else {}),
        }

    def dtypes(self) -> list[str]:
        """The names of the dtypes that occur."""
        return sorted({array.dtype.name for array in self.arrays.values()})

    def content_hash(self) -> str:
        """SHA-256 of names, dtypes, shapes and bits in canonical form: the same in every dialect."""
        digest, arrays = hashlib.sha256(), self.to("canonical").arrays
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
            digest.update(array.view(np.uint8).data if array.size else b"")
        return digest.hexdigest()
