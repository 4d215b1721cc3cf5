"""The choice of the one network that is read of a source, and the account of everything else in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from weights_convert.dialects import DIALECTS
from weights_convert.errors import listed
from weights_convert.recognition.account import Account
from weights_convert.recognition.beside import AVERAGED_WEIGHTS, LAST_WEIGHTS
from weights_convert.recognition.choice import Choice
from weights_convert.recognition.heads import linear_rules, with_head, without_head
from weights_convert.recognition.subtrees import (
    Subtree,
    find_subtrees,
    nearest,
    subtree,
    unclear_dialect,
    whole_networks,
)
from weights_convert.shapes import Shape

AVERAGED_IGNORED = "averaged weights; --averaged (averaged=True) reads them"
LAST_IGNORED = "the last weights"
ON_REQUEST = "left out on request"
LISTED = 8
"""The number of networks that a message lists."""


@dataclass(frozen=True)
class Selection:
    """The network that is read of a source.

    Attributes:
        tree: The network, or the nearest reading of what is no whole network; None if there is none.
        dropped: What is left out, by path, each with the reason.
        problems: What is wrong with the names, one line each.
        advice: The option that would accept them; may be empty.
        notes: How the network was found, one line each.
    """

    tree: Subtree | None = None
    dropped: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    advice: str = ""
    notes: tuple[str, ...] = ()


def select(
    names: Collection[str], others: Mapping[str, str], choice: Choice, shapes: Mapping[str, Shape] | None = None
) -> Selection:
    """Choose the network to read, and account for every other name.

    Args:
        names: The names of all arrays of a source.
        others: What else the source holds by name, with the type of each.
        choice: The user's choices.
        shapes: The shape of each array, so that an advice takes no other layer for the classifier.

    Example:
        >>> from impls.config import ResNetConfig
        >>> from weights_convert.shapes import expected_shapes
        >>> names = [f"net.{name}" for name in expected_shapes(ResNetConfig())]
        >>> select([*names, "optimizer.lr"], {}, Choice()).dropped
        {'optimizer': 'the state of the optimizer'}
    """
    dropped: dict[str, str] = {}
    problems: list[str] = []
    remaining = _without_dropped(list(names), others, choice.drop, dropped, problems)
    left = [name for name in remaining if name not in others]
    if choice.entry is None:
        left = _without_other_weights(left, choice.averaged, dropped, problems)
    trees, base = _in_entry(_trees(left, choice), choice.entry, problems)
    networks = whole_networks(trees)
    if len(networks) > 1:
        return _several(networks, dropped, problems)
    best = networks or nearest(trees) or (trees[:1] if choice.dialect else [])
    if len(best) > 1 or (not best and choice.dialect is None):
        unclear = unclear_dialect(names, best)
        return Selection(None, dropped, tuple(problems) or (unclear,))
    tree = best[0] if best else Subtree(choice.dialect or DIALECTS["canonical"])
    if choice.head is not None and tree.head is None:
        leaves = " and ".join(map(repr, linear_rules(tree.dialect)))
        problems.append(f"it holds no linear layer {choice.head!r}, with the arrays {leaves} and no others")
    account = Account(tree, base, dropped, problems, shapes or {})
    if choice.drop_head:
        account.leave_out(without_head(subtree(tree.dialect, left, tree.outer, tree.inner), left)[1], ON_REQUEST)
    account.arrays(left)
    account.others({name: kind for name, kind in others.items() if name in remaining})
    return Selection(tree, dropped, tuple(problems), account.advice(), _notes(tree))


def _trees(names: Collection[str], choice: Choice) -> list[Subtree]:
    """Return every subtree in the dialects in question, each with the classifier that is wanted."""
    dialects = [choice.dialect] if choice.dialect else list(DIALECTS.values())
    if choice.at_top:
        return [subtree(dialect, names) for dialect in dialects]
    trees = find_subtrees(names, dialects)
    if choice.drop_head:
        return [without_head(tree, names)[0] for tree in trees]
    return [with_head(tree, names, choice.head) for tree in trees]


def _without_dropped(
    names: list[str], others: Mapping[str, str], drop: Sequence[str], dropped: dict[str, str], problems: list[str]
) -> list[str]:
    """Return the names, those of other values too, that the user does not want to be left out."""
    remaining = [*names, *others]
    for path in drop:
        # A path counts from the top; if nothing lies there, from any level.
        below = [name for name in remaining if f"{name}.".startswith(f"{path}.")]
        below = below or [name for name in remaining if f".{path}." in f".{name}."]
        if below:
            dropped[path] = ON_REQUEST
        else:
            problems.append(f"it holds nothing of the name {path!r} that could be dropped")
        taken = set(below)
        remaining = [name for name in remaining if name not in taken]
    return remaining


def _without_other_weights(names: list[str], averaged: bool, dropped: dict[str, str], problems: list[str]) -> list[str]:
    """Return the names without the averaged weights of a training checkpoint, or without the last ones."""
    tops = dict.fromkeys(name.partition(".")[0] for name in names if "." in name)
    last, average = ([top for top in tops if top in known] for known in (LAST_WEIGHTS, AVERAGED_WEIGHTS))
    if averaged and not average:
        problems.append(f"it holds no averaged weights ({' or '.join(AVERAGED_WEIGHTS)})")
    if not (last and average):
        return names
    ignored, reason = (last, LAST_IGNORED) if averaged else (average, AVERAGED_IGNORED)
    dropped.update(dict.fromkeys(ignored, reason))
    return [name for name in names if name.partition(".")[0] not in ignored]


def _in_entry(trees: list[Subtree], entry: str | None, problems: list[str]) -> tuple[list[Subtree], str | None]:
    """Return the subtrees at or below the entry that the user named, and the path that this name stands for.

    A name counts from the top, then as the end of a path, then anywhere in a path.
    """
    if entry is None:
        return trees, None
    ranked: dict[int, list[tuple[Subtree, str]]] = {}
    for tree in sorted(trees, key=lambda tree: not tree.is_whole):
        for path in (tree.entry, tree.path):
            if (at := f".{path}.".rfind(f".{entry}.")) >= 0:
                base = path[: at + len(entry)]
                rank = 2 * (base != path) + (at > 0) + 4 * (not tree.is_whole)
                ranked.setdefault(rank, []).append((tree, base))
    if not ranked:
        known = [repr(tree.entry) for tree in whole_networks(trees) if tree.entry]
        places = f"; it holds networks at {', '.join(known[:LISTED])}" if known else ""
        problems.append(f"it holds no network at {entry!r}{places}")
        return [], None
    best = ranked[min(ranked)]
    return [tree for tree, _ in best], best[0][1]


def _several(networks: Sequence[Subtree], dropped: Mapping[str, str], problems: Sequence[str]) -> Selection:
    """Return the refusal to choose among several networks."""
    if len({frozenset(tree.readings) for tree in networks}) == 1:
        return Selection(None, dropped, (*problems, unclear_dialect(networks[0].readings, networks)))
    places = [tree.entry or "the top" for tree in networks]
    described = [f"{place!r} ({tree.dialect.name})" for place, tree in zip(places, networks, strict=True)]
    problem = f"it holds {len(networks)} networks: {listed(described, LISTED)}"
    options = " or ".join(f"--entry {tree.entry}" for tree in networks[:LISTED] if tree.entry)
    return Selection(None, dropped, (*problems, problem), f"Say which one to read: {options} (in Python, entry=...).")


def _notes(tree: Subtree) -> tuple[str, ...]:
    """Return how the network was found."""
    notes = [f"its names begin with {tree.entry!r}"] if tree.entry else []
    return (*notes, *([f"its classifier is {tree.head!r}"] if tree.head else []))
