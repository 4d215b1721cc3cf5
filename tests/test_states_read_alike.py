"""Hold the three state.py files parallel: the same functions, and the same lines in those that users call."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORKS = ("torch", "flax", "keras")
NAMES = ["read_weights", "write_weights", "read_variables", "write_variables", "numpy_dtype", "to_numpy", "assign"]
"""Functions of every state.py, in this order."""

ALIKE = ("read_weights", "write_weights", "read_variables", "write_variables")
"""Functions that must be the same, line for line, docstrings included."""

WORDS = [
    (r'"(torch|flax|keras)"', '"FRAMEWORK"'),
    (r"\bimpls\.(torch|flax|keras)\b", "impls.FRAMEWORK"),
    (r"\b(PyTorch|Flax|Keras) model\b", "FRAMEWORK model"),
    (r"\b(Tensor|nnx\.Variable\[Any\]|keras\.Variable)", "Variable"),
]
"""Words of the frameworks for the same thing: a pattern, and one word for all."""


def functions(source):
    """Map the name of every function to its text, in the words that all share."""
    for pattern, word in WORDS:
        source = re.sub(pattern, word, source)
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_source_segment(source, node) for node in nodes}


def differences(sources):
    """List what does not read alike."""
    texts = {framework: functions(source) for framework, source in sources.items()}
    problems = [
        f"{framework} defines {list(defined)}, not {NAMES}"
        for framework, defined in texts.items()
        if list(defined) != NAMES
    ]
    for name in ALIKE:
        if len({defined.get(name) for defined in texts.values()}) > 1:
            problems.append(f"{name} differs")
    return problems


@pytest.fixture(scope="module")
def sources():
    return {name: (ROOT / "impls" / name / "state.py").read_text() for name in FRAMEWORKS}


def test_they_read_alike(sources):
    assert differences(sources) == []


def test_each_names_the_two_others(sources):
    for name, source in sources.items():
        for other in sources.keys() - {name}:
            assert f"impls/{other}/state.py" in source.split('"""')[1]


CHANGES = {
    "another name": ("def assign(", "def set_value("),
    "another docstring": ('"""Copy every array', '"""Collect every array'),
    "another line": ("for name, variable in variables.items():\n        assign", "for name in arrays:\n        assign"),
    "another error": ("ConversionError: If", "ValueError: If"),
    "another argument": ("source: Source", "checkpoint: Source"),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_copy_is_noticed(sources, framework, change):
    old, new = change
    assert old in sources[framework]
    assert differences(sources | {framework: sources[framework].replace(old, new, 1)})
