"""Behaviour that all implementations share, including the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from impls.config import VARIANTS, ResNetConfig
from impls.taps import is_layer
from weights_convert.shapes import expected_shapes

PARAMETERS = {"v1.5": (25_557_032, 267), "keras": (25_583_592, 320)}
"""Trainable parameters and arrays of ResNet-50 with 1000 classes."""

RNG = np.random.default_rng(0)
IMAGES = np.random.default_rng(1).standard_normal((2, 3, 64, 70))


@pytest.fixture(scope="module")
def tutorial(framework):
    """The network of the tutorial's own example."""
    implementation = framework.implementation
    return implementation.ResNet(implementation.Bottleneck, [3, 4, 6, 3])


def trainable(arrays):
    return sum(array.size for name, array in arrays.items() if not name.endswith(("running_mean", "running_var")))


def error(actual, expected):
    """Compute the relative L2 error."""
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def test_the_tutorials_example_gives_a_thousand_logits(framework, tutorial):
    image = framework.images(RNG.standard_normal((1, 3, 224, 224), np.float32))
    assert tuple(tutorial(image).shape) == (1, 1000)
    assert tutorial.config == VARIANTS["tutorial"]


def test_the_tutorials_network_has_25557032_parameters_in_267_arrays(framework, tutorial):
    arrays = framework.arrays(tutorial)
    assert (trainable(arrays), len(arrays)) == PARAMETERS["v1.5"]


def test_the_tutorials_network_reports_the_sizes_it_takes(framework, tutorial):
    message = "a 64x64 image reaches the 7x7 head pool as a 2x2 map; use height and width from 193 to 416"
    with pytest.raises(ValueError, match=message):
        tutorial(framework.images(np.zeros((1, 3, 64, 64), np.float32)))


@pytest.mark.parametrize("depths", [(3, 4, 6, 3), (3, 4, 23, 3)])
def test_the_layers_argument_decides_the_depth(depths, small, frameworks):
    oracle = frameworks["numpy"].implementation
    model = oracle.ResNet(oracle.Bottleneck, depths, 7, config=small)
    assert model.config.depths == depths
    assert [name for name, _ in model.blocks()] == [block.name for block in model.config.blocks()]


@pytest.fixture(scope="module")
def small_model(framework, small):
    return framework.build(small, seed=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 64, 64), "the input has 1 channels where 3 are expected(?!;)"),
        ((2, 64, 64, 3), "64 channels where 3 are expected; the images seem to be .*: transpose them"),
    ],
)
def test_wrong_channels_and_the_other_layout_are_rejected(framework, small_model, shape, message):
    with pytest.raises(ValueError, match=message):
        framework.run(small_model, np.zeros(shape, np.float32))


def test_an_image_without_a_batch_axis_is_rejected(framework, small_model):
    with pytest.raises(ValueError, match=r"a batch of images has the axes (NCHW|NHWC); this input has the shape \(3, "):
        small_model(framework.images(np.zeros((1, 3, 64, 64), np.float32)).reshape((3, 64, 64)))


def test_activations_come_in_the_order_they_are_computed(framework, small, small_model, small_images):
    blocks = ["stage1.0", "stage1.1", "stage2.0", "stage3.0", "stage4.0"]
    layers = framework.run(small_model, small_images, layers=True)
    assert [name for name in layers if not is_layer(name)] == ["stem", *blocks, "pool", "logits"]
    assert [name for name in layers if is_layer(name)] == list(
        dict.fromkeys(name.rpartition(".")[0] for name in expected_shapes(small) if not name.startswith("fc"))
    )
    assert layers["stage4.0.conv2"].shape == (2, 64, 2, 3)


def facts_of(variant):
    """Return the facts by which variants differ, but for the head pool."""
    names = ("strided_layer", "relu_before_addition", "same_padding", "conv_bias", "norm_eps")
    return {name: getattr(VARIANTS[variant], name) for name in names}


VARIATIONS = {
    "tutorial, head pool": facts_of("tutorial") | {"head_pool": 2},
    "v1.5": facts_of("v1.5"),
    "keras, no classifier": facts_of("keras") | {"num_classes": 0},
    "flax, another size": facts_of("flax")
    | {"norm_eps": 0.1, "norm_decay": 0.3, "width": 4, "in_channels": 5, "num_classes": 3},
}


@pytest.mark.parametrize("change", VARIATIONS.values(), ids=list(VARIATIONS))
@pytest.mark.usefixtures("float64")
def test_every_fact_takes_effect_as_in_the_oracle(candidate, frameworks, small, random_weights, change):
    config = replace(small, dtype="float64", **change)
    weights = random_weights(config)
    images = IMAGES if config.in_channels == 3 else np.random.default_rng(2).standard_normal((2, 5, 64, 70))
    oracle, model = frameworks["numpy"].build(config, weights), candidate.build(config, weights)
    for train in (False, True):
        expected = frameworks["numpy"].run(oracle, images, train)
        actual = candidate.run(model, images, train)
        assert list(actual) == list(expected)
        worst = max(error(actual[name], expected[name]) for name in expected)
        assert worst < 1e-12  # measured: 3e-15 to 1e-14
    expected, actual = frameworks["numpy"].arrays(oracle), candidate.arrays(model)
    statistics = [name for name in expected if name.endswith(("running_mean", "running_var"))]
    assert max(error(actual[name], expected[name]) for name in statistics) < 1e-12
    assert not any(np.array_equal(actual[name], weights.arrays[name]) for name in statistics)


def test_the_variations_are_distinct_functions(frameworks, small, random_weights):
    """Without this, `test_every_fact_takes_effect_as_in_the_oracle` might compare networks that are all alike."""
    images, others = np.random.default_rng(2).standard_normal((2, 3, 64, 64)), []
    for change in (*map(facts_of, VARIANTS), {"norm_eps": 0.1}):
        config = replace(small, **change)
        plain = random_weights(replace(config, conv_bias=False))
        oracle = frameworks["numpy"].build(replace(config, conv_bias=False))
        frameworks["numpy"].implementation.write_weights(oracle, replace(plain, config=oracle.config))
        logits = frameworks["numpy"].run(oracle, images)["logits"]
        assert all(error(logits, other) > 1e-8 for other in others)
        others.append(logits)


@pytest.mark.usefixtures("float64")
def test_the_running_variance_is_the_unbiased_one(framework, small, random_weights):
    model = framework.build(replace(small, dtype="float64"), random_weights(small))
    before = framework.arrays(model)
    values = np.random.default_rng(3).standard_normal((2, small.width, 5, 7)) + 1
    framework.normalise_in_training(model, values)
    after = framework.arrays(model)
    expected = 0.9 * before["bn1.running_mean"] + 0.1 * values.mean((0, 2, 3))
    np.testing.assert_allclose(after["bn1.running_mean"], expected, rtol=1e-12)
    expected = 0.9 * before["bn1.running_var"] + 0.1 * values.var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(after["bn1.running_var"], expected, rtol=1e-12)


def test_a_single_value_per_channel_is_rejected_in_train_mode(framework, small, random_weights):
    model = framework.build(replace(small, dtype="float32"), random_weights(small, "float32"))
    with pytest.raises(ValueError, match=r"(Expected|needs) more than (1|one) value per channel"):
        framework.run(model, np.ones((1, 3, 1, 1), np.float32), train=True)


@pytest.mark.parametrize("variant", PARAMETERS)
def test_a_checkpoint_has_the_published_number_of_parameters(variant):
    shapes = expected_shapes(VARIANTS[variant])
    arrays = {name: np.broadcast_to(0.0, shape) for name, shape in shapes.items()}
    assert (trainable(arrays), len(arrays)) == PARAMETERS[variant]


WIDE = ResNetConfig(depths=(2, 1, 1, 1), width=16, num_classes=100, conv_bias=True)


@pytest.fixture(scope="module")
def initial_arrays(framework):
    return framework.arrays(framework.build(WIDE, seed=0))


def test_a_seed_decides_the_initial_weights(framework, initial_arrays):
    again, other = (framework.arrays(framework.build(WIDE, seed=seed)) for seed in (0, 1))
    assert all(np.array_equal(initial_arrays[name], again[name]) for name in initial_arrays)
    drawn = [name for name, array in initial_arrays.items() if array.ndim > 1]
    assert not any(np.array_equal(initial_arrays[name], other[name]) for name in drawn)


def test_no_two_layers_start_alike(initial_arrays):
    first = {name: array.flat[:3].tobytes() for name, array in initial_arrays.items() if array.ndim > 1}
    standardised = {(array.flat[:3] / array.flat[3]).tobytes() for array in initial_arrays.values() if array.ndim > 1}
    assert len(set(first.values())) == len(standardised) == len(first)


def test_kernels_are_fan_out_normal_and_not_truncated(initial_arrays):
    standardised = []
    for name, array in initial_arrays.items():
        if array.ndim == 4:
            out_channels, _, kernel, _ = array.shape
            standardised.append(array.ravel() / np.sqrt(2 / (out_channels * kernel**2)))
            assert standardised[-1].std() == pytest.approx(1, abs=5 / np.sqrt(2 * array.size)), name
    values = np.concatenate(standardised)
    assert (values**4).mean() == pytest.approx(3, abs=5 * np.sqrt(96 / values.size))  # truncated at 2: 2.1
    assert np.abs(values).max() > 3.5


def test_the_classifier_scales_and_offsets_start_as_specified(initial_arrays):
    kernel = initial_arrays["fc.weight"]
    assert kernel.std() == pytest.approx(0.01, rel=5 / np.sqrt(2 * kernel.size))
    for name, array in initial_arrays.items():
        if array.ndim == 1:
            assert (array == (1 if name.endswith(("weight", "running_var")) else 0)).all(), name


def test_the_last_scale_of_each_block_can_start_at_zero(framework):
    arrays = framework.arrays(framework.build(replace(WIDE, zero_init_last_scale=True), seed=0))
    scales = {name: array for name, array in arrays.items() if ".bn" in name and name.endswith(".weight")}
    assert scales
    for name, array in scales.items():
        assert (array == (0 if "bn3" in name else 1)).all(), name
