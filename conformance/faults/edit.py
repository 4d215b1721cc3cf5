"""Text edits: how the text of a model or of its training goes wrong, and the module that the wrong text makes.

The four model files read alike line for line, so most faults of structure are one substitution for all of them. Where a
line is each framework's own, a row says it for each; a framework that a row leaves out cannot have the fault.

Example:
    >>> replaced("return relu(y + x)", "return relu(y)")["keras"]
    (Substitution(old='return relu(y + x)', new='return relu(y)'),)
    >>> list(replaced("x = pool(x)", torch="x = x.amax((2, 3))", flax="x = x.max((1, 2))"))
    ['torch', 'flax']
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import count
from types import ModuleType
from typing import NamedTuple

FRAMEWORKS = ("torch", "flax", "keras", "numpy")
"""Those that have a model; NumPy's is the oracle."""

VALUE = "THE_VALUE"
"""Stands in a new text for the value of the fault's parameter."""

HERE = "AT_THIS_PLACE"
"""Stands in NumPy's new text of gradients for the question whether the layer or block `name` is the fault's place."""


class Substitution(NamedTuple):
    """A text in a file, and the one that replaces it; `old` must stand in the file exactly once."""

    old: str
    new: str


Edits = tuple[Substitution, ...]
FrameworkEdits = Mapping[str, Edits]
Pairs = tuple[str, str] | Sequence[tuple[str, str]]
"""A pair of texts (old, new), or several, which are replaced one after the other."""

Line = str | Mapping[str, str]
"""A text of the model files: the same in all four, or that of each framework."""


def by_framework(**pairs: Pairs) -> FrameworkEdits:
    """Substitutions for each framework: one pair (old, new), or several that are made one after the other."""
    return {framework: _substitutions(own) for framework, own in pairs.items()}


def _substitutions(pairs: Pairs) -> Edits:
    """Each pair of texts as a substitution."""
    match pairs:
        case (str(old), str(new)):
            return (Substitution(old, new),)
        case _:
            return tuple(Substitution(old, new) for old, new in pairs)


def replaced(line: Line, new: str = "", **texts: str) -> FrameworkEdits:
    """Replace one line: by the same text in all frameworks that have it, or by each framework's own.

    Args:
        line: The right text.
        new: The wrong text, if it is the same in all frameworks.
        texts: The wrong text of each framework that can have the fault, if it is not.
    """
    old = dict.fromkeys(FRAMEWORKS, line) if isinstance(line, str) else line
    wrong = texts or dict.fromkeys(old, new)
    return by_framework(**{framework: (old[framework], text) for framework, text in wrong.items()})


def together(*several: FrameworkEdits) -> FrameworkEdits:
    """Substitutions of several kinds, one after the other, in the frameworks that have them all."""
    shared = [framework for framework in FRAMEWORKS if all(framework in one for one in several)]
    return {framework: tuple(edit for one in several for edit in one[framework]) for framework in shared}


def before(line: str, *new: str) -> tuple[str, str]:
    """Lines put before another, which stays, so that several faults can be put before the same line."""
    indent = " " * (len(line) - len(line.lstrip()))
    return line, "".join(f"{indent}{text}\n" for text in new) + line


class EditError(ValueError):
    """A substitution that does not match the text it was written for."""


def edited(text: str, edits: Sequence[Substitution], where: str) -> str:
    """The text with the substitutions made, one after the other.

    Args:
        text: The right text.
        edits: What to replace.
        where: Name of the text, for the message of an error.

    Raises:
        EditError: If the old text of one does not stand there exactly once.

    Example:
        >>> edited("return relu(y + x)", [Substitution("relu(y + x)", "y + x")], "a model")
        'return y + x'
    """
    for edit in edits:
        times = text.count(edit.old)
        if times != 1:
            raise EditError(f"{where}: {edit.old!r} stands there {times} times, where it should stand once")
        text = text.replace(edit.old, edit.new)
    return text


QUARANTINE = Substitution("@registered\n", '@keras.saving.register_keras_serializable(package="resnet_parity_fault")\n')
"""Keras keeps a register of classes by name: the wrong ones must not take the right ones' place in it."""


def model_text(module: str) -> str:
    """Read the text of a model's file, or of its training's; no framework is imported.

    Example:
        >>> "class Bottleneck(nn.Module):" in model_text("impls.torch.resnet")
        True
    """
    package, *folders, file = module.split(".")
    return files(package).joinpath(*folders, f"{file}.py").read_text()


@cache
def edited_module(module: str, edits: Edits) -> ModuleType:
    """A fresh module from a model's text with the substitutions made; without any, the model's own module.

    Raises:
        EditError: If a substitution does not match.
    """
    if not edits:
        return importlib.import_module(module)
    text = edited(model_text(module), edits, module).replace(QUARANTINE.old, QUARANTINE.new)
    wrong = ModuleType(f"{module}_with_fault_{next(_NUMBERS)}")
    sys.modules[wrong.__name__] = wrong  # classes are looked up there by their module's name
    exec(compile(text, f"<{module} with a fault>", "exec"), wrong.__dict__)
    return wrong


_NUMBERS = count()
