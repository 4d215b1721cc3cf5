"""Gradients and training steps as cases: correct implementations pass, and bugs of training are shown red."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.batches import labels_for, training_batches
from conformance.cases.case import Case
from conformance.cases.names import expected_names
from conformance.cases.recipes import RECIPES
from conformance.cases.sketch import LARGEST, SUMS, sketch
from impls.config import VARIANTS

BOTH = ("--task=gradients", "--task=steps", "--precision=float64")

CANDIDATES = {  # what is wrong; the task that sees it first, the first array, and the words of the diagnosis
    "fields": (
        "oracle+adam-eps@network+nesterov-missing@network+wd-on-norm@network",
        ("steps nesterov", "first.conv1.weight"),
        ["likely cause: `adam-eps`", "likely cause: `nesterov-missing`", "likely cause: `wd-on-norm`"],
    ),
    "text": (
        "oracle+lr-in-velocity@network",
        ("steps sgd", "first.momentum_buffer.conv1.weight"),
        ["likely cause: `lr-in-velocity`"],
    ),
    "estimated": (
        "oracle+sgd-momentum-other@network",
        ("steps sgd", "losses"),
        ["likely cause: `sgd-momentum-other`", "momentum = 0.85"],
    ),
    "schedule": (
        "oracle+warmup-from-zero@network",
        ("steps nesterov", "first.conv1.weight"),
        ["likely cause: `warmup-from-zero`"],
    ),
    "framework": (
        "torch+adam-l2@network",
        ("steps adamw", "first.conv1.weight"),
        ["likely cause: `adam-l2`", "diagnosed on a small network of the variant"],
    ),
    "statistics": (
        "oracle+var-biased@network",
        ("steps sgd", "first.bn1.running_var"),
        ["likely cause: `var-biased` everywhere"],
    ),
    "loss": ("oracle+loss-sum@network", ("gradients", "loss"), ["likely cause: `loss-sum`"]),
    "gradients": (
        "oracle+statistics-detached@stage3.0.bn2+offset-gradient-lost@stage2.0.downsample_bn",
        ("gradients", "gradient.stage3.0.conv2.weight"),
        [
            "likely cause: `statistics-detached` at stage3.0.bn2",
            "likely cause: `offset-gradient-lost` at stage2.0.downsample_bn",
        ],
    ),
    "forward": (
        "oracle+bn-frozen@stage2.0.bn1",
        ("gradients", "stage2.0.bn1"),
        ["likely cause: `bn-frozen` at stage2.0.bn1", "the forward pass is wrong already"],
    ),
    "by-hand": ("broken_training:AdamEpsilon", ("steps adamw", "first.conv1.weight"), ["likely cause: `adam-eps`"]),
    "unknown": (
        "broken_training:CoarseGradients",
        ("steps sgd", "first.conv1.weight"),
        ["no known fault explains conv1.weight after step 1 of sgd"],
    ),
}


EVERYDAY = ("framework", "gradients")
"""The candidates of the everyday run."""

OTHERS = tuple(name for name in CANDIDATES if name not in EVERYDAY)
"""The candidates of the slow tests' run."""


@pytest.fixture(scope="module")
def red_run(reported_here, small_weights):
    """Run a group of candidates of the table; return the process and the report."""

    def run(group):
        candidates = [f"--impl={name}={CANDIDATES[name][0]}" for name in group]
        return reported_here("run", *candidates, "--weights", small_weights["v1.5"], *BOTH)

    return run


@pytest.mark.parametrize(
    ("name", "group"),
    [(name, EVERYDAY) for name in EVERYDAY] + [pytest.param(name, OTHERS, marks=pytest.mark.slow) for name in OTHERS],
)
def test_the_first_wrong_array_and_the_cause_are_named(red_run, name, group):
    done, report = red_run(group)
    assert (done.returncode, report["verdict"], report["failures"]) == (1, "diverges", [])
    (divergence,) = [d for d in report["first_divergences"] if d["implementation"] == name]
    _, where, words = CANDIDATES[name]
    assert (divergence["task"], divergence["layer"]) == where
    told = " ".join([*(finding["text"] for finding in divergence["diagnosis"]), divergence["note"]])
    assert [word for word in words if word not in told] == []
    printed = " ".join(done.stdout.split())
    assert f"{name} diverges" in printed
    assert [word for word in words if word not in printed] == []


@pytest.fixture(scope="module")
def green_run(reported_here, small_weights):
    return reported_here("run", "--impl=torch", "--weights", small_weights["keras"], "--variant=keras", *BOTH)


def test_pytorch_trains_as_the_oracle_does(green_run):
    """The variant whose convolutions have biases, with gradients that are zero in theory."""
    done, report = green_run
    assert (done.returncode, report["verdict"]) == (0, "conforms")
    tasks = {comparison["task"] for comparison in report["comparisons"]}
    assert tasks == {"", "gradients", *(f"steps {recipe}" for recipe in RECIPES)}
    assert len(report["comparisons"]) > 1700


def test_the_report_says_what_was_left_out(green_run):
    done, _ = green_run
    assert "not compared: forward, initialisation (--task forward --task initialisation)" in " ".join(
        done.stdout.split()
    )
    assert "loss 1e-13, gradients and one step 1e-11" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_three_train_as_the_oracle_does(conformance, small_weights):
    """The variant whose convolutions have biases has every kind of array; without them PyTorch trains above."""
    done = conformance("run", "--weights", small_weights["keras"], "--variant=keras", *BOTH, patience=850)
    assert (done.returncode, done.stdout[-300:]) == (0, done.stdout[-300:])


def test_names_are_those_of_the_network_and_of_the_recipe():
    config = replace(VARIANTS["keras"], depths=(1, 1, 1, 1), width=4, num_classes=6)
    gradients = expected_names(Case("keras", "noise", "train", task="gradients"), config)
    assert gradients[:3] == ["loss", "gradient.fc.bias", "gradient.fc.weight"]
    assert gradients[-2:] == ["gradient.conv1.weight", "gradient.input"]
    steps = expected_names(Case("keras", "noise", "train", task="steps", recipe="adamw"), config)
    assert [name for name in steps if "." not in name] == ["losses"]
    parameters = len(gradients) - 2
    statistics = 2 * sum(name.endswith("running_var") for name in steps) // 2
    assert len(steps) == 1 + 2 * (3 * parameters + statistics)


def test_batches_differ_and_their_labels_are_classes():
    images = np.random.default_rng(0).standard_normal((3, 3, 8, 16)).astype(np.float32)
    batches = training_batches(images, 10, 8)
    assert len({images.tobytes() for images, _ in batches}) == 8
    assert all(0 <= label < 10 for _, labels in batches for label in labels)
    assert len(set(labels_for(27, 1000))) == 27


class TestSketch:
    def test_a_small_array_is_kept(self):
        array = np.arange(12.0).reshape(3, 4)
        assert sketch(array) is array

    def test_distances_are_kept(self):
        random = np.random.default_rng(0)
        array = random.standard_normal((512, 300))
        near = array + 1e-9 * random.standard_normal(array.shape)
        assert array.size > LARGEST
        exact = np.linalg.norm(near - array) / np.linalg.norm(array)
        sketched = np.linalg.norm(sketch(near) - sketch(array)) / np.linalg.norm(sketch(array))
        assert sketch(array).shape == (SUMS,)
        assert sketched == pytest.approx(exact, rel=0.06)

    def test_one_wrong_number_shows_in_full(self):
        array = np.random.default_rng(0).standard_normal((512, 300))
        wrong = array.copy()
        wrong[17, 4] += 0.5
        assert np.abs(sketch(wrong) - sketch(array)).max() == pytest.approx(0.5)

    def test_two_numbers_in_the_wrong_places_show(self):
        array = np.random.default_rng(0).standard_normal((512, 300))
        wrong = array.copy()
        wrong[[0, 300]] = wrong[[300, 0]]
        assert np.linalg.norm(sketch(wrong) - sketch(array)) > 0.01 * np.linalg.norm(array)
