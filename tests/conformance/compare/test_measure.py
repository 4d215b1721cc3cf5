"""Measuring errors: what is measured, and what cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.case import Case
from conformance.compare.measure import Incomparable, measure, measure_in_trace, scale_of
from conformance.trace import Origin, Trace


def test_the_sign_of_an_error_does_not_matter():
    assert measure(np.array([1.0, 2.0]), np.array([1.0, 1.0])) == measure(np.array([1.0, 2.0]), np.array([1.0, 3.0]))


def test_an_error_is_measured_against_a_scale_where_one_is_given():
    zero, rounding = np.array([0, 0, 1e-20]), np.array([0, 1e-12, 1e-20])
    assert measure(zero, rounding).relative_l2 > 1e7
    assert measure(zero, rounding, scale=np.ones(3)).relative_l2 < 1e-12
    with pytest.raises(Incomparable, match="scale of the error is zero"):
        measure(zero, rounding, scale=np.zeros(3))


TRAIN = Case("v1.5", "noise", "train", task="gradients")
SGD = replace(TRAIN, task="steps", recipe="sgd")


@pytest.mark.parametrize(
    ("case", "name", "scale"),
    [
        (TRAIN, "gradient.stage1.0.conv1.bias", "gradient.stage1.0.conv1.weight"),
        (TRAIN, "gradient.bn1.bias", "gradient.bn1.weight"),
        (TRAIN, "gradient.stage1.0.bn1.bias", None),
        (TRAIN, "gradient.fc.bias", None),
        (TRAIN, "gradient.stage1.0.conv1.weight", None),
        (replace(TRAIN, mode="inference"), "gradient.stage1.0.conv1.bias", None),
        (
            SGD,
            "last.momentum_buffer.conv1.bias",
            "last.momentum_buffer.conv1.weight",
        ),
        (SGD, "last.conv1.bias", None),
    ],
)
def test_an_offset_that_a_norm_takes_away_is_measured_against_the_weight(case, name, scale):
    oracle = Trace({name: np.zeros(2), f"{scale}": np.ones(2)}, Origin(case, "oracle", "float64"))
    assert scale_of(name, oracle) is (oracle.arrays[scale] if scale else None)


def test_adamw_makes_a_step_of_an_error_in_a_gradient():
    case = replace(TRAIN, task="steps", recipe="adamw")
    oracle = Trace({"last.exp_avg.conv1.weight": np.ones(2)}, Origin(case, "oracle", "float64"))
    assert scale_of("last.conv1.bias", oracle) == pytest.approx(np.full(2, 1e-4 / 0.1 / 1e-8))


def test_an_array_in_another_precision_is_not_measured():
    origin = Origin(TRAIN, "candidate", "float64")
    oracle, candidate = (Trace({"loss": np.ones(1, dtype)}, origin) for dtype in ("float64", "float32"))
    with pytest.raises(Incomparable, match="float32 where float64 was asked for"):
        measure_in_trace("loss", oracle, candidate)
    assert measure_in_trace("loss", oracle, oracle).relative_l2 == 0
