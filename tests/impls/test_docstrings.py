"""Run the examples in the docstrings of `impls`."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted((ROOT / "impls").rglob("*.py"))]
SLOW = {f"impls.{framework}.{name}" for framework in ("flax", "keras") for name in ("resnet", "training")}
"""Modules whose examples take 10 to 40 seconds, since Flax and Keras compile the whole ResNet-50."""

MODULES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name in NAMES
    if not name.endswith("__init__")
]
HAVE_EXAMPLES = {"impls.config", "impls.recipe", "impls.taps", "impls.paths", "impls.numpy.initial"} | {
    f"impls.{framework}.{name}" for framework in ("numpy", "torch", "flax", "keras") for name in ("resnet", "training")
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run_as_shown(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some examples write files
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert failed == 0
    assert attempted > 0 or name not in HAVE_EXAMPLES
