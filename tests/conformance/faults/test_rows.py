"""The rows of the catalogue: each fits the texts of all four models, and is complete."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conformance.faults import FAULTS, Injection, Seen
from conformance.faults.edit import FRAMEWORKS, edited, model_text
from conformance.faults.rows import SUBJECTS
from impls.config import VARIANTS

LISTED = [
    "pad-same",
    "pad-same-stem",
    "pool-same",
    "pool-valid",
    "pool-ceil",
    "pool-zero",
    "stride-1x1",
    "stage1-stride",
    "eps-keras",
    "eps-1.001",
    "momentum-inverted",
    "momentum-099",
    "var-biased",
    "bn-frozen",
    "bn-batch-stats",
    "bn-fast-variance",
    "mean-offset-swap",
    "scale-var-swap",
    "layer-order",
    "kernel-full-transpose",
    "kernel-io-swap",
    "kernel-flip",
    "bn-folded-twice",
    "relu-missing",
    "relu-before-add",
    "relu-after-missing",
    "shortcut-bn-missing",
    "fc-bias-dropped",
    "classes-1001",
    "softmax-included",
    "flatten-order",
    "layer-half",
    "tf32-leak",
    "bgr",
    "caffe-means",
    "scale-255",
    "normalised-twice",
    "resize-antialias",
    "crop-pct",
    "nchw-reshaped",
    "wd-decoupled",
    "wd-on-norm",
    "lr-in-velocity",
    "adam-eps",
    "loss-sum",
    "relu-grad-half",
]
"""Bugs that people reported."""


def test_every_bug_that_people_reported_has_a_row():
    assert set(LISTED) <= set(FAULTS)
    assert sum(fault.task == "forward" for fault in FAULTS.values()) >= 60


def test_each_id_is_that_of_one_row():
    assert sorted(FAULTS) == sorted(id for subject in SUBJECTS for id in subject.ROWS)
    assert [fault.id for fault in FAULTS.values()] == list(FAULTS)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_row_is_well_formed(fault):
    assert fault.what
    assert fault.source
    assert set(fault.seen_in) <= set(Seen)
    kinds = (fault.weights, fault.config, fault.model, fault.images, fault.recipe, fault.training, fault.initial)
    assert sum(map(bool, kinds)) == (2 if fault.model and fault.training else 1)
    for sentence in vars(fault.remedies).values():
        assert sentence.endswith(".")
    assert any(fault.places(config) for config in VARIANTS.values())
    assert set(fault.model) | set(fault.training) | set(fault.initial) <= set(FRAMEWORKS)
    assert "numpy" in (fault.training or fault.model or fault.initial or {"numpy"})
    place = next(place for config in VARIANTS.values() for place in fault.places(config))
    for framework, edits in fault.model.items():
        compile(edited(model_text(f"impls.{framework}.resnet"), edits, framework), framework, "exec")
    for framework in fault.training:
        edits = Injection(fault, place).training(framework)
        compile(edited(model_text(f"impls.{framework}.training"), edits, framework), framework, "exec")
    for framework in fault.initial:
        edits = Injection(fault, place).initial(framework)
        compile(edited(model_text(f"impls.{framework}.resnet"), edits, framework), framework, "exec")


def test_the_catalogue_imports_no_framework():
    code = "import sys, conformance.faults; print({'torch', 'jax', 'flax', 'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
