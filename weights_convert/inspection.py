"""What a file or a set of arrays holds, as far as that can be told, and all that keeps it from being a checkpoint.

`load` is an inspection that must find nothing wrong. Every problem is collected; none hides another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from impls.config import VARIANTS, ResNetConfig, named_config
from weights_convert import containers
from weights_convert.checkpoint import Checkpoint
from weights_convert.dialects import DIALECTS, find_dialect
from weights_convert.errors import ConversionError, first_line
from weights_convert.metadata import FORMAT_VERSION, KNOWN_BY, OTHER_WEIGHTS, is_ours
from weights_convert.naming import Dialect
from weights_convert.shapes import Shape, expected_shapes, has_conv_bias, infer_sizes
from weights_convert.table import Rule, permutation, reorder

FLOATS = ("bfloat16", "float16", "float32", "float64")
"""The dtypes that weights come in; each container holds them all, bit for bit."""

NOT_WEIGHTS = ("dtype", "compute_dtype", "zero_init_last_scale", "norm_decay", "norm_variance")
"""The fields of a config in which a checkpoint and the model that takes it may differ."""

MANY_NETWORKS = "it does not say which network it belongs to, and its arrays fit several: {}"
SAY_WHICH = "Say it with variant (--variant): torchvision's, timm's and transformers' ResNet-50 are v1.5."

Source = str | os.PathLike[str] | Mapping[str, np.ndarray] | Checkpoint
"""What `load` takes: a file or folder, an address, arrays by name in any dialect, or a checkpoint."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a source holds.

    Attributes:
        where: What the source is, for messages.
        container: The kind of file; None for arrays in memory.
        arrays: All of them, in the source's own names.
        dialect: Whose names they are; None if that cannot be told.
        weights: Those of the arrays that the dialect has a rule for and that may hold weights.
        networks: Every network that they may belong to: none, the one, or several whose arrays have the same shapes.
        recognised_by: How the one network is known.
        dropped: Names that are left out on purpose, and why.
        problems: All that is wrong.
        changes: What the file says was done to its numbers.
    """

    where: str
    container: str | None
    arrays: Mapping[str, np.ndarray]
    dialect: Dialect | None = None
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    networks: tuple[ResNetConfig, ...] = ()
    recognised_by: str = ""
    dropped: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    def checkpoint(self) -> Checkpoint:
        """The checkpoint that the source is.

        Raises:
            ConversionError: With every problem, if it is none, or one of several networks.
        """
        problems, advice = list(self.problems), ""
        if len(self.networks) > 1:
            problems.append(MANY_NETWORKS.format(", ".join(network.variant for network in self.networks)))
            advice = SAY_WHICH
        if problems or self.dialect is None:
            raise ConversionError(self.where, problems, advice)
        network, known_by = self.networks[0], self.recognised_by
        return Checkpoint(self.weights, self.dialect, network, self.dropped, self.where, known_by, self.changes)

    def canonical(self) -> Mapping[str, np.ndarray]:
        """The weights by canonical name; none where the dialect is unknown."""
        if self.dialect is None:
            return {}
        return Checkpoint(self.weights, self.dialect, ResNetConfig()).to("canonical").arrays

    @cached_property
    def content_hash(self) -> str | None:
        """The hash that a checkpoint of these weights has; None where the dialect is unknown."""
        if self.dialect is None:
            return None
        return Checkpoint(self.weights, self.dialect, ResNetConfig()).content_hash()


def load(
    source: Source,
    *,
    dialect: str | None = None,
    variant: str | None = None,
    config: ResNetConfig | None = None,
    averaged: bool = False,
) -> Checkpoint:
    """Read a checkpoint and make sure that it is complete, and what it is.

    Args:
        source: A file or folder, an address (`hf://timm/resnet50.a1_in1k`, `torchvision://...`, `keras://...`, https),
            arrays by name, or a checkpoint, which knows its dialect.
        dialect: How the arrays are named; None takes the file's word, or else recognises it by the names.
        variant: The network it belongs to, where the file does not say it.
        config: The network of the model that will take it. The checkpoint must fit it; a file that does not name its
            variant is taken to be of this one.
        averaged: Of a PyTorch training checkpoint, whether to read the averaged weights (EMA) in place of the last.

    Raises:
        ConversionError: With every problem at once: an unreadable file, names without a rule, arrays missing, extra or
            of another shape, a variant that is unknown or another than the one expected.
        ValueError: If there is no such variant.

    Example:
        >>> load({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, dialect="torchvision", variant="v1.5")
        Traceback (most recent call last):
        ...
        weights_convert.errors.ConversionError: these arrays: no bottleneck ResNet: it needs blocks of three convolutions in each of stage1 to stage4
    """  # noqa: E501 (a message is one line)
    if not isinstance(source, Checkpoint):
        return inspect(source, dialect=dialect, variant=variant, config=config, averaged=averaged).checkpoint()
    if problems := _misfits(source.config, source.recognised_by, variant, config):
        raise ConversionError(source.where, problems)
    return source


def inspect(
    source: str | os.PathLike[str] | Mapping[str, np.ndarray],
    *,
    dialect: str | None = None,
    variant: str | None = None,
    config: ResNetConfig | None = None,
    averaged: bool = False,
) -> Inspection:
    """Tell what a source holds, and what is wrong with it. The arguments are those of `load`.

    Raises:
        ConversionError: If a file cannot be read at all.
        ValueError: If there is no such variant.

    Example:
        >>> inspect({"fc.bias": np.zeros(10, np.int64)}, dialect="flax").problems[0]
        "'fc.bias' holds int64, where one of bfloat16, float16, float32, float64 is expected"
    """
    where, container, arrays, metadata, problems = _open(source, averaged)
    own = metadata if is_ours(metadata) else {}
    stated = named_config(variant) if variant is not None else config
    try:
        named = dialect or own.get("dialect")
        spoken = find_dialect(named) if named else recognise_dialect(arrays)
    except ValueError as error:
        return Inspection(where, container, arrays, problems=(*problems, str(error)))

    rules = spoken.read_names(arrays)
    dropped = {name: why for name in arrays if (why := spoken.why_dropped(name)) is not None}
    if (other := metadata.get(OTHER_WEIGHTS)) is not None:
        dropped[other] = "the last weights" if averaged else "averaged weights; --averaged (averaged=True) reads them"
    problems += [f"{spoken.name} has no rule for {name!r}" for name in arrays if name not in rules | dropped]
    problems += [
        f"{name!r} holds {arrays[name].dtype.name}, where one of {', '.join(FLOATS)} is expected"
        for name in rules
        if arrays[name].dtype.name not in FLOATS
    ]
    problems += _twice({name: canonical for name, (canonical, _) in rules.items()})
    shapes, weights = {}, {}
    for name, (canonical, rule) in rules.items():
        if arrays[name].ndim == len(rule.leaf(spoken.framework).axes):
            weights[name] = arrays[name]
            shapes[canonical] = reorder(arrays[name], rule, spoken.framework, "torch").shape
    try:
        networks, recognised_by = _networks(own, metadata, shapes, stated)
        problems += _misfits(networks[0], recognised_by, variant, config)
    except ValueError as error:
        networks, recognised_by = (), ""
        problems.append(str(error))
    expected = (*networks, None)[0] if own or config is None else config
    if expected is not None:
        problems += _differences(spoken, {name: arrays[name].shape for name in rules}, expected)
    changes = (own["changes"],) if "changes" in own else ()
    found = Inspection(
        where, container, arrays, spoken, weights, networks, recognised_by, dropped, tuple(problems), changes
    )
    stated_hash = own.get("content_hash", found.content_hash if container == "Keras archive" else None)
    if own and not problems and stated_hash != found.content_hash:  # Keras's own archives know the network, no hash
        return replace(found, problems=("its arrays are not those it was written with (the content hash differs)",))
    return found


def recognise_dialect(names: Mapping[str, Any]) -> Dialect:
    """The dialect that knows the most of these names.

    Raises:
        ValueError: If none knows any, or several know equally many.

    Example:
        >>> recognise_dialect({"layer1.0.conv1.weight": None, "conv1.weight": None}).name
        'torchvision'
    """
    known = {dialect.name: len(dialect.read_names(names)) for dialect in DIALECTS.values()}
    best = [name for name, count in known.items() if count == max(known.values()) > 0]
    if len(best) != 1:
        found = f"names that {' and '.join(best)} share" if best else "no name that a known dialect uses"
        raise ValueError(
            f"it has {found} ({', '.join(sorted(map(repr, names))[:4]) or 'it is empty'}); "
            f"say which dialect it is: {', '.join(DIALECTS)}"
        )
    return DIALECTS[best[0]]


def _open(
    source: str | os.PathLike[str] | Mapping[str, np.ndarray], averaged: bool = False
) -> tuple[str, str | None, dict[str, np.ndarray], dict[str, str], list[str]]:
    """What the source is, its container, arrays, metadata, and what in it is no array by name."""
    if isinstance(source, str) and "://" in source:
        return _open_remote(source, averaged)
    if not isinstance(source, Mapping):
        path = Path(source)
        container = containers.recognise(path)
        arrays, metadata = containers.read(path, averaged)
        return str(path), container.name, {name: _native(array) for name, array in arrays.items()}, metadata, []
    problems = [
        f"{name!r} is of type {type(array).__name__}, where a NumPy array with a name is expected"
        for name, array in source.items()
        if not (isinstance(name, str) and isinstance(array, np.ndarray))
    ]
    problems += ["there are no averaged weights beside them"] * averaged
    arrays = {n: _native(a) for n, a in source.items() if isinstance(n, str) and isinstance(a, np.ndarray)}
    return "these arrays", None, arrays, {}, problems


def _open_remote(
    address: str, averaged: bool
) -> tuple[str, str | None, dict[str, np.ndarray], dict[str, str], list[str]]:
    """The same of an address: what is published about it, or the config beside it, may tell which network it is."""
    from weights_convert import remote  # here, since few need them
    from weights_convert.containers.folders import told_by_config

    path, published = remote.fetch(address), remote.published_for(address)
    _, container, arrays, metadata, problems = _open(path, averaged)
    if published is not None and not is_ours(metadata):
        metadata |= {"variant": published.variant, KNOWN_BY: published.recognised_by}
    elif not is_ours(metadata) and (config := remote.fetch_config(address, path)):
        metadata |= told_by_config(config.parent)
    return address, container, arrays, metadata, problems


def _native(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order; bytes are swapped, no number is touched."""
    return array if array.dtype.isnative else array.byteswap().view(array.dtype.newbyteorder())


def _networks(
    own: Mapping[str, str], metadata: Mapping[str, str], shapes: Mapping[str, Shape], stated: ResNetConfig | None
) -> tuple[tuple[ResNetConfig, ...], str]:
    """The networks that the arrays may belong to, and how it is known if it is one.

    Raises:
        ValueError: If they belong to none, or the file's own metadata are damaged.
    """
    if own:
        return (_own_network(own, len(shapes)),), "its metadata"
    if {"variant", KNOWN_BY} <= metadata.keys():
        return (infer_sizes(shapes, named_config(metadata["variant"])),), metadata[KNOWN_BY]
    if stated is not None:
        return (infer_sizes(shapes, stated),), "as it was said to be"
    fitting = [known for known in VARIANTS.values() if known.conv_bias == has_conv_bias(shapes)]
    return tuple(infer_sizes(shapes, known) for known in fitting), "no other variant has such arrays"


def _own_network(own: Mapping[str, str], count: int) -> ResNetConfig:
    if (version := own.get("format_version")) != FORMAT_VERSION:
        raise ValueError(f"it has format version {version}; this program reads version {FORMAT_VERSION}")
    try:
        config = ResNetConfig.from_dict(json.loads(own.get("config", "")))
        if config.variant != own.get("variant"):
            raise ValueError(f"variant {own.get('variant')} and a config of variant {config.variant}")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its metadata are damaged: {first_line(error)}") from error
    if sum(config.depths) > count:  # before a list of what is missing grows out of bounds
        raise ValueError(f"its metadata promise {sum(config.depths)} blocks, and it holds {count} arrays")
    return config


def _differences(dialect: Dialect, shapes: Mapping[str, Shape], network: ResNetConfig) -> list[str]:
    """Arrays that are missing, extra, or of another shape than the network's, as the dialect has them."""
    wanted = expected_shapes(network)
    spellings = dialect.write_names(wanted)
    expected = dict(_spoken(dialect, *spellings[canonical], shape) for canonical, shape in wanted.items())
    missing = [f"{name!r} is missing" for name in expected if name not in shapes]
    extra = [f"{name!r} has no place in this network" for name in shapes if name not in expected]
    wrong = [
        f"{name!r} has the shape {shapes[name]}, where {expected[name]} is expected"
        for name in expected
        if name in shapes and shapes[name] != expected[name]
    ]
    return missing + extra + wrong


def _twice(readings: Mapping[str, str]) -> list[str]:
    """Names that mean the same array."""
    firsts: dict[str, str] = {}
    return [
        f"{firsts[canonical]!r} and {name!r} are the same array"
        for name, canonical in readings.items()
        if firsts.setdefault(canonical, name) != name
    ]


def _spoken(dialect: Dialect, name: str, rule: Rule, shape: Shape) -> tuple[str, Shape]:
    """Name and shape of an array in a dialect."""
    order = permutation(rule.leaf("torch").axes, rule.leaf(dialect.framework).axes)
    return name, tuple(shape[axis] for axis in order)


def _misfits(held: ResNetConfig, recognised_by: str, variant: str | None, config: ResNetConfig | None) -> list[str]:
    """In what the network held differs from the one asked for."""
    problems = []
    if variant is not None and held.variant != variant:
        problems.append(f"it holds variant {held.variant} ({recognised_by}), not {variant}; equal shapes are no proof")
    if config is None:
        return problems
    if held.variant != config.variant:
        problems.append(f"it holds variant {held.variant} ({recognised_by}), the model is variant {config.variant}")
    has, wants = held.to_dict(), config.to_dict()
    return problems + [
        f"it has {name} {has[name]}, the model {wants[name]}"
        for name in wants
        if name not in NOT_WEIGHTS and has[name] != wants[name]
    ]
