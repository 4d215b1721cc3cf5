"""A PyTorch module as it is: what it shows, what it cannot do, and what is noticed before anything is compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conformance.cases.inputs import noise
from conformance.cases.names import activation_names, parameter_names, statistic_names
from conformance.cases.recipes import LOSS, RECIPES
from conformance.cases.synthetic import synthetic_weights
from conformance.run.adapters.numpy import Oracle
from conformance.run.candidates.kinds import adapt
from conformance.run.candidates.options import Options
from conformance.run.candidates.survey import Unfit
from impls.config import VARIANTS
from tests.conformance.candidates import small_ports
from tests.conformance.candidates.agreement import assert_a_step_is_the_oracles, assert_equal_to_rounding
from weights_convert.dialects import DIALECTS

CONFIG = replace(VARIANTS["v1.5"], depths=(2, 2, 2, 2), width=8, num_classes=10)
IMAGES = noise(64, 96, 2, 0).images


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    synthetic_weights(CONFIG, seed=0).save(file)
    return file


@pytest.fixture(scope="module")
def oracle(weights):
    adapter = Oracle()
    adapter.prepare("cpu", "float64")
    adapter.build(CONFIG, weights)
    return adapter


@pytest.fixture(autouse=True)
def _switches():
    """The switches of a worker, for one test."""
    with torch.no_grad():
        yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture
def candidate(weights):
    """Make the adapter of a module, with weights."""

    def make(module, precision="float64", **options):
        adapter = adapt(module, Options(**options))
        adapter.prepare("cpu", precision)
        torch.set_grad_enabled(False)
        adapter.build(CONFIG, weights)
        return adapter

    return make


@pytest.mark.parametrize("train", [False, True])
def test_every_activation_is_shown_as_it_was_before_operations_in_place(candidate, oracle, train):
    arrays = candidate(small_ports.port(inplace=True)).record(IMAGES, train, layers=True)
    expected = oracle.record(IMAGES, train, layers=True)
    assert_equal_to_rounding(arrays, expected)


def test_a_run_in_train_mode_leaves_the_running_statistics_as_they_are(candidate):
    adapter = candidate(small_ports.port())
    before = adapter.canonical_state()
    arrays = adapter.record(IMAGES, True, layers=False)
    assert set(arrays) == {*activation_names(CONFIG), *statistic_names(CONFIG)}
    assert all(np.array_equal(before[name], array) for name, array in adapter.canonical_state().items())
    assert not np.array_equal(before["bn1.running_mean"], arrays["bn1.running_mean"])


def test_each_segment_goes_on_with_what_it_is_fed(candidate):
    """Whatever replaces an activation reaches the next layer, through the shortcut of a block, too."""
    adapter = candidate(small_ports.port())
    plain = adapter.record(IMAGES, False, layers=True)
    for fed, following in (("stem", "stage1.0"), ("stage1.0", "stage1.1"), ("stage4.1", "pool"), ("pool", "logits")):
        seen = {}

        def tap(name, value, fed=fed, seen=seen):
            seen[name] = value
            return np.zeros_like(value) if name == fed else None

        adapter.run_tapped(IMAGES, False, tap)
        assert np.array_equal(seen[fed], plain[fed])
        assert not np.array_equal(seen[following], plain[following])
    assert np.allclose(seen["logits"], adapter.canonical_state()["fc.bias"])


@pytest.mark.parametrize("given", [False, True])
def test_gradients_are_the_oracles(candidate, oracle, given):
    labels = np.array([3, 7])
    activations = oracle.record(IMAGES, True, layers=True) if given else None
    loss, gradients = candidate(small_ports.port()).gradients(IMAGES, labels, LOSS, True, activations)
    loss_expected, expected = oracle.gradients(IMAGES, labels, LOSS, True, activations)
    assert loss == pytest.approx(loss_expected, rel=1e-12)
    assert set(gradients) == {*parameter_names(CONFIG), "input"}
    assert_equal_to_rounding(gradients, expected, 1e-10)


@pytest.mark.parametrize("recipe", ["sgd", "adamw"])
def test_steps_are_the_oracles_and_are_taken_back(candidate, oracle, recipe):
    assert_a_step_is_the_oracles(candidate(small_ports.port()), oracle, IMAGES, RECIPES[recipe])


def test_frozen_parameters_have_no_gradient_and_are_not_trained(candidate):
    adapter = candidate(small_ports.port("frozen"))
    _, gradients = adapter.gradients(IMAGES, np.array([3, 7]), LOSS, True)
    assert {*parameter_names(CONFIG), "input"} - set(gradients) == {"conv1.weight", "bn1.weight"}
    assert adapter.not_shown["gradient.conv1.weight"] == "it is frozen (requires_grad is False)"
    assert adapter.cannot["steps"].startswith("2 parameters are frozen (requires_grad is False), conv1.weight among")


@pytest.mark.parametrize(
    ("module", "layer", "words"),
    [
        (lambda: small_ports.port("always_training"), "bn1", "58 of its arrays change during a run in inference mode"),
        (
            lambda: small_ports.port("drawing_logits"),
            "logits",
            "two runs of the same input in inference mode differ by",
        ),
        (lambda: small_ports.port(dropout=0.1), "stage1.0", "two runs of the same input in inference mode differ by"),
        (lambda: small_ports.port("raising"), "", "its forward pass raised RuntimeError on images of shape (2, 3, 64"),
        (lambda: small_ports.port("channels_last"), "", "(--layout NHWC gives them the other way round; --size 224"),
        (lambda: small_ports.port("blind"), "stem", "its stem is the same for other images"),
    ],
    ids=["always training", "drawing logits", "dropout", "raising", "channels last", "blind"],
)
def test_a_model_that_is_not_fit_is_told_before_anything_is_compared(candidate, module, layer, words):
    with pytest.raises(Unfit) as caught:
        candidate(module()).examine(IMAGES)
    assert caught.value.layer == layer
    assert caught.value.lacks == ""
    assert words in str(caught.value)


def test_float32_inside_is_noticed_by_its_dtype_and_by_what_it_does_not_notice(candidate):
    with pytest.raises(Unfit, match="its stem is float32 where float64 goes in") as caught:
        candidate(small_ports.port("single_inside")).examine(IMAGES)
    assert caught.value.lacks == "float64"
    for bug, words in (
        ("single_images", "its stem does not notice a change of the images by 3e-08"),
        ("single_block", "its stage3.0.conv1 changes by .* where the images change by 3e-11"),
        ("single_logits", "its logits changes by .* where the images change by 3e-11"),
    ):
        with pytest.raises(Unfit, match=words) as caught:
            candidate(small_ports.port(bug)).examine(IMAGES)
        assert caught.value.lacks == "float64"
    candidate(small_ports.port("single_inside"), "float32").examine(IMAGES)


def test_logits_without_a_gradient_are_told(candidate):
    with pytest.raises(Unfit, match="its logits carry no gradient"):
        candidate(small_ports.port("without_gradient")).gradients(IMAGES, np.array([3, 7]), LOSS, True)


def test_logits_are_picked_and_images_laid_out_as_asked(candidate):
    expected = candidate(small_ports.port()).record(IMAGES, False, layers=False)["logits"]
    for bug, options in (("in_a_tuple", {"output": "1"}), ("channels_last", {"layout": "NHWC"})):
        adapter = candidate(small_ports.port(bug), **options)
        assert np.array_equal(adapter.record(IMAGES, False, layers=False)["logits"], expected)
    with pytest.raises(Unfit, match="its model returns a tuple of 2: name the logits by --output KEY"):
        candidate(small_ports.port("in_a_tuple")).record(IMAGES, False, layers=False)
    with pytest.raises(Unfit, match="--output 2 leads to no tensor in it"):
        candidate(small_ports.port("in_a_tuple"), output="2").record(IMAGES, False, layers=False)


def test_a_counter_is_no_weight_of_the_network_and_is_told(candidate):
    adapter = candidate(small_ports.port("counting"))
    assert set(adapter.parameters()) == {*parameter_names(CONFIG), *statistic_names(CONFIG)}
    assert adapter.examine(IMAGES).not_shown == {"calls": "it holds whole numbers, which are no weights of the network"}


def test_layers_that_are_called_in_another_order_are_told(candidate, tmp_path):
    """A file of path patterns maps the first two norms of each block crosswise."""
    file = tmp_path / "names.toml"
    layers = DIALECTS["torchvision"].layers.items()
    crossed = {
        "stage{stage}.{block}.bn1": "layer{stage}.{block}.bn2",
        "stage{stage}.{block}.bn2": "layer{stage}.{block}.bn1",
    }
    written_out = {"stage{stage}.{block}.bn3": "layer{stage}.{block}.bn3"} | crossed
    paths = {name: path for name, path in layers if name != "stage{stage}.{block}.bn{k}"} | written_out
    file.write_text("[layers]\n" + "\n".join(f'"{name}" = "{path}"' for name, path in paths.items()))
    assert candidate(small_ports.port()).examine(IMAGES).note == ""
    note = candidate(small_ports.port(), names=str(file)).examine(IMAGES).note
    assert note.startswith(
        "stage1.0.conv2 is called before stage1.0.bn1, and 15 others alike: the names of its layers are"
    )


def test_a_layer_whose_module_is_not_called_is_not_shown_and_told(candidate):
    adapter = candidate(small_ports.port("without_calling_modules"))
    adapter.examine(IMAGES)
    assert adapter.not_shown == {"pool": "its layer, fc, is not called"}
    assert "pool" not in adapter.record(IMAGES, False, layers=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # PyTorch advises to export, and still runs scripts
@pytest.mark.parametrize("wrap", [torch.jit.script, lambda module: torch.compile(module, backend="eager")])
def test_what_cannot_be_looked_into_shows_its_logits(candidate, oracle, wrap):
    adapter = candidate(wrap(small_ports.port()))
    adapter.examine(IMAGES)
    arrays = adapter.record(IMAGES, True, layers=True)
    expected = oracle.record(IMAGES, True, layers=True)
    assert set(arrays) == {"logits", *statistic_names(CONFIG)}
    assert_equal_to_rounding(arrays, {name: expected[name] for name in arrays})
    assert set(adapter.not_shown) == set(expected) - set(arrays)
