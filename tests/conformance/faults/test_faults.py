"""The catalogue: each row fits all four models, changes something or is proven harmless, and shows where it was put."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.inputs import noise, noise_sides
from conformance.cases.segments import input_name, promised_names, segment_names, segment_of
from conformance.cases.weights import synthetic_weights
from conformance.diagnose.finding import quote
from conformance.diagnose.forward import Exhibit, ForwardDiagnosis
from conformance.diagnose.search import distance
from conformance.faults import FAULTS, EditError, Injection, Seen, Substitution, find_fault, grafts, places
from conformance.faults.edit import FRAMEWORKS, edited, model_text
from conformance.faults.rows import SUBJECTS
from conformance.oracle.forward import SegmentedOracle
from conformance.selftest.trials import chosen_places
from impls.config import VARIANTS
from impls.numpy import resnet

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


class Specimen:
    """A small network of a variant, its input, and the oracle's activations piece by piece."""

    def __init__(self, variant):
        self.config = replace(VARIANTS[variant], depths=(2, 2, 2, 2), width=8, num_classes=10)
        self.weights = synthetic_weights(self.config, seed=0)
        height, width, _ = noise_sides(self.config.head_pool)[1]
        self.images = noise(height, width, 2, 0).images
        self.truth = {False: {}, True: {}}
        for train, found in self.truth.items():
            for segment in segment_names(self.config):
                found |= self.oracle().run(segment, self.entering(segment, train), train)

    def oracle(self, dtype="float64"):
        return SegmentedOracle(self.config, self.weights.arrays, dtype)

    def entering(self, segment, train):
        source = input_name(segment, self.config)
        return self.images if source is None else self.truth[train][source]

    def faulty(self, injections, dtype="float64"):
        """Activations of a network with faults, each piece fed the oracle's input."""
        found = {False: {}, True: {}}
        with np.errstate(all="ignore"):
            for train in found:
                for segment in segment_names(self.config):
                    found[train] |= self.oracle(dtype).run(segment, self.entering(segment, train), train, injections)
        return found

    def diagnose(self, port, **options):
        exhibits = [Exhibit(train, self.images, self.truth[train], port[train]) for train in (False, True)]
        return ForwardDiagnosis(self.oracle(), exhibits, **options).findings()


@pytest.fixture(scope="module")
def specimens():
    return {variant: Specimen(variant) for variant in VARIANTS}


@pytest.fixture(scope="module")
def specimen(specimens):
    return specimens["v1.5"]


def rounded_anew(arrays):
    """As another correct build would have computed it."""
    random = np.random.RandomState(0)
    return {
        train: {name: a * (1 + 3e-16 * random.standard_normal(a.shape)) for name, a in found.items()}
        for train, found in arrays.items()
    }


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_oracle_in_pieces_is_the_oracle(specimens, variant):
    specimen = specimens[variant]
    model = resnet(specimen.config, specimen.weights)
    whole = model.activations(specimen.images.astype("float64"), layers=True)
    assert all(np.array_equal(whole[name], specimen.truth[False][name]) for name in whole)
    assert whole.keys() == specimen.truth[False].keys()


# The tutorial's head takes images of 224 pixels only, and half a minute for them all.
@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=pytest.mark.slow) if name == "tutorial" else name for name in VARIANTS]
)
def test_every_fault_shows_first_where_it_is_or_is_harmless(specimens, variant):
    specimen, shown = specimens[variant], 0
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
            if (name in found) != (name in specimen.truth[train]):
                return name
            if name in found and distance(specimen.truth[train][name], found[name]) > 1e-12:
                return name
    return None


def test_what_is_harmless_is_not_so_where_its_condition_fails(specimens):
    """Zeros around the pool win where no ReLU came before; a negative shortcut shows a missing ReLU."""
    specimen = specimens["v1.5"]
    stem, norelu, zero = (find_fault(id) for id in ("stem-relu-missing", "stem-relu-missing", "pool-zero"))
    place = stem.places(specimen.config)[0]
    without, with_zeros = (
        specimen.oracle().run("stem", specimen.images, False, faults)["stem"]
        for faults in ([Injection(norelu, place)], [Injection(norelu, place), Injection(zero, place)])
    )
    assert distance(without, with_zeros) > 1e-3
    tutorial, fault = specimens["tutorial"].config, find_fault("relu-after-missing")
    harmless = {place.name: bool(fault.harmless_at(place, tutorial)) for place in fault.places(tutorial)}
    assert (harmless["stage1.0"], harmless["stage1.1"], harmless["network"]) == (False, True, False)


def test_tf32_shows_in_float32(specimen):
    fault = find_fault("tf32-leak")
    for place in chosen_places(fault, specimen.config):
        right, wrong = specimen.faulty([], "float32"), specimen.faulty([Injection(fault, place)], "float32")
        segment = "stage1.0" if place.name == "network" else place.name
        assert 5e-5 < distance(right[False][segment], wrong[False][segment]) < 1e-2


DIAGNOSED = [
    *("kernel-flip", "pad-same", "bn-folded-twice", "layer-half", "mean-offset-swap", "eps-1.001", "var-biased"),
    *("bn-frozen", "bn-batch-stats", "stride-1x1", "relu-missing", "shortcut-bn-missing", "block-order", "pool-ceil"),
    *("stage1-stride", "softmax-included", "classes-1001", "bgr", "scale-255", "kernel-order"),
]


@pytest.mark.parametrize("id", DIAGNOSED)
def test_the_cause_is_named(specimen, id):
    fault = find_fault(id)
    for place in chosen_places(fault, specimen.config)[-2:]:
        injection = Injection(fault, place)
        (finding,) = specimen.diagnose(rounded_anew(specimen.faulty([injection])))
        assert str(injection) in map(str, finding.causes)
        assert finding.error < 1e-13
        assert "; with this bug the oracle reproduces your model to " in str(finding)


@pytest.mark.parametrize(
    ("id", "value"),
    [("eps-other", 0.0021), ("momentum-other", 0.61), ("caffe-factor", 999.98), ("logits-scaled", 0.7)],
)
def test_a_continuous_parameter_is_estimated(specimen, id, value):
    fault = find_fault(id)
    injection = Injection(fault, fault.places(specimen.config)[-1], value)
    (finding,) = specimen.diagnose(rounded_anew(specimen.faulty([injection])))
    assert finding.causes[0].fault.id == id
    assert finding.causes[0].parameter == pytest.approx(value, rel=1e-6)
    assert f"{fault.parameter.name} = {value:g}" in str(finding)


def injected(specimen, faults):
    """Faults as `conformance run --impl` takes them: "bgr@input eps-keras@bn1"."""
    named = {place.name: place for place in places(specimen.config)}
    pairs = [fault.split("@") for fault in faults.split()]
    return [Injection(find_fault(id), named[place]) for id, place in pairs]


@pytest.mark.parametrize(
    "faults",
    [
        "bgr@input eps-keras@stage2.1.bn2 relu-missing@stage4.1",
        "bgr@input eps-keras@network pool-valid@stem",
        "eps-keras@stage1.0.bn1 relu-missing@stage1.0 eps-other@stage1.0.bn2",
        "mean-offset-swap@stage1.0.bn1 kernel-flip@stage1.0.conv2",
        "eps-keras@network pad-same@network momentum-099@network relu-before-add@network",
        "momentum-099@network var-biased@network",
        "eps-other@network bgr@input",
        "eps-keras@stage1.0.bn1 eps-keras@stage1.0.bn2 eps-keras@stage1.0.bn3",
        "eps-keras@stage1.0.bn1 bn-frozen@stage1.0.bn1",
    ],
)
def test_several_faults_are_found_one_after_the_other(specimen, faults):
    """In different pieces, in one piece, and everywhere."""
    injections = injected(specimen, faults)
    findings = specimen.diagnose(rounded_anew(specimen.faulty(injections)))
    assert max(finding.error for finding in findings) < 1e-13
    assert len(findings) == len(injections)
    for injection in injections:
        assert any((injection.fault.id, injection.place.name) in named_by(finding) for finding in findings), injection


def named_by(finding):
    return {(cause.fault.id, cause.place.name) for cause in finding.causes}


@pytest.mark.parametrize(
    "faults",
    [
        "scale-255@input bgr@input",
        "image-turned@input scaled-around-zero@input",
        "image-shifted@input crop-pct@input",
        "softmax-included@head fc-bias-dropped@head",
        "kernel-flip@conv1 stem-bgr@conv1",
    ],
)
def test_two_faults_of_one_array_are_found_together(specimen, faults):
    injections = injected(specimen, faults)
    findings = specimen.diagnose(rounded_anew(specimen.faulty(injections)))
    expected = {(injection.fault.id, injection.place.name) for injection in injections}
    assert len(findings) == 2
    assert set.union(*map(named_by, findings)) >= expected
    for finding, other in (findings, findings[::-1]):
        assert f" together with {quote(other.causes[0])}; with these bugs the oracle reproduces" in str(finding)
        assert finding.to_dict()["beside"][0]["fault"] == other.causes[0].fault.id


def test_where_an_explanation_ends_is_told(specimen):
    first, second = specimen.diagnose(specimen.faulty(injected(specimen, "eps-keras@bn1 pool-valid@stem")))
    assert ", which explains everything up to stem; another bug begins there" in str(first)
    assert (first.to_dict()["until"], second.to_dict()["until"]) == ("stem", None)


def test_an_unknown_fault_beside_a_known_one_is_not_given_a_name(specimen):
    port = specimen.faulty(injected(specimen, "eps-keras@stage2.0.bn1"))
    for found in port.values():
        found["stage2.0.bn2"] = found["stage2.0.bn2"] + 0.01 * np.sin(np.arange(found["stage2.0.bn2"].size)).reshape(
            found["stage2.0.bn2"].shape
        )
    known, unknown = specimen.diagnose(port)
    assert named_by(known) == {("eps-keras", "stage2.0.bn1")}
    assert (unknown.causes, unknown.layer) == ((), "stage2.0.bn2")


def test_what_cannot_be_told_apart_is_said_to_be(specimen):
    bgr = find_fault("bgr")
    (finding,) = specimen.diagnose(specimen.faulty([Injection(bgr, bgr.places(specimen.config)[0])]))
    assert {cause.fault.id for cause in finding.causes} == {"bgr", "stem-bgr"}
    assert "; or, not distinguishable here: `" in str(finding)


def test_an_unknown_fault_is_not_given_a_name(specimen):
    port = specimen.faulty([])
    for found in port.values():
        found["stage2.0.bn1"] = found["stage2.0.bn1"] + 0.01 * np.sin(np.arange(found["stage2.0.bn1"].size)).reshape(
            found["stage2.0.bn1"].shape
        )
    (finding,) = specimen.diagnose(port)
    assert (finding.causes, finding.layer) == ((), "stage2.0.bn1")
    assert str(finding).startswith("no known fault explains stage2.0.bn1")


def test_a_fault_without_effect_is_not_the_nearest(specimen):
    port = specimen.faulty([])
    for found in port.values():
        found["pool"] = found["pool"] * 1.5 + 0.01 * np.sin(np.arange(found["pool"].size)).reshape(found["pool"].shape)
    (finding,) = specimen.diagnose(port)
    assert finding.causes == ()
    changed = specimen.faulty([finding.nearest])
    assert any(distance(specimen.truth[train]["pool"], changed[train]["pool"]) > 1e-6 for train in (False, True))


def test_what_errs_too_little_is_not_explained_by_faults_without_effect(specimen):
    port = rounded_anew(specimen.faulty([]))
    port[False]["stage2.0.bn1"] = port[False]["stage2.0.bn1"] * (1 + 5e-12)
    assert specimen.diagnose(port) == []


def test_a_right_port_has_no_findings(specimen):
    assert specimen.diagnose(rounded_anew(specimen.faulty([]))) == []


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
