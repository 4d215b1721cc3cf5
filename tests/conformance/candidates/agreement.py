"""Assertions that a candidate computes as the oracle does."""

from __future__ import annotations

import numpy as np


def assert_equal_to_rounding(arrays, expected, limit=1e-12):
    """Compare arrays by name in relative L2 error."""
    assert arrays.keys() == expected.keys()
    for name in expected:
        error = np.linalg.norm(arrays[name] - expected[name]) / np.linalg.norm(expected[name])
        assert error < limit, (name, error)


def assert_every_activation_is_shown(adapter, oracle, images):
    """Compare every layer of a run in each mode, after the first look, which must find nothing that is hidden."""
    adapter.examine(images)
    assert adapter.not_shown == {}
    for train in (False, True):
        arrays = adapter.record(images, train, layers=True)
        assert_equal_to_rounding(arrays, oracle.record(images, train, layers=True))
