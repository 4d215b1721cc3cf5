"""The catalogue of hand-written wrong models: its rows are whole, and what they are edits of conforms."""

from __future__ import annotations

import pytest

from conformance.cases.case import MODES, TASKS, Case
from conformance.cases.names import expected_names
from conformance.cases.recipes import RECIPES
from conformance.faults import FAULTS
from tests.conformance.handwritten.catalogue import catalogue
from tests.conformance.handwritten.measure import network_of, run_model

ROWS = catalogue()


def test_there_are_enough_rows_of_kinds_that_the_catalogue_of_faults_has_and_has_not():
    assert len(ROWS) >= 80
    assert sum(not row.rows for row in ROWS.values()) >= 20
    assert {row.task for row in ROWS.values()} <= set(TASKS)


def test_rows_expect_arrays_and_faults_that_exist():
    for row in ROWS.values():
        config = network_of(row.library, row.task, row.full).config
        cases = [
            Case("-", "-", "train", layers=True, task=row.task, recipe=recipe)
            for recipe in (RECIPES if row.task == "steps" else [""])
        ]
        assert row.layer in {name for case in cases for name in expected_names(case, config)}, row.id
        assert row.rows <= set(FAULTS), row.id
        assert row.modes, row.id
        assert set(row.modes) <= set(MODES), row.id
        assert row.fact, row.id
        assert row.says, row.id


@pytest.fixture
def switches_put_back():
    """Put back the switches of JAX and Keras that a candidate sets in its worker, which is this process here."""
    import jax
    import keras

    policy, x64 = keras.config.dtype_policy(), jax.config.jax_enable_x64
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)
    jax.config.update("jax_enable_x64", x64)


@pytest.mark.parametrize(
    ("library", "task"),
    [
        *(("torchvision", task) for task in ("forward", "gradients", "steps")),
        *(pytest.param(library, "forward", marks=pytest.mark.slow) for library in ("linen", "keras")),
    ],
)
@pytest.mark.usefixtures("switches_put_back")
def test_the_network_that_rows_are_edits_of_conforms(library, task):
    outcome = run_model(f"right-{library}", library, task)
    assert (outcome.verdict, outcome.failures, outcome.divergences) == ("conforms", [], [])
    assert len(outcome.comparisons) > 50
