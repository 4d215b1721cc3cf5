"""The libraries' own ResNet-50: our networks, given its weights, compute its logits in float64, and the way back.

The weights are random, since published ones cannot be shipped; scales, offsets and statistics of every norm are away
from the 1, 0, 0, 1 they start at, so that none can be lost or exchanged unnoticed, and calibrated, so that signals keep
their size through the depth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from safetensors.torch import save_file

from conformance.inputs import noise, photograph
from weights_convert import Source, load
from weights_convert.cli import main

LIMIT = 1e-12
"""Relative L2 in float64: two correct networks differ by 2e-14 to 4e-14."""
FRAMEWORKS = ("numpy", "torch", "flax", "keras")
RESIDUAL_SCALE = 0.4
"""Factor on the scales of the last norm of a block, so that a sum of residual branches grows little."""


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return photograph().images.astype(np.float64)


def distance(got: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype == np.float64
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def numpy_logits(variant: str, weights: Source, image: np.ndarray) -> np.ndarray:
    from impls.numpy import resnet50

    return resnet50(variant, weights=weights)(image)


def torch_logits(variant: str, weights: Source, image: np.ndarray) -> np.ndarray:
    from impls.torch import resnet50

    with torch.no_grad():
        return resnet50(variant, weights=weights, dtype="float64").eval()(torch.from_numpy(image)).numpy()


def flax_logits(variant: str, weights: Source, image: np.ndarray) -> np.ndarray:
    import jax

    from impls.flax import resnet50

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        model = resnet50(variant, weights=weights, dtype="float64")
        model.eval()
        return np.asarray(model(image.transpose(0, 2, 3, 1)))


def keras_logits(variant: str, weights: Source, image: np.ndarray) -> np.ndarray:
    import keras

    from impls.keras import resnet50

    model = resnet50(variant, weights=weights, dtype="float64")
    return keras.ops.convert_to_numpy(model(image.transpose(0, 2, 3, 1), training=False))


LOGITS = {"numpy": numpy_logits, "torch": torch_logits, "flax": flax_logits, "keras": keras_logits}


@dataclass(frozen=True)
class Published:
    """A library's network: its logits, and its weights as its users have them."""

    model: Any
    logits: np.ndarray
    weights: Any


class TestTorchvision:
    @pytest.fixture(scope="class")
    @classmethod
    def published(cls, image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Published:
        random = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = torchvision.models.resnet50()
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                factor = RESIDUAL_SCALE if name.endswith("bn3") else 1.0
                torch.nn.init.uniform_(layer.weight, 0.5 * factor, 1.5 * factor, generator=random)
                torch.nn.init.normal_(layer.bias, std=0.2, generator=random)
                layer.momentum = None  # the running statistics become the mean of those of the batches
        with torch.no_grad():
            for seed in range(2):
                model.train()(torch.from_numpy(noise(96, 96, 4, seed).images))
        file = tmp_path_factory.mktemp("torchvision") / "resnet50.pth"
        torch.save(model.state_dict(), file)
        with torch.no_grad():
            logits = model.double().eval()(torch.from_numpy(image)).numpy()
        return Published(model, logits, file)

    @pytest.fixture(scope="class")
    @classmethod
    def converted(cls, published: Published) -> dict[str, Path]:
        """What the command makes of the .pth for each framework; the .pth as it is for PyTorch."""
        files = {"torch": published.weights}
        for dialect, framework in (("canonical", "numpy"), ("flax", "flax"), ("keras", "keras")):
            files[framework] = published.weights.with_name(f"resnet50.{dialect}.safetensors")
            convert(published.weights, files[framework], "--variant", "v1.5")
        return files

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_computes_the_same(
        self, framework: str, published: Published, converted: dict[str, Path], image: np.ndarray
    ):
        assert distance(LOGITS[framework]("v1.5", converted[framework], image), published.logits) < LIMIT

    def test_another_variant_does_not(self, published: Published, image: np.ndarray):
        """The weights load into it all the same, and the test above would see it."""
        assert distance(torch_logits("v1", published.weights, image), published.logits) > 1e-3

    @pytest.mark.parametrize("framework", ["flax", "keras"])
    def test_comes_back_as_it_was(self, framework: str, published: Published, converted: dict[str, Path]):
        back = published.weights.with_name(f"{framework}.torchvision.pth")
        convert(converted[framework], back)
        before, after = (torch.load(file, weights_only=True) for file in (published.weights, back))
        counters = {name for name in before if name.endswith("num_batches_tracked")}
        assert set(before) - set(after) == counters
        for name, tensor in after.items():
            assert tensor.dtype == before[name].dtype
            np.testing.assert_array_equal(tensor.numpy().view(np.int32), before[name].numpy().view(np.int32))
        torchvision.models.resnet50().load_state_dict(after, strict=True)  # norms start their counters themselves

    def test_a_safetensors_file_holds_the_same(self, published: Published, converted: dict[str, Path]):
        file = published.weights.with_name("resnet50.safetensors")
        save_file(torch.load(published.weights, weights_only=True), file)
        assert load(file, variant="v1.5").content_hash() == load(converted["flax"]).content_hash()


class TestKerasApplications:
    @pytest.fixture(scope="class")
    @classmethod
    def library(cls) -> Iterator[Any]:
        """keras, in float64."""
        import keras

        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("float64")
        yield keras
        keras.config.set_dtype_policy(before)

    @pytest.fixture(scope="class")
    @classmethod
    def published(cls, library: Any, image: np.ndarray) -> Published:
        random = np.random.default_rng(0)
        library.utils.set_random_seed(1)
        model = library.applications.ResNet50(weights=None, classifier_activation=None)
        norms = [layer for layer in model.layers if isinstance(layer, library.layers.BatchNormalization)]
        for layer in norms:
            factor = RESIDUAL_SCALE if layer.name.endswith("_3_bn") else 1.0
            layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape) * factor)
            layer.beta.assign(random.normal(0.0, 0.2, layer.beta.shape))
            layer.momentum = 0.0  # the running statistics become those of the one batch
        for layer in model.layers:
            if hasattr(layer, "bias") and layer not in norms:
                layer.bias.assign(random.normal(0.0, 0.1, layer.bias.shape))
        model(noise(224, 224, 2, 0).images.transpose(0, 2, 3, 1), training=True)
        return Published(model, cls.logits(library, model, image), cls.weights(library, model))

    @staticmethod
    def logits(library: Any, model: Any, image: np.ndarray) -> np.ndarray:
        return library.ops.convert_to_numpy(model(image.transpose(0, 2, 3, 1), training=False))

    @staticmethod
    def weights(library: Any, model: Any) -> dict[str, np.ndarray]:
        """As a user has them who has the model: "conv1_conv.kernel"."""
        return {
            f"{layer.name}.{variable.name}": np.array(library.ops.convert_to_numpy(variable))
            for layer in model.layers
            for variable in layer.variables
        }

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_computes_the_same(self, framework: str, published: Published, image: np.ndarray):
        assert distance(LOGITS[framework]("keras", published.weights, image), published.logits) < LIMIT

    def test_its_epsilon_is_seen(self, published: Published, image: np.ndarray):
        """1.001e-5 for 1e-5 is the smallest of the facts that make the variant."""
        from dataclasses import replace

        from impls.config import VARIANTS
        from impls.numpy import resnet

        network = resnet(replace(VARIANTS["keras"], norm_eps=1e-5), weights=published.weights)
        assert distance(network(image), published.logits) > 100 * LIMIT

    def test_takes_our_weights(self, published: Published, library: Any, image: np.ndarray):
        from impls.keras import read_weights, resnet50

        random = np.random.default_rng(2)
        others = {name: array * random.uniform(0.9, 1.1, array.shape) for name, array in published.weights.items()}
        ours = resnet50("keras", weights=others, dtype="float64")
        arrays = read_weights(ours).to("keras.applications").arrays
        variables = {
            f"{layer.name}.{variable.name}": variable
            for layer in published.model.layers
            for variable in layer.variables
        }
        assert set(variables) == set(arrays)
        for name, variable in variables.items():
            variable.assign(arrays[name])
        expected = library.ops.convert_to_numpy(ours(image.transpose(0, 2, 3, 1), training=False))
        assert distance(self.logits(library, published.model, image), expected) < LIMIT
        assert distance(published.logits, expected) > 1e-3


def convert(*arguments: str | os.PathLike[str]) -> None:
    result = CliRunner().invoke(main, ["convert", *map(os.fspath, arguments)])
    assert result.exit_code == 0, result.output
