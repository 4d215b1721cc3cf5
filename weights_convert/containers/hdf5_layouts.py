"""Where Keras puts the arrays of a network inside its HDF5 files.

Keras 3 numbers the layers of a functional model by class ("layers/conv2d_3/vars/0"), those of other models by
attribute, and the variables of a layer from zero. Here is the way from the dotted names of a dialect to those places,
and back. Read off files that Keras 3.15 and Keras Hub 0.32 wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from weights_convert.dialects import DIALECTS
from weights_convert.naming import Dialect, Layout
from weights_convert.table import Kind, Rule

VARIABLES: dict[Kind, tuple[str, ...]] = {
    "conv": ("kernel", "bias"),
    "norm": ("gamma", "beta", "moving_mean", "moving_variance"),
    "linear": ("kernel", "bias"),
}
"""The variables of a layer in the order in which Keras numbers them."""

NAMES_BY_COUNT = {1: VARIABLES["conv"], 2: VARIABLES["conv"], 4: VARIABLES["norm"]}
"""What the variables of a layer are called, by how many it has: a norm has four, no other layer has more than two."""

CLASSES: dict[Kind, str] = {"conv": "conv2d", "norm": "batch_normalization", "linear": "dense"}
FUNCTIONAL = re.compile(r"(?:layers/res_net_backbone/)?layers/(conv2d|batch_normalization|dense)(?:_(\d+))?")
OWN_BLOCK = re.compile(r"layers/bottleneck(?:_(\d+))?/(\w+)")
"""The places of layers: of a functional model, and of a block of impls.keras, whose blocks are counted through."""

PLACES_IN_BLOCK = ("conv1", "bn1", "conv2", "bn2", "downsample_conv", "conv3", "downsample_bn", "bn3")
"""The layers of a block as a functional model lists them: by their distance from the output."""


@dataclass(frozen=True)
class Place:
    """Where one array is.

    Attributes:
        group: Path of its layer's group.
        index: Its number among the layer's variables.
        layer: The layer's name, which Keras 3 writes beside the variables.
    """

    group: str
    index: int
    layer: str


def places(dialect: Dialect, names: Iterable[str]) -> dict[str, Place]:
    """The place of every array of a network in a `.weights.h5` file, in the order in which Keras lists its layers.

    Raises:
        KeyError: If Keras has no such file of that dialect.
    """
    readings = dialect.read_names(names)
    layout = Layout.of(canonical for canonical, _ in readings.values())
    whole, headless, head = PREFIXES[dialect.name]
    body = headless if layout.headless else whole
    numbers: dict[str, dict[Kind, int]] = {}
    counts: dict[Kind, int] = {"conv": 0, "norm": 0, "linear": 0}
    found = {}
    for name in in_model_order(readings):
        canonical, rule = readings[name]
        path, layer = canonical.rpartition(".")[0], name.rpartition(".")[0]
        if path not in numbers:
            numbers[path] = {rule.kind: counts[rule.kind]}
            counts[rule.kind] += 1
        group = (
            own_place(path, layout)
            if dialect.name == "keras"
            else f"{head if rule.kind == 'linear' else body}{_numbered(CLASSES[rule.kind], numbers[path][rule.kind])}"
        )
        found[name] = Place(group, VARIABLES[rule.kind].index(rule.leaf("keras").name), layer)
    return found


PREFIXES = {
    "keras": ("", "", ""),
    "keras.applications": ("layers/", "layers/", "layers/"),
    "keras-hub": ("layers/res_net_backbone/layers/", "layers/", "layers/"),
}
"""What stands before the layers of the body, of a body without head, and of the head."""


def in_model_order(readings: Mapping[str, tuple[str, Rule]]) -> list[str]:
    """The names of a network's arrays in the order of a functional model's layers.

    Example:
        >>> names = DIALECTS["keras-hub"].read_names(["conv1_bn.gamma", "conv1_conv.kernel"])
        >>> in_model_order(names)
        ['conv1_conv.kernel', 'conv1_bn.gamma']
    """

    def key(name: str) -> tuple[int, ...]:
        canonical, rule = readings[name]
        *block, layer, _ = canonical.split(".")
        variable = VARIABLES[rule.kind].index(rule.leaf("keras").name)
        if block:
            return int(block[0][-1]), int(block[1]), PLACES_IN_BLOCK.index(layer), variable
        return {"conv1": 0, "bn1": 0, "fc": 5}[layer], 0, PLACES_IN_BLOCK.index(layer) if layer != "fc" else 0, variable

    return sorted(readings, key=key)


def own_place(path: str, layout: Layout) -> str:
    """The group of a layer of impls.keras.

    Example:
        >>> own_place("stage2.0.conv1", Layout())
        'layers/bottleneck_3/conv1'
    """
    if (match := re.fullmatch(r"stage(\d)\.(\d+)\.(\w+)", path)) is None:
        return path
    return f"layers/{_numbered('bottleneck', layout.flat(int(match[1]), int(match[2])))}/{match[3]}"


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def own_names(groups: Iterable[str]) -> dict[str, str]:
    """Each group of an impls.keras file with its layer's attribute path, the blocks put into their stages.

    Example:
        >>> own_names(["conv1", "layers/bottleneck/downsample_conv", "layers/bottleneck_1/conv1"])
        {'conv1': 'conv1', 'layers/bottleneck/downsample_conv': 'stage1.0.downsample_conv', 'layers/bottleneck_1/conv1': 'stage1.1.conv1'}
    """  # noqa: E501 (a dictionary is one line)
    found = {group: OWN_BLOCK.fullmatch(group) for group in groups}
    numbers = {int(match[1] or 0) for match in found.values() if match}
    starts = {int(match[1] or 0) for match in found.values() if match and match[2] == "downsample_conv"}
    layout = Layout.of_blocks(numbers, starts)
    names = {}
    for group, match in found.items():
        if match is None:
            names[group] = group.replace("/", ".")
        else:
            at = layout.block(int(match[1] or 0))
            names[group] = f"stage{at['stage']}.{at['block']}.{match[2]}"
    return names


def functional_names(groups: Mapping[str, Mapping[int, tuple[int, ...]]]) -> dict[str, str]:
    """The layers' names in a functional model's file that does not say them: Keras wrote none until 3.6.

    They follow from the order of the layers: every block has one 3x3 convolution, and between two of those stand the
    last of one block, the first of the next, and the projection where there is one.

    Args:
        groups: Path of each layer's group, with the shapes of its variables by number.

    Returns:
        Each group with the name that keras.applications, where convolutions have biases, or Keras Hub gives the layer.
    """
    numbered: dict[str, dict[int, str]] = {"conv2d": {}, "batch_normalization": {}, "dense": {}}
    for group in groups:
        if match := FUNCTIONAL.fullmatch(group):
            numbered[match[1]][int(match[2] or 0)] = group
    convolutions = [numbered["conv2d"][number] for number in sorted(numbered["conv2d"])]
    wide = [position for position, group in enumerate(convolutions) if groups[group].get(0, ())[:2] == (3, 3)]
    projecting = [after - here == 4 for here, after in pairwise([*wide, len(convolutions) + 1])]
    biased = any(len(groups[group]) == 2 for group in convolutions)
    dialect = DIALECTS["keras.applications" if biased else "keras-hub"]
    layers, stage, block = ["conv1"], 0, 0
    for projects in projecting:
        stage, block = (stage + 1, 0) if projects else (stage, block + 1)
        steps = ["conv1", "conv2", "downsample_conv", "conv3"] if projects else ["conv1", "conv2", "conv3"]
        layers += [f"stage{stage}.{block}.{step}" for step in steps]
    names = {}
    for kind, leaf, paths in (
        ("conv2d", "weight", layers),
        ("batch_normalization", "weight", [path.replace("conv", "bn") for path in layers]),
        ("dense", "weight", ["fc"]),
    ):
        for number, group in numbered[kind].items():
            canonical = f"{paths[number]}.{leaf}" if number < len(paths) else ""
            try:
                names[group] = dialect.write_name(canonical)[0].rpartition(".")[0]
            except KeyError:
                names[group] = group.replace("/", ".")
    return names
