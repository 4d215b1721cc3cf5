"""How a dialect spells the names of arrays, and how its patterns are read and written."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from weights_convert.table import RUNNING_STATISTICS, Framework, Kind, Rule, find_rule

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

FLAT = "flat"
"""The number of a block counted through all stages, from zero. Which stage it is in, depends on the depths."""

ROOT = "root"
"""Stands for the part of a name that a network without classifier is saved without."""


@dataclass(frozen=True)
class Layout:
    """What a single name does not tell, and the names together do.

    Attributes:
        depths: Blocks in each stage.
        headless: Whether there is no classifier.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    headless: bool = False

    @classmethod
    def of(cls, canonical: Iterable[str]) -> Layout:
        """The layout of a network with these canonical names.

        Example:
            >>> Layout.of(["stage1.0.bn1.weight", "stage1.1.bn1.weight", "stage2.0.bn1.weight"])
            Layout(depths=(2, 1, 0, 0), headless=True)
        """
        depths, headless = [0, 0, 0, 0], True
        for name in canonical:
            if match := re.match(r"stage([1-4])\.(\d{1,4})\.", name):
                stage, block = int(match[1]) - 1, int(match[2])
                depths[stage] = max(depths[stage], block + 1)
            headless &= not name.startswith("fc.")
        return cls(tuple(depths), headless)

    @classmethod
    def of_blocks(cls, blocks: Iterable[int], starts: Iterable[int]) -> Layout:
        """The layout of blocks that are counted through all stages.

        Args:
            blocks: The number of every block.
            starts: Those of the blocks that project their shortcut: with each, a stage begins.

        Example:
            >>> Layout.of_blocks(range(16), [0, 3, 7, 13]).depths
            (3, 4, 6, 3)
        """
        bounds = [*sorted(starts), 1 + max(blocks, default=-1)]
        return cls(tuple(end - start for start, end in pairwise(bounds)))

    def block(self, flat: int) -> dict[str, int]:
        """Stage and block of the block with that number.

        Example:
            >>> Layout().block(3)
            {'stage': 2, 'block': 0}
        """
        starts = [0, *accumulate(self.depths[:-1])]
        stage = bisect_right(starts, flat)
        return {"stage": stage, "block": flat - starts[stage - 1]}

    def flat(self, stage: int, block: int) -> int:
        """The inverse of `block`."""
        return sum(self.depths[: stage - 1]) + block


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
        collections: What stands before the names of parameters, and of running statistics.
        bias_free: Whether the library's own network has no biases in its convolutions.
        root: What stands for `{root}` in a network with a classifier, and in one without.
    """

    name: str
    framework: Framework
    layers: Mapping[str, str]
    about: str
    dropped: Mapping[str, str] | None = None
    published_variant: str | None = None
    collections: tuple[str, str] = ("", "")
    root: tuple[str, str] = ("", "")
    bias_free: bool = False

    @cached_property
    def _readers(self) -> list[tuple[re.Pattern[str], str, Kind]]:
        return [(self._compile(spelled), plain, CANONICAL_LAYERS[plain]) for plain, spelled in self.layers.items()]

    @cached_property
    def _writers(self) -> list[tuple[re.Pattern[str], str]]:
        return [(self._compile(plain), spelled) for plain, spelled in self.layers.items()]

    def _compile(self, pattern: str) -> re.Pattern[str]:
        looks = {name: look for name, (_, _, look) in NUMBERS.items()}
        looks |= {FLAT: "0|[1-9][0-9]{0,3}", ROOT: "|".join(map(re.escape, self.root))}
        parts = re.split(r"{(\w+)}", pattern)
        literals, named = map(re.escape, parts[::2]), [f"(?P<{name}>{looks[name]})" for name in parts[1::2]]
        return re.compile("".join(literal + name for literal, name in zip(literals, [*named, ""], strict=True)))

    def read_names(self, names: Iterable[str]) -> dict[str, tuple[str, Rule]]:
        """Those of the names that this dialect knows, each with its canonical name and its rule.

        Example:
            >>> from weights_convert.dialects import DIALECTS
            >>> list(DIALECTS["flax-linen"].read_names(["params.BottleneckResNetBlock_0.conv_proj.kernel"]).values())[0][0]
            'stage1.0.downsample_conv.weight'
        """  # noqa: E501 (a name is one word)
        known = list(names)
        layout = self.layout_of(known)
        return {name: reading for name in known if (reading := self.read_name(name, layout)) is not None}

    def write_names(self, canonical: Iterable[str]) -> dict[str, tuple[str, Rule]]:
        """Each canonical name of a network, with what this dialect calls it and its rule.

        Raises:
            KeyError: If one is not canonical.
        """
        known = list(canonical)
        layout = Layout.of(known)
        return {name: self.write_name(name, layout) for name in known}

    def layout_of(self, names: Iterable[str]) -> Layout:
        """The layout that names of this dialect tell: a stage begins at each block that projects its shortcut."""
        counted = [(pattern, plain) for pattern, plain, _ in self._readers if FLAT in pattern.groupindex]
        if not counted:
            return Layout()  # each name tells its stage
        blocks: set[int] = set()
        starts: set[int] = set()
        for path in [self._without_collection(name).rpartition(".")[0] for name in names]:
            for pattern, plain in counted:
                if match := pattern.fullmatch(path):
                    blocks.add(int(match[FLAT]))
                    if "downsample" in plain:
                        starts.add(int(match[FLAT]))
        return Layout.of_blocks(blocks, starts)

    def _without_collection(self, name: str) -> str:
        return next((name.removeprefix(start) for start in self.collections if name.startswith(start)), name)

    def _collection(self, rule: Rule) -> str:
        return self.collections[rule.leaf("torch").name in RUNNING_STATISTICS]

    def read_name(self, name: str, layout: Layout = Layout()) -> tuple[str, Rule] | None:
        """The canonical name of an array that this dialect calls `name`, and its rule; None if it is no such name.

        Example:
            >>> from weights_convert.dialects import DIALECTS
            >>> DIALECTS["torchvision"].read_name("layer1.0.downsample.0.weight")[0]
            'stage1.0.downsample_conv.weight'
        """
        path, _, leaf = self._without_collection(name).rpartition(".")
        for pattern, plain, kind in self._readers:
            if (match := pattern.fullmatch(path)) and (rule := find_rule(kind, self.framework, leaf)):
                if name != f"{self._collection(rule)}{path}.{leaf}":
                    return None
                if (numbers := _numbers(match, layout))["stage"] > len(layout.depths):
                    return None
                return f"{_fill(plain, numbers)}.{rule.leaf('torch').name}", rule
        return None

    def write_name(self, canonical: str, layout: Layout = Layout()) -> tuple[str, Rule]:
        """What this dialect calls the array of that canonical name, and its rule.

        Raises:
            KeyError: If the name is not canonical.

        Example:
            >>> from weights_convert.dialects import DIALECTS
            >>> DIALECTS["flax"].write_name("stage1.0.bn3.weight")[0]
            'stage1.0.bn3.scale'
        """
        path, _, leaf = canonical.rpartition(".")
        for (pattern, spelled), kind in zip(self._writers, (CANONICAL_LAYERS[p] for p in self.layers), strict=True):
            if (match := pattern.fullmatch(path)) and (rule := find_rule(kind, "torch", leaf)):
                numbers = _numbers(match, layout)
                words = {ROOT: self.root[layout.headless], FLAT: layout.flat(numbers["stage"], numbers["block"])}
                return (
                    f"{self._collection(rule)}{_fill(spelled, numbers, words)}.{rule.leaf(self.framework).name}",
                    rule,
                )
        raise KeyError(canonical)

    def why_dropped(self, name: str) -> str | None:
        """Why an array of that name is left out on purpose; None if it is not."""
        return next((why for pattern, why in (self.dropped or {}).items() if re.fullmatch(pattern, name)), None)


def _numbers(match: re.Match[str], layout: Layout) -> dict[str, int]:
    """The plain numbers behind a spelling: stage from one, block from zero, k from one."""
    found = match.groupdict()
    numbers = {"stage": 0, "block": 0}
    numbers |= {NUMBERS[name][0]: int(text) - NUMBERS[name][1] for name, text in found.items() if name in NUMBERS}
    return numbers | (layout.block(int(found[FLAT])) if FLAT in found else {})


def _fill(pattern: str, numbers: Mapping[str, int], words: Mapping[str, object] | None = None) -> str:
    spelled = {name: numbers[plain] + add for name, (plain, add, _) in NUMBERS.items() if plain in numbers}
    return pattern.format_map(spelled | dict(words or {}))
