"""Files that the libraries write of networks with other functions: refused, or read as the right variant.

Each file has the names and shapes of a ResNet-50 with fewer blocks, and only its configuration says what it computes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.cases.inputs import noise
from impls.config import VARIANTS
from impls.numpy import resnet as numpy_resnet
from tests.weights_convert.configurations.keras_networks import randomize
from tests.weights_convert.conftest import distance
from weights_convert import Checkpoint, ConversionError, load

pytestmark = pytest.mark.slow

LIMIT = 1e-12
"""Largest relative L2 error in float64, as in test_peers.py."""

Save = Callable[..., tuple[Path, np.ndarray]]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return noise(64, 64, 2, 0).images.astype(np.float64)


def our_logits(read: Checkpoint, images: np.ndarray) -> np.ndarray:
    return numpy_resnet(read.config, weights=read)(images)


def torch_logits(model: Any, images: np.ndarray) -> np.ndarray:
    """Give a PyTorch model random statistics, and return its logits in float64."""
    import torch

    random = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5, generator=random)
            torch.nn.init.normal_(layer.bias, std=0.2, generator=random)
            torch.nn.init.normal_(layer.running_mean, std=0.2, generator=random)
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5, generator=random)
    with torch.no_grad():
        output = model.double().eval()(torch.from_numpy(images))
    return getattr(output, "logits", output).numpy()


class TestTransformers:
    @pytest.fixture
    def save(self, images: np.ndarray, tmp_path: Path) -> Save:
        import transformers

        def save(**changes: Any) -> tuple[Path, np.ndarray]:
            sizes = {"embedding_size": 8, "hidden_sizes": [32, 64, 128, 256], "depths": [2, 1, 1, 1], "num_labels": 5}
            model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes | changes))
            logits = torch_logits(model, images)
            model.save_pretrained(tmp_path)
            return tmp_path, logits

        return save

    @pytest.mark.parametrize(("in_bottleneck", "variant"), [(False, "v1.5"), (True, "v1")])
    def test_a_folder_is_read_as_its_variant(self, in_bottleneck: bool, variant: str, save: Save, images: np.ndarray):
        folder, logits = save(downsample_in_bottleneck=in_bottleneck)
        read = load(folder)
        assert read.config.variant == variant
        assert distance(our_logits(read, images), logits) < LIMIT

    @pytest.mark.parametrize(
        ("field", "value", "text"),
        [
            ("downsample_in_first_stage", True, "downsample_in_first_stage is true (the stride of stage 1"),
            ("hidden_act", "gelu", 'hidden_act is "gelu" (the activation of the stem'),
            ("hidden_act", "leaky_relu", 'hidden_act is "leaky_relu" (the activation of the stem'),
        ],
    )
    def test_another_function_is_refused(self, field: str, value: Any, text: str, save: Save, images: np.ndarray):
        folder, logits = save(**{field: value})
        for variant in (None, *VARIANTS):
            with pytest.raises(ConversionError) as error:
                load(folder, variant=variant)
            assert text in str(error.value)
        (folder / "config.json").unlink()  # then nothing says otherwise, and the user answers for it
        for variant in ("v1.5", "v1"):
            assert distance(our_logits(load(folder, variant=variant), images), logits) > 1e6 * LIMIT


class TestTimm:
    @pytest.fixture
    def save(self, images: np.ndarray, tmp_path: Path) -> Save:
        import timm

        def save(**changes: Any) -> tuple[Path, np.ndarray]:
            model = timm.create_model("resnet50", **{"layers": (1, 1, 1, 1), "num_classes": 5} | changes)
            logits = torch_logits(model, images)
            timm.models.save_for_hf(model, os.fspath(tmp_path), safe_serialization=True)
            return tmp_path, logits

        return save

    def test_a_folder_is_read_as_its_variant(self, save: Save, images: np.ndarray):
        folder, logits = save(drop_rate=0.1, drop_path_rate=0.1)
        read = load(folder)
        assert read.config.variant == "v1.5"
        assert distance(our_logits(read, images), logits) < LIMIT

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"output_stride": 16}, "model_args.output_stride is 16 (the stride of the whole network"),
            ({"act_layer": "silu"}, 'model_args.act_layer is "silu" (every activation)'),
            ({"avg_down": True}, "model_args.avg_down is true"),
            ({"global_pool": "max"}, 'global_pool is "max" (the pooling before the classifier)'),
        ],
    )
    def test_another_function_is_refused(self, changes: dict[str, Any], text: str, save: Save):
        folder, _ = save(**changes)
        for variant in (None, "v1.5", "v1"):
            with pytest.raises(ConversionError) as error:
                load(folder, variant=variant)
            assert text in "\n".join(error.value.problems)

    def test_a_model_with_blur_has_the_same_names(self, tmp_path: Path):
        """The name alone tells the model with blur from the plain one."""
        import timm

        timm.models.save_for_hf(timm.create_model("resnetblur50"), os.fspath(tmp_path), safe_serialization=True)
        with pytest.raises(ConversionError, match=r'architecture is "resnetblur50" \(the model\)'):
            load(tmp_path)


class TestKerasHub:
    @pytest.fixture
    def save(self, images: np.ndarray, tmp_path: Path) -> Save:
        import keras

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the libraries it imports
            import keras_hub

        def save(head: dict[str, Any], **changes: Any) -> tuple[Path, np.ndarray]:
            backbone = keras_hub.models.ResNetBackbone(
                **{
                    "input_conv_filters": [64],
                    "input_conv_kernel_sizes": [7],
                    "stackwise_num_filters": [64, 128, 256, 512],
                    "stackwise_num_blocks": [1, 1, 1, 1],
                    "stackwise_num_strides": [1, 2, 2, 2],
                    "block_type": "bottleneck_block",
                    "dtype": "float64",
                }
                | changes
            )
            model = keras_hub.models.ResNetImageClassifier(backbone, 5, dtype="float64", **head)
            randomize(backbone)
            model.save_to_preset(str(tmp_path / "a"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the model was not built
                model.save(tmp_path / "a.keras")
            output = model(images.transpose(0, 2, 3, 1), training=False)
            return tmp_path, keras.ops.convert_to_numpy(output)

        return save

    def test_a_preset_and_a_model_are_read_as_their_variant(self, save: Save, images: np.ndarray):
        folder, logits = save({})
        for place in ("a", "a.keras"):
            read = load(folder / place)
            assert read.config.variant == "v1.5"
            assert distance(our_logits(read, images), logits) < LIMIT

    @pytest.mark.parametrize(
        ("head", "changes", "text"),
        [
            (
                {},
                {"stackwise_num_strides": [1, 2, 2, 1]},
                "stackwise_num_strides is [1, 2, 2, 1] (the strides of the st",
            ),
            ({"pooling": "max"}, {}, 'pooling is "max" (the pooling before the classifier)'),
            ({"activation": "relu"}, {}, 'activation is "relu" (the activation after the logits'),
            ({}, {"input_conv_kernel_sizes": [5]}, "input_conv_kernel_sizes is [5] (the kernels of the stem)"),
            ({}, {"block_type": "bottleneck_block_vd"}, 'block_type is "bottleneck_block_vd" (the blocks)'),
        ],
    )
    def test_another_function_is_refused(self, head: dict[str, Any], changes: dict[str, Any], text: str, save: Save):
        folder, _ = save(head, **changes)
        for place in ("a", "a.keras"):
            for variant in (None, "v1.5"):
                with pytest.raises(ConversionError) as error:
                    load(folder / place, variant=variant)
                assert text in "\n".join(error.value.problems)
