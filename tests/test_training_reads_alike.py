"""Hold the three training.py files parallel: the same names in the same order, with the same arguments and summaries.

Between them stands each framework's own optimizer, set up in its own way. The tables below list everything that may
differ.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NAMES = {
    "loss": ["logits", "labels", "recipe"],
    "optimizer": ["model", "recipe"],
    "schedule": ["recipe"],
    "Training": [],
    "Training.__init__": ["self", "model", "recipe"],
    "Training.step": ["self", "images", "labels"],
    "Training.slots": ["self"],
    "Training.set_slots": ["self", "slots", "steps"],
    "read_training": ["training"],
    "resume": ["model", "source"],
}
"""Functions, classes and methods of every training.py, in this order, with their arguments."""

EXTRAS = {
    "torch": {
        "clip",  # clip_grad_norm_ divides by more than the norm; the other two clip in the optimizer
    },
    "flax": {
        "take_step",  # a function of the model, which nnx.jit compiles
        "Training.take_step",  # caches the graphs of model and optimizer, which the other two have none of
        "Training.steps",  # optax and Keras count steps; PyTorch's SGD does not
    },
    "keras": {
        *(
            "Loss",
            "Loss.__init__",
            "Loss.call",
            "Loss.get_config",
            "Loss.from_config",
        ),  # for `compile` and .keras files
        *("Sgd", "Sgd.update_step", "Sgd._apply_weight_decay"),  # Keras's optimizers compute something else
        *("AdamW", "AdamW.update_step", "AdamW._apply_weight_decay"),
        *("schedule.__init__", "schedule.__call__", "schedule.get_config", "schedule.from_config"),
        "Training.steps",
    },
}
"""Definitions that only one training.py has, and the reason."""

TAKES_MORE = {("torch", "schedule"): ["optimizer", "steps"]}
"""PyTorch's schedule is an object that sets the rate of an optimizer from a given step on; the others are functions."""

WORDS = [
    (r"\bSchedule\b", "schedule"),  # in Keras a class
    (r"\((batch, channels, height, width|batch, height, width, channels)\)", "(AXES)"),
    (r"\bCollect the (tensors|variables)", "Collect the VALUES"),
    (r", with its schedule", ""),  # PyTorch's optimizer does not know it
    (r'"(torch|flax|keras)"', '"FRAMEWORK"'),
    (r"\bimpls\.(torch|flax|keras)\b", "impls.FRAMEWORK"),
]
"""Words of the frameworks for the same thing: a pattern, and one word for all."""

SHARED_LINES = {
    "Training.__init__": ["self.model, self.recipe = model, recipe", "self.optimizer = optimizer(model, recipe)"],
    "Training.slots": ["for slot in self.recipe.slots"],
}
"""Lines that stand in every training.py."""

ALIKE = ("read_training", "resume")
"""Functions that must be the same, line for line, docstrings included."""

NUMBERS = {"torch": {0.0, 1.0}, "flax": set(), "keras": {0.5, 1.0}}
"""The only floats in the code: a step, bounds of a factor, the half of a cosine. All others are facts of a recipe."""


def in_shared_words(text):
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text)
    return text


def definitions(source):
    """Map the name of every function, class and method to its node."""
    nodes = {}
    for node in ast.parse(in_shared_words(source)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            nodes[node.name] = node
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef):
                nodes[f"{node.name}.{method.name}"] = method
    return nodes


def summary(node):
    """Return a docstring up to its first pause; the rest may be about the framework."""
    return re.split(r"[;:.]|, which", ast.get_docstring(node) or "", maxsplit=1)[0]


def arguments_of(node):
    return [] if isinstance(node, ast.ClassDef) else [argument.arg for argument in node.args.args]


def differences(sources):
    """List what does not read alike."""
    nodes = {framework: definitions(source) for framework, source in sources.items()}
    problems = []
    for framework, defined in nodes.items():
        shared = [name for name in defined if name not in EXTRAS[framework]]
        if shared != list(NAMES):
            problems.append(f"{framework} defines {shared}, not {list(NAMES)}")
            continue
        problems += [f"{framework} lacks {name}" for name in sorted(EXTRAS[framework] - set(defined))]
        for name, expected in NAMES.items():
            more = TAKES_MORE.get((framework, name), [])
            arguments = arguments_of(defined[name])
            if [a for a in arguments if a not in more] != expected and not isinstance(defined[name], ast.ClassDef):
                problems.append(f"{framework}: {name} takes {arguments}, not {expected}")
            reference = summary(nodes["torch"].get(name, defined[name]))
            if summary(defined[name]) != reference:
                problems.append(f"{framework}: {name} says {summary(defined[name])!r}, torch {reference!r}")
        texts = {name: ast.get_source_segment(in_shared_words(sources[framework]), defined[name]) for name in shared}
        torch_text = in_shared_words(sources["torch"])
        problems += [f"{framework}: {name} is not torch's" for name in ALIKE if texts[name] not in torch_text]
        for name, expected in SHARED_LINES.items():
            lines = [line.strip() for line in texts[name].splitlines()]
            problems += [f"{framework}: {name} lacks {line!r}" for line in expected if line not in lines]
        numbers = {n.value for n in ast.walk(ast.parse(sources[framework])) if isinstance(n, ast.Constant)}
        copied = {n for n in numbers if isinstance(n, float)} - NUMBERS[framework]
        problems += [f"{framework} has the number {number}: a fact of a recipe?" for number in sorted(copied)]
    return problems


@pytest.fixture(scope="module")
def sources():
    return {name: (ROOT / "impls" / name / "training.py").read_text() for name in EXTRAS}


def test_they_read_alike(sources):
    assert differences(sources) == []


def test_they_take_their_facts_from_the_recipe(sources):
    for source in sources.values():
        assert "from impls.recipe import Recipe\n" in source


def test_each_names_the_two_others(sources):
    for name, source in sources.items():
        for other in sources.keys() - {name}:
            assert f"impls/{other}/training.py" in source.split('"""')[1]


CHANGES = {
    "another name": ("def loss(", "def cross_entropy_of("),
    "another argument": ("def optimizer(model: ResNet, recipe", "def optimizer(network: ResNet, recipe"),
    "another order of arguments": ("model: ResNet, recipe: Recipe) -> None", "recipe: Recipe, model: ResNet) -> None"),
    "another docstring": ('"""Compute the cross-entropy of logits', '"""Compute the loss of logits'),
    "another attribute": ("self.optimizer = optimizer(", "self.rule = optimizer("),
    "another method": ("    def slots(self)", "    def reset(self):\n        pass\n\n    def slots(self)"),
    "a missing method": ("    def set_slots(", "    def put_slots("),
    "a copied fact": ("def optimizer(", "MOMENTUM = 0.9\n\n\ndef optimizer("),
    "another line": ("    write_weights(model, state.weights)\n", ""),
    "another step": ('"""Take one step on a batch', '"""Take a step on a batch'),
}


@pytest.mark.parametrize("framework", list(EXTRAS))
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_copy_is_noticed(sources, framework, change):
    old, new = change
    assert old in sources[framework]
    assert differences(sources | {framework: sources[framework].replace(old, new, 1)})
