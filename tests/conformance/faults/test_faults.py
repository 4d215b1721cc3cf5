"""The catalogue: each row fits all four models, changes something or is proven harmless, and shows where it was put."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conformance.cases.segments import promised_names, segment_names, segment_of
from conformance.diagnose.search import distance
from conformance.faults import FAULTS, EditError, Injection, Seen, Substitution, find_fault, grafts, places
from conformance.faults.edit import FRAMEWORKS, edited, model_text
from conformance.faults.rows import SUBJECTS
from conformance.selftest.trials import chosen_places
from impls.config import VARIANTS
from tests.conformance.specimens import forward_specimen

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
"""The bugs that people met."""

FORWARD = [fault for fault in FAULTS.values() if fault.task == "forward"]


@pytest.fixture(scope="module")
def specimen():
    return forward_specimen()


def test_every_bug_that_people_met_is_there():
    assert set(LISTED) <= set(FAULTS)
    assert len(FORWARD) >= 60


def test_each_id_is_that_of_one_row():
    assert sorted(FAULTS) == sorted(fault.id for subject in SUBJECTS for fault in subject.ROWS)


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


def test_a_substitution_that_does_not_match_is_an_error():
    with pytest.raises(EditError, match=r"'y - x' stands there 0 times, where it should stand once"):
        edited("y + x", [Substitution("y - x", "y")], "a model")
    with pytest.raises(EditError, match="2 times"):
        edited("y + x + x", [Substitution("x", "y")], "a model")


def test_the_catalogue_imports_no_framework():
    code = "import sys, conformance.faults; print({'torch', 'jax', 'flax', 'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# The tutorial's head takes images of 224 pixels only, and half a minute for them all.
@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=pytest.mark.slow) if name == "tutorial" else name for name in VARIANTS]
)
def test_every_fault_shows_first_where_it_is_or_is_harmless(variant):
    specimen, shown = forward_specimen(variant), 0
    for fault in FORWARD:
        if fault.precision != "float64":
            continue
        for place in chosen_places(fault, specimen.config):
            injection = Injection(fault, place)
            wrong = specimen.faulty([injection])
            first = first_difference(specimen, wrong)
            if fault.harmless_at(place, specimen.config):
                assert first is None, str(injection)
                continue
            assert first is not None, str(injection)
            shown += 1
            if place.scope in ("conv", "norm"):
                assert first.removesuffix(".running_mean").removesuffix(".running_var") == place.name, str(injection)
            if place.scope == "block":
                assert segment_of(first) == place.name, str(injection)
    assert shown > 150


def first_difference(specimen, wrong):
    for train, found in wrong.items():
        names = [name for s in segment_names(specimen.config) for name in promised_names(s, specimen.config, train)]
        for name in names:
            if (name in found) != (name in specimen.right[train]):
                return name
            if name in found and distance(specimen.right[train][name], found[name]) > 1e-12:
                return name
    return None


def test_what_is_harmless_is_not_so_where_its_condition_fails(specimen):
    """Zeros around the pool win where no ReLU came before; a negative shortcut shows a missing ReLU."""
    stem, norelu, zero = (find_fault(id) for id in ("stem-relu-missing", "stem-relu-missing", "pool-zero"))
    place = stem.places(specimen.config)[0]
    without, with_zeros = (
        specimen.oracle().run("stem", specimen.images, False, faults)["stem"]
        for faults in ([Injection(norelu, place)], [Injection(norelu, place), Injection(zero, place)])
    )
    assert distance(without, with_zeros) > 1e-3
    tutorial, fault = VARIANTS["tutorial"], find_fault("relu-after-missing")
    harmless = {place.name: bool(fault.harmless_at(place, tutorial)) for place in fault.places(tutorial)}
    assert (harmless["stage1.0"], harmless["stage1.1"], harmless["network"]) == (False, True, False)


def test_tf32_shows_in_float32(specimen):
    fault = find_fault("tf32-leak")
    for place in chosen_places(fault, specimen.config):
        right, wrong = specimen.faulty([], "float32"), specimen.faulty([Injection(fault, place)], "float32")
        segment = "stage1.0" if place.name == "network" else place.name
        assert 5e-5 < distance(right[False][segment], wrong[False][segment]) < 1e-2


def test_faults_of_one_piece_are_built_together():
    config = VARIANTS["v1.5"]
    named = {place.name: place for place in places(config)}
    block, norm = named["stage2.0"], named["stage2.0.bn1"]
    faults = [("eps-keras", norm), ("relu-missing", block), ("stride-1x1", block), ("bgr", named["input"])]
    pieces = grafts([Injection(find_fault(id), place) for id, place in faults], "numpy")
    assert [(piece.place.name, len(piece.edits), dict(piece.configured)) for piece in pieces] == [
        ("stage2.0", 1, {"strided_layer": "conv1"}),
        ("stage2.0.bn1", 0, {"norm_eps": 1e-3}),
    ]
