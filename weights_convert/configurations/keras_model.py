"""Whole Keras models: their graph is walked from the output to the image, and each layer must be where a ResNet has it.

The walk reads strides, paddings, epsilons, biases, activations, the order of layers, the additions, the pooling and the
head. It compares the layers with the variants, and their names with their places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from impls.config import STAGE_STRIDES
from weights_convert.configurations.fields import ALL, Field, Findings, as_json, decides, fact, read_fields
from weights_convert.configurations.keras_graph import Graph, Layer, UnreadableGraph, class_of, read_graph
from weights_convert.configurations.keras_layers import CONTAINERS, EVERY_LAYER, HEAD_ACTIVATION, LAYERS, variants_by
from weights_convert.dialects import DIALECTS

OURS = "resnet_parity>ResNet"
"""The name under which impls.keras registers its model, whose configuration is ours and read as such."""

ACTIVATIONS = ("Activation", "ReLU")
NAMED = ("keras.applications", "keras-hub")
"""The dialects whose names are those of a functional model's layers."""

FIRST_VARIABLE = {"Conv2D": "kernel", "Dense": "kernel", "BatchNormalization": "gamma"}
"""The variable by whose name a layer is looked up in a dialect."""


Values = Sequence[tuple[Any, tuple[str, ...]]]
"""Values of a field, each with the variants that have it."""


def is_ours(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is of a Keras model other than Keras Hub's and ours."""
    return "class_name" in config and "config" in config and config.get("registered_name") != OURS


def read(config: Mapping[str, Any], place: str, findings: Findings) -> None:
    """Add what the configuration of a whole Keras model says."""
    source = findings.add_source("Keras", place)
    kind = class_of(config)
    if kind not in CONTAINERS:
        needed = "a model of plain layers (Functional)"
        findings.problems.append(
            f"{source}: its model is of class {kind}, whose function is in its own code; it would have to be {needed}"
        )
        return
    try:
        graph = read_graph(config, source, findings)
        _Walk(graph, source, findings).network()
    except UnreadableGraph as error:
        findings.problems.append(f"{source}: {error}, so it is no ResNet of ours")


@dataclass(frozen=True)
class _Unit:
    """A convolution with its norm, and what stands around it.

    Attributes:
        convolution: The convolution.
        norm: The norm after it.
        padding: The padding layer before it, if there is one.
        activated: Whether an activation follows the norm.
    """

    convolution: Layer
    norm: Layer
    padding: Layer | None
    activated: bool


@dataclass(frozen=True)
class _Block:
    """A block, from its input: its convolutions, and that of its shortcut, if it has one."""

    name: str
    units: tuple[_Unit, ...]
    shortcut: _Unit | None


@dataclass
class _Walk:
    """A walk through a graph, from its output to the image."""

    graph: Graph
    source: str
    findings: Findings
    places: dict[str, Layer] = field(default_factory=dict)
    data_formats: set[str] = field(default_factory=set)

    def network(self) -> None:
        """Walk through the whole network, and note what its layers say."""
        cursor = self.head(self.graph.output)
        blocks: list[_Block] = []
        while self.graph.find(cursor).kind in ACTIVATIONS:
            block, cursor = self.block(cursor)
            blocks.insert(0, block)
        if not blocks:
            layer = self.graph.find(cursor)
            where = "where the classifier, the pooling at the end or the end of a block is"
            raise UnreadableGraph(f"its layer {layer.name!r} is of class {layer.kind}, {where}")
        self.stem(cursor)
        self.stages(blocks)
        self.check_names()
        if len(self.data_formats) > 1:
            raise UnreadableGraph(f"its layers have channels on several axes ({', '.join(sorted(self.data_formats))})")

    # Steps: each takes the key of a layer, notes what the layer says, and returns the key of the layer before it.

    def take(self, key: str, what: str, *kinds: str) -> Layer:
        """Return the layer at a key, which must be of one of the given classes; note its fields."""
        layer = self.graph.find(key)
        if layer.kind not in kinds:
            wanted = " or ".join(kinds)
            raise UnreadableGraph(f"its layer {layer.name!r} is of class {layer.kind}, where {what} is ({wanted})")
        count = 2 if layer.kind == "Add" else 0 if layer.kind == "InputLayer" else 1
        if len(layer.inputs) != count:
            raise UnreadableGraph(f"its layer {layer.name!r} has {len(layer.inputs)} inputs, and {what} has {count}")
        place = self.place(layer)
        read_fields(layer.config, LAYERS[layer.kind], place, self.findings, f"{layer.kind}.")
        if "data_format" in LAYERS[layer.kind]:
            self.data_formats.add(str(layer.config.get("data_format") or "channels_last"))
        if layer.kind == "BatchNormalization":
            axis = layer.config.get("axis", -1)
            number = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
            names = {-1: "channels_last", 3: "channels_last", 1: "channels_first"}
            self.data_formats.add(names[number] if number in (-1, 3, 1) else f"axis {axis}")
        return layer

    def head(self, key: str) -> str:
        """Step over the classifier and the pooling, if the model has them."""
        layer = self.graph.find(key)
        if layer.kind == "Activation" and self.before(layer).kind == "Dense":
            table = EVERY_LAYER | {"activation": HEAD_ACTIVATION}
            read_fields(layer.config, table, self.place(layer), self.findings, "Activation.")
            (key,) = layer.inputs
            layer = self.graph.find(key)
        if layer.kind == "Dense":
            self.places["fc"] = self.take(key, "the classifier", "Dense")
            (key,) = layer.inputs
            return self.pooling(key)
        return self.pooling(key) if layer.kind in ("GlobalAveragePooling2D", "Flatten") else key

    def pooling(self, key: str) -> str:
        """Step over the pooling at the end: over the whole map, or by a window, whose output is then flattened."""
        layer, window = self.take(key, "the pooling at the end", "GlobalAveragePooling2D", "Flatten"), None
        if layer.kind == "Flatten":
            layer = self.take(layer.inputs[0], "the pooling at the end", "AveragePooling2D")
            size = _pair(layer.config.get("pool_size"))
            same = (
                _pair(layer.config.get("strides") or size) == size and layer.config.get("padding", "valid") == "valid"
            )
            window = size[0] if same and size == [size[0]] * 2 else as_json(dict(layer.config))
        what = "the window of the pooling at the end; null is the whole map"
        self.note(layer, "window", window, decides(what, *variants_by("head_pool")))
        return layer.inputs[0]

    def before(self, layer: Layer) -> Layer:
        """Return the layer before a layer; the layer itself if it has not exactly one input."""
        return self.graph.find(layer.inputs[0]) if len(layer.inputs) == 1 else layer

    def block(self, key: str) -> tuple[_Block, str]:
        """Step over a block, from the activation after its addition to its input."""
        end = self.take(key, "the end of a block", *ACTIVATIONS)
        addition = self.take(end.inputs[0], "the addition of a block", "Add")
        branches = [self.branch(start) for start in addition.inputs]
        branches.sort(key=lambda branch: len(branch[0]))
        (shortcut, origin), (units, other_origin) = branches
        if len(units) != 3 or len(shortcut) > 1:
            starts = " and ".join(
                f"{layer.name!r}, a {layer.kind}" for layer in map(self.graph.find, (origin, other_origin))
            )
            counts = f"branches of {len(shortcut)} and {len(units)} convolutions, which begin after {starts}"
            raise UnreadableGraph(f"its layer {addition.name!r} adds {counts}; a block has at most 1 and 3")
        if self.graph.find(origin) is not self.graph.find(other_origin):
            raise UnreadableGraph(f"the two branches that its layer {addition.name!r} adds begin at different layers")
        for unit in units[:2]:
            if not unit.activated:
                raise UnreadableGraph(f"no activation follows its layer {unit.norm.name!r}")
        if any(unit.activated for unit in shortcut):
            raise UnreadableGraph(f"an activation follows its layer {shortcut[0].norm.name!r}, which is of a shortcut")
        return _Block(addition.name, tuple(units), shortcut[0] if shortcut else None), origin

    def branch(self, key: str) -> tuple[list[_Unit], str]:
        """Step over the convolutions of a branch; return them from its input on, and the key of its input."""
        units: list[_Unit] = []
        while self.ends_unit(key):
            unit, key = self.unit(key)
            units.insert(0, unit)
        return units, key

    def ends_unit(self, key: str) -> bool:
        """Return whether a layer is a norm, or the activation after one."""
        layer = self.graph.find(key)
        is_activated = layer.kind in ACTIVATIONS and self.before(layer).kind == "BatchNormalization"
        return is_activated or layer.kind == "BatchNormalization"

    def unit(self, key: str) -> tuple[_Unit, str]:
        """Step over a convolution with its norm, its activation and its padding."""
        activated = self.graph.find(key).kind in ACTIVATIONS
        if activated:
            (key,) = self.take(key, "an activation", *ACTIVATIONS).inputs
        norm = self.take(key, "a norm", "BatchNormalization")
        convolution = self.take(norm.inputs[0], "a convolution", "Conv2D")
        padding, key = self.padding(convolution.inputs[0])
        return _Unit(convolution, norm, padding, activated), key

    def padding(self, key: str) -> tuple[Layer | None, str]:
        """Step over a layer of padding, if there is one."""
        if self.graph.find(key).kind != "ZeroPadding2D":
            return None, key
        layer = self.take(key, "a padding", "ZeroPadding2D")
        return layer, layer.inputs[0]

    def stem(self, key: str) -> None:
        """Step over the stem to the image."""
        pool = self.take(key, "the ReLU at the end of a block, or the pooling of the stem", "MaxPooling2D")
        padding, key = self.padding(pool.inputs[0])
        unit, key = self.unit(key) if self.ends_unit(key) else (None, key)
        if unit is None or not unit.activated:
            layer = self.graph.find(key)
            where = "where the activation of the stem is, after its norm"
            raise UnreadableGraph(f"its layer {layer.name!r} is of class {layer.kind}, {where}")
        self.take(key, "the image; what comes before it must be left out, and done to the images", "InputLayer")
        self.places |= {"conv1": unit.convolution, "bn1": unit.norm}
        self.note_convolution(unit, 7, [([2, 2], ALL)], strided=False)
        size = _pair(pool.config.get("pool_size"))
        self.note(pool, "pool_size", size, decides("the pooling of the stem", ([3, 3], ALL)))
        strides = _pair(pool.config.get("strides") or size)
        self.note(pool, "strides", strides, decides("the pooling of the stem", ([2, 2], ALL)))
        given = _padding(pool, padding, 3, strides)
        self.note(pool, "padding", given, decides("the padding of the stem's pooling", *PADDINGS))

    # Notes: what the layers say, given their place.

    def stages(self, blocks: Sequence[_Block]) -> None:
        """Divide the blocks into stages, each of which begins with a projection, and note what their layers say."""
        starts = [number for number, block in enumerate(blocks) if block.shortcut]
        if len(starts) != 4 or starts[0] != 0:
            counts = f"{len(blocks)} blocks, of which {len(starts)} project their shortcut"
            raise UnreadableGraph(f"it has {counts}; the first of each of the four stages does")
        for number, block in enumerate(blocks):
            stage = sum(start <= number for start in starts)
            index = number - starts[stage - 1]
            self.note_block(block, f"stage{stage}.{index}", STAGE_STRIDES[stage - 1] if index == 0 else 1)

    def note_block(self, block: _Block, path: str, stride: int) -> None:
        """Note what the layers of a block say."""
        for number, (unit, kernel) in enumerate(zip(block.units, (1, 3, 1), strict=True), 1):
            self.places |= {f"{path}.conv{number}": unit.convolution, f"{path}.bn{number}": unit.norm}
            strides = _strides(f"conv{number}", stride)
            self.note_convolution(unit, kernel, strides, number == 2, f" of conv{number} in strided blocks")
        if block.shortcut is not None:
            self.places[f"{path}.downsample_conv"] = block.shortcut.convolution
            self.places[f"{path}.downsample_bn"] = block.shortcut.norm
            self.note_convolution(block.shortcut, 1, [([stride, stride], ALL)], strided=False)
        last, what = block.units[2], "whether a ReLU follows the last norm of a block"
        self.note(last.norm, "relu_after", last.activated, decides(what, *variants_by("relu_before_addition")))

    def note_convolution(self, unit: _Unit, kernel: int, strides: Values, strided: bool, where: str = "") -> None:
        """Note kernel, strides and padding of a convolution.

        Args:
            unit: The convolution.
            kernel: The side of the kernel that belongs here.
            strides: The variants that have each value of the strides.
            strided: Whether the variants differ in its padding, where it has a stride.
            where: The place of the strides in which the variants differ, in words.
        """
        layer = unit.convolution
        given = _pair(layer.config.get("strides", 1))
        size = _pair(layer.config.get("kernel_size"))
        self.note(layer, "kernel_size", size, decides("the kernel", ([kernel, kernel], ALL)))
        stated = f"strides{where}" if len(strides) > 1 else "strides"
        self.note(layer, stated, given, decides("the stride", *strides))
        paddings = PADDINGS if strided and given != [1, 1] else [("symmetric", ALL)]
        self.note(layer, "padding", _padding(layer, unit.padding, kernel, given), decides("the padding", *paddings))

    def note(self, layer: Layer, name: str, value: Any, row: Field) -> None:
        """Note a field whose row depends on the place of its layer."""
        self.findings.facts.append(fact(self.place(layer), f"{layer.kind}.{name}", value, row))

    def place(self, layer: Layer) -> str:
        """Return the place of a layer, for messages."""
        return f"{self.source}, layer {layer.name}"

    def check_names(self) -> None:
        """Note a problem for every layer whose name belongs to another place in the network."""
        for path, layer in self.places.items():
            for other in self.named_places(layer):
                if other != path:
                    self.findings.problems.append(
                        f"{self.place(layer)}: it stands where {path} is, and has the name of {other}"
                    )

    def named_places(self, layer: Layer) -> Iterator[str]:
        """Yield the places that the dialects give a layer of this name."""
        name = f"{layer.name}.{FIRST_VARIABLE[layer.kind]}"
        for dialect in NAMED:
            for canonical, _ in DIALECTS[dialect].read_names([name]).values():
                yield canonical.rpartition(".")[0]


PADDINGS: Values = [("same" if same else "symmetric", names) for same, names in variants_by("same_padding")]
"""The variants that have each padding of a strided 3x3 convolution and of the max pool."""


def _strides(layer: str, stride: int) -> Values:
    """Return the variants that have each value of the strides of a convolution in a block of a stride."""
    if stride == 1 or layer == "conv3":
        return [([1, 1], ALL)]
    carrying = dict(variants_by("strided_layer"))[layer]
    return [([stride, stride], carrying), ([1, 1], tuple(name for name in ALL if name not in carrying))]


def _pair(size: Any) -> Any:
    """Return a size of two axes as a list of two numbers, as Keras 3 writes it."""
    return [size, size] if isinstance(size, int) else size


def _padding(layer: Layer, padding: Layer | None, kernel: int, strides: Any) -> Any:
    """Return the padding of a convolution or pooling: "symmetric", "same", or else the numbers of pixels.

    Symmetric is half of the kernel on every side. Keras's "same" is that, too, where the stride is 1 or the kernel 1x1;
    at a stride of 2 it is TensorFlow's SAME.
    """
    mode = layer.config.get("padding", "valid")
    pixels = padding.config.get("padding") if padding else [[0, 0], [0, 0]]
    pixels = [_pair(side) for side in _pair(pixels)] if isinstance(pixels, int | list) else pixels
    half = [[kernel // 2] * 2] * 2
    if mode == "same" and padding is None:
        return "symmetric" if strides == [1, 1] or kernel == 1 else "same"
    if mode == "valid":
        return "symmetric" if pixels == half else pixels
    return [mode, pixels]
