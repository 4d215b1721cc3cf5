"""The dialects: how each library spells the path of a layer.

A dialect says how its library spells each layer of the network, and whose column of the table its arrays follow. Rows
are patterns with named numbers, which `NUMBERS` explains. Patterns are read in both directions, so the inverse of a row
is the row. A further library is a further value here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from weights_convert.table import Framework, Kind, Rule, find_rule

CANONICAL_LAYERS: dict[str, Kind] = {
    "conv1": "conv",
    "bn1": "norm",
    "stage{stage}.{block}.conv{k}": "conv",
    "stage{stage}.{block}.bn{k}": "norm",
    "stage{stage}.{block}.downsample_conv": "conv",
    "stage{stage}.{block}.downsample_bn": "norm",
    "fc": "linear",
}
"""Every layer of the network that holds arrays, spelled canonically, and its kind."""

NUMBERS: dict[str, tuple[str, int, str]] = {
    "stage": ("stage", 0, "[1-4]"),
    "stage0": ("stage", -1, "[0-3]"),
    "stage1": ("stage", 1, "[2-5]"),
    "block": ("block", 0, "0|[1-9][0-9]*"),
    "block1": ("block", 1, "[1-9][0-9]*"),
    "k": ("k", 0, "[1-3]"),
    "k0": ("k", -1, "[0-2]"),
}
"""A number of a pattern: what it counts, what the spelling adds to it, and how it may look."""


@dataclass(frozen=True)
class Dialect:
    """How one library spells the network.

    Attributes:
        name: What `--from` and `--to` call it.
        framework: Whose column of the table the arrays follow.
        layers: Canonical pattern to this library's pattern.
        dropped: Regular expressions of names that are left out on purpose, with the reason.
        about: What it is, in one line.
        published_variant: The network that the library's own published weights belong to, as advice; never assumed.
    """

    name: str
    framework: Framework
    layers: Mapping[str, str]
    about: str
    dropped: Mapping[str, str] | None = None
    published_variant: str | None = None

    @cached_property
    def _readers(self) -> list[tuple[re.Pattern[str], str, Kind]]:
        return [(_compile(spelled), plain, CANONICAL_LAYERS[plain]) for plain, spelled in self.layers.items()]

    @cached_property
    def _writers(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_compile(plain), spelled) for plain, spelled in self.layers.items()]

    def read_name(self, name: str) -> tuple[str, Rule] | None:
        """The canonical name of an array that this dialect calls `name`, and its rule; None if it is no such name.

        Example:
            >>> DIALECTS["torchvision"].read_name("layer1.0.downsample.0.weight")[0]
            'stage1.0.downsample_conv.weight'
        """
        path, _, leaf = name.rpartition(".")
        for pattern, plain, kind in self._readers:
            if (match := pattern.fullmatch(path)) and (rule := find_rule(kind, self.framework, leaf)):
                return f"{_fill(plain, _numbers(match))}.{rule.leaf('torch').name}", rule
        return None

    def write_name(self, canonical: str) -> tuple[str, Rule]:
        """What this dialect calls the array of that canonical name, and its rule.

        Raises:
            KeyError: If the name is not canonical.

        Example:
            >>> DIALECTS["flax"].write_name("stage1.0.bn3.weight")[0]
            'stage1.0.bn3.scale'
        """
        path, _, leaf = canonical.rpartition(".")
        for (pattern, spelled), kind in zip(self._writers, (CANONICAL_LAYERS[p] for p in self.layers), strict=True):
            if (match := pattern.fullmatch(path)) and (rule := find_rule(kind, "torch", leaf)):
                return f"{_fill(spelled, _numbers(match))}.{rule.leaf(self.framework).name}", rule
        raise KeyError(canonical)

    def why_dropped(self, name: str) -> str | None:
        """Why an array of that name is left out on purpose; None if it is not."""
        return next((why for pattern, why in (self.dropped or {}).items() if re.fullmatch(pattern, name)), None)


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"{(\w+)}", pattern)
    literals, numbers = map(re.escape, parts[::2]), [f"(?P<{name}>{NUMBERS[name][2]})" for name in parts[1::2]]
    return re.compile("".join(literal + number for literal, number in zip(literals, [*numbers, ""], strict=True)))


def _numbers(match: re.Match[str]) -> dict[str, int]:
    """The plain numbers behind a spelling: stage from one, block from zero, k from one."""
    return {NUMBERS[name][0]: int(text) - NUMBERS[name][1] for name, text in match.groupdict().items()}


def _fill(pattern: str, numbers: Mapping[str, int]) -> str:
    return pattern.format_map(
        {name: numbers[plain] + add for name, (plain, add, _) in NUMBERS.items() if plain in numbers}
    )


AS_CANONICAL = {plain: plain for plain in CANONICAL_LAYERS}
BATCH_COUNTER = {r".*\.num_batches_tracked": "PyTorch's counter of training batches; no other framework has it"}

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "canonical", "torch", AS_CANONICAL, "this project's exchange form; impls.torch's state_dict", BATCH_COUNTER
        ),
        Dialect("flax", "flax", AS_CANONICAL, "impls.flax: attribute paths joined by dots"),
        Dialect("keras", "keras", AS_CANONICAL, "impls.keras: attribute paths joined by dots"),
        Dialect(
            "torchvision",
            "torch",
            {
                "conv1": "conv1",
                "bn1": "bn1",
                "stage{stage}.{block}.conv{k}": "layer{stage}.{block}.conv{k}",
                "stage{stage}.{block}.bn{k}": "layer{stage}.{block}.bn{k}",
                "stage{stage}.{block}.downsample_conv": "layer{stage}.{block}.downsample.0",
                "stage{stage}.{block}.downsample_bn": "layer{stage}.{block}.downsample.1",
                "fc": "fc",
            },
            "torchvision.models.resnet50 and its many relatives",
            BATCH_COUNTER,
            "v1.5",
        ),
        Dialect(
            "keras.applications",
            "keras",
            {
                "conv1": "conv1_conv",
                "bn1": "conv1_bn",
                "stage{stage}.{block}.conv{k}": "conv{stage1}_block{block1}_{k}_conv",
                "stage{stage}.{block}.bn{k}": "conv{stage1}_block{block1}_{k}_bn",
                "stage{stage}.{block}.downsample_conv": "conv{stage1}_block{block1}_0_conv",
                "stage{stage}.{block}.downsample_bn": "conv{stage1}_block{block1}_0_bn",
                "fc": "predictions",
            },
            "keras.applications.ResNet50: layer name, dot, variable name",
            published_variant="keras",
        ),
    )
}
"""Every dialect by name. "torch" is "canonical": impls.torch is where the canonical form comes from."""

ALIASES = {"torch": "canonical"}


def find_dialect(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        ValueError: If there is none.
    """
    if (known := DIALECTS.get(ALIASES.get(name, name))) is None:
        raise ValueError(f"there is no dialect {name!r}; the dialects are {', '.join((*DIALECTS, *ALIASES))}")
    return known
