"""Faults of gradients and of training: each shows where it was put, is named, and has its parameter estimated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.case import labels_for, padded, training_batches
from conformance.cases.inputs import noise, noise_sides
from conformance.cases.recipes import LOSS, RECIPES, STEPS
from conformance.cases.segments import segment_of
from conformance.cases.weights import synthetic_weights
from conformance.diagnose.finding import describe, joint_findings
from conformance.diagnose.gradients import GradientDiagnosis
from conformance.diagnose.search import distance
from conformance.diagnose.steps import StepsDiagnosis
from conformance.faults import FAULTS, EditError, Injection, find_fault, places
from conformance.localise import small_config
from conformance.oracle.forward import WidenedArrays, build_network, set_array
from conformance.oracle.gradients import SegmentedGradients, recipe_with, training_with
from conformance.oracle.steps import StepwiseTraining, state_of
from conformance.selftest.trials import chosen_places
from impls.config import VARIANTS
from impls.numpy.training import gradients
from impls.recipe import Recipe
from weights_convert.shapes import expected_shapes

OF_GRADIENTS = [fault for fault in FAULTS.values() if fault.task == "gradients"]
OF_STEPS = [fault for fault in FAULTS.values() if fault.task == "steps"]

EVERYDAY = {
    *("wd-decoupled", "wd-on-norm", "lr-in-velocity", "adam-eps-uncorrected", "adam-l2", "clip-one-by-one"),
    *("warmup-from-zero", "milestones-late", "sgd-momentum-other", "statistics-twice", "gradients-kept"),
}
"""The faults of steps that are not only diagnosed in the slow tests."""


class Specimen:
    """The small network of a variant, its batch, and what the right oracle makes of it."""

    def __init__(self, variant):
        self.config = small_config(VARIANTS[variant])
        self.arrays = synthetic_weights(self.config, seed=0).arrays
        height, width, _ = noise_sides(self.config.head_pool)[1]
        self.images = noise(height, width, 2, 0).images

    def injection(self, id, place="network", value=None):
        return Injection(find_fault(id), {known.name: known for known in places(self.config)}[place], value)

    def oracle(self):
        return SegmentedGradients(self.config, self.arrays, padded(self.images), train=True)

    def gradients(self, injections=()):
        return {name: array for _, _, arrays in self.oracle().run(injections) for name, array in arrays.items()}

    def explain_gradients(self, port, **options):
        return list(GradientDiagnosis(self.oracle(), port, **options).findings())

    def steps(self, injections=()):
        """Runs of every recipe by another correct build of the training with faults."""
        return {name: dict(enumerate(self.run(name, injections), start=1)) for name in RECIPES}

    def run(self, name, injections):
        configured = {field: value for one in injections for field, value in one.configured.items()}
        model = build_network(replace(self.config, **configured), WidenedArrays(self.arrays, "float64"))
        training = training_with(injections).Training(model, recipe_with(RECIPES[name], injections))
        for images, labels in training_batches(self.images.astype(np.float64), self.config.num_classes, STEPS):
            value = training.step(images, labels)
            state = rounded_anew(state_of(training))
            for array in expected_shapes(self.config):
                set_array(model, array, state[array].copy())
            for slot, held in training.slots.items():
                held |= {parameter: state[f"{slot}.{parameter}"].copy() for parameter in held}
            yield state | {"loss": np.array([value])}

    def explain_steps(self, port):
        return StepsDiagnosis(StepwiseTraining(self.config, self.arrays, self.images, port)).findings()


@pytest.fixture(scope="module")
def specimen():
    return Specimen("v1.5")


def rounded_anew(arrays):
    """As another correct build would have computed it."""
    random = np.random.RandomState(0)
    return {name: a * (1 + 1e-15 * random.standard_normal(np.shape(a))) for name, a in arrays.items()}


def assert_together(findings, pair):
    """Each of two faults is named with the other beside it, and what was estimated is the injected value."""
    assert [finding.causes[0].fault.id for finding in findings] == list(pair)
    assert [[other.fault.id for other in finding.beside] for finding in findings] == [[pair[1]], [pair[0]]]
    for finding, other in zip(findings, reversed(pair), strict=True):
        fault = finding.causes[0].fault
        assert finding.error < 1e-11
        assert f" together with `{other}`; with these bugs " in str(finding)
        assert [facts["fault"] for facts in finding.to_dict()["beside"]] == [other]
        if fault.parameter:
            assert finding.causes[0].parameter == pytest.approx(fault.parameter.injected, rel=1e-6)


def wrong_names(specimen, injections):
    right, wrong = specimen.gradients(), specimen.gradients(injections)
    return [
        name for name in GradientDiagnosis(specimen.oracle(), right).names if distance(right[name], wrong[name]) > 0
    ]


class TestGradients:
    def test_in_pieces_they_are_the_oracles(self, specimen):
        model = build_network(specimen.config, WidenedArrays(specimen.arrays, "float64")).train()
        value, found = gradients(model, padded(specimen.images.astype(np.float64)), labels_for(2, 10), LOSS)
        pieces = specimen.gradients()
        assert pieces.pop("loss") == value
        assert pieces.keys() == {f"gradient.{name}" for name in found}
        assert all(np.array_equal(pieces[f"gradient.{name}"], array) for name, array in found.items())

    @pytest.mark.parametrize("fault", OF_GRADIENTS, ids=lambda fault: fault.id)
    def test_a_fault_shows_first_where_it_is_or_is_harmless(self, specimen, fault):
        order = specimen.oracle().segments
        for place in chosen_places(fault, specimen.config):
            wrong = wrong_names(specimen, [Injection(fault, place)])
            if fault.harmless_at(place, specimen.config):
                assert wrong == []
                continue
            shown = segment_of(wrong[0])
            here = 0 if place.scope == "network" else order.index(segment_of(place.name))
            assert order.index(shown) in (here, here + 1)

    @pytest.mark.parametrize("fault", OF_GRADIENTS, ids=lambda fault: fault.id)
    def test_the_cause_is_named(self, specimen, fault):
        for place in chosen_places(fault, specimen.config)[-2:]:
            if fault.harmless_at(place, specimen.config):
                continue
            injection = Injection(fault, place)
            (finding,) = specimen.explain_gradients(rounded_anew(specimen.gradients([injection])))
            assert str(injection) in map(str, finding.causes)
            assert finding.error < 1e-12
            if fault.parameter:
                assert finding.causes[0].parameter == pytest.approx(fault.parameter.injected, rel=1e-9)

    def test_two_faults_are_found_one_after_the_other(self, specimen):
        pairs = [("statistics-detached", "stage3.0.bn2"), ("kernel-gradient-lost", "stage1.0.conv1")]
        injections = [specimen.injection(*pair) for pair in pairs]
        findings = specimen.explain_gradients(rounded_anew(specimen.gradients(injections)))
        assert [finding.causes for finding in findings] == [(injection,) for injection in injections]

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
    def test_two_faults_that_alter_the_same_arrays_are_found_together(self, specimen, pair):
        injections = [specimen.injection(id) for id in pair]
        findings = specimen.explain_gradients(rounded_anew(specimen.gradients(injections)))
        assert_together(findings, pair)
        assert [finding.layer for finding in findings] == ["loss", "loss"]

    @pytest.mark.parametrize(
        "pair",
        [
            (("scale-gradient-lost", "stage4.0.downsample_bn"), ("variance-detached", "stage4.0.downsample_bn")),
            (("offset-gradient-lost", "stage4.0.downsample_bn"), ("mean-detached", "network")),
            (("shortcut-detached", "stage4.0"), ("offset-gradient-lost", "network")),
        ],
        ids=lambda pair: "+".join(id for id, _ in pair),
    )
    def test_of_faults_that_are_alike_at_first_those_are_found_that_explain_all(self, specimen, pair):
        injections = [specimen.injection(*id) for id in pair]
        findings = specimen.explain_gradients(rounded_anew(specimen.gradients(injections)))
        assert sorted(str(finding.causes[0]) for finding in findings) == sorted(map(str, injections))

    def test_a_third_fault_is_found_after_two_together(self, specimen):
        ids = [("loss-sum",), ("label-smoothing-missing",), ("classifier-gradient-lost", "head")]
        injections = [specimen.injection(*id) for id in ids]
        findings = specimen.explain_gradients(rounded_anew(specimen.gradients(injections)))
        assert [finding.causes for finding in findings] == [(injection,) for injection in injections]
        assert [len(finding.beside) for finding in findings] == [1, 1, 0]

    def test_an_unknown_fault_beside_a_known_one_is_not_given_a_name(self, specimen):
        port = specimen.gradients([specimen.injection("loss-sum")])
        (finding,) = specimen.explain_gradients(port | {"loss": 1.0001 * port["loss"]})
        assert (finding.layer, finding.causes) == ("loss", ())
        assert finding.nearest == specimen.injection("loss-sum")

    def test_an_unknown_fault_is_not_given_a_name(self, specimen):
        port = specimen.gradients()
        array = port["gradient.stage2.0.bn1.weight"]
        port["gradient.stage2.0.bn1.weight"] = array + 0.01 * np.sin(np.arange(array.size))
        (finding,) = specimen.explain_gradients(port)
        assert (finding.causes, finding.layer) == ((), "gradient.stage2.0.bn1.weight")
        assert str(finding).startswith("no known fault explains gradient.stage2.0.bn1.weight")

    def test_a_wrong_loss_alone_is_not_explained_by_an_estimate(self, specimen):
        right = specimen.gradients()
        (finding,) = specimen.explain_gradients(right | {"loss": 1.0001 * right["loss"]})
        assert (finding.layer, finding.causes) == ("loss", ())

    def test_an_array_that_is_missing_is_not_explained(self, specimen):
        port = specimen.gradients()
        del port["gradient.conv1.weight"]
        (finding,) = specimen.explain_gradients(port)
        assert (finding.causes, finding.layer) == ((), "gradient.conv1.weight")

    def test_right_gradients_have_no_findings(self, specimen):
        assert specimen.explain_gradients(rounded_anew(specimen.gradients())) == []


class TestSteps:
    @pytest.mark.parametrize(
        "fault",
        [pytest.param(fault, id=fault.id, marks=[pytest.mark.slow] * (fault.id not in EVERYDAY)) for fault in OF_STEPS],
    )
    def test_the_cause_is_named(self, specimen, fault):
        injection = specimen.injection(fault.id)
        (finding,) = specimen.explain_steps(specimen.steps([injection]))
        assert fault.id in [cause.fault.id for cause in finding.causes]
        assert finding.error < 1e-11
        if fault.parameter:
            assert finding.causes[0].parameter == pytest.approx(fault.parameter.injected, rel=1e-6)
            assert f"{fault.parameter.name} = {fault.parameter.injected:g}" in str(finding)

    def test_what_cannot_be_told_apart_is_said_to_be(self, specimen):
        """No number of these gradients is as large as the norm that they are clipped to."""
        (finding,) = specimen.explain_steps(specimen.steps([specimen.injection("clip-by-value")]))
        assert [cause.fault.id for cause in finding.causes] == ["clip-missing", "clip-by-value"]
        assert "; or, not distinguishable here: `clip-by-value`" in str(finding)

    @pytest.mark.slow
    def test_faults_of_several_recipes_are_found_together(self, specimen):
        ids = ["nesterov-missing", "adam-eps", "wd-on-norm"]
        findings = specimen.explain_steps(specimen.steps([specimen.injection(id) for id in ids]))
        assert {finding.causes[0].fault.id for finding in findings} == set(ids)

    @pytest.mark.parametrize(
        "pair",
        [
            pytest.param(pair, id="+".join(pair), marks=[pytest.mark.slow] * slow)
            for pair, slow in (
                (("adam-eps", "adam-uncorrected"), False),
                (("adamw-decay-not-times-rate", "adam-eps-other"), False),
                (("nesterov-missing", "warmup-missing"), True),
                (("wd-decoupled", "dampening"), True),
                (("adam-uncorrected", "adam-eps-other"), True),
            )
        ],
    )
    def test_two_faults_that_alter_the_same_arrays_are_found_together(self, specimen, pair):
        findings = specimen.explain_steps(specimen.steps([specimen.injection(id) for id in pair]))
        assert_together(findings, pair)

    @pytest.mark.slow
    def test_two_faults_together_are_found_beside_another(self, specimen):
        ids = ["clip-one-by-one", "adam-eps", "adam-uncorrected"]
        findings = specimen.explain_steps(specimen.steps([specimen.injection(id) for id in ids]))
        assert [finding.causes[0].fault.id for finding in findings] == ids
        assert [len(finding.beside) for finding in findings] == [0, 1, 1]

    @pytest.mark.parametrize("id", ["adam-eps", pytest.param("wd-decoupled", marks=pytest.mark.slow)])
    def test_an_unknown_fault_beside_a_known_one_is_not_given_a_name(self, specimen, id):
        port = specimen.steps([specimen.injection(id)])
        for states in port.values():
            states[1]["conv1.weight"] = states[1]["conv1.weight"] * 1.001
        (finding,) = specimen.explain_steps(port)
        assert finding.causes == ()
        assert finding.layer.startswith("conv1.weight after step 1")

    @pytest.mark.parametrize(
        "id", ["var-biased", *(pytest.param(id, marks=pytest.mark.slow) for id in ("loss-sum", "statistics-detached"))]
    )
    def test_a_fault_of_the_network_that_only_its_training_shows_is_named(self, specimen, id):
        (finding,) = specimen.explain_steps(specimen.steps([specimen.injection(id)]))
        assert finding.causes[0].fault.id == id

    def test_an_unknown_fault_is_not_given_a_name(self, specimen):
        port = specimen.steps()
        state = port["adamw"][3]
        state["exp_avg.conv1.weight"] = state["exp_avg.conv1.weight"] * 1.01
        (finding,) = specimen.explain_steps(port)
        assert finding.causes == ()
        assert str(finding).startswith("no known fault explains exp_avg.conv1.weight after step 3 of adamw")

    @pytest.mark.slow
    def test_an_unknown_schedule_is_not_put_together_from_known_ones(self, specimen, monkeypatch):
        """Of a rate, one number a step, many pairs explain one step."""
        right = Recipe.rate
        with monkeypatch.context() as patch:
            patch.setattr(Recipe, "rate", lambda recipe, step: right(recipe, step) * (0.9 + 0.02 * (step * 7 % 5)))
            port = specimen.steps([specimen.injection("nesterov-missing")])
        (finding,) = specimen.explain_steps(port)
        assert finding.causes == ()

    def test_arrays_that_are_missing_or_of_another_shape_are_not_explained(self, specimen):
        port = specimen.steps()
        for states in port.values():
            for state in states.values():
                del state["conv1.weight"]
                state["fc.bias"] = np.zeros(3)
        (finding,) = specimen.explain_steps(port)
        assert (finding.causes, finding.layer) == ((), "conv1.weight after step 1 of sgd")

    def test_right_steps_have_no_findings(self, specimen):
        assert specimen.explain_steps(specimen.steps()) == []


def test_faults_are_put_in_in_the_order_in_which_each_finds_its_place(specimen):
    for ids in (["loss-sum", "softmax-twice"], ["softmax-twice", "loss-sum"]):
        assert training_with([specimen.injection(id) for id in ids]).loss is not None
    with pytest.raises(EditError, match="stands there 0 times"):
        training_with([specimen.injection(id) for id in ("wd-decoupled", "lr-in-velocity")])


def test_what_would_do_in_the_stead_of_one_of_two_is_named_beside_the_other(specimen):
    a, b, c = (specimen.injection(id) for id in ("adam-eps", "adam-uncorrected", "adam-l2"))
    findings = joint_findings("loss", "head", [(a, b), (a, c)], 1e-15)
    assert [finding.causes for finding in findings] == [(a,), (b, c)]
    assert [finding.beside for finding in findings] == [(b,), (a,)]
    bugs = f"likely cause: {describe(b)} together with `adam-eps`"
    reproduced = "with these bugs the oracle reproduces your model to 1e-15"
    assert str(findings[1]) == f"{bugs}; {reproduced}; or, not distinguishable here: {describe(c)}"


def test_a_parameter_takes_the_place_of_what_a_recipe_has():
    place = find_fault("clip-other").places(VARIANTS["v1.5"])[0]
    recipes = {name: Injection(find_fault("clip-other"), place).recipe(recipe) for name, recipe in RECIPES.items()}
    assert {name: recipe.clip_norm for name, recipe in recipes.items()} == {"sgd": None, "nesterov": 0.7, "adamw": None}


def test_a_fault_of_training_is_told_without_a_place(specimen):
    assert str(specimen.injection("adam-eps")) == "adam-eps"
    assert str(specimen.injection("statistics-detached")) == "statistics-detached everywhere"
    assert str(specimen.injection("statistics-detached", "bn1")) == "statistics-detached at bn1"
