"""The classifier of a network, where libraries and users spell it otherwise than the dialect does."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from weights_convert.dialects import DIALECTS
from weights_convert.naming import Dialect, Reading
from weights_convert.recognition.beside import known_beside
from weights_convert.recognition.subtrees import Subtree
from weights_convert.table import RULES, Framework, Rule

SPELLINGS: dict[str, str] = {
    "fc.0": "an nn.Sequential in place of the layer, as fine-tuning recipes write it",
    "fc.1": "nn.Sequential(nn.Dropout(...), nn.Linear(...)) in place of the layer, as fine-tuning recipes write it",
    "head": "a network whose classifier was renamed",
    "head.fc": "mmpretrain's LinearClsHead, timm's ClassifierHead",
    "classifier": "a network whose classifier was renamed",
    "classifier.1": "nn.Sequential(nn.Dropout(...), nn.Linear(...)) as a classifier",
}
"""The paths at which a classifier is looked for, beside the dialect's own, each with who writes it so.

A path counts only if it holds the arrays of one linear layer and nothing else does. Layers without arrays may stand
beside it in a Sequential, and are not seen: a dropout does nothing in inference, and a softmax would.
"""

BACKBONE_HEADS: dict[str, tuple[str, str]] = {
    "backbone.": ("head.fc", "mmpretrain's ImageClassifier: backbone and head.fc"),
}
"""Paths of classifiers, and their libraries, by the prefix that ends a library's name of its backbone."""

HEAD_NAMES = ("fc", "head", "classifier", "predictions", "Dense_0", "linear")
"""The names under which a classifier of any kind is looked for when it is to be left out."""


def linear_rules(dialect: Dialect) -> dict[str, Rule]:
    """Return the rows of a linear layer by the leaf names of the dialect's framework.

    Example:
        >>> from weights_convert.dialects import DIALECTS
        >>> list(linear_rules(DIALECTS["torchvision"]))
        ['weight', 'bias']
    """
    return {rule.leaf(dialect.framework).name: rule for rule in RULES if rule.kind == "linear"}


def with_head(tree: Subtree, names: Collection[str], head: str | None) -> Subtree:
    """Return a subtree with the classifier at a path that the user gave, or at one of the known spellings.

    Args:
        tree: A subtree.
        names: All names of the source.
        head: The path of the classifier, from the top of the source or from any level above the network; None looks for
            a known spelling, if the network has no classifier.
    """
    if head is None and any(canonical.startswith("fc.") for canonical in tree.canonical.values()):
        return tree
    if head is not None:
        found = [path for path in _given(tree, head, names) if _readings(tree.dialect, path, names)][:1]
    else:
        found = list(dict.fromkeys(path for path in _known(tree, names) if _readings(tree.dialect, path, names)))
    if len(found) != 1:
        return tree
    path = found[0]
    kept = {name: reading for name, reading in tree.readings.items() if not reading[0].startswith("fc.")}
    return replace(tree, readings=kept | _readings(tree.dialect, path, names), head=path)


def without_head(tree: Subtree, names: Collection[str]) -> tuple[Subtree, list[str]]:
    """Return a subtree without its classifier, and the names that were left out, whatever the classifier is made of."""
    own = [name for name, canonical in tree.canonical.items() if canonical.startswith("fc.")]
    starts = [f"{place}{head}." for head in HEAD_NAMES for place in tree.levels[:1]]
    starts += [f"{above}{head}." for end, (head, _) in BACKBONE_HEADS.items() for above in _above(tree, end)]
    other = [name for name in names if name not in tree.readings and name.startswith(tuple(starts))]
    kept = {name: reading for name, reading in tree.readings.items() if name not in own}
    return replace(tree, readings=kept, head=""), own + other


def _readings(dialect: Dialect, path: str, names: Collection[str]) -> dict[str, Reading]:
    """Return the readings of a classifier at a path; empty if the path does not hold exactly a linear layer."""
    rules = linear_rules(dialect)
    below = {name for name in names if name.startswith(f"{path}.")}
    if below != {f"{path}.{leaf}" for leaf in rules}:
        return {}
    return {f"{path}.{leaf}": (f"fc.{rule.leaf('torch').name}", rule) for leaf, rule in rules.items()}


def _known(tree: Subtree, names: Collection[str]) -> Iterator[str]:
    """Yield the paths of known spellings. Whatever else lies in the same Sequential or head rules them out."""
    paths = [(place, head) for place in tree.levels[:1] for head in SPELLINGS]
    paths += [(above, head) for end, (head, _) in BACKBONE_HEADS.items() for above in _above(tree, end)]
    for place, head in paths:
        group = f"{place}{head.partition('.')[0]}."
        if all(name.startswith(f"{place}{head}.") for name in names if name.startswith(group)):
            yield place + head


def _given(tree: Subtree, head: str, names: Collection[str]) -> Iterator[str]:
    """Yield the paths that a user's word may mean: from the top, from a level above the network, or the end of one."""
    yield head
    yield from (place + head for place in tree.levels)
    ending = {name.rpartition(".")[0] for name in names if f".{name.rpartition('.')[0]}".endswith(f".{head}")}
    if len(ending) == 1:
        yield from ending


def _above(tree: Subtree, end: str) -> list[str]:
    """Return the level above a prefix, if it has the given end."""
    prefix = tree.outer
    return [prefix.removesuffix(end)] if f".{prefix}".endswith(f".{end}") else []


def linear_layers(groups: Mapping[str, int], dialect: Dialect, names: Collection[str]) -> list[str]:
    """Return the paths among groups of names that hold one linear layer and nothing else."""
    return [path for path in groups if _readings(dialect, path, names)]


def only_linear_layer(names: Collection[str]) -> tuple[Framework, dict[str, Reading]] | None:
    """Return the framework and the readings of a source that holds one linear layer, as linear probes are saved.

    Returns:
        The framework of its axes, and the canonical name and rule of each array by its name; None if there is anything
        else that training does not keep beside a network.

    Example:
        >>> only_linear_layer(["state_dict.linear.weight", "state_dict.linear.bias", "optimizer.lr"])[0]
        'torch'
        >>> only_linear_layer(["conv1.weight", "fc.weight", "fc.bias"])
    """
    for framework in ("torch", "flax"):  # Keras's names and axes are those of Flax
        dialect = DIALECTS["canonical" if framework == "torch" else "flax"]
        for path in {name.rpartition(".")[0] for name in names}:
            prefix = f"{path}." if path else ""
            readings = {
                f"{prefix}{leaf}": (f"fc.{rule.leaf('torch').name}", rule)
                for leaf, rule in linear_rules(dialect).items()
            }
            rest = [name for name in names if name not in readings and not known_beside(name, path)]
            if readings.keys() <= set(names) and not rest:
                return dialect.framework, readings
    return None
