"""A function from images to logits is held against the weights that it was made from: nothing else is known of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import conformance
from conformance.cases.synthetic import synthetic_weights
from impls.config import VARIANTS
from impls.numpy import resnet

CONFIG = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=8, num_classes=10)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    synthetic_weights(CONFIG, seed=0).save(file)
    return file


def test_a_right_function_conforms_in_inference_mode_and_what_it_cannot_show_is_told(weights):
    network = resnet(CONFIG, weights)
    report = conformance.check(network.__call__, weights=weights, precisions=["float64"], inference=True)
    assert report.conforms, str(report)
    (record,) = report.records
    assert {c["name"] for c in record["comparisons"]} == {"logits"}
    text = " ".join(str(report).split())
    assert "logits alone: a function shows what it returns" in text
    report = conformance.check(network.__call__, weights=weights, precisions=["float64"])
    assert (report.verdict, report.exit_code) == ("incomplete", 3)
    assert "in train mode a function of images has no train mode (--inference compares" in " ".join(str(report).split())


def test_a_wrong_function_diverges_at_its_logits(weights):
    network = resnet(CONFIG, weights)
    network.bn1.eps = 1e-3
    report = conformance.check(network.__call__, weights=weights, precisions=["float64"], inference=True)
    assert report.verdict == "diverges"
    (record,) = report.records
    (divergence,) = record["first_divergences"]
    assert divergence["layer"] == "logits"
    assert divergence["diagnosis"] == []
    assert divergence["note"] == "its layers are not shown, so that the first wrong one cannot be told"


def test_without_weights_it_is_refused():
    with pytest.raises(ValueError, match="it shows no weights: give those that it was made from by --weights"):
        conformance.check(lambda images: np.zeros((len(images), 10)), variant="v1.5")
