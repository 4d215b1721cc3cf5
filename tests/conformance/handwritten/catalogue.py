"""The whole catalogue of hand-written wrong models."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from tests.conformance.handwritten.wrong_model import WRONG_MODELS, WrongModel

SUBJECTS = (
    *("convolutions", "norms", "activations", "blocks", "heads", "images", "gradients", "steps"),
    *("whole_networks", "linen_models", "keras_models"),
)


def catalogue() -> Mapping[str, WrongModel]:
    """Every row by id, in the order of subjects."""
    for subject in SUBJECTS:
        importlib.import_module(f"tests.conformance.handwritten.{subject}")
    return WRONG_MODELS
