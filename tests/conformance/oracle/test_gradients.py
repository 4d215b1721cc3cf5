"""The oracle's gradients segment by segment are the oracle's gradients, and faults are put into them in any order."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.cases.batches import labels_for, padded
from conformance.cases.recipes import LOSS
from conformance.faults import EditError
from conformance.oracle.forward import WidenedArrays, build_network
from conformance.oracle.gradients import training_with
from impls.numpy.training import gradients
from tests.conformance.specimens import training_specimen


@pytest.fixture(scope="module")
def specimen():
    return training_specimen()


def test_segment_by_segment_they_are_the_oracles(specimen):
    model = build_network(specimen.config, WidenedArrays(specimen.arrays, "float64")).train()
    loss, whole = gradients(model, padded(specimen.images.astype(np.float64)), labels_for(2, 10), LOSS)
    arrays = specimen.gradients()
    assert arrays.pop("loss") == loss
    assert arrays.keys() == {f"gradient.{name}" for name in whole}
    assert all(np.array_equal(arrays[f"gradient.{name}"], array) for name, array in whole.items())


def test_they_can_begin_at_any_segment(specimen):
    every = list(specimen.oracle().run(()))
    assert [segment for segment, _, _ in every] == list(specimen.oracle().segments)
    (_, entering, _), (segment, dy, arrays) = every[2:4]
    begun = next(specimen.oracle().run((), segment, entering))
    assert begun[0] == segment
    assert np.array_equal(begun[1], dy)
    assert all(np.array_equal(begun[2][name], array) for name, array in arrays.items())


def test_faults_are_put_in_in_the_order_in_which_each_finds_its_place(specimen):
    for faults in ("loss-sum softmax-twice", "softmax-twice loss-sum"):
        assert training_with(specimen.injections(faults)).loss is not None
    with pytest.raises(EditError, match="stands there 0 times"):
        training_with(specimen.injections("wd-decoupled lr-in-velocity"))
