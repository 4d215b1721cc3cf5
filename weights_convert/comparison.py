"""Comparing arrays with a network: which networks they fit, and every array or fact that does not."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from impls.config import VARIANTS, ResNetConfig, named_config
from weights_convert.configurations import Judgement
from weights_convert.errors import first_line
from weights_convert.metadata import BY_ORDER, FORMAT_VERSION, KNOWN_BY, known_from
from weights_convert.naming import Dialect
from weights_convert.shapes import Shape, expected_shapes, has_conv_bias, infer_sizes
from weights_convert.table import reorder_shape

FLOATS = ("bfloat16", "float16", "float32", "float64")
"""The dtypes that weights may have; each container holds all of them, bit for bit."""

NOT_WEIGHTS = ("dtype", "compute_dtype", "zero_init_last_scale", "norm_decay", "norm_variance")
"""The fields of a configuration in which a checkpoint and the model that takes it may differ."""


def problems_of_names(canonical_names: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return a problem for every array that does not hold floats, and for every second name of an array."""
    problems = [
        f"{name!r} is {arrays[name].dtype.name}; weights are {', '.join(FLOATS[:-1])} or {FLOATS[-1]}"
        for name in canonical_names
        if arrays[name].dtype.name not in FLOATS
    ]
    firsts: dict[str, str] = {}
    return problems + [
        f"{firsts[canonical]!r} and {name!r} are names of the same array"
        for name, canonical in canonical_names.items()
        if firsts.setdefault(canonical, name) != name
    ]


def fitting_networks(
    ours: Mapping[str, str],
    metadata: Mapping[str, str],
    dialect: Dialect,
    shapes: Mapping[str, Shape],
    expected: ResNetConfig | None,
    stated: Judgement,
) -> tuple[tuple[ResNetConfig, ...], str]:
    """Return the networks that arrays of these shapes may belong to, and how it is known; empty if nothing tells.

    There is none if a configuration beside the arrays states a network that no variant is. Biases of convolutions tell
    a variant only under the names of its own library, which the file must state: elsewhere, strides and epsilons may be
    any.

    Raises:
        ValueError: If there is none, or our metadata is damaged.
    """
    if ours:
        return (_network_from_metadata(ours, len(shapes)),), known_from(ours)
    if {"variant", KNOWN_BY} <= metadata.keys():
        return (infer_sizes(shapes, named_config(metadata["variant"])),), metadata[KNOWN_BY]
    if stated.known_by:
        return tuple(infer_sizes(shapes, named_config(variant)) for variant in stated.variants), stated.known_by
    if expected is not None:
        return (infer_sizes(shapes, expected),), "as given"
    fitting = [known for known in VARIANTS.values() if known.conv_bias == has_conv_bias(shapes)]
    is_librarys = [known.variant for known in fitting] == [dialect.published_variant]
    known_by = "no other variant has such arrays" if is_librarys and BY_ORDER not in metadata else ""
    return tuple(infer_sizes(shapes, known) for known in fitting), known_by


def _network_from_metadata(ours: Mapping[str, str], count: int) -> ResNetConfig:
    if (version := ours.get("format_version")) != FORMAT_VERSION:
        raise ValueError(f"it has format version {version}; this program reads version {FORMAT_VERSION}")
    try:
        config = ResNetConfig.from_dict(json.loads(ours.get("config", "")))
        if config.variant != ours.get("variant"):
            raise ValueError(f"it states variant {ours.get('variant')}, and its config is of variant {config.variant}")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its metadata is damaged: {first_line(error)}") from error
    if sum(config.depths) > count:  # checked before a list of missing arrays grows out of bounds
        raise ValueError(f"its metadata promises {sum(config.depths)} blocks, and it holds {count} arrays")
    return config


def wrong_arrays(dialect: Dialect, shapes: Mapping[str, Shape], network: ResNetConfig) -> list[str]:
    """Return a problem for every array that is missing, extra, or of another shape than the network's."""
    canonical_shapes = expected_shapes(network)
    expected = {
        name: reorder_shape(canonical_shapes[canonical], rule, "torch", dialect.framework)
        for canonical, (name, rule) in dialect.write_names(canonical_shapes).items()
    }
    missing = [f"{name!r} is missing" for name in expected if name not in shapes]
    extra = [f"{name!r} has no place in this network" for name in shapes if name not in expected]
    wrong = [
        f"{name!r} has the shape {shapes[name]}, expected {expected[name]}"
        for name in expected
        if name in shapes and shapes[name] != expected[name]
    ]
    return missing + extra + wrong


def mismatches(
    network: ResNetConfig, recognised_by: str, variant: str | None, config: ResNetConfig | None
) -> list[str]:
    """Return a problem for every fact in which a network differs from a variant, or from the network of a model."""
    problems = []
    if variant is not None and network.variant != variant:
        problems.append(
            f"it holds variant {network.variant} ({recognised_by}), not {variant}; equal shapes do not make them equal"
        )
    if config is None:
        return problems
    if network.variant != config.variant:
        problems.append(f"it holds variant {network.variant} ({recognised_by}), and the model is {config.variant}")
    actual, expected = network.to_dict(), config.to_dict()
    return problems + [
        f"it has {name} {actual[name]}, and the model {expected[name]}"
        for name in expected
        if name not in NOT_WEIGHTS and actual[name] != expected[name]
    ]
