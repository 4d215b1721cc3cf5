"""Hold the four models parallel: the same names in the same order, and the same lines where the network is written.

Files are read as text, line by line, so that line breaks and comments count; `ast` only finds where definitions begin
and end. The tables below list everything that may differ.
"""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NAMES = [
    *("conv", "norm", "linear", "max_pool", "average_pool"),
    *("Bottleneck", "Bottleneck.__init__", "Bottleneck.forward"),
    *("ResNet", "ResNet.__init__", "ResNet.forward", "ResNet.activations", "ResNet.blocks"),
    *("stage", "resnet", "resnet50"),
]
"""Classes, methods and functions of every model, in this order."""

EXTRAS = {
    "numpy": {
        *(
            "relu",
            "pad",
            "windows",
            "convolve",
            "moments",
            "multiply",
            "normalise",
        ),  # operations that frameworks bring along
        *("Convolution", "Convolution.__init__", "Convolution.forward"),
        *("BatchNorm", "BatchNorm.__init__", "BatchNorm.forward"),
        *("Linear", "Linear.__init__", "Linear.forward"),
        *("ResNet.layers", "ResNet.astype", "ResNet.train"),
    },
    "torch": {
        *("BatchNorm", "BatchNorm.__init__", "BatchNorm.forward"),  # nn.BatchNorm2d stores the unbiased variance
        *("Conv", "Conv.__init__", "Conv.forward", "pad_same"),  # nn.Conv2d has no strided SAME
        "Conv.reset_parameters",  # and draws a weight of its own
        "torch_dtype",
    },
    "flax": {
        *("BatchNorm", "BatchNorm.__init__", "BatchNorm.forward"),  # nnx.BatchNorm stores the biased variance
        *("normal", "scaled"),  # nnx.initializers compile slowly
    },
    "keras": {
        *("BatchNorm", "BatchNorm.__init__", "BatchNorm.forward"),  # Keras stores the biased variance
        *("Conv", "Conv.forward", "Conv.compute_output_shape", "pad"),  # keras.layers.Conv2D pads "same" or "valid"
        "dtype_policy",
        *("Bottleneck.compute_output_shape", "ResNet.get_config", "ResNet.from_config"),  # for summary() and .keras
    },
}
"""Definitions that only one model has, and the reason."""

ALIKE = [
    *("Bottleneck.__init__", "Bottleneck.forward"),
    *("ResNet.__init__", "ResNet.forward", "ResNet.activations", "ResNet.blocks", "stage"),
]
"""Definitions that must be the same, line for line."""

WORDS = [
    (r"\b(forward|__call__|call)\(self", "forward(self"),
    (r"\b(rngs|seeds)\b", "rng"),
    (
        r"\b(torch\.Generator|nnx\.Rngs|keras\.random\.SeedGenerator|np\.random\.Generator)( \| Blank)?( \| None)?",
        "Generator",
    ),
    (r"\b(Array|Tensor)\b", "Tensor"),
    (r"\b(NCHW|NHWC)\b", "AXES"),
    (r"\b(nn\.Sequential|nnx\.List\[Bottleneck\]|list\[Bottleneck\])", "Blocks"),
    (r"return (nn\.Sequential|Blocks|nnx\.List)?\(?\*?blocks\)?$", "return blocks"),
    (r"(, )?training(: bool \| None = None|=training)", ""),  # Keras passes train mode as an argument
    (r"\bdraw its kernel\b", "draw its weight"),
]
"""Words of the frameworks for the same thing: a pattern, and one word for all."""

LINES = [
    r"super\(\)\.__init__\(.*\)",
    r"rng = .* if rng is None else rng",
    r"name: str \| None = None,",
    r"self\.build\(.*",
]
"""Lines that only some models need: the start of a constructor, and Keras's name and `build`."""


def definitions(source):
    """Map the name of every function, class and method to its node; the method that runs a model is "forward"."""
    nodes = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            nodes[node.name] = node
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef):
                name = {"call": "forward", "__call__": "forward"}.get(method.name, method.name)
                nodes[f"{node.name}.{name}"] = method
    return nodes


def in_shared_words(text):
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text)
    return text


def lines(source, node):
    """Return the lines of a definition with their indents, without its docstring and in the words that all share."""
    text = source.splitlines()[node.lineno - 1 : node.end_lineno]
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        del text[first.lineno - node.lineno : first.end_lineno - node.lineno + 1]
    shared = []
    for line in text:
        indent = line[: len(line) - len(line.lstrip())]
        line = in_shared_words(line.removeprefix(" " * node.col_offset))
        if not any(re.fullmatch(pattern, line.strip()) for pattern in LINES):
            shared.append((len(indent), line.rstrip()))
    return shared


def summary(node):
    """Return the first line of a docstring, in the words that all share."""
    return in_shared_words((ast.get_docstring(node) or "").partition("\n")[0])


def differences(sources):
    """List what does not read alike."""
    nodes = {framework: definitions(source) for framework, source in sources.items()}
    problems = []
    for framework, defined in nodes.items():
        shared = [name for name in defined if name not in EXTRAS[framework]]
        if shared != NAMES:
            problems.append(f"{framework} defines {shared}, not {NAMES}")
        problems += [f"{framework} lacks {name}" for name in sorted(EXTRAS[framework] - set(defined))]
        problems += [
            f"{framework}: {name} says {summary(defined[name])!r}, torch {summary(nodes['torch'][name])!r}"
            for name in shared
            if name in nodes["torch"] and summary(defined[name]) != summary(nodes["torch"][name])
        ]
    for name in ALIKE:
        texts = {
            framework: lines(sources[framework], nodes[framework][name])
            for framework in sources
            if name in nodes[framework]
        }
        reference = texts.pop("torch", [])
        for framework, text in texts.items():
            for left, right in itertools.zip_longest(reference, text):
                if left != right:
                    problems.append(f"{name}: torch has {left}, {framework} has {right}")
                    break
    return problems


@pytest.fixture(scope="module")
def sources():
    return {name: (ROOT / "impls" / name / "resnet.py").read_text() for name in EXTRAS}


def test_the_models_read_alike(sources):
    assert differences(sources) == []


def test_they_share_their_facts(sources):
    """All import the same facts, so none copies one. `BLANK` may differ: Flax can build a model without any values."""
    imported = {
        name: [
            re.sub(r"\bB(LANK|lank), ", "", line)
            for line in source.splitlines()
            if re.match(r"from impls\.(config|taps) import", line)
        ]
        for name, source in sources.items()
    }
    assert len(imported["torch"]) == 2
    assert all(lines == imported["torch"] for lines in imported.values())


CHANGES = {
    "a missing relu": ('y = relu(tap("bn2", self.bn2(', 'y = (tap("bn2", self.bn2('),
    "a missing norm": ("        self.bn1 = norm(channels, config)\n", ""),
    "swapped lines": (
        "self.conv1 = conv(in_channels, channels, 1, stride1, config, rng)\n        self.bn1 = norm(channels, config)",
        "self.bn1 = norm(channels, config)\n        self.conv1 = conv(in_channels, channels, 1, stride1, config, rng)",
    ),
    "another stride": ("(stride, 1) if", "(1, stride) if"),
    "another channel count": ("width * 4 * block.expansion", "width * 2 * block.expansion"),
    "another line break": ("        config: ResNetConfig,\n        rng", "        config: ResNetConfig, rng"),
    "another comment": ("return relu(y + x)", "return relu(y + x)  # the end"),
    "another indentation": ("            y = relu(y)", "                y = relu(y)"),
    "another default": ("num_classes: int = 1000", "num_classes: int = 1001"),
    "another name": ("def stage(", "def make_stage("),
    "another method": ("    def blocks(self)", "    def count(self):\n        return 0\n\n    def blocks(self)"),
    "no constructor": ("    expansion = EXPANSION\n\n    def __init__", "    expansion = EXPANSION\n\n    def set"),
    "another docstring": ('"""Bottleneck block: 1x1,', '"""Basic block: 1x1,'),
    "another order of functions": ("def max_pool(", "def average_pool("),
}  # fmt: skip


@pytest.mark.parametrize("framework", list(EXTRAS))
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_copy_is_noticed(sources, framework, change):
    old, new = change
    if framework in ("flax", "keras"):
        old, new = (text.replace(" rng", " rngs" if framework == "flax" else " seeds") for text in (old, new))
    assert old in sources[framework]
    assert differences(sources | {framework: sources[framework].replace(old, new, 1)})
