"""The conversion table: its permutations are invertible, and no two rows can be confused."""

from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weights_convert.table import RULES, RUNNING_STATISTICS, Framework, Kind, Rule, find_rule, permutation, reorder

FRAMEWORKS = get_args(Framework)
PAIRS = list(product(FRAMEWORKS, repeat=2))


@given(st.sampled_from(RULES), st.sampled_from(PAIRS), st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_a_permutation_and_its_inverse_are_the_identity(
    rule: Rule, pair: tuple[Framework, Framework], sides: list[int]
):
    source, target = pair
    axes = rule.leaf(source).axes
    shape = tuple(1 if axis == "1" else side for axis, side in zip(axes, sides[: len(axes)], strict=True))
    array = np.arange(np.prod(shape)).reshape(shape)
    there = reorder(array, rule, source, target)
    assert np.shares_memory(there, array)
    np.testing.assert_array_equal(reorder(there, rule, target, source), array)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kind} {rule.torch}")
def test_the_columns_of_a_row_have_the_same_axes(rule: Rule):
    axes = [sorted(rule.leaf(framework).axes.replace("1", "")) for framework in FRAMEWORKS]
    assert axes.count(axes[0]) == len(FRAMEWORKS)
    assert len(set(axes[0])) == len(axes[0])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_names_of_a_kind_of_layer_are_unique(framework: Framework):
    names = [(rule.kind, rule.leaf(framework).name) for rule in RULES]
    assert len(set(names)) == len(RULES)
    assert [find_rule(kind, framework, name) for kind, name in names] == list(RULES)


def test_every_kind_has_rows():
    assert {rule.kind for rule in RULES} == set(get_args(Kind))


@pytest.mark.parametrize(
    ("kind", "framework", "shape", "expected"),
    [
        ("conv", "flax", (2, 3, 5, 7), (5, 7, 3, 2)),
        ("conv", "keras", (2, 3, 5, 7), (5, 7, 3, 2)),
        ("linear", "flax", (2, 3), (3, 2)),
        ("linear", "keras", (2, 3), (3, 2)),
        ("norm", "flax", (2,), (2,)),
        ("conv", "slim", (2, 3, 5, 7), (5, 7, 3, 2)),
        ("linear", "slim", (2, 3), (1, 1, 3, 2)),
    ],
)
def test_axes_are_ordered_as_the_frameworks_document(
    kind: Kind, framework: Framework, shape: tuple[int, ...], expected: tuple[int, ...]
):
    rule = find_rule(kind, "torch", "weight")
    assert rule is not None
    array = np.arange(np.prod(shape)).reshape(shape)
    reordered = reorder(array, rule, "torch", framework)
    assert reordered.shape == expected
    if kind == "conv":
        assert reordered[4, 6, 2, 1] == array[1, 2, 4, 6]


def test_an_unknown_leaf_has_no_rule():
    assert find_rule("norm", "torch", "gamma") is None
    assert find_rule("conv", "torch", "running_mean") is None


def test_different_axes_have_no_permutation():
    with pytest.raises(ValueError, match="substring not found"):
        permutation("OI", "OX")


def test_an_array_with_another_number_of_axes_is_refused():
    with pytest.raises(ValueError, match="don't match an array"):
        reorder(np.zeros((2, 3)), RULES[0], "torch", "flax")


def test_an_axis_of_size_one_must_be_of_size_one():
    rule = find_rule("linear", "slim", "weights")
    assert rule is not None
    with pytest.raises(ValueError, match=r"don't match an array of the shape \(3, 3, 4, 5\)"):
        reorder(np.zeros((3, 3, 4, 5)), rule, "slim", "torch")


def test_running_statistics_are_rows_of_norms():
    assert all(find_rule("norm", "torch", leaf) for leaf in RUNNING_STATISTICS)
