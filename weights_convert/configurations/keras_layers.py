"""The fields of Keras's layers: which of them decide the function of a network, and which do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weights_convert.configurations.fields import ALL, decides

FLOAT_POLICIES = ("float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16")


def dtype_name(policy: Any) -> Any:
    """Return the name of a dtype policy, which Keras 3 writes as an object and Keras 2 as a text."""
    if isinstance(policy, Mapping) and policy.get("class_name") in ("DTypePolicy", "FloatDTypePolicy", "Policy"):
        inner = policy.get("config")
        return inner.get("name") if isinstance(inner, Mapping) and not inner.keys() - {"name"} else policy
    return policy


DTYPE = decides(
    "the precision; a quantised layer computes something else",
    *((name, ALL) for name in (*FLOAT_POLICIES, None)),
    default=None,
    measure=dtype_name,
)
"""Keras computes in this precision; the arrays of the file keep their own."""

HEAD_ACTIVATION = decides(
    "the activation after the logits; the logits before it are kept",
    *((name, ALL) for name in (None, "linear", "softmax", "sigmoid")),
    default=None,
)
