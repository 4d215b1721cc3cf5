"""Weights pass between all implementations bit for bit, and a model rejects those that do not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weights_convert import ConversionError


def same_bits(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def assert_equal(actual, expected):
    assert set(actual) == set(expected)
    assert [name for name in expected if not same_bits(actual[name], expected[name])] == []


@pytest.fixture(scope="module")
def config(small):
    """A network with every kind of array, so with biases of convolutions."""
    return replace(small, depths=(1, 1, 1, 1), conv_bias=True, norm_eps=1.001e-5, strided_layer="conv1")


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.usefixtures("float64")
def test_weights_pass_between_all_pairs_bit_for_bit(dtype, config, random_weights, frameworks):
    config = replace(config, dtype=dtype)
    capable = [framework for framework in frameworks.values() if dtype in framework.dtypes]
    models = {framework.name: framework.build(config, random_weights(config, dtype, seed=9)) for framework in capable}
    pairs = [(source, target) for source in capable for target in capable]
    assert len(pairs) >= 4
    for seed, (source, target) in enumerate(pairs):
        original = random_weights(config, dtype, seed)
        source.implementation.write_weights(models[source.name], original)
        target.implementation.write_weights(
            models[target.name], source.implementation.read_weights(models[source.name]).to("keras.applications")
        )
        assert_equal(target.arrays(models[target.name]), original.arrays)


def test_a_wider_model_takes_narrower_weights_exactly(candidate, config, random_weights):
    weights = random_weights(config, "bfloat16")
    arrays = candidate.arrays(candidate.build(replace(config, dtype="float32"), weights))
    assert_equal(arrays, {name: array.astype("float32") for name, array in weights.arrays.items()})


def test_weights_that_do_not_fit_are_rejected_and_change_nothing(framework, config, random_weights):
    config = replace(config, dtype="float32")
    model = framework.build(config, random_weights(config, "float32"))
    before = {name: array.copy() for name, array in framework.arrays(model).items()}
    complete = random_weights(config, "float32", seed=1)
    first, last = next(iter(complete.arrays)), list(complete.arrays)[-1]
    incomplete = {name: array for name, array in complete.arrays.items() if name != last}
    misshapen = dict(complete.arrays) | {last: complete.arrays[last][:-1]}
    for source, message in (
        (random_weights(config, "float64"), f"'{first}' is float64|{first.removesuffix('.weight')}.* is float64"),
        (random_weights(replace(config, strided_layer="conv2", norm_eps=1e-5, conv_bias=False)), "variant v1.5"),
        (random_weights(replace(config, num_classes=11), "float32"), "num_classes 11"),
        (incomplete, f"'{last}' is missing"),
        (misshapen, f"'{last}' has the shape|classes"),
    ):
        with pytest.raises(ConversionError, match=message):
            framework.implementation.write_weights(model, source)
        assert_equal(framework.arrays(model), before)


def test_weights_that_were_read_do_not_change_with_the_model(framework, small, random_weights):
    small = replace(small, dtype="float32")
    model = framework.build(small, random_weights(small, "float32"))
    checkpoint = framework.implementation.read_weights(model)
    before = {name: array.copy() for name, array in checkpoint.arrays.items()}
    framework.implementation.write_weights(model, random_weights(small, "float32", seed=1))
    assert_equal(checkpoint.arrays, before)
