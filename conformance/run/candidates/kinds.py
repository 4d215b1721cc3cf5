"""Kinds of models: how each is recognised, which adapter runs it, and what it can do. One row for each kind.

A kind is recognised by its framework's own classes where that framework is imported already; nothing is imported here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from conformance.cases.case import PRECISIONS
from conformance.run.candidates.options import Options
from conformance.run.candidates.survey import Unfit
from conformance.run.candidates.targets import (
    FILES,
    FOLDER,
    TargetError,
    ending_of,
    import_target,
    needs_arguments,
    parse_target,
)
from weights_convert.errors import first_line


@dataclass(frozen=True)
class Kind:
    """A kind of model, and what it can do at best: "yes", or why not.

    Attributes:
        name: What it is called in reports.
        classes: Its classes, "module:class", of which a model must be an instance of one.
        adapter: Its adapter, "module:class".
        packages: Distributions of its framework.
        float64: Whether it computes in float64.
        train: Whether it runs in train mode.
        weights: Whether it can be given weights.
        activations: Whether it shows activations within an ordinary run.
        taps: Whether activations can be seen and replaced one by one, to feed it.
        gradients: Whether it can be differentiated and trained.
    """

    name: str
    classes: tuple[str, ...]
    adapter: str
    packages: tuple[str, ...]
    float64: str = "yes"
    train: str = "yes"
    weights: str = "yes"
    activations: str = "yes"
    taps: str = "yes"
    gradients: str = "yes"

    def holds(self, model: Any) -> bool:
        """Tell whether a model is of this kind."""
        model = model[0] if isinstance(model, tuple) and len(model) == 2 else model  # a module and its variables
        return any(isinstance(model, each) for each in map(imported_class, self.classes) if each is not None)


def imported_class(path: str) -> type | None:
    """Return the class at "module:class" if its module is imported already.

    Example:
        >>> imported_class("collections:OrderedDict"), imported_class("not_imported:Class")
        (<class 'collections.OrderedDict'>, None)
    """
    module, _, name = path.partition(":")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


FROM_THE_FILE = "no: the oracle takes the file's, or those of `--weights`"
GRAPH = {"train": "no", "activations": "logits alone: a graph shows its outputs", "taps": "no", "gradients": "no"}
TORCH = "conformance.run.candidates.torch:"

KINDS: tuple[Kind, ...] = (
    Kind(
        "scripted PyTorch module",
        ("torch.jit:ScriptModule",),
        f"{TORCH}Scripted",
        ("torch",),
        activations="logits alone: hooks do not fire inside a scripted module",
        taps="hooks do not fire inside a scripted module",
    ),
    Kind(
        "compiled PyTorch module",
        ("torch._dynamo.eval_frame:OptimizedModule",),
        f"{TORCH}Compiled",
        ("torch",),
        activations="logits alone: a compiled graph cannot be looked into",
        taps="yes, of the module run eagerly",
    ),
    Kind(
        "exported PyTorch program",
        ("torch.export:ExportedProgram",),
        "conformance.run.candidates.files.torch:ExportedProgram",
        ("torch",),
        train="no",
        gradients="gradients in inference mode; not training steps",
    ),
    Kind(
        "exported PyTorch program in a file (`.pt2`)",
        (FILES[".pt2"],),
        "conformance.run.candidates.files.torch:ExportedFileCandidate",
        ("torch",),
        train="no",
        weights=FROM_THE_FILE,
        gradients="gradients in inference mode; not training steps",
    ),
    Kind(
        "Keras model",
        ("keras:Model",),
        "conformance.run.candidates.keras:KerasCandidate",
        ("keras", "tensorflow"),
        float64="yes, on TensorFlow, where a factory builds it",
    ),
    Kind("PyTorch module", ("torch.nn:Module",), f"{TORCH}TorchCandidate", ("torch",)),
    Kind(
        "Linen module",
        ("flax.linen:Module",),
        "conformance.run.candidates.flax:LinenCandidate",
        ("flax", "jax"),
        train="yes, by an argument of its call",
    ),
    Kind(
        "NNX module",
        ("flax.nnx:Module",),
        "conformance.run.candidates.flax:NnxCandidate",
        ("flax", "jax"),
    ),
    Kind(
        "Keras model in a file (`.keras`)",
        (FILES[".keras"],),
        "conformance.run.candidates.files.keras:KerasFileCandidate",
        ("keras", "tensorflow"),
        float64="yes, on TensorFlow",
        weights=FROM_THE_FILE,
    ),
    Kind(
        "ONNX file (`.onnx`)",
        (FILES[".onnx"],),
        "conformance.run.candidates.files.onnx:OnnxCandidate",
        ("onnxruntime", "onnx"),
        float64="yes, unless its norms are folded; by onnx's reference evaluator",
        weights=FROM_THE_FILE,
        **GRAPH,
    ),
    Kind(
        "TensorFlow SavedModel (a folder)",
        (FILES[FOLDER],),
        "conformance.run.candidates.files.tensorflow:SavedModelCandidate",
        ("tensorflow",),
        float64="where it was saved in float64",
        weights=FROM_THE_FILE,
        **GRAPH,
    ),
    Kind(
        "TFLite file (`.tflite`)",
        (FILES[".tflite"],),
        "conformance.run.candidates.files.tensorflow:LiteCandidate",
        ("tensorflow",),
        float64="no",
        weights="no: the oracle takes those of `--weights`",
        **GRAPH,
    ),
    Kind(
        "function of images",
        ("collections.abc:Callable",),
        "conformance.run.candidates.function:FunctionCandidate",
        (),
        train="no",
        weights="no: the oracle takes those of `--weights`",
        activations="logits alone: a function shows what it returns",
        taps="no",
        gradients="no",
    ),
)
"""Every kind, the more special ones first: on PyTorch, a Keras model is a PyTorch module, too."""


def find_kind(model: Any) -> Kind:
    """Find the kind of a model.

    Raises:
        Unfit: If it is of none; the message lists the kinds.
    """
    for kind in KINDS:
        if kind.holds(model):
            return kind
    kinds = ", ".join(kind.name for kind in KINDS)
    raise Unfit(f"the target gives a {type(model).__module__}.{type(model).__qualname__}; a model is a {kinds}")


def open_file(path: str, precision: str) -> Any:
    """Open a model file, or a folder, by its ending.

    Raises:
        TargetError: If it is not there.
        Unfit: If it cannot be read.
    """
    ending = ending_of(path)
    if not (Path(path).is_dir() if ending == FOLDER else Path(path).is_file()):
        raise TargetError(f"there is no {'file' if ending else 'folder'} {path}")
    module, _, name = FILES[ending].partition(":")
    return getattr(importlib.import_module(module), name)(Path(path), precision)


def adapt(model: Any, options: Options, packages: tuple[str, ...] = ()) -> Any:
    """Make the adapter of a model.

    Args:
        model: The model.
        options: What the user says about it.
        packages: Distributions that it comes from, beside its framework's.

    Raises:
        Unfit: If it is of no known kind.
    """
    kind = find_kind(model)
    module, _, name = kind.adapter.partition(":")
    adapter = getattr(importlib.import_module(module), name)(model, options)
    adapter.kind, adapter.packages = kind, installed((*kind.packages, *packages))
    return adapter


def installed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the names that are installed distributions, each once; a file in the working folder has none.

    Example:
        >>> installed(("numpy", "", "numpy"))
        ('numpy',)
    """
    found = []
    for name in filter(None, dict.fromkeys(names)):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return tuple(found)


def open_candidate(target: str, options: Mapping[str, Any], precision: str) -> Any:
    """Load the model that a target names, and make its adapter: the entry in a worker.

    Args:
        target: The target, without a name.
        options: Fields of the `Options`.
        precision: "float64" or "float32".

    Raises:
        TargetError: If the target names nothing that is there.
        Unfit: If its factory fails, or gives no model of a known kind.
    """
    spoken = parse_target(target)
    if spoken.is_file:
        return adapt(open_file(spoken.module, precision), Options.from_dict(options))
    found = import_target(spoken)
    is_model = any(kind.holds(found) for kind in KINDS[:-1])  # every factory is callable, as the last kind is
    known = set_keras_dtype(precision)
    if not is_model and callable(found) and (spoken.called or not needs_arguments(found)):
        try:
            made = found(*spoken.arguments, **spoken.keywords)
            if not known and set_keras_dtype(precision):  # the factory imported Keras, and built in its default
                made = found(*spoken.arguments, **spoken.keywords)
        except Exception as error:
            raise Unfit(f"{spoken.factory} raised {type(error).__name__}: {first_line(error)}") from error
        found = made
    return adapt(found, Options.from_dict(options), (spoken.module.partition(".")[0],))


def set_keras_dtype(precision: str) -> bool:
    """Set the dtype of models that Keras builds from now on, which they keep; returns whether it is imported."""
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.config.set_floatx(precision)
        if keras.config.dtype_policy().name in PRECISIONS:  # Keras remembers it from the first layer; others are chosen
            keras.config.set_dtype_policy(precision)
    return keras is not None
