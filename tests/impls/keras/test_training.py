"""Training in Keras, where it differs from the other frameworks."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from impls.config import ResNetConfig
from impls.keras import resnet
from impls.keras.training import Loss, Training
from impls.recipe import Recipe

CLASSES = 1000


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("label", [257, 999])  # in bfloat16 they are 256 and 1000
def test_labels_are_not_rounded_to_the_dtype_of_the_activations(dtype, label):
    logits = np.zeros((1, CLASSES), "float32")
    logits[0, label] = 30.0
    assert float(Loss(Recipe(), dtype)(np.array([label]), logits)) == pytest.approx(0.0, abs=1e-6)
    assert float(Loss(Recipe(), dtype)(np.array([label - 1]), logits)) == pytest.approx(30.0)


def test_a_float64_loss_stays_in_float64():
    value = Loss(Recipe(), "float64")(np.array([0]), np.zeros((1, 2)))
    assert keras.backend.standardize_dtype(value.dtype) == "float64"


def test_a_mixed_precision_model_is_trained_towards_its_labels():
    config = ResNetConfig(depths=(1, 1, 1, 1), width=2, num_classes=CLASSES, compute_dtype="bfloat16")
    model = resnet(config, seed=0)
    training = Training(model, Recipe(learning_rate=0.01, momentum=0.0, weight_decay=0.0))
    before = np.array(model.fc.bias)
    training.step(np.ones((2, 64, 64, 3), "float32"), np.array([257, 999]))
    assert set(np.flatnonzero(np.array(model.fc.bias) > before)) == {257, 999}
