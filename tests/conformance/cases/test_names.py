"""Names of arrays, and their order, are the oracle's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.names import activation_names, statistic_names
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
