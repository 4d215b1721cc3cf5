"""That the four models are one text: same names in the same order, and the network's own lines the same in all.

Read as text, line by line, so that line breaks and comments count; `ast` only finds where things stand. What may differ
is in the tables below, and nothing else.
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
"""Classes, methods and functions that every model has, in this order."""

EXTRAS = {
    "numpy": {
        *("relu", "pad", "windows", "convolve", "moments", "multiply", "normalise"),  # what a framework brings along
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
        *(
            "BatchNorm",
            "BatchNorm.__init__",
            "BatchNorm.forward",
        ),  # Keras stores the biased variance
        *("Conv", "Conv.forward", "Conv.compute_output_shape", "pad"),  # keras.layers.Conv2D pads "same" or "valid"
        "dtype_policy",
        *("Bottleneck.compute_output_shape", "ResNet.get_config", "ResNet.from_config"),  # for summary() and .keras
    },
}
"""What one model has beyond that, and why."""

ALIKE = [
    *("Bottleneck.__init__", "Bottleneck.forward"),
    *("ResNet.__init__", "ResNet.forward", "ResNet.activations", "ResNet.blocks", "stage"),
]
"""What must be the same, line for line."""

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
    (r"(, )?training(: bool \| None = None|=training)", ""),  # Keras hands train mode on by argument
]
"""What the frameworks call the same thing: a pattern, and one word for all."""

LINES = [
    r"super\(\)\.__init__\(.*\)",
    r"rng = .* if rng is None else rng",
    r"name: str \| None = None,",
    r"self\.build\(.*",
]
"""Lines that only some need: a start of their own, and Keras's name and end."""


def definitions(source):
    """Every function, class and method by its name, a model's call being "forward" in all."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef):
                name = {"call": "forward", "__call__": "forward"}.get(method.name, method.name)
                found[f"{node.name}.{name}"] = method
    return found


def lines(source, node):
    """The lines of a definition without its docstring, in the words that all share."""
    text = source.splitlines()[node.lineno - 1 : node.end_lineno]
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        del text[first.lineno - node.lineno : first.end_lineno - node.lineno + 1]
    shared = []
    for line in text:
        indent = line[: len(line) - len(line.lstrip())]
        line = line.removeprefix(" " * node.col_offset)
        for pattern, word in WORDS:
            line = re.sub(pattern, word, line)
        if not any(re.fullmatch(pattern, line.strip()) for pattern in LINES):
            shared.append((len(indent), line.rstrip()))
    return shared


def differences(sources):
    """What does not read alike, one line each; none if all is well."""
    found = {name: definitions(source) for name, source in sources.items()}
    problems = []
    for framework, known in found.items():
        own = [name for name in known if name not in EXTRAS[framework]]
        if own != NAMES:
            problems.append(f"{framework} defines {own}, not {NAMES}")
        problems += [f"{framework} lacks {name}" for name in sorted(EXTRAS[framework] - set(known))]
    for name in ALIKE:
        texts = {
            framework: lines(sources[framework], found[framework][name])
            for framework in sources
            if name in found[framework]
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
    """From the ground floor all import the same: the facts, and nothing copied. `BLANK` is none of the network's.

    (Flax needs no `BLANK`: it can build a model without any values.)
    """
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
    "a copied fact": ('    expansion = EXPANSION\n\n    def __init__', '    expansion = EXPANSION\n\n    def setup'),
    "another order of functions": ("def max_pool(", "def average_pool("),
}  # fmt: skip


@pytest.mark.parametrize("framework", list(EXTRAS))
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_copy_is_told(sources, framework, change):
    old, new = change
    if framework in ("flax", "keras"):
        old, new = (text.replace(" rng", " rngs" if framework == "flax" else " seeds") for text in (old, new))
    assert old in sources[framework]
    assert differences(sources | {framework: sources[framework].replace(old, new, 1)})
