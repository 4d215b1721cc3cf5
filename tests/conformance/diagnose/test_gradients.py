"""Diagnosis of gradients: faults of the oracle are named, alone and together, and unknown ones are not."""

from __future__ import annotations

import pytest

from conformance.faults import FAULTS, Injection
from conformance.selftest.trials import chosen_places
from tests.conformance.specimens import assert_together, bent, rounded_again, training_specimen

OF_GRADIENTS = [fault for fault in FAULTS.values() if fault.task == "gradients"]


@pytest.fixture(scope="module")
def specimen():
    return training_specimen()


@pytest.mark.parametrize("fault", OF_GRADIENTS, ids=lambda fault: fault.id)
def test_the_cause_is_named(specimen, fault):
    for place in chosen_places(fault, specimen.config)[-2:]:
        if fault.harmless_at(place, specimen.config):
            continue
        injection = Injection(fault, place)
        candidate = rounded_again(specimen.gradients([injection]), 1e-15)
        (finding,) = specimen.explain_gradients(candidate)
        assert str(injection) in map(str, finding.causes)
        assert finding.error < 1e-12
        if fault.parameter:
            assert finding.causes[0].parameter == pytest.approx(fault.parameter.injected, rel=1e-9)


def test_two_faults_are_found_one_after_the_other(specimen):
    faults = "statistics-detached@stage3.0.bn2 kernel-gradient-lost@stage1.0.conv1"
    findings = specimen.explain_faulty_gradients(faults)
    assert [finding.causes for finding in findings] == [(injection,) for injection in specimen.injections(faults)]


@pytest.mark.parametrize(
    "pair",
    [
        ("loss-sum", "label-smoothing-missing"),
        ("label-smoothing-over-others", "softmax-twice"),
        ("loss-sum", "softmax-twice"),
        ("loss-sum", "label-smoothing-other"),
    ],
    ids="+".join,
)
def test_two_faults_that_alter_the_same_arrays_are_found_together(specimen, pair):
    findings = specimen.explain_faulty_gradients(" ".join(pair))
    assert_together(findings, pair)
    assert [finding.layer for finding in findings] == ["loss", "loss"]


@pytest.mark.parametrize(
    "faults",
    [
        "scale-gradient-lost@stage4.0.downsample_bn variance-detached@stage4.0.downsample_bn",
        "offset-gradient-lost@stage4.0.downsample_bn mean-detached@network",
        "shortcut-detached@stage4.0 offset-gradient-lost@network",
    ],
)
def test_of_faults_that_are_alike_at_first_those_are_found_that_explain_all(specimen, faults):
    findings = specimen.explain_faulty_gradients(faults)
    assert sorted(str(finding.causes[0]) for finding in findings) == sorted(map(str, specimen.injections(faults)))


def test_a_third_fault_is_found_after_two_together(specimen):
    faults = "loss-sum label-smoothing-missing classifier-gradient-lost@head"
    findings = specimen.explain_faulty_gradients(faults)
    assert [finding.causes for finding in findings] == [(injection,) for injection in specimen.injections(faults)]
    assert [len(finding.beside) for finding in findings] == [1, 1, 0]


def test_an_unknown_fault_beside_a_known_one_is_not_given_a_name(specimen):
    (known,) = specimen.injections("loss-sum")
    candidate = specimen.gradients([known])
    (finding,) = specimen.explain_gradients(candidate | {"loss": 1.0001 * candidate["loss"]})
    assert (finding.layer, finding.causes, finding.nearest) == ("loss", (), known)


def test_an_unknown_fault_is_not_given_a_name(specimen):
    candidate = specimen.gradients()
    candidate["gradient.stage2.0.bn1.weight"] = bent(candidate["gradient.stage2.0.bn1.weight"])
    (finding,) = specimen.explain_gradients(candidate)
    assert (finding.causes, finding.layer) == ((), "gradient.stage2.0.bn1.weight")
    assert str(finding).startswith("no known fault explains gradient.stage2.0.bn1.weight")


def test_a_wrong_loss_alone_is_not_explained_by_an_estimate(specimen):
    right = specimen.gradients()
    (finding,) = specimen.explain_gradients(right | {"loss": 1.0001 * right["loss"]})
    assert (finding.layer, finding.causes) == ("loss", ())


def test_an_array_that_is_missing_is_not_explained(specimen):
    candidate = specimen.gradients()
    del candidate["gradient.conv1.weight"]
    (finding,) = specimen.explain_gradients(candidate)
    assert (finding.causes, finding.layer) == ((), "gradient.conv1.weight")


def test_a_fault_that_makes_right_gradients_wrong_is_not_named(specimen):
    """Parameters of the first stages are frozen, and gradients still pass through them: the images' is right."""
    frozen = specimen.gradients(specimen.injections("layers-before-frozen@stage2.0"))
    right = specimen.gradients()
    findings = specimen.explain_gradients(frozen | {"gradient.input": right["gradient.input"]})
    assert not any(cause.fault.id == "layers-before-frozen" for finding in findings for cause in finding.causes)


def test_right_gradients_have_no_findings(specimen):
    assert specimen.explain_faulty_gradients("") == []
