"""Identification as a property: random layers are recovered to rounding, or said to be ill-posed."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.cases.synthetic import synthetic_weights
from conformance.identify import convolution, convolution_questions, norm, pool, total
from conformance.identify.convolution import MeasuredConvolution, find_changed_images
from conformance.identify.convolution_questions import expected_geometry
from conformance.identify.curve import CURVES, GRID, NONE, RELU, elu, find_curve, gelu, gelu_by_tanh, leaky, sigmoid
from conformance.identify.fact import PREDICTED, Exam, NotIdentified, relative_error
from conformance.identify.geometry import BORDERS, Axis, Geometry, solve
from conformance.identify.identification import rounding_facts
from conformance.identify.image import WITH_RIGHT_KERNEL
from conformance.identify.kernel import REARRANGED, recognise, recognise_bias
from conformance.identify.link import expected_output, links
from conformance.identify.norm_formula import DENOMINATORS, Formula
from conformance.identify.screen import Screening, screening_probes
from conformance.identify.total import MeasuredSum
from impls.config import VARIANTS
from weights_convert.shapes import expected_shapes

CONFIG = replace(VARIANTS["v1.5"], depths=(1, 2, 1, 1), width=4, num_classes=6)
LINKS = {link.name: link for link in links(CONFIG)}
SOME = settings(max_examples=15, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def drawn_arrays(random):
    arrays = {name: random.normal(0.0, 1.0, shape) for name, shape in expected_shapes(CONFIG).items()}
    return arrays | {name: np.abs(array) + 0.1 for name, array in arrays.items() if name.endswith("running_var")}


def answered(layer, asked):
    return {part: layer(x) for part, x in asked.items()}


def measured(link, asked, layer):
    return convolution.measure(Exam(link, asked, answered(layer, asked), {}, CONFIG))


def measured_unless_ill_posed(link, asked, layer):
    """A convolution, or None where it is said that the probes, made for the expected one, are too few for it."""
    try:
        return measured(link, asked, layer)
    except NotIdentified as reason:
        if "ill-posed" in str(reason) or "linear map" in str(reason):
            return None
        raise


@SOME
@given(
    seed=SEEDS,
    name=st.sampled_from(["stage1.0.conv2", "stage2.0.conv2", "stage2.1.conv1", "stage1.0.conv3"]),
    dilation=st.integers(1, 3),
    taps=st.integers(1, 3),
    stride=st.integers(1, 2),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    border=st.sampled_from([*BORDERS]),
    curve=st.sampled_from([*(c for c in CURVES if c.name not in ("softplus", "sigmoid", "hard sigmoid")), leaky(0.2)]),
)
def test_a_random_convolution_is_recovered(seed, name, dilation, taps, stride, pads, border, curve):
    random, link = np.random.default_rng(seed), LINKS[name]
    axis = Axis(taps, dilation if taps > 1 else 1, stride, *pads)
    layer = MeasuredConvolution(
        curve,
        Geometry(axis, axis, border),
        random.normal(0.0, 1.0, (7, link.channels[0], taps, taps)),
        random.normal(0.0, 1.0, 7),
    )
    asked = convolution_questions.questions(link, random)
    if (taps - 1) * dilation + 1 > link.kernel or border != "zeros" or stride > link.stride:
        found = measured_unless_ill_posed(link, asked, layer)
        if found is None:
            return
    else:
        found = measured(link, asked, layer)
    other = random.normal(0.0, 1.0, (2, link.channels[0], 17, 20))
    assert relative_error(layer(other), found(other)) <= PREDICTED


@SOME
@given(seed=SEEDS, number=st.integers(0, len(REARRANGED) - 1))
def test_a_rearranged_kernel_is_recognised(seed, number):
    random = np.random.default_rng(seed)
    expected, change = random.normal(0.0, 1.0, (4, 4, 3, 3)), REARRANGED[number]
    found = recognise(change.change(expected), expected, {}, "conv")
    assert found is not None
    assert relative_error(change.change(expected), found.change(expected)) == 0


@pytest.mark.parametrize(("end", "place"), [(slice(None, 2), "first"), (slice(2, None), "last")])
def test_right_output_channels_in_another_number_are_recognised(end, place):
    random = np.random.default_rng(0)
    expected, bias = random.normal(0.0, 1.0, (4, 32, 3, 3)), random.normal(0.0, 1.0, 4)
    fewer, more = recognise(expected[end], expected, {}, "fc"), recognise(expected, expected[end], {}, "fc")
    assert fewer.words == f"it has 2 output channels, where 4 are expected: the {place} 2 are right"
    assert more.words == f"it has 4 output channels, where 2 are expected: the {place} 2 are right"
    assert recognise_bias(bias[end], bias, {}, "fc") is None
    assert recognise_bias(bias[end] + 1.0, bias, {}, "fc") is not None


@SOME
@given(seed=SEEDS, shares=st.tuples(st.booleans(), st.booleans()))
def test_kernels_with_other_channels_scales_and_zeros_are_recognised(seed, shares):
    random = np.random.default_rng(seed)
    weight = random.normal(0.0, 1.0, (6, 8, 3, 3))
    arrays = {"a.weight": random.normal(0.0, 1.0, (6, 8, 3, 3)), "b.weight": weight}
    wrong = {
        "another order": weight[random.permutation(6)],
        "factor of its own": weight * random.uniform(0.5, 2.0, (6, 1, 1, 1)),
        "that of a": arrays["a.weight"],
        "rounded to float16": weight.astype(np.float16).astype(np.float64),
        "multiplied by 2.5": 2.5 * weight,
        "zero in 1 of 8 input channels": weight * (np.arange(8) != 3)[:, None, None],
    }
    for words, measured in wrong.items():
        found = recognise(measured, weight, arrays, "b")
        assert words == "another order" or words in found.words
    assert recognise(random.normal(0.0, 1.0, weight.shape), weight, arrays, "b") is None


@pytest.mark.parametrize(
    "change", [*WITH_RIGHT_KERNEL[:-11:9], *WITH_RIGHT_KERNEL[-11:]], ids=lambda change: change.words
)
def test_the_right_convolution_of_changed_images_is_recognised(change):
    random, link = np.random.default_rng(0), LINKS["conv1"]
    asked = convolution_questions.questions(link, random, ((36, 44), (37, 45)))
    weight = random.normal(0.0, 1.0, (4, 3, 7, 7))
    layer = MeasuredConvolution(NONE, expected_geometry(link), weight, np.zeros(4), change)
    exam = Exam(link, asked, answered(layer, asked), {}, CONFIG)
    assert find_changed_images(exam, weight).change.words == change.words
    assert find_changed_images(exam, weight + 1e-9) is None


@SOME
@given(seed=SEEDS)
def test_a_classifier_is_recovered(seed):
    random, link = np.random.default_rng(seed), LINKS["logits"]
    arrays = drawn_arrays(random)
    weight, bias = np.roll(arrays["fc.weight"], 1, 0), arrays["fc.bias"]
    asked = convolution_questions.questions(link, random)
    fact = convolution.identify(Exam(link, asked, answered(lambda x: x @ weight.T + bias, asked), arrays, CONFIG))
    assert fact.measured == {"kernel": "output channels shifted by 1"}
    assert fact.error <= PREDICTED


@SOME
@given(
    seed=SEEDS,
    statistics=st.sampled_from(["running", "batch", "instance", "layer", "batch, unbiased"]),
    denominator=st.sampled_from([name for name in DENOMINATORS if name != "reciprocal root loaded"]),
    eps=st.floats(1e-6, 0.1),
    scale=st.sampled_from(["weight", "one", "bias"]),
    offset=st.sampled_from(["bias", "zero", "running_mean"]),
)
def test_a_random_norm_is_recovered(seed, statistics, denominator, eps, scale, offset):
    random, link = np.random.default_rng(seed), LINKS["stage2.0.bn2"]
    arrays = drawn_arrays(random)
    right = Formula("batch", eps=CONFIG.norm_eps)
    wrong = Formula(statistics, scale, offset, denominator=denominator, eps=eps)
    asked = norm.questions(link, random)
    exams = [
        Exam(link, asked, answered(lambda x, f=formula: f(x, link.layer, arrays), asked), arrays, CONFIG, mode)
        for mode, formula in (("inference", wrong), ("train", right))
    ]
    found = norm.find_formula(exams[0])
    other = random.normal(0.5, 2.0, (3, link.channels[0], 6, 5))
    assert relative_error(wrong(other, link.layer, arrays), found(other, link.layer, arrays)) <= 10 * PREDICTED
    facts = norm.identify(exams)
    assert [fact.mode for fact in facts] == ["inference"]


def test_exchanged_statistics_are_recognised_without_their_signs():
    random, link = np.random.default_rng(0), LINKS["stage2.0.bn2"]
    arrays = drawn_arrays(random)
    wrong = Formula("running", mean="running_var", variance="|running_mean|", eps=CONFIG.norm_eps)
    asked = norm.questions(link, random)
    answers = answered(lambda x: wrong(x, link.layer, arrays), asked)
    (fact,) = norm.identify([Exam(link, asked, answers, arrays, CONFIG, "inference")])
    expected = "its running mean and its running variance are in each other's place, the running mean without its signs"
    assert fact.words == expected
    assert fact.error <= PREDICTED


@pytest.mark.parametrize(("dtype", "format"), [(ml_dtypes.bfloat16, "bfloat16"), (np.float16, "float16")])
def test_layers_of_fewer_digits_are_said_once_for_each_kind(dtype, format):
    given = synthetic_weights(CONFIG, 0).to("canonical").arrays
    arrays = {name: np.asarray(array, np.float64) for name, array in given.items()}
    _, fed = screening_probes(CONFIG, arrays)
    candidate = {
        mode: {
            link.name: expected_output(link, fed[mode], arrays, CONFIG, mode == "train").astype(dtype).astype(float)
            for link in LINKS.values()
        }
        for mode in fed
    }
    candidate["train"]["logits"] = 2 * candidate["train"]["logits"]
    screening = Screening(CONFIG, arrays, fed, candidate, candidate)
    facts = list(rounding_facts(screening.wrong, LINKS, screening))
    assert {fact.kind: len(fact.layers) for fact in facts}["convolution"] == 20
    assert {(fact.measured["format"], fact.mode) for fact in facts} == {(format, "")}
    assert facts[0].text.startswith(f"each of the 20 convolutions computes in {format}: ")
    assert "logits" not in {name for fact in facts for name in fact.layers}


@SOME
@given(
    seed=SEEDS,
    weights=st.tuples(st.floats(0.1, 2.0), st.floats(0.1, 2.0)),
    curves=st.tuples(*[st.sampled_from([NONE, RELU, leaky(0.1)])] * 2),
    after=st.sampled_from([NONE, RELU, leaky(0.3), *(c for c in CURVES if c.name in ("SiLU", "GELU", "ReLU6"))]),
    extra=st.booleans(),
)
def test_a_random_sum_is_recovered(seed, weights, curves, after, extra):
    random, link = np.random.default_rng(seed), LINKS["stage2.1"]
    names = [*link.inputs, "stage2.1.conv3"]
    asked = total.questions(link, random, dict.fromkeys(names, (link.channels[0], 1)))
    terms = [(name, *pair) for name, pair in zip(link.inputs, zip(weights, curves, strict=True), strict=True)]
    layer = MeasuredSum((*terms, *([("stage2.1.conv3", 0.5, NONE)] if extra else [])), after)
    measured, error = total.measure(asked, answered(layer, asked))
    assert error <= PREDICTED
    other = {name: random.normal(0.0, 2.0, (2, 3, 4, 5)) for name in names}
    assert relative_error(layer(other), measured(other)) <= 100 * PREDICTED


@pytest.mark.parametrize("curve", [*CURVES, leaky(0.3), elu(0.5)], ids=lambda curve: curve.name)
def test_every_curve_of_the_library_is_told_from_the_others(curve):
    assert find_curve(2.0 * curve(GRID) - 3.0).name == curve.name


SQRT_HALF = float(np.float32(np.sqrt(0.5)))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (lambda x: gelu(x, SQRT_HALF), "GELU (constants of float32)"),
        (lambda x: gelu_by_tanh(x, cube=float(np.float32(0.044715))), "GELU in its tanh form (constants of float32)"),
        (lambda x: gelu_by_tanh(x, 1.6, 0.05), "its sum multiplied by 2.0053, the third power multiplied by 1.11819"),
        (lambda x: x * sigmoid(2 * x), "SiLU (its input multiplied by 2)"),
    ],
)
def test_the_numbers_in_a_gate_are_measured(values, name):
    found = find_curve(3.0 * values(GRID) - 1.0)
    assert name in found.name
    x = np.linspace(-2.9, 2.9, 7)
    np.testing.assert_allclose(found(x), values(x), rtol=1e-11, atol=1e-13)


def test_a_curve_of_none_of_the_library_is_not_named():
    for curve in (np.sin, lambda x: x * np.arctan(x), lambda x: gelu(x, SQRT_HALF) + 1e-10 * x**2):
        assert find_curve(curve(GRID)) is None


@SOME
@given(
    seed=SEEDS,
    reduction=st.sampled_from(["maximum", "mean", "mean inside", "sum"]),
    taps=st.integers(2, 4),
    stride=st.integers(1, 2),
    curve=st.sampled_from([NONE, *(c for c in CURVES if c.name in ("SiLU", "ReLU6"))]),
)
def test_a_pool_is_recovered(seed, reduction, taps, stride, curve):
    random, link = np.random.default_rng(seed), LINKS["stem"]
    axis = Axis(taps, 1, stride, 1, 1)
    layer = pool.StemPool(curve, reduction, axis, axis)
    asked = pool.stem_questions(link, random)
    fact = pool.identify_stem(Exam(link, asked, answered(layer, asked), {}, CONFIG))
    assert fact.error <= PREDICTED
    other = {"bn1": random.normal(0.0, 3.0, (1, 4, 16, 19))}
    assert relative_error(layer(other["bn1"]), fact.law(link, other, {}, CONFIG, False)) <= PREDICTED


@SOME
@given(seed=SEEDS, unknowns=st.integers(2, 20))
def test_too_few_samples_are_ill_posed(seed, unknowns):
    random = np.random.default_rng(seed)
    matrix = random.normal(0.0, 1.0, (40, unknowns))
    values = random.normal(0.0, 1.0, (unknowns, 3))
    assert relative_error(values, solve(matrix, matrix @ values)) <= PREDICTED
    with pytest.raises(NotIdentified, match="ill-posed"):
        solve(matrix[: unknowns - 1], values[:1].repeat(unknowns - 1, 0))
    with pytest.raises(NotIdentified, match="ill-posed"):
        solve(np.hstack([matrix, matrix[:, :1]]), matrix @ values)


def test_what_is_no_linear_map_is_said():
    link, random = LINKS["stage1.0.conv2"], np.random.default_rng(0)
    asked = convolution_questions.questions(link, random)
    with pytest.raises(NotIdentified, match=r"no known one|no linear map"):
        measured(link, asked, lambda x: np.sort(x, 1) ** 2 + x[:, ::-1])
    with pytest.raises(NotIdentified, match="random"):
        measured(link, asked, lambda x: x * random.random(x.shape))


def test_the_right_layers_have_nothing_to_say():
    link, random = LINKS["stage2.0.conv2"], np.random.default_rng(0)
    arrays = drawn_arrays(random)
    right = MeasuredConvolution(RELU, expected_geometry(link), arrays[f"{link.layer}.weight"], np.zeros(8))
    asked = convolution_questions.questions(link, random)
    with pytest.raises(NotIdentified, match="what is expected"):
        convolution.identify(Exam(link, asked, answered(right, asked), arrays, CONFIG))
