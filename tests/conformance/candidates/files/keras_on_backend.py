"""Runs a `.keras` file, and a live model, on the backend that KERAS_BACKEND names; writes what they show, as JSON.

A backend is chosen once in a process: tests run this as a process of its own.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import keras
import numpy as np

from conformance.cases.inputs import noise
from conformance.cases.recipes import LOSS
from conformance.run.adapters.numpy import Oracle
from conformance.run.candidates.kinds import adapt, open_candidate
from conformance.run.candidates.options import Options
from impls.config import VARIANTS
from impls.keras import resnet

SMALL = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=4, num_classes=10)
IMAGES = noise(64, 96, 2, 0).images


def errors(arrays, expected):
    """Relative L2 errors by name."""
    return {name: float(np.linalg.norm(arrays[name] - a) / np.linalg.norm(a)) for name, a in expected.items()}


def look(adapter, oracle, weights, compiled):
    """Run every activation in inference mode and, unless each mode is compiled for long, train mode and gradients."""
    adapter.prepare("cpu", "float32")
    adapter.build(SMALL, weights)
    seen = {}

    def tap(name, value):
        seen[name] = value
        return np.zeros_like(value) if name == "stage2.0" else None

    adapter.run_tapped(IMAGES, False, tap)
    modes = (False,) if compiled else (False, True)
    found = {
        str(train): errors(adapter.record(IMAGES, train, True), oracle.record(IMAGES, train, True)) for train in modes
    }
    if not compiled:
        labels = np.array([3, 7])
        loss, gradients = adapter.gradients(IMAGES, labels, LOSS, False)
        expected = oracle.gradients(IMAGES, labels, LOSS, False)
        found["gradients"] = errors({**gradients, "loss": loss}, {**expected[1], "loss": expected[0]})
    return {
        "kind": adapter.kind.name,
        "not_shown": dict(adapter.examine(IMAGES).not_shown),
        "cannot": adapter.cannot,
        "fed": bool(seen["stage3.0.conv1"].any()),
        "errors": found,
    }


def main(file, weights):
    oracle = Oracle()
    oracle.prepare("cpu", "float64")
    oracle.build(SMALL, weights)
    compiled = keras.backend.backend() == "jax"
    models = {"file": open_candidate(file, {}, "float32"), "live": adapt(resnet(SMALL, seed=0), Options())}
    seen = {name: look(adapter, oracle, weights, compiled) for name, adapter in models.items()}
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
