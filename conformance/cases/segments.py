"""Names of a network's segments (stem, blocks, head), and the segment that each array belongs to."""

from __future__ import annotations

import re
from functools import cache

from conformance.cases.names import activation_names, statistic_names
from impls.config import ResNetConfig

BLOCK = re.compile(r"stage\d+\.\d+")


def segment_of(name: str) -> str:
    """Name the segment that an activation, a statistic, a parameter, a gradient or the loss belongs to.

    Example:
        >>> [segment_of(name) for name in ("bn1.running_var", "stage1.0.conv2", "stage1.0", "logits", "fc.weight")]
        ['stem', 'stage1.0', 'stage1.0', 'head', 'head']
        >>> segment_of("gradient.stage2.1.conv1.weight"), segment_of("loss")
        ('stage2.1', 'head')
    """
    array = name.removeprefix("gradient.")
    block = BLOCK.match(array)
    if block:
        return block.group()
    return "head" if array.split(".")[0] in ("pool", "logits", "fc", "head", "loss") else "stem"


@cache
def segment_names(config: ResNetConfig) -> tuple[str, ...]:
    """List the segments of a network in the order they run.

    Example:
        >>> segment_names(ResNetConfig(depths=(1, 2, 1, 1)))[:5]
        ('stem', 'stage1.0', 'stage2.0', 'stage2.1', 'stage3.0')
    """
    return ("stem", *(block.name for block in config.blocks()), "head")


def input_name(segment: str, config: ResNetConfig) -> str | None:
    """Name the activation that a segment takes; None for the stem, which takes the images.

    Example:
        >>> input_name("stage1.0", ResNetConfig()), input_name("stem", ResNetConfig())
        ('stem', None)
    """
    names = segment_names(config)
    position = names.index(segment)
    return names[position - 1] if position else None


@cache
def promised_names(segment: str, config: ResNetConfig, train: bool) -> tuple[str, ...]:
    """List the activations and, in train mode, the running statistics of a segment in the order of computation.

    Example:
        >>> promised_names("stem", ResNetConfig(), train=True)
        ('conv1', 'bn1', 'stem', 'bn1.running_mean', 'bn1.running_var')
    """
    names = [*activation_names(config, layers=True), *(statistic_names(config) if train else [])]
    return tuple(name for name in names if segment_of(name) == segment)
