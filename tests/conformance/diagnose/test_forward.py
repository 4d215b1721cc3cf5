"""Diagnosis of the forward pass: faults of the oracle are named, alone and together, and unknown ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.diagnose.finding import quote
from conformance.diagnose.reproduction import WHOLE
from conformance.diagnose.search import distance
from conformance.faults import Injection, find_fault
from conformance.oracle.forward import SegmentedOracle
from conformance.selftest.trials import chosen_places
from tests.conformance.specimens import bent, forward_specimen, rounded_again

DIAGNOSED = [
    *("kernel-flip", "pad-same", "bn-folded-twice", "layer-half", "mean-offset-swap", "eps-1.001", "var-biased"),
    *("bn-frozen", "bn-batch-stats", "stride-1x1", "relu-missing", "shortcut-bn-missing", "block-order", "pool-ceil"),
    *("stage1-stride", "softmax-included", "classes-1001", "bgr", "scale-255", "kernel-order"),
]


@pytest.fixture(scope="module")
def specimen():
    return forward_specimen()


def named_by(finding):
    return {(cause.fault.id, cause.place.name) for cause in finding.causes}


@pytest.mark.parametrize("id", DIAGNOSED)
def test_the_cause_is_named(specimen, id):
    fault = find_fault(id)
    for place in chosen_places(fault, specimen.config)[-2:]:
        (finding,) = specimen.explain(specimen.candidate([Injection(fault, place)]))
        assert (id, place.name) in named_by(finding)
        assert finding.error < 1e-13
        assert "; with this bug the oracle reproduces your model to " in str(finding)


@pytest.mark.parametrize(
    ("id", "value"),
    [("eps-other", 0.0021), ("momentum-other", 0.61), ("caffe-factor", 999.98), ("logits-scaled", 0.7)],
)
def test_a_continuous_parameter_is_estimated(specimen, id, value):
    fault = find_fault(id)
    injection = Injection(fault, fault.places(specimen.config)[-1], value)
    (finding,) = specimen.explain(specimen.candidate([injection]))
    assert finding.causes[0].fault.id == id
    assert finding.causes[0].parameter == pytest.approx(value, rel=1e-6)
    assert f"{fault.parameter.name} = {value:g}" in str(finding)


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
    """In several segments, in one segment, and everywhere."""
    injections = specimen.injections(faults)
    findings = specimen.explain(specimen.candidate(injections))
    assert max(finding.error for finding in findings) < 1e-13
    assert len(findings) == len(injections)
    for injection in injections:
        assert any((injection.fault.id, injection.place.name) in named_by(finding) for finding in findings), injection


@pytest.mark.parametrize(
    "faults",
    [
        "scale-255@input bgr@input",
        pytest.param("image-turned@input scaled-around-zero@input", marks=pytest.mark.slow),
        pytest.param("image-shifted@input crop-pct@input", marks=pytest.mark.slow),
        "softmax-included@head fc-bias-dropped@head",
        "kernel-flip@conv1 stem-bgr@conv1",
    ],
)
def test_two_faults_of_one_array_are_found_together(specimen, faults):
    injections = specimen.injections(faults)
    findings = specimen.explain(specimen.candidate(injections))
    assert len(findings) == 2
    expected = {(injection.fault.id, injection.place.name) for injection in injections}
    assert set.union(*map(named_by, findings)) >= expected
    for finding, other in (findings, findings[::-1]):
        assert f" together with {quote(other.causes[0])}; with these bugs the oracle reproduces" in str(finding)
        assert finding.to_dict()["beside"][0]["fault"] == other.causes[0].fault.id


def test_a_finding_says_where_its_explanation_ends(specimen):
    first, second = specimen.explain(specimen.faulty(specimen.injections("eps-keras@bn1 pool-valid@stem")))
    assert ", which explains everything up to stem; another bug begins there" in str(first)
    assert (first.to_dict()["until"], second.to_dict()["until"]) == ("stem", None)


def test_faults_that_are_not_distinguishable_are_named_together(specimen):
    (finding,) = specimen.explain(specimen.faulty(specimen.injections("bgr@input")))
    assert {cause.fault.id for cause in finding.causes} == {"bgr", "stem-bgr"}
    assert "; or, not distinguishable here: `" in str(finding)


def test_an_unknown_fault_beside_a_known_one_is_not_given_a_name(specimen):
    candidate = specimen.faulty(specimen.injections("eps-keras@stage2.0.bn1"))
    for arrays in candidate.values():
        arrays["stage2.0.bn2"] = bent(arrays["stage2.0.bn2"])
    known, unknown = specimen.explain(candidate)
    assert named_by(known) == {("eps-keras", "stage2.0.bn1")}
    assert (unknown.causes, unknown.layer) == ((), "stage2.0.bn2")


def test_an_unknown_fault_is_not_given_a_name(specimen):
    candidate = specimen.faulty([])
    for arrays in candidate.values():
        arrays["stage2.0.bn1"] = bent(arrays["stage2.0.bn1"])
    (finding,) = specimen.explain(candidate)
    assert (finding.causes, finding.layer) == ((), "stage2.0.bn1")
    assert str(finding).startswith("no known fault explains stage2.0.bn1")


def test_faults_of_another_segment_are_found_behind_an_unknown_one(specimen):
    candidate = specimen.faulty(specimen.injections("eps-keras@stage3.0.bn1"))
    for arrays in candidate.values():
        arrays["stage2.0.bn1"] = bent(arrays["stage2.0.bn1"])
    unknown, known = specimen.explain(candidate)
    assert (unknown.causes, unknown.layer) == ((), "stage2.0.bn1")
    assert named_by(known) == {("eps-keras", "stage3.0.bn1")}


def test_a_fault_that_explains_nine_tenths_of_an_error_is_a_hint(specimen):
    candidate = specimen.faulty(specimen.injections("head-max@head"))
    for arrays in candidate.values():
        arrays["pool"] = bent(arrays["pool"])
    (finding,) = specimen.explain(candidate)
    assert (finding.causes, finding.nearest.fault.id) == ((), "head-max")
    right = distance(specimen.right[False]["pool"], candidate[False]["pool"])
    assert 0 < finding.error < 0.1 * right


def test_a_fault_that_explains_less_is_no_hint(specimen):
    candidate = specimen.faulty(specimen.injections("head-max@head"))
    for train, arrays in candidate.items():
        arrays["pool"] = bent(0.6 * arrays["pool"] + 0.4 * specimen.right[train]["pool"])
    (finding,) = specimen.explain(candidate)
    assert (finding.causes, finding.nearest) == ((), None)
    assert str(finding) == "no known fault explains pool"


@pytest.mark.parametrize("faults", ["relu-after-missing@network", "eps-keras@bn1 pool-valid@stem"])
def test_a_cause_explains_the_whole_run_too(specimen, faults):
    injections = specimen.injections(faults)
    findings = specimen.explain(specimen.candidate(injections), specimen.whole(injections))
    assert {cause for finding in findings for cause in named_by(finding)} >= {
        (injection.fault.id, injection.place.name) for injection in injections
    }


def test_a_fault_that_explains_each_segment_and_not_the_whole_run_is_no_cause(specimen):
    """A ReLU moved from the end of a block to the start of the next one looks so."""
    missing = specimen.injections("relu-after-missing@network")
    (finding,) = specimen.explain(specimen.candidate(missing), specimen.right)
    assert (finding.causes, finding.nearest) == ((), missing[0])
    assert "no known fault explains everything: `relu-after-missing` everywhere " in str(finding)
    assert "explains stage1.0, but not stage1.0 of a whole run (error " in str(finding)


@pytest.fixture(scope="module")
def tf32(specimen):
    """TF32 everywhere, and another correct build with it that is fed; whole runs of such builds differ by rounding."""
    injections = specimen.injections("tf32-leak@network")
    fed = {train: rounded_again(arrays, 1e-7) for train, arrays in specimen.faulty(injections, "float32").items()}
    return injections, fed


@pytest.mark.parametrize("size", [6e-5, 2e-4, 5e-4])
def test_tf32_is_no_cause_of_a_layer_with_another_error_of_its_size(specimen, size):
    random = np.random.default_rng(0)
    candidate = specimen.faulty([], "float32")
    for arrays in candidate.values():
        array = arrays["stage2.0.conv2"]
        error = random.standard_normal(array.shape)
        arrays["stage2.0.conv2"] = array + size * np.linalg.norm(array) / np.linalg.norm(error) * error
    (finding,) = specimen.explain(candidate, None, "float32")
    assert (finding.layer, finding.causes) == ("stage2.0.conv2", ())


def whole_run(specimen, injections, wrong="", size=0.0):
    """A whole run of another build in float32, one segment of which errs by a random error of a relative size."""
    random = np.random.default_rng(1)

    def change(segment, array):
        error = random.standard_normal(array.shape)
        norm = np.linalg.norm(array) / np.linalg.norm(error)
        return array * (1 + 2e-7 * random.standard_normal(array.shape)) + (segment == wrong) * size * norm * error

    return specimen.whole(injections, "float32", change)


def test_tf32_is_the_cause_of_a_whole_run_that_rounds_otherwise(specimen, tf32):
    injections, fed = tf32
    whole = whole_run(specimen, injections)
    apart = distance(specimen.whole(injections, "float32")[False]["stage4.1"], whole[False]["stage4.1"])
    assert apart > WHOLE["float32"]  # as far as TF32 itself goes
    (finding,) = specimen.explain(fed, whole, "float32")
    assert named_by(finding) == {("tf32-leak", "network")}


@pytest.mark.parametrize(("wrong", "size"), [("stage1.0", 2e-4), ("stage2.0", 1e-3), ("stage4.1", 2e-3)])
def test_tf32_is_no_cause_of_another_error_of_its_size(specimen, tf32, wrong, size):
    injections, fed = tf32
    (finding,) = specimen.explain(fed, whole_run(specimen, injections, wrong, size), "float32")
    assert (finding.causes, finding.nearest) == ((), injections[0])
    assert f"but not {wrong} of a whole run" in str(finding)


def test_tf32_is_no_cause_of_a_whole_run_without_it(specimen, tf32):
    injections, fed = tf32
    (finding,) = specimen.explain(fed, whole_run(specimen, []), "float32")
    assert (finding.causes, finding.nearest) == ((), injections[0])


def test_a_whole_run_is_compared_up_to_what_no_known_fault_explains(specimen):
    known = specimen.injections("eps-keras@stage1.0.bn1")
    candidate, whole = specimen.candidate(known), specimen.whole(known)
    for arrays in (*candidate.values(), *whole.values()):
        for name in ("stage3.0.bn2", "stage3.0", "stage3.1"):
            arrays[name] = bent(arrays[name])
    findings = specimen.explain(candidate, whole)
    assert named_by(findings[0]) == {("eps-keras", "stage1.0.bn1")}
    assert not any(finding.causes for finding in findings[1:])


def test_a_fault_that_makes_an_array_behind_the_first_wrong_one_wrong_is_not_named(specimen):
    """The shortcut's kernel in the place of conv3's, too: they are not exchanged."""
    weights = dict(specimen.weights.arrays)
    weights["stage1.0.conv3.weight"] = weights["stage1.0.downsample_conv.weight"]
    oracle = SegmentedOracle(specimen.config, weights)
    candidate = {
        train: right | oracle.run("stage1.0", specimen.entering("stage1.0", train), train)
        for train, right in specimen.right.items()
    }
    (finding,) = specimen.explain(candidate)
    assert (finding.layer, finding.causes) == ("stage1.0.conv3", ())


@pytest.mark.parametrize(("mode", "train"), [("inference", False), ("train", True)])
@pytest.mark.parametrize("faults", ["relu-missing@stage2.0", "eps-keras@network", "eps-other@stage1.0.bn2"])
def test_a_fault_of_one_mode_is_named_in_that_mode(specimen, faults, mode, train):
    (injection,) = specimen.injections(faults)
    candidate = specimen.candidate([]) | {train: specimen.candidate([injection])[train]}
    (finding,) = specimen.explain(candidate)
    likeliest = finding.causes[0]
    assert (likeliest.fault, likeliest.place, likeliest.mode) == (injection.fault, injection.place, mode)
    assert f" in {mode} mode alone (" in str(finding)
    assert finding.to_dict()["causes"][0]["mode"] == mode


def test_a_fault_that_makes_another_segment_wrong_is_not_the_nearest(specimen):
    """Kernels in each other's place are wrong in both blocks; here one of them is right."""
    (swapped,) = specimen.injections("kernel-order@stage1.0.conv2")
    candidate = specimen.candidate([swapped])
    for train, arrays in candidate.items():
        arrays |= {name: right for name, right in specimen.right[train].items() if name.startswith("stage1.1")}
    (finding,) = specimen.explain(candidate)
    assert (finding.layer, finding.causes) == ("stage1.0.conv2", ())
    assert finding.nearest != swapped


def test_what_errs_too_little_is_not_explained_by_faults_without_effect(specimen):
    candidate = specimen.candidate([])
    candidate[False]["stage2.0.bn1"] = candidate[False]["stage2.0.bn1"] * (1 + 5e-12)
    assert specimen.explain(candidate) == []


@pytest.mark.parametrize("array", ["stage1.1.bn2", "stage2.0.bn1.running_var"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda array: np.full_like(array, np.nan), id="not a number"),
        pytest.param(lambda array: array[:1], id="another shape"),
    ],
)
def test_what_is_not_a_number_or_of_another_shape_is_not_explained(specimen, array, change):
    candidate = specimen.candidate([])
    candidate[True][array] = change(candidate[True][array])
    (finding,) = specimen.explain(candidate)
    assert (finding.causes, finding.nearest, finding.layer) == ((), None, array)


def test_a_block_that_is_missing_is_said_to_be_and_what_follows_is_not_accused(specimen):
    candidate = specimen.candidate([])
    for arrays in candidate.values():
        arrays["stage3.0.conv1"] = bent(arrays["stage3.0.conv1"])
        for name in [name for name in arrays if name.startswith("stage2.1")]:
            del arrays[name]
    (finding,) = specimen.explain(candidate)
    assert (finding.layer, finding.causes) == ("stage2.1.conv1", ())
    assert str(finding) == "stage2.1 is missing: your model computes none of its activations"


def test_a_right_candidate_has_no_findings(specimen):
    assert specimen.explain(specimen.candidate([])) == []
