"""A checkpoint: the weights of one network in some dialect, convertible into any other dialect."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from impls.config import ResNetConfig
from weights_convert.containers import byte_count, write
from weights_convert.dialects import find_dialect
from weights_convert.errors import ConversionError
from weights_convert.into import write_into
from weights_convert.metadata import ACCEPTED, KNOWN_BY, known_first_by, network_metadata
from weights_convert.naming import Dialect
from weights_convert.recognition import ON_REQUEST
from weights_convert.table import reorder

FOLD_ADVICE = (
    "--fold-conv-bias (weights_convert.fold_conv_bias) moves the biases into the running means, "
    "which gives a network of variant v1 that computes the same function in inference."
)

NAMED = 4
"""The number of names that were left out for one reason up to which they are listed; more are counted."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights of one network in one dialect.

    Attributes:
        arrays: Arrays by the dialect's names, in its axis orders and in the dtypes of the source.
        dialect: The dialect of the arrays.
        config: The network that the arrays belong to.
        dropped: Names in the source that were left out on purpose, each with the reason.
        where: What was read, for messages.
        recognised_by: How the variant is known.
        changes: The changes of numbers that were asked for, one line each.
        notes: How the network was found in the source, one line each.
        accepted: The fields of a library's configuration, as FIELD=VALUE, that somebody said to be harmless.

    Example:
        >>> checkpoint = Checkpoint({"fc.weight": np.zeros((10, 2048))}, find_dialect("canonical"), ResNetConfig())
        >>> {name: array.shape for name, array in checkpoint.to("flax").arrays.items()}
        {'fc.kernel': (2048, 10)}
    """

    arrays: Mapping[str, np.ndarray]
    dialect: Dialect
    config: ResNetConfig
    dropped: Mapping[str, str] = field(default_factory=dict)
    where: str = "these arrays"
    recognised_by: str = ""
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()

    def to(self, dialect: str) -> Checkpoint:
        """Return the same weights in another dialect. The arrays are views: nothing is copied.

        Raises:
            ValueError: If there is no such dialect.
            ConversionError: If the convolutions have biases and those of the dialect's network have none.
        """
        source, target, arrays = self.dialect, find_dialect(dialect), {}
        if self.config.conv_bias and target.bias_free:
            problem = f"its convolutions have biases, and those of {target.name} have none"
            raise ConversionError(self.where, [problem], FOLD_ADVICE)
        readings = source.read_names(self.arrays)
        written = target.write_names(canonical for canonical, _ in readings.values())
        for name, array in self.arrays.items():
            canonical, rule = readings[name]  # a checkpoint holds only names of its dialect
            arrays[written[canonical][0]] = reorder(array, rule, source.framework, target.framework)
        return replace(self, arrays=arrays, dialect=target)

    def arrays_for(self, dialect: str, dtypes: Mapping[str, np.dtype[Any]]) -> Mapping[str, np.ndarray]:
        """Return the arrays in a dialect, for a model whose own arrays have these dtypes.

        Args:
            dialect: The dialect of the model.
            dtypes: The dtype of each of the model's arrays, by its name in that dialect.

        Raises:
            ConversionError: If a dtype of the model cannot hold the numbers exactly.
        """
        arrays = self.to(dialect).arrays
        problems = [
            f"{name!r} is {arrays[name].dtype}, which the model's {dtype} cannot hold exactly"
            for name, dtype in dtypes.items()
            if not np.can_cast(arrays[name].dtype, dtype, "safe")
        ]
        if problems:
            raise ConversionError(self.where, problems, "Build the model with the checkpoint's dtype (dtype=...).")
        return arrays

    def without_head(self) -> Checkpoint:
        """Return the same weights without the classifier: a network that returns the pooled features.

        Example:
            >>> checkpoint = Checkpoint({"fc.weight": np.zeros((10, 2048))}, find_dialect("canonical"), ResNetConfig())
            >>> checkpoint.without_head().config.num_classes
            0
        """
        canonical = self.to("canonical")
        head = [name for name in canonical.arrays if name.startswith("fc.")]
        body = {name: array for name, array in canonical.arrays.items() if name not in head}
        config = replace(self.config, num_classes=0)
        dropped = {**self.dropped, **dict.fromkeys(head, ON_REQUEST)}
        return replace(canonical, arrays=body, config=config, dropped=dropped).to(self.dialect.name)

    def changed(self, line: str, arrays: Mapping[str, np.ndarray], **fields: Any) -> Checkpoint:
        """Return a checkpoint of other numbers, whose `changes` has one more line.

        Args:
            line: The change in words.
            arrays: All arrays, by the dialect's names.
            fields: Fields of the network that change with them.
        """
        config = replace(self.config, **fields)
        return replace(self, arrays=arrays, config=config, changes=(*self.changes, line))

    def into(self, model: Any, *, variant: str | None = None) -> None:
        """Set every array of a model that a framework has built; if one does not fit, the model stays as it was.

        Args:
            model: A model of PyTorch, Flax NNX or Keras, with the names of any dialect behind any prefix, such as
                `torchvision.models.resnet50()`. It keeps its dtypes.
            variant: The variant that the model computes. None takes a model of `impls` at its word, and any other to be
                of its library's published variant.

        Raises:
            ConversionError: If the checkpoint is of another variant, or an array is missing, extra, of another shape or
                of a dtype that the model's cannot hold exactly.
        """
        write_into(self, model, variant)

    def save(self, path: str | os.PathLike[str], *, max_shard_size: int | str | None = None) -> None:
        """Write a file or folder, completely or not at all. The ending of its name selects the container.

        Args:
            path: The target, for example "resnet50.flax.safetensors".
            max_shard_size: The most that one file of a `.transformers` folder may hold, in bytes or as text ("50MB").
                None writes a single file.

        Raises:
            ConversionError: If no container has that ending or holds the dialect, or the target cannot be written.
            ValueError: If the size is not a size.
        """
        limit = byte_count(max_shard_size) if isinstance(max_shard_size, str) else max_shard_size
        write(Path(path), self.arrays, self.metadata(), limit)

    def metadata(self) -> dict[str, str]:
        """Return the metadata to write into a file: format, dialect, network, dtypes, content hash and changes."""
        return {
            **network_metadata(self.config, self.dialect.name),
            "dtype": ", ".join(self.dtypes()),
            "content_hash": self.content_hash(),
            **({"changes": "; ".join(self.changes)} if self.changes else {}),
            **({"found": "; ".join(self.notes)} if self.notes else {}),
            **({"left_out": "; ".join(left_out(self.dropped))} if self.dropped else {}),
            **({KNOWN_BY: known_by} if (known_by := known_first_by(self.recognised_by)) else {}),
            **({ACCEPTED: "\n".join(self.accepted)} if self.accepted else {}),
        }

    def dtypes(self) -> list[str]:
        """Return the names of the dtypes that occur, sorted."""
        return sorted({array.dtype.name for array in self.arrays.values()})

    def content_hash(self) -> str:
        """Return the SHA-256 of the canonical names, dtypes, shapes and bits, which is the same in every dialect."""
        digest, arrays = hashlib.sha256(), self.to("canonical").arrays
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
            digest.update(array.view(np.uint8).data if array.size else b"")
        return digest.hexdigest()


def left_out(dropped: Mapping[str, str]) -> list[str]:
    """Return one line for each reason of leaving names out: the names, or their number if they are many.

    Example:
        >>> left_out({"queue": "left out on request"})
        ['queue (left out on request)']
    """
    names: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        names.setdefault(reason, []).append(name)
    return [
        f"{', '.join(group) if len(group) <= NAMED else f'{len(group)} names'} ({reason})"
        for reason, group in names.items()
    ]
