"""The engine of the dialects: patterns of layer paths, read and written in both directions.

A pattern is a path with placeholders ("layer{stage}.{block}.conv{k}"). The same pattern reads a path into numbers and
writes numbers into a path, so that no dialect needs an inverse.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise, takewhile
from string import ascii_lowercase

from impls.config import VARIANTS
from weights_convert.table import RULES, RUNNING_STATISTICS, Framework, Kind, Rule, find_rule

CANONICAL_LAYERS: dict[str, Kind] = {
    "conv1": "conv",
    "bn1": "norm",
    "stage{stage}.{block}.conv{k}": "conv",
    "stage{stage}.{block}.bn{k}": "norm",
    "stage{stage}.{block}.downsample_conv": "conv",
    "stage{stage}.{block}.downsample_bn": "norm",
    "fc": "linear",
}
"""The canonical pattern of every layer that holds arrays, with the kind of the layer."""

WRITTEN_OUT: dict[str, Kind] = {
    pattern.replace("{k}", k): kind for pattern, kind in CANONICAL_LAYERS.items() if "{k}" in pattern for k in "123"
}
"""The patterns of the layers of a block without `{k}`: a dialect that is only read may spell each of its own."""

PLACEHOLDERS: dict[str, tuple[str, int, str]] = {
    "stage": ("stage", 0, "[1-4]"),
    "stage0": ("stage", -1, "[0-3]"),
    "stage1": ("stage", 1, "[2-5]"),
    "stage3": ("stage", 3, "[4-7]"),
    "block": ("block", 0, "0|[1-9][0-9]*"),
    "block1": ("block", 1, "[1-9][0-9]*"),
    "k": ("k", 0, "[1-3]"),
    "k0": ("k", -1, "[0-2]"),
    "block_letter": ("block", 0, "[a-z]|b(?:2[6-9]|[3-9][0-9]|[1-9][0-9]{2,3})"),
    "k_letter": ("k", -1, "[a-c]"),
}
"""The placeholders that stand for a number: which number, what is added to it in a path, and a regular expression.

Canonically, `stage` counts from 1, `block` from 0 within its stage, and `k` from 1 within its block.
"""

LETTERS = ("block_letter", "k_letter")
"""The placeholders that are letters: "a" for 0; behind "z" follow "b26", "b27" and so on, as Caffe numbers blocks."""

FLAT = "flat"
"""The placeholder for the number of a block counted from 0 through all stages; its stage depends on the depths."""

ROOT = "root"
"""The placeholder for a prefix that differs between networks with and without a classifier."""


@dataclass(frozen=True)
class Topology:
    """The depths of a network, and whether it has a classifier, which only all of its names together tell.

    Attributes:
        depths: Number of blocks in each stage.
        headless: Whether there is no classifier.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    headless: bool = False

    @classmethod
    def from_names(cls, canonical: Iterable[str]) -> Topology:
        """Return the topology of the network with these canonical names.

        Example:
            >>> Topology.from_names(["stage1.0.bn1.weight", "stage1.1.bn1.weight", "stage2.0.bn1.weight"])
            Topology(depths=(2, 1, 0, 0), headless=True)
        """
        depths, headless = [0, 0, 0, 0], True
        for name in canonical:
            if match := re.match(r"stage([1-4])\.(\d{1,4})\.", name):
                stage, block = int(match[1]) - 1, int(match[2])
                depths[stage] = max(depths[stage], block + 1)
            headless &= not name.startswith("fc.")
        return cls(tuple(depths), headless)

    @classmethod
    def from_flat_blocks(cls, blocks: Iterable[int], projecting: Iterable[int]) -> Topology:
        """Return the topology of blocks that are counted through all stages.

        Args:
            blocks: The number of every block.
            projecting: The numbers of the blocks that project their shortcut; each of them begins a stage.

        Example:
            >>> Topology.from_flat_blocks(range(16), [0, 3, 7, 13]).depths
            (3, 4, 6, 3)
        """
        bounds = [*sorted(projecting), 1 + max(blocks, default=-1)]
        return cls(tuple(end - start for start, end in pairwise(bounds)))

    def stage_and_block(self, flat: int) -> dict[str, int]:
        """Return stage and block of the block with this number, counted through all stages.

        Example:
            >>> Topology().stage_and_block(3)
            {'stage': 2, 'block': 0}
        """
        starts = [0, *accumulate(self.depths[:-1])]
        stage = bisect_right(starts, flat)
        return {"stage": stage, "block": flat - starts[stage - 1]}

    def flat(self, stage: int, block: int) -> int:
        """Return the number of a block counted through all stages: the inverse of `stage_and_block`."""
        return sum(self.depths[: stage - 1]) + block


Reading = tuple[str, Rule]
"""The name of an array in some dialect, and its row in the conversion table."""


@dataclass(frozen=True)
class Dialect:
    """The names that one library gives to the layers and arrays of the network.

    Attributes:
        name: The name for `--from` and `--to`.
        framework: The framework whose column of the conversion table the arrays follow.
        layers: The library's pattern of each layer, by the canonical pattern.
        used_by: The models and files that use it, in one line.
        dropped: Regular expressions of names that are left out on purpose, each with the reason.
        published_variant: The variant of the library's own published weights. It is shown as advice, never assumed.
        collections: The prefix of the names of parameters, and that of running statistics.
        root: The text for `{root}` in a network with a classifier, and in one without.
        is_written: Whether files may be written in it; false if its libraries build no variant under these names.
    """

    name: str
    framework: Framework
    layers: Mapping[str, str]
    used_by: str
    dropped: Mapping[str, str] | None = None
    published_variant: str | None = None
    collections: tuple[str, str] = ("", "")
    root: tuple[str, str] = ("", "")
    is_written: bool = True

    @property
    def bias_free(self) -> bool:
        """Whether the convolutions of the library's network have no biases, so that it cannot take any."""
        return self.published_variant is not None and not VARIANTS[self.published_variant].conv_bias

    @cached_property
    def _by_leaf(self) -> dict[str, list[tuple[str, Rule, re.Pattern[str]]]]:
        """The layers that have an array of a name, by that name: canonical pattern, rule and expression of the path."""
        by_leaf: dict[str, list[tuple[str, Rule, re.Pattern[str]]]] = {}
        for canonical, expression in self._expressions.items():
            for rule in RULES:
                if rule.kind == LAYER_KINDS[canonical]:
                    by_leaf.setdefault(rule.leaf(self.framework).name, []).append((canonical, rule, expression))
        return by_leaf

    @cached_property
    def _expressions(self) -> dict[str, re.Pattern[str]]:
        """The regular expression of each layer's path, by the canonical pattern."""
        return {canonical: _compile(pattern, self.root) for canonical, pattern in self.layers.items()}

    def read_names(self, names: Iterable[str]) -> dict[str, Reading]:
        """Return the canonical name and the rule of every name that belongs to this dialect; others are left out.

        Example:
            >>> from weights_convert.dialects import DIALECTS
            >>> linen = ["params.BottleneckResNetBlock_0.conv_proj.kernel"]
            >>> [canonical for canonical, rule in DIALECTS["flax-linen"].read_names(linen).values()]
            ['stage1.0.downsample_conv.weight']
        """
        names = list(names)
        topology = self._topology(names)
        return {name: reading for name in names if (reading := self.read_name(name, topology)) is not None}

    def write_names(self, canonical: Iterable[str]) -> dict[str, Reading]:
        """Return this dialect's name, and the rule, of every canonical name of a network.

        Raises:
            KeyError: If a name is not canonical.
        """
        names = list(canonical)
        topology = Topology.from_names(names)
        return {name: self.write_name(name, topology) for name in names}

    def _topology(self, names: Iterable[str]) -> Topology:
        """Return the topology of names of this dialect, if it counts blocks through all stages; else the default."""
        counting = [item for item in self._expressions.items() if FLAT in item[1].groupindex]
        if not counting:
            return Topology()  # each name tells its stage
        blocks: set[int] = set()
        projecting: set[int] = set()
        for path in [self._without_collection(name).rpartition(".")[0] for name in names]:
            for canonical, expression in counting:
                if match := expression.fullmatch(path):
                    blocks.add(int(match[FLAT]))
                    if "downsample" in canonical:
                        projecting.add(int(match[FLAT]))
        return Topology.from_flat_blocks(blocks, projecting)

    def _without_collection(self, name: str) -> str:
        return next((name.removeprefix(prefix) for prefix in self.collections if name.startswith(prefix)), name)

    def _collection(self, rule: Rule) -> str:
        return self.collections[rule.leaf("torch").name in RUNNING_STATISTICS]

    def read_name(self, name: str, topology: Topology = Topology()) -> Reading | None:
        """Return the canonical name and the rule of a name of this dialect; None if the name does not belong to it.

        Args:
            name: The name of an array.
            topology: Needed by dialects that count blocks through all stages.

        Example:
            >>> from weights_convert.dialects import DIALECTS
            >>> DIALECTS["torchvision"].read_name("layer1.0.downsample.0.weight")[0]
            'stage1.0.downsample_conv.weight'
        """
        path, _, leaf = self._without_collection(name).rpartition(".")
        for canonical, rule, expression in self._by_leaf.get(leaf, ()):
            if match := expression.fullmatch(path):
                numbers = _numbers(match, topology)
                if name != f"{self._collection(rule)}{path}.{leaf}" or numbers["stage"] > len(topology.depths):
                    return None
                return f"{_fill(canonical, numbers)}.{rule.leaf('torch').name}", rule
        return None

    def write_name(self, canonical: str, topology: Topology = Topology()) -> Reading:
        """Return this dialect's name, and the rule, of the array with a canonical name.

        Args:
            canonical: The canonical name.
            topology: Needed by dialects that count blocks through all stages, or name headless networks otherwise.

        Raises:
            KeyError: If the name is not canonical.

        Example:
            >>> from weights_convert.dialects import DIALECTS
            >>> DIALECTS["flax"].write_name("stage1.0.bn3.weight")[0]
            'stage1.0.bn3.scale'
        """
        path, _, leaf = canonical.rpartition(".")
        for canonical_pattern, expression in CANONICAL_EXPRESSIONS.items():
            rule = find_rule(CANONICAL_LAYERS[canonical_pattern], "torch", leaf)
            if rule and (match := expression.fullmatch(path)):
                numbers = _numbers(match, topology)
                flat = topology.flat(numbers["stage"], numbers["block"])
                spelled = _fill(
                    self.layers[canonical_pattern], numbers, {ROOT: self.root[topology.headless], FLAT: flat}
                )
                return f"{self._collection(rule)}{spelled}.{rule.leaf(self.framework).name}", rule
        raise KeyError(canonical)

    def why_dropped(self, name: str) -> str | None:
        """Return the reason why an array with this name is left out on purpose; None if it is not left out."""
        return next((reason for pattern, reason in (self.dropped or {}).items() if re.fullmatch(pattern, name)), None)


def _compile(pattern: str, root: tuple[str, ...]) -> re.Pattern[str]:
    """Return a regular expression that matches a pattern, with a named group for each placeholder."""
    expressions = {name: expression for name, (_, _, expression) in PLACEHOLDERS.items()}
    expressions |= {FLAT: "0|[1-9][0-9]{0,3}", ROOT: "|".join(map(re.escape, root))}
    parts = re.split(r"{(\w+)}", pattern)
    groups = [f"(?P<{name}>{expressions[name]})" for name in parts[1::2]]
    literals = map(re.escape, parts[::2])
    return re.compile("".join(literal + group for literal, group in zip(literals, [*groups, ""], strict=True)))


LAYER_KINDS = CANONICAL_LAYERS | WRITTEN_OUT
CANONICAL_EXPRESSIONS = {pattern: _compile(pattern, ()) for pattern in CANONICAL_LAYERS}


def _numbers(match: re.Match[str], topology: Topology) -> dict[str, int]:
    """Return the canonical numbers in a matched path: stage from 1, block from 0, k from 1; 0 where there is none."""
    numbers = {"stage": 0, "block": 0}
    for name, text in match.groupdict().items():
        if name in PLACEHOLDERS:
            key, offset, _ = PLACEHOLDERS[name]
            numbers[key] = (_from_letter(text) if name in LETTERS else int(text)) - offset
        elif name == FLAT:
            numbers |= topology.stage_and_block(int(text))
    return numbers


def _letter(number: int) -> str:
    return ascii_lowercase[number] if number < len(ascii_lowercase) else f"b{number}"


def _from_letter(text: str) -> int:
    return ascii_lowercase.index(text) if len(text) == 1 else int(text[1:])


def _fill(pattern: str, numbers: Mapping[str, int], texts: Mapping[str, object] | None = None) -> str:
    """Write canonical numbers, and the texts of other placeholders, into a pattern."""
    values: dict[str, object] = {
        name: _letter(numbers[key] + offset) if name in LETTERS else numbers[key] + offset
        for name, (key, offset, _) in PLACEHOLDERS.items()
        if key in numbers
    }
    return pattern.format_map(values | dict(texts or {}))


def shared_steps(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return the steps that all paths begin with.

    Example:
        >>> shared_steps([["layer1", "0", "conv1"], ["layer1", "0", "bn1"]])
        ['layer1', '0']
    """
    alike = takewhile(lambda steps: len(set(steps)) == 1, zip(*paths, strict=False))  # up to the end of the shortest
    return [steps[0] for steps in alike]
