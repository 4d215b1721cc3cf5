"""Proposals of path patterns for a model whose arrays have names of their own, from shapes, numbers and order.

The shapes tell the size of the network and the role of every convolution. Norms of equal shape are told apart by what
they share with their convolution. What stays ambiguous is left to the person.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product
from string import ascii_lowercase

from conformance.run.candidates.naming import (
    NamingError,
    check_one_to_one,
    collections_of,
    parse_patterns,
    read_as,
    split_collection,
)
from impls.config import VARIANTS, ResNetConfig
from weights_convert.naming import FLAT, LETTERS, PLACEHOLDERS, Topology
from weights_convert.shapes import Shape, expected_shapes
from weights_convert.table import Framework, Kind, find_rule, permutation

Cell = tuple[int, int]
"""Stage, from 1, and block within it, from 0."""

BLOCK = "stage{stage}.{block}."
CONVOLUTIONS = (f"{BLOCK}conv1", f"{BLOCK}conv2", f"{BLOCK}conv3", f"{BLOCK}downsample_conv")
NORMS = (f"{BLOCK}bn1", f"{BLOCK}bn2", f"{BLOCK}bn3", f"{BLOCK}downsample_bn")
"""Roles of the layers of a block; each norm follows the convolution at its place."""


@dataclass(frozen=True)
class Layer:
    """A layer of the model.

    Attributes:
        path: Its path.
        kind: Its kind.
        shapes: Canonical shape of each array by canonical leaf.
        place: Its place among all layers, in the order in which the model lists them.
    """

    path: str
    kind: Kind
    shapes: Mapping[str, Shape]
    place: int


@dataclass(frozen=True)
class Candidate:
    """A pattern that may be that of a role.

    Attributes:
        pattern: The path pattern.
        layers: The layer that it gives to each block.
    """

    pattern: str
    layers: Mapping[Cell, Layer] = field(compare=False)


@dataclass(frozen=True)
class Proposal:
    """Path patterns that were proposed for a model.

    Attributes:
        layers: Pattern of each canonical layer; those that stay ambiguous have none.
        ambiguous: Layers that several patterns may be meant for, with the patterns.
        missing: Layers that no pattern describes, with the paths of some layers of their shapes.
    """

    layers: Mapping[str, str]
    ambiguous: Mapping[str, Sequence[str]]
    missing: Mapping[str, Sequence[str]]

    @property
    def whole(self) -> bool:
        """Tell whether every layer has a pattern."""
        return not self.ambiguous and not self.missing

    def to_toml(self) -> str:
        """Write the file that `--names` reads; what is left to the person is in comments."""
        lines = ["[layers]", *(f'"{name}" = "{pattern}"' for name, pattern in self.layers.items())]
        for name, patterns in self.ambiguous.items():
            lines.append(f"# {name} may be any of these: uncomment one.")
            lines += [f'# "{name}" = "{pattern}"' for pattern in patterns]
        for name, paths in self.missing.items():
            lines.append(f"# {name}: no pattern was found; layers of its shapes are {shown(paths)}.")
            lines.append(f'# "{name}" = ""')
        return "\n".join(lines) + "\n"


def propose(shapes: Mapping[str, Shape], framework: Framework) -> Proposal:
    """Propose path patterns for the arrays of a model.

    Args:
        shapes: Shape of every array by the model's own name, in the order in which the model lists them.
        framework: The framework that names and orders the arrays of its layers.

    Raises:
        NamingError: If the arrays are not those of a bottleneck ResNet, or the patterns do not describe it one to one.
    """
    layers = layers_of(shapes, framework)
    config = network_of(layers)
    found = choose({role: candidates(role, layers, config) for role in (*CONVOLUTIONS, *NORMS)}, framework)
    used = {layer.path for options in found.values() for each in options for layer in each.layers.values()}
    options = single_layers(layers, used, config)
    options |= {role: [each.pattern for each in candidates] for role, candidates in found.items()}
    patterns = {role: patterns[0] for role, patterns in options.items() if len(patterns) == 1}
    proposal = Proposal(
        merged(patterns),
        {role: patterns for role, patterns in options.items() if len(patterns) > 1},
        {role: alike(role, layers, used, config) for role, patterns in options.items() if not patterns},
    )
    if proposal.whole:
        check(proposal, shapes, framework, config)
    return proposal


def single_layers(layers: Sequence[Layer], used: Collection[str], config: ResNetConfig) -> dict[str, list[str]]:
    """List the paths that may be those of the layers outside the blocks."""
    stem = [layer.path for layer in layers if layer.shapes["weight"][2:] == (7, 7)]
    norms = [layer for layer in layers if layer.kind == "norm" and layer.path not in used]
    paths = {"conv1": stem, "bn1": [norm.path for norm in norms if norm.shapes["weight"] == (config.width,)]}
    linear = [layer.path for layer in layers if layer.kind == "linear"]
    return paths | ({"fc": linear} if config.num_classes else {})


def alike(role: str, layers: Sequence[Layer], used: Collection[str], config: ResNetConfig) -> list[str]:
    """List the paths of layers that have the shapes of a role and no other role."""
    wanted = shapes_of(role, config).values()
    return [layer.path for layer in layers if layer.path not in used and layer.shapes in wanted]


def check(proposal: Proposal, shapes: Mapping[str, Shape], framework: Framework, config: ResNetConfig) -> None:
    """Check that the proposed patterns read every array of the model, each once, with the shape of the network.

    Raises:
        NamingError: If they do not.
    """
    dialect = parse_patterns(proposal.to_toml(), "the proposal", framework, collections_of(shapes))
    naming = check_one_to_one(read_as(shapes, dialect, ""), "the proposal")
    if naming.shapes(shapes) != expected_shapes(config):
        raise NamingError("the proposed patterns do not describe the network: describe it by hand")


def layers_of(shapes: Mapping[str, Shape], framework: Framework) -> list[Layer]:
    """Collect the layers that hold arrays, in the order in which the model lists them.

    Raises:
        NamingError: If there are arrays of another kind of layer.
    """
    arrays: dict[str, dict[str, Shape]] = {}
    collections = collections_of(shapes)
    for name, shape in shapes.items():
        path, _, leaf = split_collection(name, collections)[1].rpartition(".")
        if leaf != "num_batches_tracked":
            arrays.setdefault(path, {})[leaf] = tuple(shape)
    layers, strange = [], []
    for place, (path, leaves) in enumerate(arrays.items()):
        kind = kind_of(leaves)
        rules = {leaf: find_rule(kind, framework, leaf) for leaf in leaves}
        if not all(rules.values()):
            strange += [f"{path}.{leaf}" for leaf, rule in rules.items() if rule is None]
            continue
        canonical = {}
        for leaf, rule in rules.items():
            assert rule is not None
            axes, wanted = rule.leaf(framework).axes, rule.leaf("torch")
            canonical[wanted.name] = tuple(leaves[leaf][axis] for axis in permutation(axes, wanted.axes))
        layers.append(Layer(path, kind, canonical, place))
    if strange:
        raise NamingError(
            f"{len(strange)} arrays are none of a convolution, norm or linear layer of {framework}: {shown(strange)}"
        )
    return layers


def kind_of(leaves: Mapping[str, Shape]) -> Kind:
    """Tell the kind of a layer by the axes of its arrays."""
    axes = max(map(len, leaves.values()))
    return "conv" if axes == 4 else "linear" if axes == 2 else "norm"


def network_of(layers: Sequence[Layer]) -> ResNetConfig:
    """Tell the size of a network by the shapes of its layers.

    Raises:
        NamingError: If they are not those of a bottleneck ResNet.
    """
    kernels = Counter(layer.shapes["weight"] for layer in layers if layer.kind == "conv")
    stems = [shape for shape in kernels if shape[2:] == (7, 7)]
    linears = [layer for layer in layers if layer.kind == "linear"]
    width = stems[0][0] if stems else 0
    depths = tuple(kernels[width << stage, width << stage, 3, 3] for stage in range(4))
    if len(stems) != 1 or not all(depths) or len(linears) > 1:
        raise NamingError(
            f"its arrays are not those of a bottleneck ResNet: {sum(s[2:] == (7, 7) for s in kernels.elements())} "
            f"kernels of 7x7, {len(linears)} linear layers, and {depths} kernels of 3x3 in the four stages"
        )
    return replace(
        VARIANTS["v1.5"],
        depths=depths,
        width=width,
        in_channels=stems[0][1],
        num_classes=linears[0].shapes["weight"][0] if linears else 0,
        conv_bias=any("bias" in layer.shapes for layer in layers if layer.kind == "conv"),
    )


def candidates(role: str, layers: Sequence[Layer], config: ResNetConfig) -> list[Candidate]:
    """List the patterns that give a layer of the right kind and shapes to each block that has the role."""
    wanted = shapes_of(role, config)
    kind: Kind = "conv" if "conv" in role else "norm"
    families: dict[tuple[tuple[str, ...], tuple[bool, ...]], list[tuple[list[str], Layer]]] = {}
    for layer in layers:
        if layer.kind == kind:
            around, numbers = split(layer.path)
            families.setdefault((tuple(around), tuple(map(str.isalpha, numbers))), []).append((numbers, layer))
    found: dict[tuple[tuple[Cell, str], ...], Candidate] = {}
    for (texts, letters), members in families.items():
        for holders in placeholders(letters):
            for pattern, cells in readings(texts, holders, members, config).items():
                if cells.keys() == wanted.keys() and all(cells[c].shapes == wanted[c] for c in wanted):
                    reading = tuple(sorted((cell, layer.path) for cell, layer in cells.items()))
                    found.setdefault(reading, Candidate(pattern, cells))
    return list(found.values())


def shapes_of(role: str, config: ResNetConfig) -> dict[Cell, dict[str, Shape]]:
    """Return the shapes of the arrays of a role's layer, by canonical leaf, in each block that has it."""
    wanted: dict[Cell, dict[str, Shape]] = {}
    for name, shape in expected_shapes(config).items():
        path, _, leaf = name.rpartition(".")
        match = re.fullmatch(r"stage(\d)\.(\d+)\.(\w+)", path)
        if match and match[3] == role.removeprefix(BLOCK):
            wanted.setdefault((int(match[1]), int(match[2])), {})[leaf] = shape
    return wanted


def split(path: str) -> tuple[list[str], list[str]]:
    """Split a path into the texts around its numbers, and its numbers; a single letter behind a digit is one, too.

    Example:
        >>> split("body.0.conv2")
        (['body.', '.conv', ''], ['0', '2'])
        >>> split("res2a_branch2b")
        (['res', '', '_branch', '', ''], ['2', 'a', '2', 'b'])
    """
    parts = re.split(r"(\d+|(?<=\d)[a-z](?![a-z]))", path)
    return parts[::2], parts[1::2]


def placeholders(letters: Sequence[bool]) -> Iterator[dict[int, str]]:
    """Yield every way in which the numbers of a path can tell stage and block: placeholders by place.

    Args:
        letters: Whether each number is a letter.
    """
    yield from ({place: FLAT} for place, letter in enumerate(letters) if not letter)

    def names(number: str, place: int) -> list[str]:
        return [n for n, (told, *_) in PLACEHOLDERS.items() if told == number and (n in LETTERS) == letters[place]]

    for stage, block in permutations(range(len(letters)), 2):
        yield from ({stage: s, block: b} for s, b in product(names("stage", stage), names("block", block)))


def readings(
    texts: Sequence[str], holders: Mapping[int, str], members: Sequence[tuple[list[str], Layer]], config: ResNetConfig
) -> dict[str, dict[Cell, Layer]]:
    """Read paths that differ in their numbers alone: the layer of each block by pattern, one for each other number."""
    topology, found = Topology(config.depths), dict[str, dict[Cell, Layer]]()
    for numbers, layer in members:
        told = dict.fromkeys(("stage", "block"), 0)
        for place, name in holders.items():
            if name == FLAT:
                told = topology.stage_and_block(int(numbers[place]))
            else:
                number, offset, _ = PLACEHOLDERS[name]
                value = ascii_lowercase.index(numbers[place]) if name in LETTERS else int(numbers[place])
                told[number] = value - offset
        filled = [f"{{{holders[place]}}}" if place in holders else text for place, text in enumerate(numbers)]
        pattern = "".join(text + number for text, number in zip(texts, [*filled, ""], strict=True))
        found.setdefault(pattern, {})[told["stage"], told["block"]] = layer
    return found


def choose(found: Mapping[str, Sequence[Candidate]], framework: Framework) -> dict[str, list[Candidate]]:
    """Choose among the candidates of the norms by what they share with their convolutions, rule after rule."""
    convolutions = [found[role] for role in CONVOLUTIONS]
    if not all(len(options) == 1 for options in convolutions):
        return {role: list(options) for role, options in found.items()}
    pairs = [options[0] for options in convolutions]
    choices = [choice for choice in product(*(found[role] for role in NORMS)) if len(set(choice)) == len(NORMS)]
    for rule in (*RULES, *IN_ORDER.get(framework, ())):
        choices = [choice for choice in choices if rule(pairs, choice)] or choices
    norms = {role: list(dict.fromkeys(choice[n] for choice in choices)) for n, role in enumerate(NORMS)}
    return {role: list(found[role]) for role in CONVOLUTIONS} | norms


def shares_block(convolutions: Sequence[Candidate], norms: Sequence[Candidate]) -> bool:
    """Tell whether the path of each norm tells the block where that of its convolution does."""

    def of_block(candidate: Candidate) -> str:
        return candidate.pattern[: candidate.pattern.rfind("}") + 1]

    return [of_block(norm) for norm in norms] == [of_block(convolution) for convolution in convolutions]


def shares_numbers(convolutions: Sequence[Candidate], norms: Sequence[Candidate]) -> bool:
    """Tell whether the paths of each norm and its convolution are alike from their first number on, as Caffe's are."""

    def from_number(candidate: Candidate) -> str:
        return candidate.pattern[candidate.pattern.find("{") :]

    return [from_number(norm) for norm in norms] == [from_number(convolution) for convolution in convolutions]


def shares_module(convolutions: Sequence[Candidate], norms: Sequence[Candidate]) -> bool:
    """Tell whether each norm is within its convolution, or in a module that holds that convolution and no other one."""
    parents = [parent(convolution.pattern) for convolution in convolutions]
    return all(
        parent(norm.pattern) == convolution.pattern
        or (parent(norm.pattern) == parent(convolution.pattern) and parents.count(parent(norm.pattern)) == 1)
        for convolution, norm in zip(convolutions, norms, strict=True)
    )


def parent(path: str) -> str:
    """Return the path of the module that holds a layer."""
    return path.rpartition(".")[0]


def counts_on(convolutions: Sequence[Candidate], norms: Sequence[Candidate]) -> bool:
    """Tell whether the three norms of a block are numbered from 0 or 1 on."""
    return numbered([norm.pattern for norm in norms[:3]]) is not None


def follows(convolutions: Sequence[Candidate], norms: Sequence[Candidate]) -> bool:
    """Tell whether each norm is listed after its convolution and before any other layer of the block."""
    for cell in convolutions[0].layers:
        in_block = [each.layers[cell].place for each in (*convolutions, *norms) if cell in each.layers]
        for convolution, norm in zip(convolutions, norms, strict=True):
            if cell in convolution.layers:
                place = convolution.layers[cell].place
                if norm.layers[cell].place != min((other for other in in_block if other > place), default=-1):
                    return False
    return True


Rule = Callable[[Sequence[Candidate], Sequence[Candidate]], bool]
RULES: tuple[Rule, ...] = (shares_numbers, shares_block, shares_module, counts_on)
"""Ways in which norms belong to their convolutions, the surest first; one that holds for no choice decides nothing."""

IN_ORDER: dict[Framework, tuple[Rule, ...]] = {"torch": (follows,), "keras": (follows,)}
"""Rules that rest on the order in which a framework lists layers: that of their definition; Flax sorts them by name."""


def merged(patterns: Mapping[str, str]) -> dict[str, str]:
    """Write the patterns of the three convolutions, and those of the three norms, as one where a number tells them."""
    result = dict(patterns)
    for kind in ("conv", "bn"):
        roles = [f"{BLOCK}{kind}{k}" for k in (1, 2, 3)]
        pattern = numbered([result[role] for role in roles]) if all(role in result for role in roles) else None
        if pattern is not None:
            result = {role: text for role, text in result.items() if role not in roles}
            result[f"{BLOCK}{kind}{{k}}"] = pattern
    return result


def numbered(patterns: Sequence[str]) -> str | None:
    """Return the pattern of three that differ alone in one number, 1 to 3, 0 to 2 or a to c; None if they do not.

    Example:
        >>> numbered(["body.{flat}.Conv_0", "body.{flat}.Conv_1", "body.{flat}.Conv_2"])
        'body.{flat}.Conv_{k0}'
        >>> numbered(["res{stage1}{block_letter}_branch2a", "res{stage1}{block_letter}_branch2b",
        ...           "res{stage1}{block_letter}_branch2c"])
        'res{stage1}{block_letter}_branch2{k_letter}'
        >>> numbered(["a.0", "a.3", "a.6"])
    """
    for name, numbers in (("k", "123"), ("k0", "012"), ("k_letter", "abc")):
        for match in re.finditer(numbers[0], patterns[0]):
            before, after = patterns[0][: match.start()], patterns[0][match.end() :]
            if [f"{before}{number}{after}" for number in numbers] == list(patterns):
                return f"{before}{{{name}}}{after}"
    return None


def shown(names: Sequence[str]) -> str:
    """List the first names."""
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
