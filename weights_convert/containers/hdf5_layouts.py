"""The places of a network's arrays in Keras 3's HDF5 files.

Keras 3 numbers the layers of a functional model by class ("layers/conv2d_3/vars/0"), names those of other models by
attribute, and numbers the variables of a layer from 0. This module maps the dotted names of a dialect to those places
and back. It follows files that Keras 3.15 and Keras Hub 0.32 wrote.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from impls.config import ResNetConfig
from weights_convert.dialects import DIALECTS
from weights_convert.naming import Dialect, Reading, Topology
from weights_convert.shapes import Shape, expected_shapes
from weights_convert.table import Kind, Rule

VARIABLES: dict[Kind, tuple[str, ...]] = {
    "conv": ("kernel", "bias"),
    "norm": ("gamma", "beta", "moving_mean", "moving_variance"),
    "linear": ("kernel", "bias"),
}
"""The variables of a layer, in the order in which Keras numbers them."""

NAMES_BY_COUNT = {1: VARIABLES["conv"], 2: VARIABLES["conv"], 4: VARIABLES["norm"]}
"""The names of a layer's variables, by their number: a norm has four, any other layer one or two."""

CLASSES: dict[Kind, str] = {"conv": "conv2d", "norm": "batch_normalization", "linear": "dense"}
"""Keras's names for the kinds of layers."""

FUNCTIONAL_LAYER = re.compile(r"((?:layers/[^/]+/)*)layers/(conv2d|batch_normalization|dense)(?:_(\d+))?")
"""The group of a layer of a functional model, which may be nested in others."""

UNNAMED_MODEL = "layers/res_net_backbone/"
"""The group of a nested model whose layers have no prefix: Keras Hub's, under its classifier."""

BOTTLENECK_LAYER = re.compile(r"layers/bottleneck(?:_(\d+))?/(\w+)")
"""The group of a layer in a block of impls.keras, whose blocks are counted through all stages."""

FUNCTIONAL_ORDER = ("conv1", "bn1", "conv2", "bn2", "downsample_conv", "conv3", "downsample_bn", "bn3")
"""The layers of a block in the order of a functional model, which is that of their distance from the output."""

PREFIXES = {
    "keras.applications": ("layers/", "layers/", "layers/"),
    "keras-hub": ("layers/res_net_backbone/layers/", "layers/", "layers/"),
}
"""The prefixes of groups in a functional model: body with a head, body without one, and head."""


@dataclass(frozen=True)
class Place:
    """The place of one array in a file.

    Attributes:
        group: Path of the group of its layer.
        index: Its number among the variables of the layer.
        layer: The name of the layer, which Keras stores beside the variables.
    """

    group: str
    index: int
    layer: str


def places(dialect: Dialect, names: Iterable[str]) -> dict[str, Place]:
    """Return the place of every array of a network in a `.weights.h5` file, in the order of Keras's layers.

    Args:
        dialect: keras, keras.applications or keras-hub.
        names: The names of all arrays in that dialect.

    Raises:
        KeyError: If the dialect is another one.
    """
    readings = dialect.read_names(names)
    topology = Topology.from_names(canonical for canonical, _ in readings.values())
    groups: dict[str, str] = {}
    counts: dict[Kind, int] = {"conv": 0, "norm": 0, "linear": 0}
    result = {}
    for name in in_model_order(readings):
        canonical, rule = readings[name]
        path, layer = canonical.rpartition(".")[0], name.rpartition(".")[0]
        if path not in groups:
            if dialect.name == "keras":
                groups[path] = bottleneck_group(path, topology)
            else:
                groups[path] = _functional_group(dialect, rule.kind, counts[rule.kind], topology)
            counts[rule.kind] += 1
        result[name] = Place(groups[path], _variable_index(rule), layer)
    return result


def _functional_group(dialect: Dialect, kind: Kind, number: int, topology: Topology) -> str:
    with_head, headless, head = PREFIXES[dialect.name]
    body = headless if topology.headless else with_head
    return f"{head if kind == 'linear' else body}{_numbered(CLASSES[kind], number)}"


def _variable_index(rule: Rule) -> int:
    return VARIABLES[rule.kind].index(rule.leaf("keras").name)


def in_model_order(readings: Mapping[str, Reading]) -> list[str]:
    """Return the names of a network's arrays in the order of a functional model's layers.

    Example:
        >>> names = DIALECTS["keras-hub"].read_names(["conv1_bn.gamma", "conv1_conv.kernel"])
        >>> in_model_order(names)
        ['conv1_conv.kernel', 'conv1_bn.gamma']
    """

    def key(name: str) -> tuple[int, ...]:
        canonical, rule = readings[name]
        *block, layer, _ = canonical.split(".")
        if layer == "fc":
            return 5, 0, 0, _variable_index(rule)
        stage, number = (int(block[0][-1]), int(block[1])) if block else (0, 0)
        return stage, number, FUNCTIONAL_ORDER.index(layer), _variable_index(rule)

    return sorted(readings, key=key)


def bottleneck_group(path: str, topology: Topology) -> str:
    """Return the group of a layer of impls.keras.

    Example:
        >>> bottleneck_group("stage2.0.conv1", Topology())
        'layers/bottleneck_3/conv1'
    """
    if (match := re.fullmatch(r"stage(\d)\.(\d+)\.(\w+)", path)) is None:
        return path
    return f"layers/{_numbered('bottleneck', topology.flat(int(match[1]), int(match[2])))}/{match[3]}"


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def attribute_paths(groups: Collection[str]) -> dict[str, str]:
    """Return the attribute path of each layer of an impls.keras model, by its group: the inverse of `bottleneck_group`.

    Example:
        >>> attribute_paths(["conv1", "layers/bottleneck/downsample_conv"])
        {'conv1': 'conv1', 'layers/bottleneck/downsample_conv': 'stage1.0.downsample_conv'}
    """
    layers = {group: (int(match[1] or 0), match[2]) for group in groups if (match := BOTTLENECK_LAYER.fullmatch(group))}
    projecting = {number for number, layer in layers.values() if layer == "downsample_conv"}
    topology = Topology.from_flat_blocks({number for number, _ in layers.values()}, projecting)
    paths = {group: group.replace("/", ".") for group in groups}
    for group, (number, layer) in layers.items():
        paths[group] = "stage{stage}.{block}.{layer}".format(layer=layer, **topology.stage_and_block(number))
    return paths


def functional_names(groups: Mapping[str, Mapping[int, Shape]], stored: Mapping[str, str]) -> dict[str, str]:
    """Return the names of a functional model's layers; those of a model nested in another begin with its path.

    Args:
        groups: For the path of each layer's group, the shapes of its variables by their number.
        stored: The name that the file itself gives to each layer, by its group; empty in files of Keras before 3.6.

    Example:
        >>> functional_names({"layers/functional/layers/conv2d": {}}, {"layers/functional/layers/conv2d": "conv1_conv"})
        {'layers/functional/layers/conv2d': 'functional.conv1_conv'}
    """
    models: dict[str, dict[str, str]] = {}
    for group in groups:
        nested = FUNCTIONAL_LAYER.sub(r"\1", group)
        models.setdefault("" if nested == UNNAMED_MODEL else nested, {})[group] = group.removeprefix(nested)
    names: dict[str, str] = {}
    for nested, layers in models.items():
        prefix = nested.replace("layers/", "").replace("/", ".")
        if stored:
            own = {group: stored.get(group, group.replace("/", ".")) for group in layers}
        else:
            own = _names_by_order({group: groups[group] for group in layers}, layers)
        names |= {group: prefix + name for group, name in own.items()}
    return names


def _names_by_order(groups: Mapping[str, Mapping[int, Shape]], inner: Mapping[str, str]) -> dict[str, str]:
    """Return the names of a model's layers from their order, for files without names (Keras before 3.6).

    Every block has one 3x3 convolution. The next block's is the third convolution after it, or the fourth if the block
    projects its shortcut. This tells the depths, and the depths tell the order of all layers.

    Args:
        groups: For the path of each layer's group, the shapes of its variables by their number.
        inner: The path of each group within its model.

    Returns:
        For each group, the name that keras.applications (if convolutions have biases) or Keras Hub gives the layer.
    """
    layers = {group: match.group(2, 3) for group in groups if (match := FUNCTIONAL_LAYER.fullmatch(group))}
    convolutions = sorted((int(number or 0), group) for group, (kind, number) in layers.items() if kind == "conv2d")
    wide = [at for at, (_, group) in enumerate(convolutions) if groups[group].get(0, ())[:2] == (3, 3)]
    projecting = [
        block for block, (at, after) in enumerate(pairwise([*wide, len(convolutions) + 1])) if after - at == 4
    ]
    depths = Topology.from_flat_blocks(range(len(wide)), projecting).depths
    names = {group: path.replace("/", ".") for group, path in inner.items()}
    if len(depths) != 4 or projecting[0] != 0:
        return names  # not a network of this project; the names will have no rule
    biased = any(len(groups[group]) == 2 for _, group in convolutions)
    dialect = DIALECTS["keras.applications" if biased else "keras-hub"]
    written = dialect.write_names(expected_shapes(ResNetConfig(depths=depths, conv_bias=biased))).values()
    by_key = {}
    for place in places(dialect, [name for name, _ in written]).values():
        if match := FUNCTIONAL_LAYER.fullmatch(place.group):
            by_key[match.group(2, 3)] = place.layer
    return names | {group: by_key[key] for group, key in layers.items() if key in by_key}
