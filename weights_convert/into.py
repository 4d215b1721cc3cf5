"""Writing a checkpoint into a model that a framework has built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from weights_convert.comparison import mismatches
from weights_convert.errors import ConversionError
from weights_convert.live import LiveModel, open_model
from weights_convert.recognition import Choice, Subtree, select
from weights_convert.table import reorder

if TYPE_CHECKING:
    from weights_convert.checkpoint import Checkpoint


def write_into(checkpoint: Checkpoint, model: Any, variant: str | None) -> None:
    """Set every array of a model from a checkpoint; if one does not fit, the model stays as it was.

    Args:
        checkpoint: The weights.
        model: A model of PyTorch, Flax NNX or Keras, whose names are those of a dialect behind any prefix.
        variant: The variant that the model computes, if it is not that of its library's published weights.

    Raises:
        ConversionError: If it is no such model, or the checkpoint does not fit.
    """
    live = open_model(model)
    if live is None:
        problem = f"it is of type {type(model).__name__}; expected a model of PyTorch, Flax NNX or Keras"
        raise ConversionError("this model", [problem])
    selection = select(list(live.variables), {}, Choice())
    if selection.tree is None or selection.problems:
        raise ConversionError(live.backend.where, selection.problems)
    where = f"{checkpoint.where}, into {live.backend.where}"
    if problems := _other_function(checkpoint, live, selection.tree, variant):
        advice = "If the model computes another variant than its library's, say which: into(model, variant=...)."
        raise ConversionError(where, problems, "" if live.config else advice)
    _assign(checkpoint, live, selection.tree, where)


def _other_function(checkpoint: Checkpoint, live: LiveModel, tree: Subtree, variant: str | None) -> list[str]:
    """Return the problems if the model computes another function than the checkpoint's network."""
    if live.config is not None:
        return mismatches(checkpoint.config, checkpoint.recognised_by, variant, live.config)
    built = variant or tree.dialect.published_variant
    if built is None:
        return [f"the model does not say its variant, and the checkpoint is {checkpoint.config.variant}"]
    return mismatches(checkpoint.config, checkpoint.recognised_by, built, None)


def _assign(checkpoint: Checkpoint, live: LiveModel, tree: Subtree, where: str) -> None:
    """Check every array against its variable, then set all.

    Raises:
        ConversionError: If an array is missing or extra, of another shape, or of a dtype that its variable cannot hold.
    """
    canonical = checkpoint.to("canonical").arrays
    framework = tree.dialect.framework
    arrays, problems = {}, []
    for name, (path, rule) in tree.readings.items():
        if path not in canonical:
            problems.append(f"the model has {name!r}, and the checkpoint has no such array")
            continue
        array, old = reorder(canonical[path], rule, "torch", framework), live.read(name)
        if array.shape != old.shape:
            problems.append(f"{name!r} has the shape {old.shape} in the model, and {array.shape} in the checkpoint")
        elif not np.can_cast(array.dtype, old.dtype, "safe"):
            problems.append(f"{name!r} is {array.dtype}, which the model's {old.dtype} cannot hold exactly")
        else:
            arrays[name] = np.ascontiguousarray(array, old.dtype)
    paths = set(tree.canonical.values())
    problems += [f"the model has no place for {path!r}" for path in canonical if path not in paths]
    if problems:
        raise ConversionError(where, problems, "A head of other classes: load(..., drop_head=True) leaves it out.")
    for name, array in arrays.items():
        live.assign(name, array)
