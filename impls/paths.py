"""Reach the arrays of a model by dotted attribute paths, such as "stage1.0.conv1.kernel"."""

from __future__ import annotations

from typing import Any


def follow(model: Any, path: str) -> Any:
    """Return the object at a dotted path of attributes and indices.

    Example:
        >>> from impls.numpy import resnet50
        >>> follow(resnet50("v1.5", num_classes=10), "stage1.0.conv1.weight").shape
        (64, 64, 1, 1)
    """
    for step in filter(None, path.split(".")):
        model = model[int(step)] if step.isdigit() else getattr(model, step)
    return model


def put(model: Any, path: str, value: Any) -> None:
    """Replace the object at a dotted path of attributes and indices.

    Example:
        >>> from impls.numpy import resnet50
        >>> model = resnet50("v1.5", num_classes=10)
        >>> put(model, "fc.bias", follow(model, "fc.bias") + 1)
    """
    owner, _, step = path.rpartition(".")
    parent = follow(model, owner)
    if step.isdigit():
        parent[int(step)] = value
    else:
        setattr(parent, step, value)
