"""Models and tensors in memory: recognised by the modules that are loaded, read, and written into."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from impls.config import VARIANTS, ResNetConfig
from tests.weights_convert.conftest import TINY
from weights_convert import Checkpoint, ConversionError, load

MakeCheckpoint = Callable[..., Checkpoint]
SMALL = replace(TINY, depths=(1, 1, 1, 1), width=64)


def torchvision_model() -> Any:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5)


def keras_model() -> Any:
    """A network of keras.applications of the depths (1, 1, 1, 1)."""
    from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1

    def stack(x: Any) -> Any:
        for stage, channels in enumerate((64, 128, 256, 512)):
            x = stack_residual_blocks_v1(x, channels, 1, stride1=1 if stage == 0 else 2, name=f"conv{stage + 2}")
        return x

    return ResNet(stack, False, True, weights=None, input_shape=(64, 64, 3), classes=5)


def our_model(framework: str, config: ResNetConfig) -> Any:
    module = __import__(f"impls.{framework}.resnet", fromlist=["resnet"])
    return module.resnet(config, seed=1)


class TestOurModels:
    @pytest.mark.parametrize("framework", ["torch", "flax", "keras"])
    @pytest.mark.parametrize("variant", ["v1", "tutorial"])
    def test_are_read_with_their_variant(self, framework: str, variant: str):
        config = replace(VARIANTS[variant], depths=(1, 1, 1, 1), width=4, num_classes=5)
        checkpoint = load(our_model(framework, config))
        assert (checkpoint.config.variant, checkpoint.recognised_by) == (variant, "its config")

    @pytest.mark.parametrize("framework", ["torch", "flax", "keras"])
    def test_are_written_into(self, framework: str, checkpoint_of: MakeCheckpoint):
        checkpoint, model = checkpoint_of(), our_model(framework, TINY)
        checkpoint.into(model)
        assert load(model).content_hash() == checkpoint.content_hash()

    def test_of_another_variant_are_refused(self, checkpoint_of: MakeCheckpoint):
        model = our_model("torch", replace(TINY, strided_layer="conv1"))
        before = load(model).content_hash()
        with pytest.raises(ConversionError, match=r"it holds variant v1\.5 \(made for it\), and the model is v1"):
            checkpoint_of().into(model)
        assert load(model).content_hash() == before

    def test_of_a_configuration_without_a_name_keep_it(self):
        config = replace(TINY, norm_eps=0.25)
        assert load(our_model("torch", config)).config == config


class TestModelsOfOthers:
    def test_of_torchvision_are_read(self):
        model = torchvision_model()
        checkpoint = load(model, variant="v1.5")
        assert checkpoint.dialect.name == "torchvision"
        assert checkpoint.content_hash() == load(model.state_dict(), variant="v1.5").content_hash()
        with pytest.raises(ConversionError, match="does not state its variant"):
            load(model)

    def test_of_keras_are_read(self):
        checkpoint = load(keras_model())
        assert (checkpoint.dialect.name, checkpoint.config.variant) == ("keras.applications", "keras")

    def test_are_written_into_behind_a_prefix(self, checkpoint_of: MakeCheckpoint):
        import torch

        model = torch.nn.Module()
        model.backbone = torchvision_model()
        checkpoint = checkpoint_of(SMALL)
        checkpoint.into(model)
        assert load(model, variant="v1.5").content_hash() == checkpoint.content_hash()
        assert int(model.backbone.bn1.num_batches_tracked) == 0

    def test_of_keras_are_written_into(self, checkpoint_of: MakeCheckpoint):
        config = replace(VARIANTS["keras"], depths=(1, 1, 1, 1), num_classes=5)
        model, checkpoint = keras_model(), checkpoint_of(config)
        checkpoint.into(model)
        assert load(model).content_hash() == checkpoint.content_hash()

    def test_are_taken_to_be_of_their_librarys_variant(self, checkpoint_of: MakeCheckpoint):
        model, checkpoint = torchvision_model(), checkpoint_of(replace(SMALL, strided_layer="conv1"))
        with pytest.raises(ConversionError, match=r"holds variant v1 \(made for it\), not v1\.5.*\n.*variant=\.\.\."):
            checkpoint.into(model)
        checkpoint.into(model, variant="v1")
        assert load(model, variant="v1").content_hash() == checkpoint.content_hash()

    @pytest.mark.parametrize(
        ("change", "dtype", "problem"),
        [
            ({"num_classes": 7}, "float32", r"'fc\.weight' has the shape \(5, 2048\) in the model, and \(7, 2048\)"),
            ({"num_classes": 0}, "float32", r"the model has 'fc\.weight', and the checkpoint has no such array"),
            ({"depths": (2, 1, 1, 1)}, "float32", r"the model has no place for 'stage1\.1\.conv1\.weight'"),
            ({}, "float64", "is float64, which the model's float32 cannot hold exactly"),
        ],
    )
    def test_that_do_not_fit_stay_as_they_were(
        self, change: Mapping[str, Any], dtype: str, problem: str, checkpoint_of: MakeCheckpoint
    ):
        model = torchvision_model()
        before = load(model, variant="v1.5").content_hash()
        with pytest.raises(ConversionError, match=problem):
            checkpoint_of(replace(SMALL, **change), dtype).into(model)
        assert load(model, variant="v1.5").content_hash() == before

    def test_that_are_no_models_are_refused(self, checkpoint_of: MakeCheckpoint):
        with pytest.raises(ConversionError, match="it is of type dict; expected a model of PyTorch, Flax NNX or Keras"):
            checkpoint_of().into({})
        with pytest.raises(ConversionError, match="it is of type int; expected a file, arrays by name, or a model"):
            load(3)


class TestTensors:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    def test_of_pytorch_are_read_bit_for_bit(self, dtype: str, checkpoint_of: MakeCheckpoint):
        import torch

        from weights_convert.tensors import to_torch

        checkpoint = checkpoint_of(dtype=dtype, dialect="torchvision")
        state = {name: to_torch(torch, array) for name, array in checkpoint.arrays.items()}
        assert load(state, variant="v1.5").content_hash() == checkpoint.content_hash()

    def test_in_nested_dictionaries_are_read(self, checkpoint_of: MakeCheckpoint):
        import jax.numpy as jnp
        from flax import nnx  # noqa: F401 (JAX's arrays are recognised where Flax is loaded)

        from weights_convert.containers.trees import nest

        checkpoint = checkpoint_of(dialect="flax-linen")
        tree = nest({name: jnp.asarray(array) for name, array in checkpoint.arrays.items()})
        assert load(tree, variant="v1.5").content_hash() == checkpoint.content_hash()
        assert load({"model": tree}, variant="v1.5").content_hash() == checkpoint.content_hash()


def test_no_framework_is_imported_to_recognise_a_model():
    code = (
        "import sys, numpy, weights_convert as w\n"
        "try: w.load(object())\n"
        "except w.ConversionError: pass\n"
        "try: w.load({'a': numpy.zeros(1)})\n"
        "except w.ConversionError: pass\n"
        "assert not {'torch', 'jax', 'keras', 'flax'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_arrays_that_are_no_arrays_are_still_named(checkpoint_of: MakeCheckpoint):
    arrays = {**checkpoint_of().arrays, "conv1.weight": [1.0], 3: np.zeros(1)}
    with pytest.raises(ConversionError) as refusal:
        load(arrays, variant="v1.5")
    assert "'conv1.weight' is of type list, expected a NumPy array with a name" in refusal.value.problems
    assert "3 is of type ndarray, expected a NumPy array with a name" in refusal.value.problems
