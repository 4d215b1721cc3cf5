"""The names and their order are the oracle's own, and dot lengths are what the layers sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.case import Case, activation_names, dot_lengths, statistic_names
from impls.config import VARIANTS, ResNetConfig
from impls.numpy import read_weights, resnet


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layers", [False, True])
def test_names_are_those_that_the_oracle_hands_out(variant, layers):
    config = replace(VARIANTS[variant], depths=(2, 1, 1, 1), width=4, num_classes=10)
    side = 224 if config.head_pool else 64
    model = resnet(config)
    assert activation_names(config, layers) == list(model.activations(np.zeros((1, 3, side, side)), layers))
    statistics = [name for name in read_weights(model).arrays if "running" in name]
    assert sorted(statistic_names(config)) == sorted(statistics)


def test_a_headless_network_has_no_logits():
    assert activation_names(ResNetConfig(num_classes=0))[-1] == "pool"


def test_dot_lengths_add_up_along_the_network():
    lengths = dict(dot_lengths(ResNetConfig()))
    assert lengths["conv1"] == 3 * 49
    assert lengths["stage1.0.conv1"] == 3 * 49 + 64
    assert lengths["stage1.0.bn2"] == 3 * 49 + 64 + 64 * 9
    assert lengths["logits"] == lengths["pool"] + 2048
    assert list(lengths.values()) == sorted(lengths.values())


def test_in_train_mode_norms_sum_values_too_and_equal_ones_round_alike():
    values = {"stem": 30, "stage1.0": 20}
    plain, train = (dict(dot_lengths(ResNetConfig(), given)) for given in ({}, values))
    assert train["conv1"] == plain["conv1"]
    assert train["stem"] == plain["stem"] + (4 * 30) ** 2  # before the pool
    assert train["stage1.0"] == plain["stage1.0"] + (4 * 30) ** 2 + 3 * 30**2
    assert train["stage1.1.bn1"] == plain["stage1.1.bn1"] + (4 * 30) ** 2 + 3 * 30**2 + 20**2


def test_a_case_has_a_file_name_whatever_its_input_is_called():
    assert Case("v1.5", "../my cat?.jpg", "train", layers=True).slug == "v1.5--.._my_cat_.jpg--train--layers"
