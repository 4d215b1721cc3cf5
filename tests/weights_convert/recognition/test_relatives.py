"""Related networks, built by their libraries, are each told in one line."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from weights_convert import inspect

TIMM = {
    "resnet18": "basic blocks",
    "resnet34": "basic blocks",
    "resnext50_32x4d": "ResNeXt",
    "wide_resnet50_2": "wide ResNet",
    "resnet50d": "deep stem of three 3x3 convolutions",
    "seresnet50": "squeeze-and-excitation",
    "ecaresnet50d": "efficient channel attention",
    "resnetv2_50": "pre-activation",
    "resnet50_gn": "no running statistics",
    "resnest50d": "split attention",
    "res2net50_26w_4s": "Res2Net",
    "resnet50_clip": "CLIP's ResNet",
}
"""Networks of timm, each with a part of the line that tells it."""


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("prefix", ["", "state_dict.module."])
def test_a_relative_of_timm_is_told(name: str, prefix: str):
    import timm
    import torch

    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    arrays = {prefix + key: np.zeros(tensor.shape, np.float32) for key, tensor in state.items()}
    inspection = inspect(arrays)
    (problem,) = inspection.problems
    assert problem.startswith("it is ")
    assert TIMM[name] in problem
    assert inspection.advice == ""


def test_quantized_weights_are_told(tmp_path: Path):
    import torch
    import torchvision

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantized tensors are deprecated
        model = torchvision.models.quantization.resnet50(weights=None, quantize=True)
        torch.save(model.state_dict(), tmp_path / "a.pth")
    (problem,) = inspect(tmp_path / "a.pth").problems
    assert problem.startswith("it is a quantized network")


FOREIGN = {
    "Caffe's numbered names": [f"res{stage}b{block}_branch2a.kernel" for stage in (3, 4) for block in (1, 2)],
    "pre-activation": [
        f"resnet/block{block}/unit01/a/standardized_conv2d/kernel" for block in (1, 2, 3, 4)
    ],  # Big Transfer
}
"""Names of libraries that cannot be installed, each with a part of the line that tells it.

Sources: broadinstitute/keras-resnet, keras_resnet/blocks/_2d.py; google-research/big_transfer, bit_jax/tf2jax.py.
"""


@pytest.mark.parametrize("name", FOREIGN)
def test_names_of_other_functions_are_told(name: str, tmp_path: Path):
    np.savez(tmp_path / "a.npz", **{key: np.zeros(2, np.float32) for key in FOREIGN[name]})
    (problem,) = inspect(tmp_path / "a.npz").problems
    assert name in problem


def test_a_damaged_network_is_no_relative(checkpoint_of):
    arrays = dict(checkpoint_of(dialect="torchvision").arrays)
    arrays["layer1.0.conv2.weight"] = arrays["layer1.0.conv2.weight"][:, :2]
    assert inspect(arrays).problems == ("'layer1.0.conv2.weight' has the shape (4, 2, 3, 3), expected (4, 4, 3, 3)",)
    arrays = {name: array for name, array in arrays.items() if "running_mean" not in name}
    assert len(inspect(arrays).problems) > 4


def test_what_lies_beside_a_network_makes_it_no_relative(checkpoint_of):
    """Layers of a decoder have the names of a deep stem, in segmentation_models_pytorch."""
    encoder = {f"encoder.{name}": array for name, array in checkpoint_of(dialect="torchvision").arrays.items()}
    decoder = {f"decoder.blocks.{i}.conv1.{k}.weight": np.zeros(2, np.float32) for i in range(5) for k in (0, 1)}
    assert inspect(encoder | decoder).problems == ("'decoder.blocks' lies beside the network 'encoder' (10 arrays)",)
