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
"""The key, beside "variant", under which a reader states how it recognised the variant of another library's file."""

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
