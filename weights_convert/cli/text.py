"""The words and values with which the commands describe checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from impls.config import ResNetConfig
from weights_convert import Checkpoint, Difference, Inspection
from weights_convert.checkpoint import left_out
from weights_convert.containers import Container
from weights_convert.dialects import WRITTEN
from weights_convert.errors import SHOWN
from weights_convert.naming import Dialect
from weights_convert.published import Published
from weights_convert.table import RUNNING_STATISTICS
from weights_convert.unlikely import unlikely_numbers

ONE_PER_LINE = ("problems", "changes", "accepted", "found", "unlikely_numbers", "notes")
"""The facts that are lists of sentences."""


def print_report(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print facts as JSON, or as labels and values in two columns."""
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        label = name.replace("_", " ")
        for line in _lines(name, value):
            click.echo(f"{label:<19} {click.format_filename(line)}")  # a file name may hold bytes that are not UTF-8


def _lines(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):  # names, with the reason why each was dropped
        lines = left_out(value)
    elif isinstance(value, list) and name in ONE_PER_LINE:
        lines = value[:SHOWN] + [f"and {len(value) - SHOWN} more"] * (len(value) > SHOWN)
    elif isinstance(value, list):
        lines = [", ".join(map(str, value))] if value else []
    else:
        lines = ["unknown"] if value is None else [f"{value:,}"] if isinstance(value, int) else value.splitlines()
    return lines or ["none"]


def conversion_facts(
    source: str, target: Path, container: Container, original: Checkpoint, converted: Checkpoint
) -> dict[str, Any]:
    """Return what a conversion did, as plain values."""
    return {
        "source": source,
        "target": str(target),
        "from": original.dialect.name,
        "to": converted.dialect.name,
        "variant": converted.config.variant,
        "recognised_by": converted.recognised_by,
        "network": network_name(converted.config),
        "arrays": len(converted.arrays),
        "dtypes": converted.dtypes(),
        "content_hash": converted.content_hash(),
        **({"found": list(converted.notes)} if converted.notes else {}),
        "dropped": dict(converted.dropped),
        **unlikely_facts(converted.to("canonical").arrays),
        "changes": list(converted.changes),
        "accepted": list(converted.accepted),
        "notes": conversion_notes(converted.dialect, container, converted.config),
    }


def inspection_facts(inspection: Inspection) -> dict[str, Any]:
    """Return the results of an inspection as plain values."""
    dialect, networks = inspection.dialect, inspection.networks
    network, variants = next(iter(networks), None), [network.variant for network in networks]
    weights = inspection.canonical()
    statistics = sum(array.size for name, array in weights.items() if name.endswith(RUNNING_STATISTICS))
    facts = {
        "file": inspection.where,
        "container": inspection.container,
        "dialect": dialect.name if dialect else None,
        "used_by": dialect.used_by if dialect else None,
        "variant": inspection.variant,
        "recognised_by": inspection.recognised_by if inspection.variant else None,
        "possible_variants": variants,
        "network": network_name(network) if network else None,
        "depths": list(network.depths) if network else None,
        "num_classes": network.num_classes if network else None,
        "in_channels": network.in_channels if network else None,
        "dtypes": sorted({array.dtype.name for array in inspection.arrays.values()}),
        "arrays": len(inspection.arrays),
        "parameters": sum(array.size for array in weights.values()) - statistics,
        "running_statistics": statistics,
        "content_hash": inspection.content_hash,
        **({"found": list(inspection.notes)} if inspection.notes else {}),
        "dropped": dict(inspection.dropped),
        **unlikely_facts(weights),
        "changes": list(inspection.changes),
        "accepted": list(inspection.accepted),
        "problems": list(inspection.problems),
        "converts_to": [
            target.name
            for target in WRITTEN.values()
            if network and not inspection.problems and not (network.conv_bias and target.bias_free)
        ],
    }
    advice = inspection.advice.splitlines()
    if networks and inspection.variant is None and dialect and dialect.published_variant and not inspection.choices:
        advice.append(f"give --variant; the weights that {dialect.name} publishes are {dialect.published_variant}")
    elif networks and inspection.variant is None and inspection.choices:
        advice.append(f"give --variant: {inspection.choices}")
    elif networks and inspection.variant is None:
        advice.append("give --variant")
    return facts | ({"advice": "\n".join(advice)} if advice else {})


def unlikely_facts(arrays: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Return what is unlikely about numbers, as a fact; empty if nothing is."""
    lines = unlikely_numbers(arrays)
    return {"unlikely_numbers": lines} if lines else {}


def conversion_notes(dialect: Dialect, container: Container, network: ResNetConfig) -> list[str]:
    """Return what a user of a converted file should know."""
    notes = []
    if dialect.published_variant not in (None, network.variant):
        model = f"{dialect.name}'s own ResNet is variant {dialect.published_variant}"
        notes.append(f"{model}; with these weights, of variant {network.variant}, it computes another function")
    if not (container.keeps_metadata or network.conv_bias):
        advice = f"give --variant {network.variant} to read it"
        notes.append(f"a {container.name} file cannot state its variant; {advice}")
    if dialect.name == "keras.applications" and dialect.name in container.library_only and network.num_classes:
        notes.append(f"a whole model of {dialect.name} ends in its softmax: it computes probabilities, not logits")
    return notes


def network_name(network: ResNetConfig) -> str:
    """Return the name of a network by its number of layers, and its width if that is unusual.

    Example:
        >>> network_name(ResNetConfig()), network_name(ResNetConfig(depths=(3, 8, 36, 3), width=128))
        ('ResNet-50', 'ResNet-152, width 128')
    """
    width = "" if network.width == ResNetConfig.width else f", width {network.width}"
    return f"ResNet-{3 * sum(network.depths) + 2}{width}"


def difference_line(difference: Difference) -> str:
    """Return one line about an array that differs."""
    largest = "" if difference.largest is None else f", largest difference {difference.largest:.1e}"
    relative = "" if difference.relative_l2 is None else f", relative L2 {difference.relative_l2:.1e}"
    return f"{difference.name}: {difference.what}{largest}{relative}"


def published_line(row: Published, width: int) -> str:
    """Return one line about a published checkpoint, with its name padded to a width."""
    digest = row.digest or "no hash published"
    return f"{row.name:<{width}}  {row.variant:<6} {row.classes:>5} classes  {preprocessing_line(row)}  {digest}"


def preprocessing_line(row: Published) -> str:
    """Describe the images that a published checkpoint expects, in a few words."""
    if (expected := row.preprocessing) is None:
        return "images: see its own configuration"
    resized = f"resize {expected.resize} " if expected.resize else ""
    interpolation = f"{expected.interpolation} " if expected.interpolation else ""
    return f"{resized}{interpolation}crop {expected.crop} {expected.channels}"
