"""The network that the proof on a GPU runs, and the small one of its rehearsals."""

from __future__ import annotations

from dataclasses import replace

from impls.config import VARIANTS, ResNetConfig


def chosen_network(small: bool) -> tuple[ResNetConfig, int]:
    """Return the configuration of v1.5, or of a small network of that variant, and the side of its images.

    Example:
        >>> chosen_network(small=True)[0].depths, chosen_network(small=False)[1]
        ((1, 1, 1, 1), 224)
    """
    config = VARIANTS["v1.5"]
    return (replace(config, depths=(1, 1, 1, 1), width=8, num_classes=10), 64) if small else (config, 224)
