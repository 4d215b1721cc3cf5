"""A ResNet's weights in some dialect: loading, converting, saving."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from impls.config import VARIANTS, ResNetConfig
from weights_convert import containers
from weights_convert.dialects import DIALECTS, Dialect, find_dialect
from weights_convert.errors import ConversionError
from weights_convert.shapes import expected_shapes, has_conv_bias, infer_sizes
from weights_convert.table import Rule, reorder

FORMAT = "resnet-parity"
FORMAT_VERSION = "1"
SIZES = ("depths", "width", "num_classes", "in_channels")
"""The fields of a config that the arrays themselves tell."""
NOT_WEIGHTS = ("dtype", "compute_dtype", "zero_init_last_scale", "norm_decay")
"""The fields of a config in which a checkpoint and the model that takes it may differ."""


@dataclass(frozen=True)
class Checkpoint:
    """The arrays of one network in one dialect, and what network it is.

    Attributes:
        arrays: In the dialect's names, axis orders and the source's own dtypes.
        dialect: Whose names and axes these are.
        config: The network they belong to.
        dropped: Names in the source that were left out on purpose, and why.
        where: What the source was, for messages.
        recognised_by: How the variant is known.
    """

    arrays: Mapping[str, np.ndarray]
    dialect: Dialect
    config: ResNetConfig
    dropped: Mapping[str, str] = field(default_factory=dict)
    where: str = "these arrays"
    recognised_by: str = ""

    def to(self, dialect: str) -> Checkpoint:
        """The same weights as another dialect names and lays them out: views, nothing is copied.

        Raises:
            ValueError: If there is no such dialect.
        """
        target, arrays = find_dialect(dialect), {}
        for name, array in self.arrays.items():
            canonical, rule = _known(self.dialect.read_name(name))
            arrays[target.write_name(canonical)[0]] = reorder(array, rule, self.dialect.framework, target.framework)
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, in the container that the path's ending names, completely or not at all.

        Raises:
            ConversionError: If no container has that ending, or the file cannot be written.
        """
        containers.write(Path(path), self.arrays, self.metadata())

    def metadata(self) -> dict[str, str]:
        """What the file says of itself."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "dialect": self.dialect.name,
            "variant": self.config.variant,
            "config": json.dumps(self.config.to_dict()),
            "dtype": ", ".join(self.dtypes()),
            "content_hash": self.content_hash(),
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
            digest.update(array.view(np.uint8) if array.size else b"")
        return digest.hexdigest()


Source = str | os.PathLike[str] | Mapping[str, np.ndarray] | Checkpoint
"""What `load` takes: a file, arrays by name in any dialect, or a checkpoint."""


def load(
    source: Source, *, dialect: str | None = None, variant: str | None = None, config: ResNetConfig | None = None
) -> Checkpoint:
    """Read a checkpoint and make sure that it is complete, and what it is.

    Args:
        source: A file, arrays by name, or a checkpoint.
        dialect: How its arrays are named; recognised by the names where it is None.
        variant: The network it belongs to, where the file does not say it.
        config: The network of the model that will take it. The checkpoint must fit it; a file that does not name its variant
            is taken to be of this one.

    Raises:
        ConversionError: With every problem at once: an unreadable file, names without a rule, arrays missing, extra or of
            another shape, a variant that is unknown or another than the one expected.

    Example:
        >>> load({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, variant="v1.5")
        Traceback (most recent call last):
        ...
        weights_convert.errors.ConversionError: these arrays: no bottleneck ResNet: it needs a stem 'conv1.weight' of 4 axes and blocks in each of stage1 to stage4
    """
    if isinstance(source, Checkpoint):
        checkpoint = source
    else:
        checkpoint = _read(source, dialect, variant or (config.variant if config is not None else None))
    if variant is not None and checkpoint.config.variant not in (variant, "custom"):
        raise ConversionError(
            checkpoint.where,
            [f"it holds variant {checkpoint.config.variant} ({checkpoint.recognised_by}), not {variant}"],
            "Equal shapes do not make an equal function; choose the variant that the file belongs to.",
        )
    if config is not None:
        _check_fits(checkpoint, config)
    return checkpoint


def _read(source: str | os.PathLike[str] | Mapping[str, np.ndarray], dialect: str | None, variant: str | None) -> Checkpoint:
    if isinstance(source, Mapping):
        where, arrays, metadata = "these arrays", dict(source), {}
    else:
        where = os.fspath(source)
        arrays, metadata = containers.read(Path(source))
    spoken = find_dialect(dialect) if dialect else recognise_dialect(where, arrays)
    kept, dropped = _canonical_names(where, arrays, spoken)
    shapes = {name: reorder(arrays[own], rule, spoken.framework, "torch").shape for name, (own, rule) in kept.items()}
    config, recognised_by = _network(where, shapes, metadata, variant)
    _raise_if(where, _differences(shapes, expected_shapes(config)))
    own = {name: arrays[name] for name, _ in kept.values()}
    checkpoint = Checkpoint(own, spoken, config, dropped, where, recognised_by)
    stated = metadata.get("content_hash")
    if stated and stated != checkpoint.content_hash():
        raise ConversionError(where, ["its arrays are not those it was written with (the content hash differs)"])
    return checkpoint


def recognise_dialect(where: str, names: Mapping[str, Any]) -> Dialect:
    """The dialect that knows the most of these names.

    Raises:
        ConversionError: If none knows any, or several know equally many.
    """
    known = {d.name: sum(d.read_name(name) is not None for name in names) for d in DIALECTS.values()}
    best = [name for name, count in known.items() if count == max(known.values()) > 0]
    if len(best) != 1:
        found = f"names that fit {' and '.join(best)} alike" if best else "no name that a known dialect uses"
        raise ConversionError(
            where,
            [f"it has {found}; its names are {', '.join(sorted(map(repr, names))[:4])}, ..."],
            f"Say which dialect it is; known are {', '.join(DIALECTS)}.",
        )
    return DIALECTS[best[0]]


def _canonical_names(
    where: str, arrays: Mapping[str, np.ndarray], dialect: Dialect
) -> tuple[dict[str, tuple[str, Rule]], dict[str, str]]:
    """Canonical name to own name and rule, and what is dropped with the reason."""
    problems, kept, dropped = [], {}, {}
    readings = {name: dialect.read_name(name) for name in arrays}
    counts = Counter(reading[0] for reading in readings.values() if reading)
    for name, reading in readings.items():
        if (why := dialect.why_dropped(name)) is not None:
            dropped[name] = why
        elif reading is None:
            problems.append(f"{dialect.name} has no rule for {name!r}")
        elif counts[reading[0]] > 1:
            problems.append(f"{name!r} is one of {counts[reading[0]]} names for {reading[0]}")
        elif arrays[name].ndim != len(axes := reading[1].leaf(dialect.framework).axes):
            problems.append(f"{name!r} has the shape {arrays[name].shape}, where axes {axes} are expected")
        elif not _is_float(arrays[name].dtype):
            problems.append(f"{name!r} holds {arrays[name].dtype}, where a floating-point dtype is expected")
        else:
            kept[reading[0]] = (name, reading[1])
    _raise_if(where, problems)
    return kept, dropped


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _network(
    where: str, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], variant: str | None
) -> tuple[ResNetConfig, str]:
    """The network that the arrays belong to, and how that is known."""
    if metadata.get("format") == FORMAT:
        if (version := metadata.get("format_version")) != FORMAT_VERSION:
            raise ConversionError(where, [f"it has format version {version}; this program reads version {FORMAT_VERSION}"])
        try:
            return ResNetConfig.from_dict(json.loads(metadata["config"])), "its metadata"
        except (KeyError, TypeError, ValueError) as error:
            raise ConversionError(where, [f"its metadata are damaged: {error}"]) from error
    if variant == "custom":
        raise ConversionError(where, ["it does not say which network it holds, and the model is of no named variant"])
    if variant is None and has_conv_bias(shapes):
        variant, recognised_by = "keras", "its convolutions have biases"
    elif variant is None:
        raise ConversionError(
            where,
            ["it does not say which network it belongs to, and equal shapes belong to several"],
            "Say it with variant (--variant): torchvision's, timm's and transformers' ResNet-50 are v1.5; "
            f"the variants are {', '.join(VARIANTS)}.",
        )
    else:
        recognised_by = "as it was said to be"
    if variant not in VARIANTS:
        raise ConversionError(where, [f"there is no variant {variant!r}; the variants are {', '.join(VARIANTS)}"])
    try:
        return infer_sizes(shapes, variant), recognised_by
    except ValueError as error:
        raise ConversionError(where, [str(error)]) from error


def _differences(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    missing = [f"{name!r} is missing" for name in expected if name not in shapes]
    extra = [f"{name!r} has no place in this network" for name in shapes if name not in expected]
    wrong = [
        f"{name!r} has the shape {shapes[name]} where {expected[name]} is expected (canonical axes)"
        for name in expected
        if name in shapes and shapes[name] != expected[name]
    ]
    return missing + extra + wrong


def _check_fits(checkpoint: Checkpoint, config: ResNetConfig) -> None:
    held, wanted = checkpoint.config.to_dict(), config.to_dict()
    problems = [
        f"it has {name} {held[name]}, the model {wanted[name]}"
        for name in wanted
        if name not in NOT_WEIGHTS and held[name] != wanted[name]
    ]
    if problems and checkpoint.config.variant != config.variant:
        problems.insert(0, f"it holds variant {checkpoint.config.variant}, the model is variant {config.variant}")
    _raise_if(checkpoint.where, problems)


def _raise_if(where: str, problems: list[str]) -> None:
    if problems:
        raise ConversionError(where, problems)


def _known(reading: tuple[str, Rule] | None) -> tuple[str, Rule]:
    if reading is None:
        raise AssertionError("a checkpoint holds only names of its dialect")
    return reading
