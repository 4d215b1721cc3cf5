"""That the three ways of training are one text: the same names in the same order, taking and saying the same.

What stands between is each framework's own optimizer, set up its own way. What may differ is in the tables below, and
nothing else.
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
"""Functions, classes and methods that all have, in this order, and what they take."""

EXTRAS = {
    "torch": {
        "clip",  # clip_grad_norm_ divides by more than the norm; the other two clip in the optimizer
        "Training._set_steps",  # the schedule and AdamW's state, which PyTorch makes at the first step, are made anew
    },
    "flax": {
        "take_step",  # a function of the model, which nnx.jit compiles
        "Training.steps",  # optax counts steps; so does Keras; PyTorch's optimizers do not all
    },
    "keras": {
        *("Loss", "Loss.__init__", "Loss.call", "Loss.get_config", "Loss.from_config"),  # for compile and .keras files
        *("Sgd", "Sgd.update_step", "Sgd._apply_weight_decay"),  # Keras's own compute something else
        *("AdamW", "AdamW.update_step", "AdamW._apply_weight_decay"),
        *("schedule.__init__", "schedule.__call__", "schedule.get_config", "schedule.from_config"),
        "Training.steps",
    },
}
"""What one has beyond that, and why."""

TAKES_MORE = {("torch", "schedule"): ["optimizer", "steps"]}
"""PyTorch's schedule is an object that sets an optimizer's rate, and is made at a step; the others' are functions."""

WORDS = [
    (r"\bSchedule\b", "schedule"),  # in Keras a class
    (r"\((batch, channels, height, width|batch, height, width, channels)\)", "(AXES)"),
    (r"\ba (tensor|variable) by parameter name", "VALUES by parameter name"),
    (r", with its schedule", ""),  # which PyTorch's optimizer does not know
]
"""What the frameworks call the same thing: a pattern, and one word for all."""

SHARED_LINES = {
    "Training.__init__": ["self.model, self.recipe = model, recipe", "self.optimizer = optimizer(model, recipe)"],
    "Training.slots": ["for slot in self.recipe.slots"],
}
"""Lines that stand in all."""

OWN_NUMBERS = {"torch": {1.0}, "flax": set(), "keras": {0.5, 1.0}}
"""The only numbers with a point: where a factor is clamped, and the half of a cosine. All others are a recipe's."""


def in_shared_words(text):
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text)
    return text


def definitions(source):
    """Every function, class and method by its name."""
    found = {}
    for node in ast.parse(in_shared_words(source)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef):
                found[f"{node.name}.{method.name}"] = method
    return found


def first_words(node):
    """What a docstring says up to its first pause: the rest is the framework's own."""
    return re.split(r"[;:.]|, which", ast.get_docstring(node) or "", maxsplit=1)[0]


def taken(node):
    return [] if isinstance(node, ast.ClassDef) else [argument.arg for argument in node.args.args]


def differences(sources):
    """What does not read alike, one line each; none if all is well."""
    found = {framework: definitions(source) for framework, source in sources.items()}
    problems = []
    for framework, own in found.items():
        shared = [name for name in own if name not in EXTRAS[framework]]
        if shared != list(NAMES):
            problems.append(f"{framework} defines {shared}, not {list(NAMES)}")
            continue
        problems += [f"{framework} lacks {name}" for name in sorted(EXTRAS[framework] - set(own))]
        for name, expected in NAMES.items():
            more = TAKES_MORE.get((framework, name), [])
            arguments = taken(own[name])
            if [a for a in arguments if a not in more] != expected and not isinstance(own[name], ast.ClassDef):
                problems.append(f"{framework}: {name} takes {arguments}, not {expected}")
            said, reference = first_words(own[name]), first_words(found["torch"].get(name, own[name]))
            if said != reference:
                problems.append(f"{framework}: {name} says {said!r}, torch {reference!r}")
        for name, lines in SHARED_LINES.items():
            text = ast.get_source_segment(in_shared_words(sources[framework]), own[name]) or ""
            standing = [line.strip() for line in text.splitlines()]
            problems += [f"{framework}: {name} lacks {line!r}" for line in lines if line not in standing]
        numbers = {n.value for n in ast.walk(ast.parse(sources[framework])) if isinstance(n, ast.Constant)}
        copied = {n for n in numbers if isinstance(n, float)} - OWN_NUMBERS[framework]
        problems += [f"{framework} has the number {number}: a fact of a recipe?" for number in sorted(copied)]
    return problems


@pytest.fixture(scope="module")
def sources():
    return {name: (ROOT / "impls" / name / "training.py").read_text() for name in EXTRAS}


def test_they_read_alike(sources):
    assert differences(sources) == []


def test_they_take_their_facts_from_the_recipe_and_names_from_the_table(sources):
    for source in sources.values():
        assert "from impls.recipe import Recipe\n" in source


def test_each_says_where_the_others_stand(sources):
    for name, source in sources.items():
        for other in sources.keys() - {name}:
            assert f"impls/{other}/training.py" in source.split('"""')[1]


CHANGES = {
    "another name": ("def loss(", "def cross_entropy_of("),
    "another argument": ("def optimizer(model: ResNet, recipe", "def optimizer(network: ResNet, recipe"),
    "another order of arguments": ("model: ResNet, recipe: Recipe) -> None", "recipe: Recipe, model: ResNet) -> None"),
    "another docstring": ('"""The cross-entropy of logits', '"""The loss of logits'),
    "another attribute": ("self.optimizer = optimizer(", "self.rule = optimizer("),
    "another method": ("    def slots(self)", "    def reset(self):\n        pass\n\n    def slots(self)"),
    "a missing method": ("    def set_slots(", "    def put_slots("),
    "a copied fact": ("def optimizer(", "MOMENTUM = 0.9\n\n\ndef optimizer("),
    "another step": ('"""Take one step on a batch', '"""Take a step on a batch'),
}


@pytest.mark.parametrize("framework", list(EXTRAS))
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_copy_is_told(sources, framework, change):
    old, new = change
    assert old in sources[framework]
    assert differences(sources | {framework: sources[framework].replace(old, new, 1)})
