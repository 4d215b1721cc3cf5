"""Targets: how a command line names a model, `module:factory` or `file.py:factory`, and how it is loaded.

The arguments of a factory are literals, which are read and never evaluated.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SPELLINGS = (
    "a target is MODULE:FACTORY or FILE.py:FACTORY, with literal arguments if need be, and with a name of your own if "
    "you like: torchvision.models:resnet50, ./port.py:make_model, mine=my_package.models:build(num_classes=10); or a "
    "model file (.onnx, .keras, .pt2, .tflite) or the folder of a TensorFlow SavedModel"
)


class TargetError(ValueError):
    """A target that is no target, or names something that is not there; the message says which."""


@dataclass(frozen=True)
class Target:
    """A target, read into its parts.

    Attributes:
        name: The candidate's name in reports.
        module: Name of a module, or path of a Python file, a model file or a folder.
        factory: Dotted path, in the module, of what makes the model or is one; empty for a model file or a folder.
        arguments: The factory's positional arguments, literals.
        keywords: Its keyword arguments, literals.
        text: The target as it was given.
    """

    name: str
    module: str
    factory: str
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def is_file(self) -> bool:
        """Tell whether the target is a model file or a folder, not what makes a model."""
        return not self.factory

    @property
    def called(self) -> bool:
        """Tell whether the target spells a call, with or without arguments."""
        return self.text.endswith(")")


FOLDER = ""
"""Stands for a folder among the endings of files."""

FILES = {
    ".onnx": "conformance.run.candidates.files.onnx:OnnxFile",
    ".keras": "conformance.run.candidates.files.keras:KerasFile",
    ".pt2": "conformance.run.candidates.files.torch:ExportedFile",
    ".tflite": "conformance.run.candidates.files.tensorflow:LiteFile",
    FOLDER: "conformance.run.candidates.files.tensorflow:SavedModel",
}
"""Ending of a model file that is a target to the class that opens it, given the file and the precision."""

NAME = re.compile(r"(?P<name>[A-Za-z_][\w.@+-]*)=(?P<rest>.+)", re.DOTALL)
PLACE = re.compile(r"(?P<module>[^()]+):(?P<factory>[A-Za-z_][\w.]*)(?P<call>\(.*\))?", re.DOTALL)


def parse_target(text: str) -> Target:
    """Read a target.

    Raises:
        TargetError: If it is none, or its arguments are no literals.

    Example:
        >>> target = parse_target("mine=./port.py:build(10, width=64)")
        >>> target.name, target.module, target.factory, target.arguments, target.keywords
        ('mine', './port.py', 'build', (10,), {'width': 64})
        >>> parse_target("torchvision.models:resnet50").name
        'resnet50'
    """
    named = NAME.fullmatch(text)
    name, rest = (named["name"], named["rest"]) if named else ("", text)
    place = PLACE.fullmatch(rest)
    if ending_of(rest) or (place is None and rest and Path(rest).is_dir()):
        return Target(name or Path(rest).stem, rest, "", text=rest)
    if place is None:
        raise TargetError(f"{text!r} is no target: {SPELLINGS}")
    arguments, keywords = read_call(place["call"] or "()", text)
    return Target(name or place["factory"], place["module"], place["factory"], arguments, keywords, rest)


def ending_of(path: str) -> str:
    """Return the ending of a model file; empty if a path has none of them.

    Example:
        >>> ending_of("dir/model.onnx"), ending_of("my_port:build")
        ('.onnx', '')
    """
    return next((ending for ending in FILES if ending and path.endswith(ending)), FOLDER)


def read_call(call: str, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read the arguments of a call, "(10, width=64)"; nothing is evaluated.

    Raises:
        TargetError: If it is no call, or an argument is no literal.

    Example:
        >>> read_call("(10, depths=(3, 4, 6, 3))", "")
        ((10,), {'depths': (3, 4, 6, 3)})
    """
    try:
        parsed = ast.parse(f"_{call}", mode="eval").body
        if not isinstance(parsed, ast.Call) or not isinstance(parsed.func, ast.Name):
            raise ValueError("it is no call")
        keywords = {}
        for keyword in parsed.keywords:
            if keyword.arg is None:
                raise ValueError("** takes no literal")
            keywords[keyword.arg] = ast.literal_eval(keyword.value)
        return tuple(ast.literal_eval(argument) for argument in parsed.args), keywords
    except (SyntaxError, ValueError) as error:
        raise TargetError(
            f"the arguments of {text!r} cannot be read ({error}): they are literals, as in build(num_classes=10)"
        ) from error


def import_target(target: Target) -> Any:
    """Import the module of a target, and return what the target names in it: a factory, a function or a model.

    Raises:
        TargetError: If there is no such module, file or attribute.
    """
    module = import_file(Path(target.module)) if target.module.endswith(".py") else import_named(target.module)
    value = module
    for step in target.factory.split("."):
        if not hasattr(value, step):
            names = [name for name in vars(module) if not name.startswith("_") and callable(getattr(module, name))]
            offered = f"; it has {', '.join(sorted(names)[:12])}" if names else ""
            raise TargetError(f"{target.module} has no {target.factory!r}{offered}")
        value = getattr(value, step)
    return value


def import_named(name: str) -> Any:
    """Import a module by its name.

    Raises:
        TargetError: If there is no such module. What goes wrong while it is imported is passed on.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the module is there, and one that it imports is missing
        raise TargetError(
            f"there is no module {name!r} (a file is named by its path, as in ./port.py:build)"
        ) from error


def import_file(file: Path) -> Any:
    """Import a Python file; modules beside it can be imported by it, as if it were run.

    Raises:
        TargetError: If there is no such file.
    """
    if not file.is_file():
        raise TargetError(f"there is no file {file}")
    sys.path.insert(0, str(file.resolve().parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # as an import does: pickles and dataclasses look there
    spec.loader.exec_module(module)
    return module


def needs_arguments(function: Any) -> bool:
    """Tell whether a callable cannot be called without arguments: then it is a function of images, and no factory.

    Example:
        >>> needs_arguments(lambda images: images), needs_arguments(lambda num_classes=1000: None)
        (True, False)
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.default is inspect.Parameter.empty and p.kind in positional for p in parameters)
