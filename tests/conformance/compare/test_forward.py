"""Judging a float32 error: noise or a bug, for a stated reason."""

from __future__ import annotations

import pytest

from conformance.compare.forward import judge_noise
from conformance.compare.noise import NoiseFloor, two_digits


@pytest.mark.parametrize(
    ("error", "bound", "conclusion"),
    [
        (3.1e-6, 8.1e-6, ""),
        (5.9e-6, 8.1e-6, "2.03 times what correct builds err by: a bug, or TF32 in some layer"),
        (1.2e-4, 8.1e-6, "41 times what correct builds err by: a bug, or TF32 in some layer"),
        (3.2e-3, 8.1e-6, "1,103 times what correct builds err by: a wrong network, or TF32 or bfloat16 in force"),
        (3.1e-6, 3.0e-6, "more than rounding can explain: a bug, and in the builds or the oracle another"),
        (2.3e-7, 8.1e-6, "too small for float32: float64, or the oracle compared with itself"),
    ],
)
def test_an_error_is_noise_or_a_bug_for_a_stated_reason(error, bound, conclusion):
    verdict = judge_noise(error, NoiseFloor(2.4e-6, 2.9e-6), bound, 10**6)
    assert verdict.passed == (not conclusion)
    if conclusion:
        floor = "correct float32 builds of this run err by 2.4e-6 to 2.9e-6"
        explained = f"rounding in sums of this length can explain {two_digits(bound)}"
        assert verdict.reason == f"error {two_digits(error)}; {floor}; {explained}: {conclusion}"


@pytest.mark.parametrize(("numbers", "most"), [(1, 6.2), (10, 3.3), (1000, 2.1), (10**6, 2.0)])
def test_an_array_of_few_numbers_may_err_by_more_by_chance(numbers, most):
    floor, bound = NoiseFloor(1e-6, 1e-6), 1e-3
    assert judge_noise(most * 1e-6, floor, bound, numbers).passed
    assert not judge_noise((most + 0.1) * 1e-6, floor, bound, numbers).passed


@pytest.mark.parametrize(("numbers", "least"), [(10, 0.033), (1000, 0.093), (10**6, 0.1)])
def test_an_array_of_few_numbers_may_err_by_less_by_chance(numbers, least):
    floor, bound = NoiseFloor(1e-6, 1e-6), 1e-3
    assert judge_noise((least + 0.001) * 1e-6, floor, bound, numbers).passed
    assert not judge_noise((least - 0.001) * 1e-6, floor, bound, numbers).passed
    assert judge_noise(0.0, floor, bound, 4).passed


def test_a_noise_floor_below_one_rounding_is_chance():
    assert judge_noise(1.1e-7, NoiseFloor(0.9e-8, 1.1e-8), 1e-6, 10**6).passed
    assert not judge_noise(1.3e-7, NoiseFloor(0.9e-8, 1.1e-8), 1e-6, 10**6).passed
