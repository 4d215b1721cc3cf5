"""The four implementations train alike in float64, recipe by recipe, and continue one another's runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from impls.config import VARIANTS
from impls.recipe import Recipe
from weights_convert import ConversionError, TrainingState, load, load_training

RECIPES = {
    "sgd": Recipe(learning_rate=0.05, weight_decay=1e-3),
    "nesterov": Recipe(
        learning_rate=0.05,
        nesterov=True,
        weight_decay=1e-3,
        decayed="kernels",
        schedule="cosine",
        warmup_steps=2,
        total_steps=8,
        label_smoothing=0.1,
    ),
    "clipped": Recipe(learning_rate=0.1, clip_norm=0.5, schedule="steps", milestones=(1, 2), gamma=0.3),
    "plain": Recipe(learning_rate=0.05, momentum=0.0, weight_decay=1e-3),
    "adamw": Recipe(
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        decayed="kernels",
        schedule="cosine",
        warmup_steps=1,
        total_steps=10,
    ),
}
QUICK = ("nesterov", "adamw")
"""Recipes outside the slow tests: both optimizers, and every feature but clipping and milestones.

Each further recipe costs Flax seconds of compilation."""

STEPS = 3


@dataclass
class Run:
    """Losses of a few training steps, and the state after them."""

    losses: list[float]
    state: TrainingState


def batches(start: int = 0, steps: int = STEPS) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(5)
    images, labels = random.standard_normal((8, 4, 3, 40, 43)), random.integers(0, 10, (8, 4))
    return list(zip(images, labels, strict=True))[start : start + steps]


def labels_of(framework: Any, labels: np.ndarray) -> Any:
    if framework.name != "torch":
        return labels
    import torch

    return torch.from_numpy(labels)


def take_steps(framework: Any, training: Any, start: int = 0, steps: int = STEPS) -> Run:
    if framework.name == "keras":
        training.model.run_eagerly = True  # compiling takes longer than these steps
    losses = [
        training.step(framework.images(images), labels_of(framework, labels))
        for images, labels in batches(start, steps)
    ]
    return Run(losses, framework.implementation.read_training(training).to("canonical"))


def largest_error(actual: TrainingState, expected: TrainingState) -> float:
    """Compute the largest relative L2 error of any array."""
    pairs = [(actual.weights.arrays, expected.weights.arrays)]
    pairs += [(actual.slots[slot].arrays, expected.slots[slot].arrays) for slot in expected.slots]
    assert all(set(left) == set(right) for left, right in pairs)
    return max(
        np.linalg.norm(left[name] - right[name]) / np.linalg.norm(right[name])
        for left, right in pairs
        for name in right
    )


@pytest.fixture(scope="module")
def config():
    return replace(VARIANTS["v1.5"], depths=(2, 1, 1, 1), width=8, num_classes=10, dtype="float64")


@pytest.fixture(scope="module")
def start(config, random_weights):
    """Weights without a dead channel in the stem: its gradient is rounding noise, which AdamW turns into a step."""
    return random_weights(config, seed=1)


@pytest.fixture
def double_precision():
    """Let JAX, and Keras's losses and metrics, compute in float64."""
    import jax
    import keras

    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")
    with jax.enable_x64(True):
        yield
    keras.config.set_floatx(floatx)


@pytest.fixture(scope="module")
def oracle_runs(frameworks, config, start) -> Callable[..., Run]:
    oracle, runs = frameworks["numpy"], {}

    def run(name: str, steps: int = STEPS) -> Run:
        if (name, steps) not in runs:
            training = oracle.implementation.Training(oracle.build(config, start), RECIPES[name])
            runs[name, steps] = take_steps(oracle, training, 0, steps)
        return runs[name, steps]

    return run


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in RECIPES]
)
@pytest.mark.usefixtures("double_precision")
def test_each_recipe_trains_as_the_oracle_does(name, candidate, config, start, oracle_runs):
    """The first step agrees to rounding; later, AdamW magnifies errors where it divides by gradients near zero.

    An evaluation between two steps leaves the second one as it was.
    """
    training = candidate.implementation.Training(candidate.build(config, start), RECIPES[name])
    first, expected_first = take_steps(candidate, training, 0, 1), oracle_runs(name, 1)
    assert first.losses == pytest.approx(expected_first.losses, rel=1e-13)
    assert largest_error(first.state, expected_first.state) < 1e-11
    candidate.run(training.model, batches()[0][0])
    run, expected = take_steps(candidate, training, 1, STEPS - 1), oracle_runs(name)
    assert training.steps == STEPS
    assert run.losses == pytest.approx(expected.losses[1:], rel=1e-10)
    assert largest_error(run.state, expected.state) < 1e-8


def test_no_two_recipes_train_alike(oracle_runs):
    ends = [oracle_runs(name).state for name in RECIPES]
    for number, left in enumerate(ends):
        for right in ends[number + 1 :]:
            same_slots = replace(left, slots={}), replace(right, slots={})
            assert largest_error(*same_slots) > 1e-4


@pytest.mark.parametrize("name", [QUICK[0], pytest.param(QUICK[1], marks=pytest.mark.slow)])
@pytest.mark.usefixtures("double_precision")
def test_a_run_continues_in_another_framework(name, candidate, frameworks, config, start, oracle_runs, tmp_path):
    """One step in each of two others and one here give the same as three steps of the oracle."""
    others = [framework for framework in frameworks.values() if framework is not candidate]
    order = [*others[:2], candidate]
    training = order[0].implementation.Training(order[0].build(config, start), RECIPES[name])
    losses = take_steps(order[0], training, 0, 1).losses
    for number, framework in enumerate(order[1:], start=1):
        file = tmp_path / f"{number}.safetensors"
        order[number - 1].implementation.read_training(training).save(file)
        training = framework.implementation.resume(framework.build(config), file)
        run = take_steps(framework, training, number, 1)
        losses += run.losses
    assert losses == pytest.approx(oracle_runs(name).losses, rel=1e-10)
    assert training.steps == STEPS
    assert largest_error(run.state, oracle_runs(name).state) < 1e-8


@pytest.mark.usefixtures("double_precision")
def test_a_state_passes_through_bit_for_bit(framework, config, oracle_runs, tmp_path):
    state = oracle_runs("adamw").state
    state.save(tmp_path / "run.safetensors")
    training = framework.implementation.resume(framework.build(config), tmp_path / "run.safetensors")
    back = framework.implementation.read_training(training).to("canonical")
    assert (back.steps, back.recipe) == (STEPS, RECIPES["adamw"])
    assert largest_error(back, state) == 0
    assert load(tmp_path / "run.safetensors").content_hash() == state.weights.content_hash()


@pytest.mark.usefixtures("double_precision")
def test_a_resumed_run_leaves_the_state_it_began_with_as_it_was(framework, config, oracle_runs):
    """Training changes optimizer slots in place, so the model must hold copies."""
    state = oracle_runs("nesterov").state
    before = copy.deepcopy(state)
    training = framework.implementation.resume(framework.build(config), state)
    take_steps(framework, training, STEPS, 1)
    assert largest_error(state, before) == 0


class TestRejectedFiles:
    @pytest.fixture
    def state(self, oracle_runs):
        return oracle_runs("sgd").state

    def test_weights_alone(self, state, tmp_path):
        state.weights.save(tmp_path / "weights.safetensors")
        with pytest.raises(ConversionError, match="holds weights, and no state of training"):
            load_training(tmp_path / "weights.safetensors")

    def test_another_container(self, state, tmp_path):
        with pytest.raises(ConversionError, match=r"kept in a \.safetensors file"):
            state.save(tmp_path / "run.pth")

    def test_another_network(self, state, config, tmp_path):
        state.save(tmp_path / "run.safetensors")
        with pytest.raises(ConversionError, match=r"variant v1\.5"):
            load_training(tmp_path / "run.safetensors", replace(config, strided_layer="conv1"))

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda arrays: arrays.pop("optimizer.momentum_buffer.fc.bias"), "fc.bias' is missing, expected"),
            (
                lambda arrays: arrays.update({"optimizer.exp_avg.fc.bias": arrays["fc.bias"]}),
                "expected nothing",
            ),
            (lambda arrays: arrays.update({"optimizer.momentum_buffer.fc.bias": np.ones(9)}), r"is \(9,\), expected"),
            (
                lambda arrays: arrays.update({"optimizer.momentum_buffer.fc.bias": np.ones(10)}),
                "have changed since they were written",
            ),
        ],
    )
    def test_a_damaged_file(self, change, problem, state, tmp_path):
        from weights_convert import containers

        file = tmp_path / "run.safetensors"
        state.save(file)
        arrays, metadata = containers.read(file)
        arrays = {name: np.array(array) for name, array in arrays.items()}
        change(arrays)
        file.unlink()
        containers.write(file, arrays, metadata)
        with pytest.raises(ConversionError, match=problem):
            load_training(file)


@pytest.mark.usefixtures("double_precision")
def test_the_biased_variance_is_stored_where_the_config_says_so(candidate, frameworks, config, start):
    arrays = {}
    for convention in ("unbiased", "biased"):
        network = replace(config, norm_variance=convention)
        for framework in (frameworks["numpy"], candidate):
            model = framework.build(network, start)
            framework.run(model, batches()[0][0], train=True)
            arrays[framework.name, convention] = framework.arrays(model)["stage4.0.bn3.running_var"]
    for convention in ("unbiased", "biased"):
        np.testing.assert_allclose(arrays[candidate.name, convention], arrays["numpy", convention], rtol=1e-12)
    assert not np.allclose(arrays["numpy", "biased"], arrays["numpy", "unbiased"], rtol=1e-3)


def test_initial_weights_are_the_same_in_all_frameworks(candidate, frameworks, config):
    network = replace(config, dtype="float32")
    first, second = (frameworks["numpy"].implementation.initial_weights(network, seed=seed) for seed in (0, 1))
    arrays = candidate.arrays(candidate.build(network, first))
    assert all(np.array_equal(arrays[name], first.arrays[name]) for name in first.arrays)
    assert not np.array_equal(arrays["conv1.weight"], second.arrays["conv1.weight"])
