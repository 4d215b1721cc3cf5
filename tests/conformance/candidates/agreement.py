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


def assert_a_step_is_the_oracles(adapter, oracle, images, recipe):
    """Compare the loss and every array of one training step, and see that the model's own runs are as before."""
    labels, before = np.arange(len(images)), adapter.record(images, False, layers=False)
    (step, read), (step_expected, read_expected) = adapter.training(recipe), oracle.training(recipe)
    assert abs(step(images, labels) - step_expected(images, labels)) < 1e-12
    state, expected = read(), read_expected()
    assert (state.steps, state.slots.keys()) == (1, expected.slots.keys())
    assert_equal_to_rounding(state.weights.arrays, expected.weights.to("canonical").arrays, 1e-10)
    for slot, kept in expected.slots.items():
        arrays = {name: array for name, array in kept.to("canonical").arrays.items() if not is_before_norm(name)}
        assert_equal_to_rounding({name: state.slots[slot].arrays[name] for name in arrays}, arrays, 1e-10)
    after = adapter.record(images, False, layers=False)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def is_before_norm(name):
    """Tell the bias of a convolution, whose gradient is zero, since the norm behind it takes it away again."""
    return "conv" in name and name.endswith("bias")
