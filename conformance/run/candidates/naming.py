"""Naming: which array of a model is which array of the network.

The dialects of `weights_convert` are tried first. A model with names of its own is described by a TOML file of path
patterns, which reads like a dialect::

    [layers]
    conv1 = "stem.conv"
    bn1 = "stem.norm"
    "stage{stage}.{block}.conv{k}" = "body.{stage0}.{block}.conv{k0}"
    "stage{stage}.{block}.bn{k}" = "body.{stage0}.{block}.norm{k0}"
    "stage{stage}.{block}.downsample_conv" = "body.{stage0}.{block}.project.conv"
    "stage{stage}.{block}.downsample_bn" = "body.{stage0}.{block}.project.norm"
    fc = "classifier"
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from impls.config import ResNetConfig
from weights_convert.dialects import BATCH_COUNTER, DIALECTS
from weights_convert.naming import CANONICAL_LAYERS, FLAT, LAYER_KINDS, PLACEHOLDERS, Dialect
from weights_convert.shapes import Shape, infer_sizes
from weights_convert.table import Framework, Rule, reorder, reorder_shape

SHARE_OF_PREFIX = 0.5
"""A prefix is looked for among those that at least this share of all names begins with."""

LINEN = ("params.", "batch_stats.")
"""Beginnings of the names of a Linen module's parameters and running statistics."""

NO_COLLECTIONS = ("", "")
"""Beginnings of the names of every other model: none."""

LEAST_SHARE = 0.5
"""A naming in which less than this share of a model's arrays is found is not that model's."""


FOLDED = "its norms are folded into its convolutions, so that it keeps its weights and shows no layers"
"""Message about a model that has no norms."""


class NamingError(ValueError):
    """Names that no dialect reads, or a file of patterns that does not describe them; the message says what to do."""


@dataclass(frozen=True)
class Naming:
    """Names of a model's arrays, read.

    Attributes:
        dialect: Name of the dialect, or of the file of patterns.
        framework: The framework whose column of the conversion table the arrays follow.
        arrays: The model's name of each array to its canonical name and its row of the conversion table.
        unread: Names that no rule reads, and that are not left out on purpose.
        prefix: What all names begin with that is no part of the dialect.
        collections: Beginnings of names that are no part of a layer's path ("params.").
    """

    dialect: str
    framework: Framework
    arrays: Mapping[str, tuple[str, Rule]]
    unread: tuple[str, ...] = ()
    prefix: str = ""
    collections: tuple[str, ...] = ()

    @property
    def is_folded(self) -> bool:
        """Tell a model that has no norms: they are folded into the convolutions before them."""
        return not any("bn" in canonical for canonical, _ in self.arrays.values())

    def shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Return the canonical name and shape of every array; one that is not read, or has other axes, as it is."""
        canonical: dict[str, Shape] = {}
        for name, (canonical_name, rule) in self.arrays.items():
            shape, fits = tuple(shapes[name]), len(shapes[name]) == len(rule.leaf(self.framework).axes)
            canonical[canonical_name] = reorder_shape(shape, rule, self.framework, "torch") if fits else shape
        return canonical | {name: tuple(shapes[name]) for name in self.unread}

    def canonical_names(self) -> dict[str, str]:
        """Return the canonical name of each array by the model's name."""
        return {name: canonical for name, (canonical, _) in self.arrays.items()}

    def layers(self) -> dict[str, str]:
        """Return the model's path of each layer by canonical name."""
        known = self.canonical_names()
        return {known[name].rpartition(".")[0]: self.path_of(name) for name in known}

    def path_of(self, name: str) -> str:
        """Return the path of the layer that has an array."""
        return split_collection(name, self.collections)[1].rpartition(".")[0]

    def from_canonical(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return a canonical array in the axis order of the model's array of that name."""
        return np.ascontiguousarray(reorder(array, self.arrays[name][1], "torch", self.framework))

    def to_canonical(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return the model's array of that name in canonical axis order."""
        return np.ascontiguousarray(reorder(array, self.arrays[name][1], self.framework, "torch"))

    def config(self, shapes: Mapping[str, Shape], variant: ResNetConfig) -> ResNetConfig:
        """Return the network of a variant with depths, width, classes and input channels of the model.

        Raises:
            NamingError: If the arrays are not those of a bottleneck ResNet.
        """
        try:
            return infer_sizes(self.shapes(shapes), variant)
        except (ValueError, IndexError) as error:
            raise NamingError(f"its arrays, read as {self.dialect}, are {error}") from error


def read_names(names: Iterable[str], framework: Framework, patterns: Path | None = None) -> Naming:
    """Recognise the names of a model's arrays.

    Args:
        names: Name of every array of the model.
        framework: The framework that names and orders the arrays of its layers.
        patterns: A file of path patterns; None recognises a dialect.

    Raises:
        NamingError: If no dialect fits or several do, or if the file is none or does not describe the model one to one.

    Example:
        >>> naming = read_names(["module.layer1.0.conv1.weight", "module.conv1.weight"], "torch")
        >>> naming.dialect, naming.prefix, naming.canonical_names()["module.layer1.0.conv1.weight"]
        ('torchvision', 'module.', 'stage1.0.conv1.weight')
    """
    names = list(names)
    if patterns is not None:
        naming = read_as(names, pattern_dialect(patterns, framework, collections_of(names)), "")
        return check_one_to_one(naming, patterns)
    dialects = spellings(framework, collections_of(names))
    namings = [read_as(names, dialect, prefix) for prefix in prefixes(names) for dialect in dialects]
    most = max((len(naming.arrays) for naming in namings), default=0)
    best = [naming for naming in namings if len(naming.arrays) == most]
    if most < LEAST_SHARE * len(names) or len(best) != 1:
        reason = (
            "belong to no known dialect" if len(best) != 1 or not most else f"are hardly those of {best[0].dialect}"
        )
        raise NamingError(
            f"the names of its arrays {reason} ({', '.join(sorted(names)[:4]) or 'there are none'}): describe them in "
            "a TOML file of path patterns, and give it by --names (docs/your-own-model.md shows one)"
        )
    return best[0]


def spellings(framework: Framework, collections: tuple[str, str] = NO_COLLECTIONS) -> list[Dialect]:
    """List the dialects of a framework, and those of others as a model of the framework would spell them.

    A port often keeps the names of the layers that it was ported from, and calls their arrays as its framework does.

    Args:
        framework: The framework.
        collections: What names begin with that is no part of a layer's path.

    Example:
        >>> [dialect.name for dialect in spellings("flax")][:4]
        ['flax', 'transformers-flax', 'flax-linen', 'torchvision']
    """
    own = [dialect for dialect in DIALECTS.values() if dialect.framework == framework]
    layers = [dialect.layers for dialect in own if dialect.collections == collections]
    for dialect in DIALECTS.values():
        if dialect.layers not in layers:
            layers.append(dialect.layers)
            own.append(replace(dialect, framework=framework, collections=collections))
    return own


def prefixes(names: Iterable[str]) -> list[str]:
    """List the dotted prefixes that many of the names begin with, behind their collections; the empty one first.

    Example:
        >>> prefixes(["model.conv1.weight", "model.fc.weight", "head.bias"])
        ['', 'model.']
        >>> prefixes(["params.model.conv1.kernel", "batch_stats.model.bn1.mean"])
        ['', 'model.']
    """
    names, counts = list(names), Counter[str]()
    collections = collections_of(names)
    for name in names:
        steps = split_collection(name, collections)[1].split(".")[:-2]
        counts.update(".".join(steps[: depth + 1]) + "." for depth in range(len(steps)))
    return ["", *(prefix for prefix, count in counts.items() if count > SHARE_OF_PREFIX * len(names))]


def read_as(names: Iterable[str], dialect: Dialect, prefix: str) -> Naming:
    """Read names as those of a dialect, behind a prefix, which stands behind the collection of a Linen module.

    Of several names of one array (tied weights) the first is read; the others are not.
    """
    split = {name: split_collection(name, dialect.collections) for name in names}
    inside = {name: (collection, path) for name, (collection, path) in split.items() if path.startswith(prefix)}
    shortened = {collection + path.removeprefix(prefix): name for name, (collection, path) in inside.items()}
    shorter = {name: short for short, name in shortened.items()}
    readings, seen = {}, set()
    for short, (canonical, rule) in dialect.read_names(shortened).items():
        if canonical not in seen:
            seen.add(canonical)
            readings[shortened[short]] = canonical, rule
    unread = [n for n in split if n not in readings and dialect.why_dropped(shorter.get(n, n)) is None]
    return Naming(dialect.name, dialect.framework, readings, tuple(unread), prefix, dialect.collections)


def collections_of(names: Iterable[str]) -> tuple[str, str]:
    """Return what the names of a Linen module's parameters, and of its running statistics, begin with; else nothing."""
    return LINEN if any(name.startswith(LINEN[0]) for name in names) else NO_COLLECTIONS


def split_collection(name: str, collections: Iterable[str]) -> tuple[str, str]:
    """Split the beginning of a name that is no part of a layer's path from the rest.

    Example:
        >>> split_collection("params.conv1.kernel", LINEN), split_collection("params.conv1.kernel", NO_COLLECTIONS)
        (('params.', 'conv1.kernel'), ('', 'params.conv1.kernel'))
    """
    collection = next((each for each in collections if each and name.startswith(each)), "")
    return collection, name.removeprefix(collection)


def pattern_dialect(file: Path, framework: Framework, collections: tuple[str, str] = NO_COLLECTIONS) -> Dialect:
    """Read a file of path patterns.

    Raises:
        NamingError: If it cannot be read; see `parse_patterns`.
    """
    try:
        return parse_patterns(file.read_text(), str(file), framework, collections)
    except (OSError, UnicodeDecodeError) as error:
        raise NamingError(f"{file} cannot be read: {error}") from error


def parse_patterns(text: str, file: str, framework: Framework, collections: tuple[str, str]) -> Dialect:
    """Read the text of a file of path patterns.

    Raises:
        NamingError: If it is no TOML, or does not give a path to each layer by the placeholders that there are.
    """
    try:
        contents = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NamingError(f"{file} cannot be read: {error}") from error
    layers, known = contents.get("layers"), {*PLACEHOLDERS, FLAT}
    if contents.keys() != {"layers"} or not isinstance(layers, dict):
        raise NamingError(f"{file} must have one table, [layers]: a path of the model for each of {listed()}")
    problems = [f"{name!r} has no path" for name in CANONICAL_LAYERS if name != "fc" and not is_given(name, layers)]
    problems += [f"{name!r} is no layer of the network" for name in layers if name not in LAYER_KINDS]
    problems += [f"the path of {name!r} is no text" for name, path in layers.items() if not isinstance(path, str)]
    for name, path in layers.items():
        if name in LAYER_KINDS and isinstance(path, str):
            problems += placeholder_problems(name, path, known)
    if problems:
        raise NamingError(f"{file}: {'; '.join(problems)}; the layers are {listed()}")
    return Dialect(file, framework, {"fc": "\0", **layers}, "path patterns", BATCH_COUNTER, collections=collections)


def is_given(name: str, layers: Mapping[str, str]) -> bool:
    """Tell whether patterns hold a layer, those of the three places in a block as one or each for itself."""
    return name in layers or ("{k}" in name and all(name.replace("{k}", k) in layers for k in "123"))


def placeholder_problems(name: str, path: str, known: set[str]) -> list[str]:
    """List what is wrong with the placeholders of a pattern: unknown ones, and numbers that it leaves open."""
    used = re.findall(r"{(\w*)}", path)
    problems = [f"{path!r} has the unknown placeholder {{{each}}}" for each in used if each not in known]
    problems += [f"{path!r} has {{{each}}} twice" for each, count in Counter(used).items() if count > 1]
    told = {PLACEHOLDERS[each][0] for each in used if each in PLACEHOLDERS}
    told |= {"stage", "block"} if FLAT in used else set()
    wanted = {PLACEHOLDERS[each][0] for each in re.findall(r"{(\w+)}", name)}
    if told != wanted:
        problems.append(f"{path!r} must have a placeholder for each of {', '.join(sorted(wanted)) or 'nothing'}")
    return problems


def listed() -> str:
    """List the canonical layers and the placeholders, for messages."""
    return f"{', '.join(CANONICAL_LAYERS)}, and the placeholders {', '.join((*PLACEHOLDERS, FLAT))}"


def check_one_to_one(naming: Naming, file: Path | str) -> Naming:
    """Return the naming if every array of the model is read by it.

    Raises:
        NamingError: If an array is not read: no path leads to it, or two lead to the same.
    """
    if naming.unread:
        shown = ", ".join(naming.unread[:6]) + (", ..." if len(naming.unread) > 6 else "")
        raise NamingError(
            f"{file} describes {len(naming.arrays)} arrays of the model, and none of its paths leads to {shown}"
        )
    return naming
