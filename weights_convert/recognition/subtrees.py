"""The places in a tree of arrays where a network may begin.

Each dialect has a name for the first convolution and norm. Wherever such a name occurs, whatever stands before it may
be the prefix of a network; the names behind that prefix tell whether they are a whole one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

from impls.config import ResNetConfig
from weights_convert.dialects import DIALECTS
from weights_convert.naming import Dialect, Reading, Topology
from weights_convert.shapes import expected_shapes, has_conv_bias

ANCHORS = ("conv1.weight", "bn1.weight", "bn1.running_mean")
"""The arrays, by canonical name, that tell where a network begins. One would do; damaged files may lack it."""


@dataclass(frozen=True)
class Subtree:
    """The arrays behind a prefix, read in one dialect.

    Attributes:
        dialect: The dialect.
        outer: The prefix, with its last dot, or empty.
        inner: In a dialect with collections ("params."), the prefix behind the collection.
        names: The name in the dialect, without the prefix, of every array behind the prefix, by its name in the source.
        readings: The canonical name and rule of each array that the dialect knows, by its name in the source.
        head: The path in the source of a classifier that is not where the dialect has it; None if it is there.
    """

    dialect: Dialect
    outer: str = ""
    inner: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    readings: Mapping[str, Reading] = field(default_factory=dict)
    head: str | None = None

    @property
    def entry(self) -> str:
        """The dotted path of the prefix; empty if there is none.

        Example:
            >>> Subtree(DIALECTS["torchvision"], "module.encoder_q.").entry
            'module.encoder_q'
        """
        return (self.outer + self.inner).removesuffix(".")

    @property
    def path(self) -> str:
        """The dotted path of the parameters, which in some dialects are a collection ("model.params.backbone")."""
        return (self.outer + self.dialect.collections[0] + self.inner).removesuffix(".")

    @property
    def levels(self) -> list[str]:
        """The prefixes of the level of the network and of every level above it, each with its last dot.

        Example:
            >>> Subtree(DIALECTS["torchvision"], "module.encoder_q.").levels
            ['module.encoder_q.', 'module.', '']
        """
        steps = self.path.split(".") if self.path else []
        return [".".join([*steps[:end], ""]) for end in range(len(steps), -1, -1)]

    @cached_property
    def canonical(self) -> dict[str, str]:
        """The canonical name of each array that the dialect knows, by its name in the source."""
        return {source: canonical for source, (canonical, _) in self.readings.items()}

    @cached_property
    def is_whole(self) -> bool:
        """Tell whether the known names are exactly those of a network, with or without a classifier."""
        names = set(self.canonical.values())
        depths = Topology.from_names(names).depths
        if len(names) < len(self.canonical) or min(depths) < 1 or sum(depths) > len(names):
            return False
        classes = int(not names.isdisjoint(("fc.weight", "fc.bias")))
        config = ResNetConfig(depths=depths, width=1, num_classes=classes, conv_bias=has_conv_bias(names))
        return expected_shapes(config).keys() == names

    def spelled(self) -> dict[str, str]:
        """Return the name in the dialect of each array that it knows, by its name in the source.

        In some dialects, the classifier decides how other names are spelled. If it lies elsewhere or was left out, all
        names are written anew.
        """
        if self.head is None:
            return {source: self.names[source] for source in self.readings}
        written = self.dialect.write_names(self.canonical.values())
        return {source: written[canonical][0] for source, canonical in self.canonical.items()}


def subtree(dialect: Dialect, names: Iterable[str], outer: str = "", inner: str = "") -> Subtree:
    """Return the arrays behind a prefix, read in a dialect.

    Example:
        >>> found = subtree(DIALECTS["flax-linen"], ["model.params.body.bn_init.bias"], "model.", "body.")
        >>> found.canonical
        {'model.params.body.bn_init.bias': 'bn1.bias'}
    """
    behind = {}
    for name in names:
        if name.startswith(outer) and (rest := _without_inner(name.removeprefix(outer), dialect, inner)) is not None:
            behind[name] = rest
    known = dialect.read_names(behind.values())
    readings = {source: known[name] for source, name in behind.items() if name in known}
    return Subtree(dialect, outer, inner, behind, readings)


def _without_inner(name: str, dialect: Dialect, inner: str) -> str | None:
    """Return a name without the prefix behind its collection; None if it does not have that prefix."""
    if not inner:
        return name
    collection = next((c for c in dialect.collections if name.startswith(c + inner)), None)
    return None if collection is None else collection + name.removeprefix(collection + inner)


def find_subtrees(names: Collection[str], dialects: Iterable[Dialect]) -> list[Subtree]:
    """Return the arrays behind every prefix at which a network may begin, in every dialect, also behind none.

    Example:
        >>> found = find_subtrees(["net.conv1.weight", "net.bn1.weight"], [DIALECTS["torchvision"]])
        >>> [(tree.entry, len(tree.readings)) for tree in found]
        [('', 0), ('net', 2)]
    """
    return [
        subtree(dialect, names, outer, inner)
        for dialect in dialects
        for outer, inner in sorted({("", ""), *_prefixes(names, dialect)}, key=lambda pair: (len("".join(pair)), pair))
    ]


def _prefixes(names: Iterable[str], dialect: Dialect) -> Iterator[tuple[str, str]]:
    """Yield what stands before each anchor: before and behind the collection, if the dialect has collections."""
    endings = _endings(dialect)
    for name in names:
        for ending, collection in endings:
            if name != ending and not name.endswith(f".{ending}"):
                continue
            before = name.removesuffix(ending)
            if not collection:
                yield before, ""
            for match in re.finditer(rf"(?:^|(?<=\.)){re.escape(collection)}", before) if collection else ():
                yield before[: match.start()], before[match.end() :]


@cache
def _endings_of(name: str) -> tuple[tuple[str, str], ...]:
    dialect = DIALECTS[name]
    endings = []
    for canonical in ANCHORS:
        for headless in (False, True):
            spelled, _ = dialect.write_name(canonical, Topology(headless=headless))
            collection = next((c for c in dialect.collections if c and spelled.startswith(c)), "")
            endings.append((spelled.removeprefix(collection), collection))
    return tuple(dict.fromkeys(endings))


def _endings(dialect: Dialect) -> tuple[tuple[str, str], ...]:
    """Return the dialect's names of the anchors, without their collections, and the collections."""
    return _endings_of(dialect.name)


def whole_networks(subtrees: Iterable[Subtree]) -> list[Subtree]:
    """Return the whole networks among subtrees, without those whose arrays are all part of a larger one.

    A network without a classifier is not whole where its dialect reads a part of one beside it. Two readings of the
    same arrays under the same canonical names are one network; the first is returned.
    """
    trees = list(subtrees)
    whole = [tree for tree in trees if tree.is_whole and not any(has_more_of(tree, other) for other in trees)]
    kept: list[Subtree] = []
    for tree in whole:
        is_part = any(tree.readings.keys() < other.readings.keys() for other in whole)
        if not is_part and all(tree.canonical != other.canonical for other in kept):
            kept.append(tree)
    return kept


def has_more_of(tree: Subtree, other: Subtree) -> bool:
    """Tell whether another subtree is the same network in the same dialect, with a classifier's arrays beside it."""
    if other.dialect is not tree.dialect or len(other.canonical) <= len(tree.canonical):
        return False
    more = dict(other.canonical.items() - tree.canonical.items())
    return tree.canonical.items() < other.canonical.items() and all(name.startswith("fc.") for name in more.values())


def nearest(subtrees: Iterable[Subtree]) -> list[Subtree]:
    """Return the subtrees with the most names that their dialects know; of one dialect, the one of the shortest prefix.

    The list is empty if no dialect knows the name of a block. Those of the stem and the classifier occur in other
    networks too.
    """
    trees = [tree for tree in subtrees if any(name.startswith("stage") for name in tree.canonical.values())]
    most = max((len(tree.readings) for tree in trees), default=0)
    best: dict[str, Subtree] = {}
    for tree in trees:
        if len(tree.readings) == most:
            best.setdefault(tree.dialect.name, tree)
    return list(best.values())


def recognise_dialect(names: Mapping[str, object]) -> Dialect:
    """Return the dialect in which names are a whole network or, if they are not one, that knows the most of them.

    Raises:
        ValueError: If no dialect knows any name, or several know equally many.

    Example:
        >>> recognise_dialect({"layer1.0.conv1.weight": None, "conv1.weight": None}).name
        'torchvision'
    """
    trees = find_subtrees(list(names), DIALECTS.values())
    best = whole_networks(trees) or nearest(trees)
    dialects = list(dict.fromkeys(tree.dialect.name for tree in best))
    if len(dialects) != 1:
        raise ValueError(unclear_dialect(names, best))
    return DIALECTS[dialects[0]]


def unclear_dialect(names: Iterable[str], trees: Collection[Subtree]) -> str:
    """Return the problem that names belong to no dialect, or to several alike."""
    examples = ", ".join(sorted(map(repr, names))[:4]) or "it is empty"
    dialects = list(dict.fromkeys(tree.dialect.name for tree in trees))
    if not dialects:
        return f"its names belong to no known dialect ({examples})"
    alike = f"its names belong to {' and '.join(dialects)} alike"
    if any(tree.is_whole for tree in trees):
        return f"{alike} ({examples}); give the dialect (--from or dialect=...)"
    return f"{alike}, and are a whole network in none ({examples}); --from (dialect=...) lists what each lacks"
