"""The ResNet-50 of other libraries: our networks compute its logits with its weights, and it loads our files.

The weights are random, since published ones cannot be shipped. Scales, offsets and statistics of every norm differ from
their initial 1, 0, 0, 1, so that none can be lost or exchanged unnoticed, and are calibrated so that activations keep
their scale through all layers.

These tests take longer than all others of conversion; `make slow` and CI run them.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from safetensors.torch import save_file

from conformance.cases.inputs import noise
from conformance.cases.synthetic import synthetic_weights
from impls.config import VARIANTS, ResNetConfig
from impls.numpy import resnet as numpy_resnet
from tests.weights_convert.conftest import distance
from weights_convert import Source, load
from weights_convert.cli import main

pytestmark = pytest.mark.slow

LIMIT = 1e-12
"""Largest relative L2 error in float64; two correct networks differ by 2e-14 to 4e-14."""

FRAMEWORKS = ("numpy", "torch", "flax", "keras")
RESIDUAL_SCALE = 0.4
"""A factor on the scales of the last norm of each block, so that the sum of residual branches grows little."""


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
    """A library's model, its logits, and its weights as its users have them."""

    model: Any
    logits: np.ndarray
    weights: Any


def calibrated(make: Callable[[], Any], last_norm: str) -> Any:
    """Return a PyTorch model of a library with random weights, offsets, scales and calibrated statistics."""
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = make()
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            factor = RESIDUAL_SCALE if name.endswith(last_norm) else 1.0
            torch.nn.init.uniform_(layer.weight, 0.5 * factor, 1.5 * factor, generator=random)
            torch.nn.init.normal_(layer.bias, std=0.2, generator=random)
            layer.momentum = None  # the running statistics become the mean over all batches
    with torch.no_grad():
        for seed in range(2):
            model.train()(torch.from_numpy(noise(96, 96, 4, seed).images))
    return model


def assert_all_compute(published: Published, variant: str, image: np.ndarray) -> None:
    """Assert that each of our implementations computes the library's logits with its weights."""
    for framework in FRAMEWORKS:
        got = LOGITS[framework](variant, published.weights, image)
        assert distance(got, published.logits) < LIMIT, framework


def assert_same_tensors(left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    """Assert that two state_dicts are equal bit for bit, apart from the counts of batches."""
    assert {name for name in left.keys() ^ right.keys() if not name.endswith("num_batches_tracked")} == set()
    for name in left.keys() & right.keys():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(left[name].numpy().view(np.int32), right[name].numpy().view(np.int32), name)


class TestTimm:
    @pytest.fixture(scope="class")
    @classmethod
    def published(cls, image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Published:
        import timm

        model = calibrated(lambda: timm.create_model("resnet50"), "bn3")
        folder = tmp_path_factory.mktemp("timm")
        save_file(model.state_dict(), folder / "model.safetensors")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        arguments = argparse.Namespace(model="resnet50", lr=0.1)
        saver = timm.utils.CheckpointSaver(model, optimizer, arguments, checkpoint_dir=os.fspath(folder))
        saver.save_checkpoint(epoch=3, metric=0.5)
        with torch.no_grad():
            logits = copy.deepcopy(model).double().eval()(torch.from_numpy(image)).numpy()
        return Published(model, logits, folder / "model.safetensors")

    def test_our_implementations_compute_the_same(self, published: Published, image: np.ndarray):
        assert_all_compute(published, "v1.5", image)

    def test_its_training_checkpoint_holds_the_same_weights(self, published: Published):
        for name in ("last.pth.tar", "checkpoint-3.pth.tar"):
            read = load(published.weights.with_name(name), variant="v1.5")
            assert read.content_hash() == load(published.weights, variant="v1.5").content_hash()

    @pytest.mark.parametrize("ending", [".safetensors", ".pth"])
    def test_loads_our_file(self, ending: str, published: Published, tmp_path: Path):
        import timm

        load(published.weights, variant="v1.5").to("flax").save(tmp_path / "ours.flax.safetensors")
        convert(tmp_path / "ours.flax.safetensors", tmp_path / f"ours.timm{ending}")
        model = timm.create_model("resnet50")
        timm.models.load_checkpoint(model, os.fspath(tmp_path / f"ours.timm{ending}"), strict=True)
        assert_same_tensors(model.state_dict(), published.model.state_dict())


class TestTransformers:
    @pytest.fixture(scope="class")
    @classmethod
    def published(cls, image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Published:
        from transformers import ResNetConfig, ResNetForImageClassification

        config = ResNetConfig(num_labels=1000)
        model = calibrated(lambda: ResNetForImageClassification(config), "layer.2.normalization")
        folder = tmp_path_factory.mktemp("transformers")
        model.save_pretrained(folder / "whole")
        model.save_pretrained(folder / "sharded", max_shard_size="30MB")
        model.resnet.save_pretrained(folder / "headless")
        (folder / "old").mkdir()
        torch.save(model.state_dict(), folder / "old" / "pytorch_model.bin")
        with torch.no_grad():
            logits = copy.deepcopy(model).double().eval()(torch.from_numpy(image)).logits.numpy()
        return Published(model, logits, folder / "whole")

    def test_our_implementations_compute_the_same(self, published: Published, image: np.ndarray):
        assert_all_compute(published, "v1.5", image)

    def test_its_config_tells_the_variant(self, published: Published):
        read = load(published.weights)
        assert (read.config.variant, read.dialect.name) == ("v1.5", "transformers")
        assert "downsample_in_bottleneck is false" in read.recognised_by

    def test_all_of_its_files_hold_the_same_weights(self, published: Published):
        folder = published.weights.parent
        assert len(list((folder / "sharded").glob("*.safetensors"))) > 2
        expected = load(published.weights).content_hash()
        for place in ("sharded", "sharded/model.safetensors.index.json", "whole/model.safetensors", "old"):
            assert load(folder / place, variant="v1.5").content_hash() == expected, place

    def test_its_model_without_classifier_is_read(self, published: Published):
        headless, whole = load(published.weights.with_name("headless")), load(published.weights)
        assert headless.config.num_classes == 0
        for name, array in headless.to("canonical").arrays.items():
            np.testing.assert_array_equal(array, whole.to("canonical").arrays[name])

    @pytest.mark.parametrize("headless", [False, True])
    def test_loads_our_file(self, headless: bool, published: Published, tmp_path: Path):
        from transformers import ResNetForImageClassification, ResNetModel

        source = published.weights.with_name("headless") if headless else published.weights
        load(source).to("transformers").save(tmp_path / "model.safetensors")
        shutil.copy(source / "config.json", tmp_path)
        library = ResNetModel if headless else ResNetForImageClassification
        model, info = library.from_pretrained(tmp_path, output_loading_info=True)
        counters = {name for name in info["missing_keys"] if name.endswith("num_batches_tracked")}
        assert set(info["missing_keys"]) == counters
        assert not info["unexpected_keys"]
        original = published.model.resnet if headless else published.model
        assert_same_tensors(model.state_dict(), original.state_dict())

    @pytest.mark.parametrize(  # the variant decides the config alone, and the limit the files of the weights
        ("variant", "depths", "width", "classes", "limit"),
        [
            ("v1.5", (3, 4, 6, 3), 64, 1000, None),
            ("v1", (3, 4, 6, 3), 64, 1000, "30MB"),
            ("v1.5", (3, 4, 6, 3), 64, 0, None),
            ("v1", (3, 4, 23, 3), 64, 7, None),
            ("v1.5", (3, 8, 36, 3), 64, 1000, "100MB"),
            ("v1", (2, 1, 1, 1), 8, 5, "20KB"),
            ("v1.5", (2, 1, 1, 1), 8, 5, None),
        ],
    )
    def test_loads_our_folder(
        self,
        variant: str,
        depths: tuple[int, ...],
        width: int,
        classes: int,
        limit: str | None,
        image: np.ndarray,
        tmp_path: Path,
    ):
        """The folder alone is enough, and its config states the dtype."""
        import transformers

        config = replace(VARIANTS[variant], depths=depths, width=width, num_classes=classes)
        weights = synthetic_weights(config, seed=3)
        weights.to("flax").save(tmp_path / "a.flax.safetensors")
        limited = ("--max-shard-size", limit) if limit else ()
        convert(tmp_path / "a.flax.safetensors", tmp_path / "a.transformers", "--dtype", "float64", *limited)
        assert (tmp_path / "a.transformers" / "model.safetensors").exists() is (limit is None)
        library = transformers.ResNetForImageClassification if classes else transformers.ResNetModel
        model, info = library.from_pretrained(tmp_path / "a.transformers", output_loading_info=True)
        assert all(name.endswith("num_batches_tracked") for name in info["missing_keys"])
        assert not info["unexpected_keys"]
        assert not info["mismatched_keys"]
        assert model.dtype == torch.float64
        with torch.no_grad():
            output = model.eval()(torch.from_numpy(image))
        got = output.logits if classes else output.pooler_output.flatten(1)
        assert distance(got.numpy(), numpy_resnet(config, weights=weights)(image)) < LIMIT

    def test_saves_our_folder_without_our_metadata(self, published: Published, tmp_path: Path):
        """A folder that transformers saved again is not taken for ours, since its numbers may have changed."""
        from transformers import ResNetForImageClassification

        convert(published.weights, tmp_path / "ours.transformers")
        model = ResNetForImageClassification.from_pretrained(tmp_path / "ours.transformers")
        with torch.no_grad():
            model.classifier[1].bias.add_(1.0)
        model.save_pretrained(tmp_path / "ours.transformers")
        read = load(tmp_path / "ours.transformers")
        assert "downsample_in_bottleneck is false" in read.recognised_by
        assert read.content_hash() != load(published.weights).content_hash()

    def test_selects_its_class_by_our_folder(self, published: Published, tmp_path: Path):
        from transformers import AutoModelForImageClassification

        convert(published.weights, tmp_path / "ours.transformers")
        model = AutoModelForImageClassification.from_pretrained(tmp_path / "ours.transformers")
        assert_same_tensors(model.state_dict(), published.model.state_dict())


class TestTorchvision:
    @pytest.fixture(scope="class")
    @classmethod
    def published(cls, image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Published:
        model = calibrated(torchvision.models.resnet50, "bn3")
        file = tmp_path_factory.mktemp("torchvision") / "resnet50.pth"
        torch.save(model.state_dict(), file)
        with torch.no_grad():
            logits = model.double().eval()(torch.from_numpy(image)).numpy()
        return Published(model, logits, file)

    @pytest.fixture(scope="class")
    @classmethod
    def converted(cls, published: Published) -> dict[str, Path]:
        """Return the file that the command makes for each framework; for PyTorch it is the .pth itself."""
        files = {"torch": published.weights}
        for dialect, framework in (("canonical", "numpy"), ("flax", "flax"), ("keras", "keras")):
            files[framework] = published.weights.with_name(f"resnet50.{dialect}.safetensors")
            convert(published.weights, files[framework], "--variant", "v1.5")
        return files

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_our_implementations_compute_the_same(
        self, framework: str, published: Published, converted: dict[str, Path], image: np.ndarray
    ):
        assert distance(LOGITS[framework]("v1.5", converted[framework], image), published.logits) < LIMIT

    def test_another_variant_computes_something_else(self, published: Published, image: np.ndarray):
        """Its shapes are equal, so that only the test above would reveal it."""
        assert distance(torch_logits("v1", published.weights, image), published.logits) > 1e-3

    @pytest.mark.parametrize("framework", ["flax", "keras"])
    def test_a_round_trip_keeps_every_bit(self, framework: str, published: Published, converted: dict[str, Path]):
        back = published.weights.with_name(f"{framework}.torchvision.pth")
        convert(converted[framework], back)
        before, after = (torch.load(file, weights_only=True) for file in (published.weights, back))
        counters = {name for name in before if name.endswith("num_batches_tracked")}
        assert set(before) - set(after) == counters
        for name, tensor in after.items():
            assert tensor.dtype == before[name].dtype
            np.testing.assert_array_equal(tensor.numpy().view(np.int32), before[name].numpy().view(np.int32))
        torchvision.models.resnet50().load_state_dict(after, strict=True)  # norms create their counts of batches

    def test_a_safetensors_file_holds_the_same_weights(self, published: Published, converted: dict[str, Path]):
        file = published.weights.with_name("resnet50.safetensors")
        save_file(torch.load(published.weights, weights_only=True), file)
        assert load(file, variant="v1.5").content_hash() == load(converted["flax"]).content_hash()


class TestKerasApplications:
    @pytest.fixture(scope="class")
    @classmethod
    def library(cls) -> Iterator[Any]:
        """Keras, with the dtype policy float64."""
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
            layer.momentum = 0.0  # the running statistics become those of the batch
        for layer in model.layers:
            if hasattr(layer, "bias") and layer not in norms:
                layer.bias.assign(random.normal(0.0, 0.1, layer.bias.shape))
        model(noise(224, 224, 2, 0).images.transpose(0, 2, 3, 1), training=True)
        return Published(model, cls.logits(library, model, image), cls.weights(library, model))

    @pytest.mark.parametrize("ending", [".weights.h5", ".keras", ".h5"])
    def test_its_files_are_read(self, ending: str, published: Published, library: Any, tmp_path: Path):
        published.model.save(tmp_path / "a.keras") if ending == ".keras" else None
        published.model.save_weights(tmp_path / "a.weights.h5") if ending == ".weights.h5" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of its legacy format
            published.model.save(tmp_path / "a.h5") if ending == ".h5" else None
        read = load(tmp_path / f"a{ending}")
        assert (read.config.variant, read.dialect.name) == ("keras", "keras.applications")
        assert read.content_hash() == load(published.weights).content_hash()

    def test_its_model_without_top_is_read(self, library: Any, tmp_path: Path):
        model = library.applications.ResNet50(weights=None, include_top=False)
        model.save_weights(tmp_path / "notop.weights.h5")
        read = load(tmp_path / "notop.weights.h5")
        assert (read.config.variant, read.config.num_classes, len(read.arrays)) == ("keras", 0, 318)

    @pytest.mark.parametrize("ending", [".weights.h5", ".h5"])
    def test_loads_our_file(self, ending: str, published: Published, library: Any, tmp_path: Path):
        load(published.weights).to("keras.applications").save(tmp_path / f"ours{ending}")
        model = library.applications.ResNet50(weights=None, classifier_activation=None)
        model.load_weights(tmp_path / f"ours{ending}")
        ours = self.weights(library, model)
        for name, array in published.weights.items():
            np.testing.assert_array_equal(ours[name], array, name)

    @staticmethod
    def logits(library: Any, model: Any, image: np.ndarray) -> np.ndarray:
        return library.ops.convert_to_numpy(model(image.transpose(0, 2, 3, 1), training=False))

    @staticmethod
    def weights(library: Any, model: Any) -> dict[str, np.ndarray]:
        """Return the weights of a model by "layer.variable"."""
        return {
            f"{layer.name}.{variable.name}": np.array(library.ops.convert_to_numpy(variable))
            for layer in model.layers
            for variable in layer.variables
        }

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_our_implementations_compute_the_same(self, framework: str, published: Published, image: np.ndarray):
        assert distance(LOGITS[framework]("keras", published.weights, image), published.logits) < LIMIT

    def test_its_eps_matters(self, published: Published, image: np.ndarray):
        """An eps of 1.001e-5 instead of 1e-5 is the smallest difference between variants, and is detected."""
        network = numpy_resnet(replace(VARIANTS["keras"], norm_eps=1e-5), weights=published.weights)
        assert distance(network(image), published.logits) > 100 * LIMIT

    def test_computes_the_same_with_our_weights(self, published: Published, library: Any, image: np.ndarray):
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


class TestKerasHub:
    @pytest.fixture(scope="class")
    @classmethod
    def library(cls) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the libraries it imports
            import keras_hub

        return keras_hub

    @staticmethod
    def make(library: Any) -> Any:
        backbone = library.models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 128, 256, 512],
            stackwise_num_blocks=[3, 4, 6, 3],
            stackwise_num_strides=[1, 2, 2, 2],
            block_type="bottleneck_block",
            image_shape=(None, None, 3),
            dtype="float64",
        )
        return library.models.ResNetImageClassifier(backbone=backbone, num_classes=1000, dtype="float64")

    @pytest.fixture(scope="class")
    @classmethod
    def published(cls, library: Any, image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Published:
        import keras

        random = np.random.default_rng(0)
        keras.utils.set_random_seed(1)
        model = cls.make(library)
        for layer in model.backbone.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                factor = RESIDUAL_SCALE if layer.name.endswith("_3_bn") else 1.0
                layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape) * factor)
                layer.beta.assign(random.normal(0.0, 0.2, layer.beta.shape))
                layer.momentum = 0.0
        model(noise(224, 224, 2, 0).images.transpose(0, 2, 3, 1), training=True)
        folder = tmp_path_factory.mktemp("keras-hub")
        model.save_weights(folder / "classifier.weights.h5")
        model.backbone.save_weights(folder / "backbone.weights.h5")
        model.save_to_preset(folder / "preset")
        logits = keras.ops.convert_to_numpy(model(image.transpose(0, 2, 3, 1), training=False))
        return Published(model, logits, folder / "preset")

    def test_our_implementations_compute_the_same(self, published: Published, image: np.ndarray):
        assert_all_compute(published, "v1.5", image)

    def test_its_config_tells_the_variant(self, published: Published):
        read = load(published.weights)
        assert (read.config.variant, read.dialect.name, read.config.num_classes) == ("v1.5", "keras-hub", 1000)
        assert "Keras Hub: config.json and task.json (" in read.recognised_by

    def test_its_files_hold_the_same_weights(self, published: Published):
        whole = load(published.weights)
        classifier = load(published.weights.with_name("classifier.weights.h5"), variant="v1.5")
        assert classifier.content_hash() == whole.content_hash()
        backbone = load(published.weights.with_name("backbone.weights.h5"), variant="v1.5")
        assert backbone.config.num_classes == 0
        for name, array in backbone.arrays.items():
            np.testing.assert_array_equal(array, whole.arrays[name])

    def test_files_of_older_keras_are_read(self, published: Published, tmp_path: Path):
        """Keras 3.0 to 3.5 wrote no names of layers, which follow from the order of the layers."""
        import h5py

        shutil.copy(published.weights.with_name("classifier.weights.h5"), tmp_path / "old.weights.h5")
        with h5py.File(tmp_path / "old.weights.h5", "r+") as file:
            paths: list[str] = []
            file.visit(paths.append)
            for path in paths:
                file[path].attrs.pop("name", None)
        old = load(tmp_path / "old.weights.h5", variant="v1.5")
        assert old.content_hash() == load(published.weights).content_hash()
        assert old.notes == ("the file does not name its layers, and their order alone tells which is which",)

    def test_loads_our_file(self, published: Published, library: Any, tmp_path: Path):
        import keras

        load(published.weights).to("keras-hub").save(tmp_path / "ours.weights.h5")
        model = self.make(library)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model is compiled, and the file holds no optimizer
            model.load_weights(tmp_path / "ours.weights.h5")
        for ours, theirs in zip(model.weights, published.model.weights, strict=True):
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (ours, theirs)))


class TestFlaxLinen:
    """The ImageNet example of Flax; its model is in `linen_example.py`, since Flax does not install it."""

    @pytest.fixture(scope="class")
    @classmethod
    def linen_example(cls) -> ModuleType:
        spec = importlib.util.spec_from_file_location("linen_example", Path(__file__).with_name("linen_example.py"))
        sys.modules["linen_example"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @pytest.fixture(scope="class")
    @classmethod
    def published(
        cls, linen_example: ModuleType, image: np.ndarray, tmp_path_factory: pytest.TempPathFactory
    ) -> Published:
        import flax
        import jax
        import orbax.checkpoint as ocp

        variables = linen_example.calibrated_variables(noise(96, 96, 2, 0).images.transpose(0, 2, 3, 1))
        folder = tmp_path_factory.mktemp("linen")
        (folder / "variables.msgpack").write_bytes(flax.serialization.to_bytes(variables))
        state = {"step": 7, "opt_state": {"0": {"trace": variables["params"]}}, **variables}
        (folder / "state.msgpack").write_bytes(flax.serialization.to_bytes(state))
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "variables.orbax", variables)
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            wide = jax.tree.map(lambda array: jax.numpy.asarray(array, "float64"), variables)
            logits = np.asarray(linen_example.ResNet50().apply(wide, image.transpose(0, 2, 3, 1), train=False))
        return Published(variables, logits, folder / "variables.msgpack")

    def test_our_implementations_compute_the_same(self, published: Published, image: np.ndarray):
        assert_all_compute(published, "flax", image)

    @pytest.mark.parametrize("name", ["state.msgpack", "variables.orbax"])
    def test_its_other_files_hold_the_same_weights(self, name: str, published: Published):
        read = load(published.weights.with_name(name), variant="flax")
        assert read.content_hash() == load(published.weights, variant="flax").content_hash()
        if name == "state.msgpack":
            assert set(read.dropped.values()) == {
                "the state of the optimizer",
                "the state of the training loop: step and loss scale",
            }

    @pytest.mark.parametrize("ending", [".msgpack", ".orbax"])
    def test_loads_our_file(self, ending: str, published: Published, tmp_path: Path):
        import flax
        import jax
        import orbax.checkpoint as ocp

        load(published.weights, variant="flax").to("keras").save(tmp_path / "ours.keras.safetensors")
        convert(tmp_path / "ours.keras.safetensors", tmp_path / f"ours.flax-linen{ending}")
        template = jax.tree.map(np.zeros_like, published.model)
        if ending == ".msgpack":
            restored = flax.serialization.from_bytes(template, (tmp_path / f"ours.flax-linen{ending}").read_bytes())
        else:
            with ocp.StandardCheckpointer() as checkpointer:
                restored = checkpointer.restore(tmp_path / f"ours.flax-linen{ending}", template)
        jax.tree.map(np.testing.assert_array_equal, restored, published.model)


class TestOurs:
    """Our models: the files that each framework saves of them are read, and it loads ours."""

    CONFIG = ResNetConfig(depths=(2, 1, 1, 1), width=8, num_classes=10)

    def test_a_state_dict(self, tmp_path: Path):
        from impls.torch import read_weights, resnet

        model = resnet(self.CONFIG, seed=0)
        torch.save(model.state_dict(), tmp_path / "a.pth")
        assert load(tmp_path / "a.pth", variant="v1.5").content_hash() == read_weights(model).content_hash()
        read_weights(model).to("torch").save(tmp_path / "b.pth")
        resnet(self.CONFIG).load_state_dict(torch.load(tmp_path / "b.pth"), strict=False)

    @pytest.mark.parametrize("name", ["a.weights.h5", "a.keras"])
    def test_a_keras_model(self, name: str, tmp_path: Path):
        import keras

        from impls.keras import read_weights, resnet

        model, other = resnet(self.CONFIG, seed=0), resnet(self.CONFIG, seed=1)
        whole = name.endswith(".keras")
        model.save(tmp_path / name) if whole else model.save_weights(tmp_path / name)
        read = load(tmp_path / name, variant=None if whole else "v1.5")
        assert read.content_hash() == read_weights(model).content_hash()
        read.to("keras").save(tmp_path / f"ours-{name}")
        if whole:
            other = keras.saving.load_model(tmp_path / f"ours-{name}")
        else:
            other.load_weights(tmp_path / f"ours-{name}")
        assert read_weights(other).content_hash() == read_weights(model).content_hash()

    def test_an_nnx_state_in_orbax(self, tmp_path: Path):
        import orbax.checkpoint as ocp
        from flax import nnx

        from impls.flax import read_weights, resnet

        model = resnet(self.CONFIG, seed=0)
        state = nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "a.orbax", state)
        read = load(tmp_path / "a.orbax", variant="v1.5")
        assert read.dialect.name == "flax"
        assert read.content_hash() == read_weights(model).content_hash()
        read.save(tmp_path / "b.orbax")
        assert load(tmp_path / "b.orbax", variant="v1.5").content_hash() == read.content_hash()
