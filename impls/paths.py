"""Attribute paths: the arrays of a model, reached by the names of the table."""

from __future__ import annotations

from typing import Any

from impls.config import ResNetConfig
from weights_convert.dialects import find_dialect
from weights_convert.shapes import expected_shapes


def variables(model: Any, config: ResNetConfig, dialect: str) -> dict[str, Any]:
    """Every array of a model by its dotted attribute path, as the model's framework holds it.

    Raises:
        AttributeError: If the model lacks a layer that the config promises.
    """
    names = find_dialect(dialect).write_names(expected_shapes(config)).values()
    return {name: follow(model, name) for name, _ in names}


def follow(model: Any, path: str) -> Any:
    """What stands at a dotted path of attributes and indices ("stage1.0.conv1.kernel")."""
    for step in path.split("."):
        model = model[int(step)] if step.isdigit() else getattr(model, step)
    return model
