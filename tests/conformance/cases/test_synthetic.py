"""Synthetic weights hide nothing and keep signals alive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.inputs import noise
from conformance.cases.pictures import photograph
from conformance.cases.synthetic import synthetic_weights
from impls.config import VARIANTS
from impls.numpy import resnet


@pytest.fixture(scope="module")
def real():
    return synthetic_weights(VARIANTS["v1.5"], seed=0)


def test_no_norm_is_near_the_identity(real):
    for name, array in real.arrays.items():
        identity = {"running_var": 1.0, "running_mean": 0.0, "bias": 0.0}.get(name.rpartition(".")[2], 1.0)
        if ".bn" in f".{name}" or "downsample_bn" in name:
            assert np.abs(array - identity).max() > 0.1, name
            assert array.std() > 0.01, name


def test_activations_keep_their_scale_through_the_depth(real):
    model = resnet(real.config, real)
    for images in (photograph().images, noise(224, 224, 1, seed=3).images):
        scales = {name: float(value.std()) for name, value in model.activations(images.astype(np.float64)).items()}
        assert all(0.1 < scale < 10 for scale in scales.values()), scales


@pytest.mark.parametrize("variant", VARIANTS)
def test_they_follow_from_the_seed(variant):
    config = replace(VARIANTS[variant], depths=(1, 1, 1, 1), width=4, num_classes=6)
    hashes = [synthetic_weights(config, seed).content_hash() for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert synthetic_weights(config, 0).config == config
