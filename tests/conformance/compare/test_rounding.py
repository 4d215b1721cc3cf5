"""The lengths of sums, from which the rounding bound is computed."""

from __future__ import annotations

import pytest

from conformance.cases.case import Case
from conformance.cases.names import activation_names, expected_names
from conformance.compare.rounding import dot_lengths, gradient_lengths
from impls.config import VARIANTS, ResNetConfig

CONFIGS = VARIANTS | {"headless": ResNetConfig(num_classes=0)}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_each_activation_has_a_length(config):
    assert list(dot_lengths(config)) == activation_names(config, layers=True)


def test_dot_lengths_add_up_along_the_network():
    lengths = dot_lengths(ResNetConfig())
    assert lengths["conv1"] == 3 * 49
    assert lengths["stage1.0.conv1"] == 3 * 49 + 64
    assert lengths["stage1.0.bn2"] == 3 * 49 + 64 + 64 * 9
    assert lengths["logits"] == lengths["pool"] + 2048
    assert list(lengths.values()) == sorted(lengths.values())


def test_in_train_mode_norms_sum_values_too_and_equal_ones_round_alike():
    values = {"stem": 30, "stage1.0": 20}
    plain, train = (dot_lengths(ResNetConfig(), averaged) for averaged in ({}, values))
    assert train["conv1"] == plain["conv1"]
    assert train["stem"] == plain["stem"] + (4 * 30) ** 2  # before the pool
    assert train["stage1.0"] == plain["stage1.0"] + (4 * 30) ** 2 + 3 * 30**2
    assert train["stage1.1.bn1"] == plain["stage1.1.bn1"] + (4 * 30) ** 2 + 3 * 30**2 + 20**2


def test_lengths_of_gradients_grow_on_the_way_back():
    config = VARIANTS["keras"]
    lengths = gradient_lengths(config)
    names = expected_names(Case("keras", "noise", "train", task="backward"), config)
    assert lengths.keys() == set(names)
    back = [lengths[name] for name in names if "downsample" not in name]
    assert back == sorted(back)
