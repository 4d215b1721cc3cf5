"""What a file says of itself: our own metadata, and what the configs of others tell."""

from __future__ import annotations

import json
from collections.abc import Mapping

from impls.config import ResNetConfig

FORMAT = "resnet-parity"
FORMAT_VERSION = "1"

PACKED = "resnet_parity"
"""The key under which our metadata stand among those of another library's format."""

KNOWN_BY = "known_by"
"""The key, beside "variant", under which a reader says how it knows the network that others' files belong to."""

OTHER_WEIGHTS = "other_weights"
"""The key under which a reader names the entry of a training checkpoint that holds other weights than those it read."""


def is_ours(metadata: Mapping[str, str]) -> bool:
    """Whether this project wrote the file, or its model."""
    return metadata.get("format") == FORMAT


def of_network(config: ResNetConfig, dialect: str) -> dict[str, str]:
    """What each file of ours says: its format, whose names its arrays have, and which network they belong to."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dialect": dialect,
        "variant": config.variant,
        "config": json.dumps(config.to_dict()),
    }


def packed(metadata: Mapping[str, str]) -> dict[str, str]:
    """Our metadata as one entry among another library's."""
    return {PACKED: json.dumps(dict(metadata))}


def unpacked(metadata: Mapping[str, str]) -> dict[str, str]:
    """Our metadata from among another library's, where they are there; else what is there.

    Example:
        >>> unpacked({"format": "pt"} | packed({"variant": "v1"})), unpacked({"format": "pt"})
        ({'variant': 'v1'}, {'format': 'pt'})
    """
    if PACKED not in metadata:
        return dict(metadata)
    return {str(key): str(value) for key, value in json.loads(metadata[PACKED]).items()}
