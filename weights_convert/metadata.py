"""What a file says of itself: our own metadata, and what the configs of others tell."""

from __future__ import annotations

import json
from collections.abc import Mapping

from impls.config import ResNetConfig

FORMAT = "resnet-parity"
FORMAT_VERSION = "1"

KNOWN_BY = "known_by"
"""The key, beside "variant", under which a reader says how it knows the network that others' files belong to."""


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
