"""Comparing traces: each way in which a comparison must fail, fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.case import Case
from conformance.cases.names import activation_names, statistic_names
from conformance.compare.comparison import Comparison
from conformance.compare.forward import judge_noise
from conformance.compare.measure import Incomparable, measure
from conformance.compare.noise import NoiseFloor, noise_floors, two_digits
from conformance.compare.rounding import dot_lengths
from conformance.compare.traces import compare_parameters, compare_traces
from conformance.trace import Origin, Trace
from impls.config import VARIANTS
from weights_convert.shapes import expected_shapes

CONFIG = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=4, num_classes=6)
NAMES = activation_names(CONFIG)
FLOORS = {name: NoiseFloor(5e-7, 1e-6) for name in [*NAMES, *statistic_names(CONFIG)]}


def trace(precision: str = "float64", mode: str = "inference", noise: float = 0.0, **changes: object) -> Trace:
    """A trace of random arrays, always the same, off by `noise`."""
    random, names = np.random.default_rng(0), [*NAMES, *(statistic_names(CONFIG) if mode == "train" else [])]
    arrays = {name: random.standard_normal((2, 5)) for name in names}
    off = np.random.default_rng(1)
    arrays = {name: (a + noise * off.standard_normal(a.shape)).astype(precision) for name, a in arrays.items()}
    origin = Origin(Case("v1.5", "noise", mode), "candidate", precision, parameters=expected_shapes(CONFIG))
    return Trace(arrays, replace(origin, **changes))


def with_array(changed: Trace, name: str, array: np.ndarray | None) -> Trace:
    arrays = dict(changed.arrays)
    if array is None:
        del arrays[name]
    else:
        arrays[name] = array
    return Trace(arrays, changed.origin)


def failed(comparisons: list[Comparison]) -> dict[str, str]:
    return {comparison.name: comparison.reason for comparison in comparisons if not comparison.passed}


def test_equal_traces_pass_name_by_name_in_order():
    comparisons = compare_traces(trace(), trace(noise=1e-15), CONFIG)
    assert [comparison.name for comparison in comparisons] == NAMES
    assert not failed(comparisons)
    assert all(0 < comparison.error < 1e-14 for comparison in comparisons)


def test_train_mode_compares_the_running_statistics_too():
    comparisons = compare_traces(trace(mode="train"), trace(mode="train"), CONFIG)
    assert [comparison.name for comparison in comparisons] == NAMES + statistic_names(CONFIG)
    assert len(statistic_names(CONFIG)) == 2 * (1 + 4 * 4)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (None, "it has no such array"),
        (np.full((2, 5), np.nan), "NaN or infinity"),
        (np.where(np.arange(10).reshape(2, 5) == 7, np.inf, 1.0), "NaN or infinity"),
        (np.zeros((5, 2)), r"shape (5, 2) where (2, 5)"),
        (np.zeros((2, 5), np.float32), "float32 where float64"),
        (np.zeros((2, 5)), "relative L2 error 1.0e+00"),
    ],
)
def test_a_wrong_array_fails_alone(array, reason):
    candidate = with_array(trace(), "stage2.0", array)
    reasons = failed(compare_traces(trace(), candidate, CONFIG))
    assert list(reasons) == ["stage2.0"]
    assert reason in reasons["stage2.0"]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (None, "the oracle has no such array"),
        (np.full((2, 5), 3.0), "all the same"),
        (np.full((2, 5), np.nan), "the oracle holds NaN"),
        (np.zeros((0, 5)), "shape"),
    ],
)
def test_an_oracle_that_proves_nothing_fails_even_where_the_candidate_agrees_with_it(array, reason):
    oracle, candidate = with_array(trace(), "logits", array), with_array(trace(), "logits", array)
    if array is None or array.size == 0:
        candidate = trace()
    reasons = failed(compare_traces(oracle, candidate, CONFIG))
    assert reason in reasons.pop("logits")
    assert not reasons


def test_nan_on_both_sides_is_no_agreement():
    broken = with_array(trace(), "pool", np.full((2, 5), np.nan))
    assert "NaN" in failed(compare_traces(broken, broken, CONFIG))["pool"]


def test_empty_traces_fail_everywhere():
    empty = Trace({}, trace().origin)
    assert len(failed(compare_traces(empty, empty, CONFIG))) == len(NAMES)
    with pytest.raises(Incomparable, match="no numbers"):
        measure(np.zeros((0, 3)), np.zeros((0, 3)))


@pytest.mark.parametrize(
    ("field", "value"), [("case", Case("v1.5", "another", "inference")), ("weights", "another"), ("input", "another")]
)
def test_traces_of_different_runs_are_refused(field, value):
    with pytest.raises(ValueError, match=f"different {field}"):
        compare_traces(trace(), trace(**{field: value}), CONFIG)


def test_one_number_far_off_fails_though_the_norm_is_small():
    random = np.random.default_rng(0)
    wide = random.uniform(0.5, 1.0, (1000, 1000))
    spoilt = wide.copy()
    spoilt[500, 500] += 5e-11
    assert measure(wide, spoilt).relative_l2 < 1e-12
    oracle, candidate = with_array(trace(), "stem", wide), with_array(trace(), "stem", spoilt)
    assert "largest error" in failed(compare_traces(oracle, candidate, CONFIG))["stem"]


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (1e-6, ""),
        (1e-5, "correct float32 builds"),
        (1e-3, "TF32 or bfloat16"),
        (0.0, "too small for float32"),
    ],
)
def test_float32_is_compared_with_correct_builds(noise, reason):
    oracle = trace(noise=0.0)
    exact = Trace({name: a.astype(np.float32).astype(np.float64) for name, a in oracle.arrays.items()}, oracle.origin)
    candidate = trace("float32", noise=noise)
    reasons = failed(compare_traces(exact, candidate, CONFIG, FLOORS))
    if reason:
        assert reason in reasons["stage4.0"]
    else:
        assert not reasons


@pytest.mark.parametrize(
    ("noise", "conclusion"), [(1e-6, "noise"), (4e-5, "26 times what correct builds err by: a bug")]
)
def test_every_float32_verdict_says_which_noise_it_was_compared_with(noise, conclusion):
    oracle, candidate = trace(), trace("float32", noise=noise)
    for comparison in compare_traces(oracle, candidate, CONFIG, FLOORS):
        facts = comparison.to_dict()
        assert facts["floor"] == {"best": 5e-7, "worst": 1e-6}
        assert facts["bound"] == pytest.approx(2 * dot_lengths(CONFIG)[comparison.name] ** 0.5 * 2**-24)
        words = f"error {two_digits(comparison.error)}; correct float32 builds of this run err by 5.0e-7 to 1.0e-6; "
        words += f"rounding in sums of this length can explain {two_digits(comparison.bound)}: "
        assert facts["explanation"].startswith(words)
        if comparison.name == "logits":
            assert conclusion in facts["explanation"].removeprefix(words)


def test_in_train_mode_rounding_may_come_from_the_sums_of_each_norm_too():
    floors = dict.fromkeys(FLOORS, NoiseFloor(1.0, 1.0))
    bounds = {
        mode: {c.name: c.bound for c in compare_traces(trace(mode=mode), trace("float32", mode), CONFIG, floors)}
        for mode in ("inference", "train")
    }
    assert all(bounds["train"][name] > bounds["inference"][name] for name in NAMES)


def test_a_float64_verdict_has_no_noise():
    for comparison in compare_traces(trace(), trace(noise=1e-15), CONFIG):
        assert (comparison.floor, comparison.bound, comparison.explanation) == (None, None, "")


def test_beside_builds_without_error_any_error_is_infinitely_large():
    assert NoiseFloor(0.0, 0.0).multiple(1e-9) == "inf"
    assert not judge_noise(1.3e-7, NoiseFloor(0.0, 0.0), 1e-6, 10**6).passed


def test_float32_without_reference_builds_cannot_pass():
    reasons = failed(compare_traces(trace(), trace("float32", noise=1e-6), CONFIG))
    assert set(reasons) == set(NAMES)


def test_the_bound_of_the_dot_lengths_holds_however_bad_the_builds_are():
    floors = {name: NoiseFloor(1e-3, 1e-2) for name in NAMES}
    reasons = failed(compare_traces(trace(), trace("float32", noise=5e-3), CONFIG, floors))
    assert "more than rounding can explain" in reasons["stem"]


def test_floors_are_the_best_and_the_worst_build():
    floors = noise_floors(trace(), [trace(noise=1e-7), trace(noise=3e-7)])
    assert floors["stem"].best == pytest.approx(floors["stem"].worst / 3, rel=1e-3)
    broken = with_array(trace(noise=1e-7), "stem", np.full((2, 5), np.nan))
    assert "stem" not in noise_floors(trace(), [trace(noise=1e-7), broken])


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"extra.weight": (1,)}, 1, "extra.weight is not known"),
        ({"fc.bias": None}, 1, "fc.bias is missing"),
        ({"conv1.weight": (3, 4, 7, 7)}, 1, "conv1.weight is (3, 4, 7, 7) where (4, 3, 7, 7) is expected"),
        ({"bn1.running_mean": None, "bn1.running_var": None}, 2, "bn1 is missing: 2 arrays"),
        (
            {name: None for name in expected_shapes(CONFIG) if name.startswith("stage3.0.")},
            sum(name.startswith("stage3.0.") for name in expected_shapes(CONFIG)),
            f"stage3.0 is missing: {sum(name.startswith('stage3.0.') for name in expected_shapes(CONFIG))} arrays",
        ),
    ],
)
def test_the_model_must_list_the_arrays_of_the_network(changes, error, reason):
    assert compare_parameters(trace(), CONFIG).passed
    listed = {name: shape for name, shape in (trace().origin.parameters | changes).items() if shape}
    comparison = compare_parameters(trace(parameters=listed), CONFIG)
    assert (comparison.passed, comparison.error, comparison.reason) == (False, error, reason)
