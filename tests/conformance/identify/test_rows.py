"""Rows that a fact names are confirmed by what they compute themselves; a wrong name is dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.synthetic import synthetic_weights
from conformance.identify.fact import Fact
from conformance.identify.link import IMAGES
from conformance.identify.rows import confirmed, measured_number
from conformance.identify.screen import oracle_run
from impls.config import VARIANTS
from impls.numpy.resnet import normalise

CONFIG = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=4, num_classes=6)
NORM = "stage2.0.bn2"


@pytest.fixture(scope="module")
def network():
    arrays = {name: array.astype(np.float64) for name, array in synthetic_weights(CONFIG, 0).arrays.items()}
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    return arrays, {train: oracle_run(CONFIG, arrays, images, train) for train in (False, True)}


def eps_fact(eps, fault):
    """A norm whose eps was measured in inference mode, with the row that is said to be the same."""

    def law(link, inputs, arrays, config, train):
        leaves = (arrays[f"{link.layer}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return normalise(inputs[link.inputs[0]], *leaves, eps)

    return Fact(
        NORM, "norm", f"adds eps = {eps}", {"eps": eps}, {"eps": 1e-5}, 0.0, fault, law, (NORM,), NORM, "inference"
    )


@pytest.mark.parametrize(
    ("eps", "fault", "kept"),
    [
        (1e-3, "eps-keras", "eps-keras"),
        (2e-3, "eps-keras", ""),
        (2e-3, "eps-other", "eps-other"),
        (1e-3, "scale-offset-swap", ""),
        (1e-3, "bgr", ""),
    ],
)
def test_a_row_is_named_only_if_it_computes_what_was_measured(network, eps, fault, kept):
    arrays, runs = network
    assert IMAGES in runs[False]
    (fact,) = confirmed([eps_fact(eps, fault)], CONFIG, arrays, runs, {})
    assert fact.fault == kept


@pytest.mark.parametrize(("value", "number"), [(0.25, 0.25), ("multiplied by 3e-05", 3e-5), ("as initialised", None)])
def test_the_number_of_a_fact_is_read_off_its_data(value, number):
    assert measured_number(Fact("fc", "classifier", "", {"kernel": value}, {})) == number
