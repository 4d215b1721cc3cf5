"""The options that a refusal names are those that read the network: whoever follows them needs to know nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from weights_convert import Checkpoint, ConversionError, load

Arrays = dict[str, np.ndarray]


def body(prefix: str, arrays: Arrays) -> Arrays:
    return {prefix + name: array for name, array in arrays.items() if not name.startswith("fc.")}


def head(prefix: str, arrays: Arrays) -> Arrays:
    return {name.replace("fc.", prefix): array for name, array in arrays.items() if name.startswith("fc.")}


def layers(path: str, *numbers: int) -> Arrays:
    """Return linear layers that do not take the network's features."""
    shapes = {"weight": (4, 4), "bias": (4,)}
    return {f"{path}.{k}.{leaf}": np.ones(shape, np.float32) for k in numbers for leaf, shape in shapes.items()}


def contrastive(net: Arrays) -> Arrays:
    query, key = (
        body(f"module.{name}.", net) | layers(f"module.{name}.fc", 0, 2) for name in ("encoder_q", "encoder_k")
    )
    return query | key | {"module.queue": np.ones((4, 4), np.float32)}


LAYOUTS: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "a network": (lambda net: net, "--variant"),
    "Lightning": (lambda net: body("state_dict.net.", net) | head("state_dict.classifier.", net), "--head"),
    "MoCo": (contrastive, "--entry"),
    "SimSiam": (lambda net: body("net.", net) | layers("net.fc", 0, 3) | layers("predictor", 0, 3), "--drop-head"),
    "SwAV": (lambda net: body("module.", net) | layers("module.projection_head", 0, 3), "--drop"),
    "a detector": (lambda net: body("backbone.body.", net) | layers("roi_heads", 6) | layers("rpn", 0), "--entry"),
    "an MLP as its head": (lambda net: body("", net) | layers("classifier", 0, 3), "--drop-head"),
}
"""Arrays under the names that projects give them, and an option that the messages name."""


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_options_that_messages_name_read_the_network(name: str, checkpoint_of: Callable[..., Checkpoint]):
    write, expected = LAYOUTS[name]
    original = checkpoint_of(dialect="torchvision")
    arrays = write(dict(original.arrays))
    options: dict[str, Any] = {}
    named: list[str] = []
    while len(named) < 40:
        try:
            checkpoint = load(arrays, **options)
            break
        except ConversionError as refusal:
            named += re.findall(r"--(?:entry|drop-head|drop|head|variant)", refusal.advice) or ["none"] * 40
            options |= following(refusal.advice, options)
    assert expected in named
    whole = original if checkpoint.config.num_classes else original.without_head()
    assert checkpoint.content_hash() == whole.content_hash()


def following(advice: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the first option that an advice names, as a newcomer would copy it."""
    for option in ("head", "entry"):
        if option not in options and (match := re.search(rf"--{option} (\S+)", advice)):
            return {option: match[1]}
    if "--drop-head" in advice and "drop_head" not in options:
        return {"drop_head": True}
    if dropped := re.findall(r"--drop (\S+)", advice):
        return {"drop": dropped}
    return {"variant": "v1.5"}
