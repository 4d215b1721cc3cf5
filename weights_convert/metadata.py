"""The metadata that this project writes into a file beside the arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from impls.config import ResNetConfig

FORMAT = "resnet-parity"
FORMAT_VERSION = "1"

PACKED = "resnet_parity"
"""The key under which our metadata is stored among the metadata of another library's format."""

KNOWN_BY = "known_by"
"""The key under which a file says how its variant was known when it was converted: the fields that it rests on."""

FROM_METADATA = "from its metadata"
"""Words for how the variant of a file of ours is known; what the file says of it follows after a colon."""

CONFIGURATIONS = "library_configurations"
"""The key under which a reader passes on the configurations of a library that it found, as a JSON list."""

ACCEPTED = "accepted"
"""The key under which a file records, one FIELD=VALUE a line, what was accepted as harmless."""

BY_ORDER = "layers_by_order"
"""The key under which a reader says that the file does not name its layers, so that their order alone tells them."""

OTHER_VALUES = "other_values"
"""The key under which a reader states, as JSON, the names and types of a file's values that are no arrays."""


def is_ours(metadata: Mapping[str, str]) -> bool:
    """Return whether this project, or a model of it, wrote the file."""
    return metadata.get("format") == FORMAT


def network_metadata(config: ResNetConfig, dialect: str) -> dict[str, str]:
    """Return the metadata that every file of ours has: format, dialect of the arrays, variant and configuration."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dialect": dialect,
        "variant": config.variant,
        "config": json.dumps(config.to_dict()),
    }


def pack(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return our metadata as a single entry, to be stored among another library's."""
    return {PACKED: json.dumps(dict(metadata))}


def known_from(ours: Mapping[str, str]) -> str:
    """Return how the variant of a file of ours is known.

    Example:
        >>> known_from({"known_by": "as given"}), known_from({})
        ('from its metadata: as given', 'from its metadata')
    """
    return f"{FROM_METADATA}: {ours[KNOWN_BY]}" if ours.get(KNOWN_BY) else FROM_METADATA


def known_first_by(recognised_by: str) -> str:
    """Return how a variant was known when the weights were first converted; the inverse of `known_from`.

    Example:
        >>> known_first_by("from its metadata: as given"), known_first_by("as given"), known_first_by(FROM_METADATA)
        ('as given', 'as given', '')
    """
    return recognised_by.removeprefix(FROM_METADATA).removeprefix(": ")


def metadata_of(entries: Mapping[str, Any]) -> dict[str, str]:
    """Return our metadata from among another library's entries, or else these.

    The entries do not include those by which readers speak to their callers, whatever the file says.
    """
    reserved = (KNOWN_BY, CONFIGURATIONS, OTHER_VALUES, BY_ORDER)
    if is_ours(entries):
        return {name: value for name, value in entries.items() if name not in reserved[1:]}
    return unpack(entries) or {str(name): str(value) for name, value in entries.items() if name not in reserved}


def unpack(entries: Mapping[str, Any]) -> dict[str, str]:
    """Return our metadata from among another library's entries; empty if it is not there.

    Example:
        >>> unpack({"format": "pt"} | pack({"variant": "v1"})), unpack({"format": "pt"})
        ({'variant': 'v1'}, {})
    """
    if PACKED not in entries:
        return {}
    return {str(key): str(value) for key, value in json.loads(str(entries[PACKED])).items()}


def other_values(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the names and types of the values that a reader found beside the arrays; empty if it names none.

    Example:
        >>> other_values({OTHER_VALUES: '{"epoch": "of type int"}'}), other_values({OTHER_VALUES: "?"})
        ({'epoch': 'of type int'}, {})
    """
    try:
        values = json.loads(metadata.get(OTHER_VALUES, "{}"))
    except (ValueError, RecursionError):  # another program's metadata may have the same key
        return {}
    return {str(name): str(kind) for name, kind in values.items()} if isinstance(values, dict) else {}
