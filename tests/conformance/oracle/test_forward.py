"""The oracle segment by segment is the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.oracle.forward import Stopped
from impls.config import VARIANTS
from impls.numpy import resnet
from tests.conformance.specimens import forward_specimen


@pytest.mark.parametrize("variant", VARIANTS)
def test_segment_by_segment_it_is_the_oracle(variant):
    specimen = forward_specimen(variant)
    model = resnet(specimen.config, specimen.weights)
    whole = model.activations(specimen.images.astype("float64"), layers=True)
    assert whole.keys() == specimen.right[False].keys()
    assert all(np.array_equal(whole[name], specimen.right[False][name]) for name in whole)


def test_in_train_mode_it_is_the_oracle_with_its_running_statistics():
    """No error adds up: each segment is fed what the whole network in train mode feeds it."""
    specimen = forward_specimen()
    model = resnet(specimen.config, specimen.weights).train()
    whole = model.activations(specimen.images.astype("float64"), layers=True)
    for name, layer in model.layers():
        whole |= {f"{name}.{leaf}": array for leaf, array in vars(layer).items() if leaf.startswith("running_")}
    assert whole.keys() == specimen.right[True].keys()
    assert all(np.array_equal(whole[name], specimen.right[True][name]) for name in whole)


def test_a_run_that_is_stopped_returns_what_it_has_computed():
    specimen = forward_specimen()

    def until_bn2(name, value):
        if name == "stage1.0.bn2":
            raise Stopped

    arrays = specimen.oracle().run("stage1.0", specimen.entering("stage1.0", True), True, watch=until_bn2)
    assert list(arrays) == [f"stage1.0.{layer}" for layer in ("conv1", "bn1", "conv2", "bn2")]
