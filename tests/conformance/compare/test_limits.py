"""The limits that are widened or narrowed by what rounding can explain."""

from __future__ import annotations

import pytest

from conformance.compare.limits import ACTIVATIONS_FLOAT64


def test_float64_allows_what_long_sums_of_equal_values_round_by():
    assert ACTIVATIONS_FLOAT64.or_rounding(25_000) == ACTIVATIONS_FLOAT64
    wider = ACTIVATIONS_FLOAT64.or_rounding(12_544**2)
    assert wider.relative_l2 == pytest.approx(2 * 12_544 * 2**-53)
    assert wider.largest == pytest.approx(10 * wider.relative_l2)
