"""Checkpoints fitted to other classes and other inputs, alike in all four implementations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from impls.config import ResNetConfig
from tests.weights_convert.conftest import TINY
from weights_convert import Checkpoint, ConversionError, fit, head_from, load, sum_stem
from weights_convert.cli import main
from weights_convert.dialects import find_dialect
from weights_convert.shapes import expected_shapes

MakeCheckpoint = Callable[..., Checkpoint]
FRAMEWORKS = ("numpy", "torch", "flax", "keras")


def normal(config: ResNetConfig = TINY, seed: int = 0) -> Checkpoint:
    """Return a network of numbers that a network computes with, in float64."""
    random = np.random.default_rng(seed)
    arrays = {name: random.uniform(0.1, 1, shape) for name, shape in expected_shapes(config).items()}
    return Checkpoint(arrays, find_dialect("canonical"), config, recognised_by="made for it")


def build(framework: str, config: ResNetConfig, weights: Any, **options: Any) -> Any:
    module = __import__(f"impls.{framework}.resnet", fromlist=["resnet"])
    if framework == "numpy":
        return module.resnet(config, weights, seed=3, **options)
    return module.resnet(replace(config, dtype="float64"), weights, seed=3, **options)


def arrays_of(framework: str, model: Any) -> dict[str, np.ndarray]:
    module = __import__(f"impls.{framework}.state", fromlist=["read_weights"])
    return dict(module.read_weights(model).to("canonical").arrays)


@pytest.fixture(autouse=True)
def _float64():
    import jax

    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("as_file", [False, True])
def test_a_new_head_is_random_and_the_rest_is_kept(framework: str, as_file: bool, tmp_path: Path):
    source: Any = normal()
    if as_file:
        source.save(tmp_path / "a.safetensors")
        source = tmp_path / "a.safetensors"
    model = build(framework, replace(TINY, num_classes=7), source, head="new")
    arrays = arrays_of(framework, model)
    for name, array in normal().arrays.items():
        if not name.startswith("fc."):
            np.testing.assert_array_equal(arrays[name], array, name)
    assert arrays["fc.weight"].shape == (7, 128)
    fresh = arrays_of(framework, build(framework, replace(TINY, num_classes=7), None))
    np.testing.assert_array_equal(arrays["fc.weight"], fresh["fc.weight"])
    assert arrays["fc.weight"].std() > 0


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_grey_image_gives_the_logits_of_three_equal_channels(framework: str):
    image = np.random.default_rng(1).normal(size=(2, 1, 64, 64))
    rgb, grey = normal(), build(framework, replace(TINY, in_channels=1), normal(), stem="sum")
    expected = build("numpy", TINY, rgb)(np.repeat(image, 3, axis=1))
    got = logits(framework, grey, image)
    assert np.linalg.norm(got - expected) < 1e-12 * np.linalg.norm(expected)


def logits(framework: str, model: Any, image: np.ndarray) -> np.ndarray:
    if framework == "numpy":
        return model(image)
    if framework == "torch":
        import torch

        with torch.no_grad():
            return model.eval()(torch.from_numpy(image)).numpy()
    if framework == "flax":
        import jax

        model.eval()
        with jax.default_matmul_precision("highest"):
            return np.asarray(model(image.transpose(0, 2, 3, 1)))
    return np.asarray(model(image.transpose(0, 2, 3, 1), training=False))


def test_head_and_stem_can_both_be_fitted():
    checkpoint = fit(normal(), replace(TINY, num_classes=9, in_channels=1), "new", "sum")
    assert (checkpoint.config.num_classes, checkpoint.config.in_channels) == (0, 1)
    assert checkpoint.changes == ("the 3 input channels of the first convolution added up",)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ConversionError, match="it has num_classes 5, and the model 7"):
        fit(normal(), replace(TINY, num_classes=7))
    with pytest.raises(ConversionError, match="it has in_channels 3, and the model 1"):
        fit(normal(), replace(TINY, in_channels=1))
    with pytest.raises(ConversionError, match="it has depths"):
        fit(normal(), replace(TINY, depths=(1, 1, 1, 1)), "new")
    with pytest.raises(ValueError, match="head must be 'kept' or 'new', not 'none'"):
        fit(normal(), TINY, "none")
    with pytest.raises(ValueError, match="stem='sum' is for a model of one input channel, and this one has 3"):
        fit(normal(), TINY, stem="sum")


def test_a_stem_is_summed_in_every_dialect():
    for dialect in ("flax", "keras", "torchvision"):
        summed = sum_stem(normal().to(dialect))
        assert summed.dialect.name == dialect
        expected = normal().arrays["conv1.weight"].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(summed.to("canonical").arrays["conv1.weight"], expected)


class TestDroppedHeads:
    def test_of_our_files_are_compared_with_the_hash_first(self, tmp_path: Path):
        normal().save(tmp_path / "a.safetensors")
        dropped = load(tmp_path / "a.safetensors", drop_head=True)
        assert dropped.config.num_classes == 0
        assert dropped.content_hash() == normal().without_head().content_hash()
        assert set(dropped.dropped) == {"fc.weight", "fc.bias"}

    def test_of_checkpoints_are_left_out(self):
        assert load(normal(), drop_head=True).config.num_classes == 0
        with pytest.raises(ValueError, match="a checkpoint is one network"):
            load(normal(), entry="a")

    def test_are_recorded_in_the_file(self, tmp_path: Path):
        normal().save(tmp_path / "a.safetensors")
        runner, target = CliRunner(), str(tmp_path / "b.flax.safetensors")
        assert runner.invoke(main, ["convert", str(tmp_path / "a.safetensors"), target, "--drop-head"]).exit_code == 0
        assert load(target).metadata()["content_hash"] == normal().without_head().content_hash()
        result = runner.invoke(main, ["verify", str(tmp_path / "a.safetensors"), target, "--impl", "none"])
        assert result.exit_code == 2
        assert "fc.weight: only in the first" in result.output


class TestHeadsOfOthers:
    @pytest.mark.parametrize("form", ["network", "probe", "probe with an optimizer", "flax probe"])
    def test_are_taken(self, form: str):
        other = normal(replace(TINY, num_classes=9), seed=1)
        weight, bias = other.arrays["fc.weight"], other.arrays["fc.bias"]
        sources: dict[str, Any] = {
            "network": other.to("torchvision").arrays,
            "probe": {"module.linear.weight": weight, "module.linear.bias": bias},
            "probe with an optimizer": {
                "state_dict.module.linear.weight": weight,
                "state_dict.module.linear.bias": bias,
                "optimizer.state.0.momentum_buffer": weight,
                "epoch": np.array(3),
            },
            "flax probe": {"params.kernel": weight.T, "params.bias": bias},
        }
        joined = head_from(normal().to("keras"), sources[form])
        assert (joined.config.num_classes, joined.dialect.name) == (9, "keras")
        np.testing.assert_array_equal(joined.to("canonical").arrays["fc.weight"], weight)
        np.testing.assert_array_equal(
            joined.to("canonical").arrays["stage4.0.bn3.bias"], normal().arrays["stage4.0.bn3.bias"]
        )
        assert joined.changes == ("classifier of 9 classes taken from these arrays",)

    def test_are_taken_by_a_network_without_one(self):
        assert head_from(normal().without_head(), normal()).content_hash() == normal().content_hash()

    @pytest.mark.parametrize(
        ("source", "problem"),
        [
            (
                {"weight": np.ones((9, 7)), "bias": np.ones(9)},
                r"its classifier is \(9, 7\) and \(9,\); the network has 128",
            ),
            ({"weight": np.ones((9, 128)), "bias": np.ones(8)}, r"its classifier is \(9, 128\) and \(8,\)"),
            (
                {"weight": np.ones((9, 128), np.float32), "bias": np.ones(9, np.float32)},
                "is float32, and the network flo",
            ),
            ({"weight": np.ones((9, 128, 1)), "bias": np.ones(9)}, "it has no classifier of one linear layer"),
            ({"a.weight": np.ones((9, 128)), "b.weight": np.ones((9, 128))}, "belong to no known dialect"),
        ],
    )
    def test_that_do_not_fit_are_refused(self, source: dict[str, np.ndarray], problem: str):
        with pytest.raises(ConversionError, match=problem):
            head_from(normal(), source)
        with pytest.raises(ConversionError, match="it has no classifier"):
            head_from(normal(), normal().without_head())

    def test_are_taken_by_the_command_and_verified(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        normal().save(tmp_path / "a.safetensors")
        normal(replace(TINY, num_classes=9), seed=1).save(tmp_path / "head.safetensors")
        monkeypatch.chdir(tmp_path)
        options = ["--head-from", "head.safetensors"]
        result = CliRunner().invoke(main, ["convert", "a.safetensors", "b.flax.safetensors", *options])
        assert "classifier of 9 classes taken from head.safetensors" in result.output
        assert load("b.flax.safetensors").config.num_classes == 9
