"""What the commands say about checkpoints, in words and as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from impls.config import ResNetConfig
from weights_convert import Inspection, containers
from weights_convert.dialects import DIALECTS
from weights_convert.naming import Dialect
from weights_convert.published import Published
from weights_convert.table import RUNNING_STATISTICS


def preprocessing_line(row: Published) -> str:
    """What images a published checkpoint expects, in a few words."""
    if (expected := row.preprocessing) is None:
        return "images: see its own configuration"
    resized = f"resize {expected.resize} " if expected.resize else ""
    interpolation = f"{expected.interpolation} " if expected.interpolation else ""
    return f"{resized}{interpolation}crop {expected.crop} {expected.channels}"


def facts_of(found: Inspection) -> dict[str, Any]:
    """What is known of a file, as plain values."""
    network, variants = next(iter(found.networks), None), [candidate.variant for candidate in found.networks]
    weights = found.canonical()
    statistics = sum(array.size for name, array in weights.items() if name.endswith(RUNNING_STATISTICS))
    return {
        "file": found.where,
        "container": found.container,
        "dialect": found.dialect.name if found.dialect else None,
        "variant": variants[0] if len(variants) == 1 else None,
        "recognised_by": found.recognised_by if len(variants) == 1 else None,
        "candidates": variants,
        "network": network_name(network) if network else None,
        "depths": list(network.depths) if network else None,
        "num_classes": network.num_classes if network else None,
        "in_channels": network.in_channels if network else None,
        "dtypes": sorted({array.dtype.name for array in found.arrays.values()}),
        "arrays": len(found.arrays),
        "parameters": sum(array.size for array in weights.values()) - statistics,
        "running_statistics": statistics,
        "content_hash": found.content_hash,
        "dropped": dict(found.dropped),
        "changes": list(found.changes),
        "problems": list(found.problems),
        "converts_to": [
            dialect.name
            for dialect in DIALECTS.values()
            if network and not found.problems and not (network.conv_bias and dialect.bias_free)
        ],
    }


def network_name(network: ResNetConfig) -> str:
    """The name with the number of its layers that hold weights, and its width where that is unusual.

    Example:
        >>> network_name(ResNetConfig()), network_name(ResNetConfig(depths=(3, 8, 36, 3), width=128))
        ('ResNet-50', 'ResNet-152, width 128')
    """
    wider = "" if network.width == ResNetConfig.width else f", width {network.width}"
    return f"ResNet-{3 * sum(network.depths) + 2}{wider}"


def variant_line(found: Inspection) -> str:
    """The variant and how it is known, or why it is not."""
    variants = [network.variant for network in found.networks]
    if not variants:
        return "not recognised"
    if len(variants) == 1:
        return f"{variants[0]} (known by: {found.recognised_by})"
    published = found.dialect.published_variant if found.dialect else None
    advice = f"; {found.dialect.name}'s own published weights are {published}" if found.dialect and published else ""
    return f"the file cannot tell {', '.join(variants[:-1])} and {variants[-1]} apart: say --variant{advice}"


def notes(dialect: Dialect, container: containers.Container, network: ResNetConfig) -> list[str]:
    """What whoever takes the converted file should know."""
    return [
        note
        for note, holds in (
            (
                f"{dialect.name}'s own ResNet is variant {dialect.published_variant}; with the weights of "
                f"{network.variant} it computes another function",
                dialect.published_variant not in (None, network.variant),
            ),
            (
                f"a {container.name} file cannot say its variant; say --variant {network.variant} when it is read",
                not (container.keeps_metadata or network.conv_bias),
            ),
            (
                f"a whole model of {dialect.name} ends in its softmax: it computes probabilities, not logits",
                dialect.name == "keras.applications" and dialect.name in container.built and network.num_classes > 0,
            ),
        )
        if holds
    ]


def dropped_lines(dropped: Mapping[str, str]) -> list[str]:
    """How many arrays were left out, for each reason."""
    return [f"{count}, {why}" for why, count in Counter(dropped.values()).items()]


def echo_rows(rows: Sequence[tuple[str, Any]]) -> None:
    """Print labels and what is known, in two columns."""
    for label, value in rows:
        if value is not None:
            click.echo(f"  {label:<13} {value}")
