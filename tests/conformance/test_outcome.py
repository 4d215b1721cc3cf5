"""The verdict of a run, its exit code, and what is localised first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conformance.cases.case import Case
from conformance.compare.comparison import Comparison
from conformance.outcome import EXIT_CODES, Failure, Outcome
from conformance.suite import first_failures

CASE = Case("v1.5", "noise", "inference")
PASSED = Comparison(
    error=1e-15, limit=1e-12, passed=True, candidate="torch", precision="float64", case=CASE, name="logits"
)
FAILED = replace(PASSED, error=1e-3, passed=False)
FAILURE = Failure("flax", "float64", "no memory")


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (Outcome([PASSED]), "conforms"),
        (Outcome([PASSED, FAILED]), "diverges"),
        (Outcome([PASSED], failures=[FAILURE]), "incomplete"),
        (Outcome([FAILED], failures=[FAILURE]), "diverges"),
        (Outcome(), "incomplete"),
        (Outcome(reported=[PASSED]), "incomplete"),
    ],
)
def test_the_verdict_is_one_word_and_has_an_exit_code(outcome, verdict):
    assert outcome.verdict == verdict
    assert (EXIT_CODES[verdict] == 0) == (verdict == "conforms")


def test_exit_codes_differ_and_leave_2_to_bad_input():
    assert sorted(EXIT_CODES.values()) == [0, 1, 3]


def test_each_candidate_and_variant_is_localised_once_activations_in_float64_first():
    float32 = replace(FAILED, precision="float32", name="stem")
    gradients = replace(FAILED, case=replace(CASE, task="gradients"), name="loss")
    parameters = replace(FAILED, name="parameters", input_matters=False)
    activation = replace(FAILED, name="stage1.0")
    other = replace(float32, candidate="flax")
    failed = [float32, parameters, gradients, PASSED, activation, FAILED, other]
    assert first_failures(failed) == [activation, other]
    assert first_failures([float32, parameters, gradients]) == [gradients]
    assert first_failures([float32, parameters]) == [parameters]
