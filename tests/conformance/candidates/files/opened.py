"""A model file as `conformance check` opens it, with the network and the weights that it is held against."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from conformance.run.adapters.numpy import Oracle
from conformance.run.candidates.kinds import open_candidate
from conformance.run.candidates.targets import parse_target
from conformance.surveying import Request, hold_against


def opened(file, precision, folder, variant=None, weights=None, **options):
    """The adapter of a file and an oracle of its network, both with their weights; and what the survey says."""
    request = Request(variant=variant, weights=weights, **options)
    own = asdict(request.options(str(folder / "own.safetensors")))
    survey = open_candidate(str(file), own, "float32").survey()
    held = hold_against(parse_target(str(file)), survey, request)
    held.weights.save(folder / "oracle.safetensors")
    adapter = open_candidate(str(file), own, precision)
    oracle = Oracle()
    for each, dtype in ((adapter, precision), (oracle, "float64")):
        each.prepare("cpu", dtype)
        each.build(held.config, folder / "oracle.safetensors")
    return adapter, oracle, survey


def first_difference(adapter, oracle, images, limit):
    """The first activation in inference mode that is another than the oracle's, in the order of computation."""
    arrays, expected = adapter.record(images, False, True), oracle.record(images, False, True)
    assert "logits" in arrays
    assert set(expected) - set(arrays) <= set(adapter.not_shown)
    errors = {name: np.linalg.norm(arrays[name] - expected[name]) / np.linalg.norm(expected[name]) for name in arrays}
    return next((name for name in expected if name in errors and errors[name] > limit), None)
