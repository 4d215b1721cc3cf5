"""Reach the arrays of a model by dotted attribute paths, such as "stage1.0.conv1.kernel"."""

from __future__ import annotations

from typing import Any

from impls.config import ResNetConfig
from weights_convert.dialects import find_dialect
from weights_convert.shapes import expected_shapes


def named_variables(model: Any, config: ResNetConfig, dialect: str) -> dict[str, Any]:
    """Collect every array of a model by its attribute path.

    Args:
        model: A model of `impls`.
        config: The model's configuration; it says which arrays there are.
        dialect: Name of the dialect whose names are the model's attribute paths: "canonical" for NumPy, else the
            framework's name.

    Returns:
        Path to NumPy array, `torch.Tensor`, `nnx.Variable` or `keras.Variable`, in canonical order.

    Raises:
        AttributeError: If the model lacks a layer that the configuration promises.
    """
    paths = find_dialect(dialect).write_names(expected_shapes(config)).values()
    return {path: follow(model, path) for path, _ in paths}


def follow(model: Any, path: str) -> Any:
    """Return the object at a dotted path of attributes and indices.

    Example:
        >>> from impls.numpy import resnet50
        >>> follow(resnet50("v1.5", num_classes=10), "stage1.0.conv1.weight").shape
        (64, 64, 1, 1)
    """
    for step in path.split("."):
        model = model[int(step)] if step.isdigit() else getattr(model, step)
    return model


def put(model: Any, path: str, value: Any) -> None:
    """Replace the object at a dotted path of attributes and indices; the last step is an attribute.

    Example:
        >>> from impls.numpy import resnet50
        >>> model = resnet50("v1.5", num_classes=10)
        >>> put(model, "fc.bias", follow(model, "fc.bias") + 1)
    """
    owner, _, attribute = path.rpartition(".")
    setattr(follow(model, owner), attribute, value)
