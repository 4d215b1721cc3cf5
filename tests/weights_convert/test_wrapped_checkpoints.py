"""Full networks in the checkpoints that training programs write: the right logits in float64, or the exact refusal.

Sources of the layouts: PyTorch's ImageNet example (main.py); Lightning's guide to transfer learning; DeepSpeed's
`save_checkpoint`; facebookresearch/moco (moco/builder.py, main_moco.py); facebookresearch/dino (main_dino.py);
facebookresearch/swav (main_swav.py, src/resnet50.py); fastai's `Learner.save` and `create_body`; mmpretrain's
`ImageClassifier`; detectron2 (modeling/backbone/resnet.py); torchvision's detectors.
"""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from conformance.cases.inputs import noise
from tests.weights_convert.conftest import distance
from tests.weights_convert.test_peers import LIMIT, calibrated
from weights_convert import ConversionError, load

pytestmark = pytest.mark.slow

State = Mapping[str, Any]
IMAGE = noise(64, 64, 2, 7).images.astype(np.float64)


class Settings(dict[str, object]):
    """A class as a library of settings has it."""


@pytest.fixture(scope="module")
def model() -> Any:
    return calibrated(lambda: torchvision.models.resnet50(num_classes=10), "bn3").eval()


def outputs(model: Any, with_head: bool) -> np.ndarray:
    """Return the logits, or the pooled features, in float64."""
    double = copy.deepcopy(model).double()
    if not with_head:
        double.fc = torch.nn.Identity()
    with torch.no_grad():
        return double(torch.from_numpy(IMAGE)).numpy()


def under(prefix: str, state: State) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state.items()}


def body(state: State) -> dict[str, Any]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def head(state: State) -> dict[str, Any]:
    return {name.removeprefix("fc."): tensor for name, tensor in state.items() if name.startswith("fc.")}


def by_position(state: State) -> dict[str, Any]:
    """Return the names that nn.Sequential(*model.children()) gives: conv1, bn1, relu, maxpool, layer1, ..."""
    renamed = {re.sub(r"^layer(\d)", lambda match: str(int(match[1]) + 3), name): t for name, t in body(state).items()}
    return {re.sub(r"^bn1\.", "1.", re.sub(r"^conv1\.", "0.", name)): tensor for name, tensor in renamed.items()}


def mlp(prefix: str, *layers: int) -> dict[str, Any]:
    return {f"{prefix}.{layer}.{leaf}": torch.rand(4, 4) for layer in layers for leaf in ("weight", "bias")}


def other(state: State) -> dict[str, Any]:
    return {name: tensor + 1 for name, tensor in state.items()}


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
WRAPPERS: dict[str, tuple[Callable[[State], Any], dict[str, Any], bool]] = {
    "PyTorch's ImageNet example": (
        lambda state: {
            "epoch": 3, "arch": "resnet50", "state_dict": under("module.", state), "best_acc1": torch.tensor(71.0),
            "optimizer": OPTIMIZER, "scheduler": {"last_epoch": 3},
        },
        {"drop": ["best_acc1"]},
        True,
    ),
    "torch.compile and DistributedDataParallel": (lambda state: under("_orig_mod.module.", state), {}, True),
    "DeepSpeed": (
        lambda state: {"module": state, "ds_config": {}, "ds_version": "0.15", "optimizer": None, "global_steps": 7},
        {},
        True,
    ),
    "Lightning's transfer learning": (
        lambda state: {
            "epoch": 1, "global_step": 2, "pytorch-lightning_version": "2.6",
            "state_dict": under("feature_extractor.", by_position(state)) | under("classifier.", head(state)),
            "hyper_parameters": Settings(lr=0.1), "hparams_name": "kwargs", "loops": {}, "callbacks": {},
            "optimizer_states": [OPTIMIZER], "lr_schedulers": [],
        },
        {"head": "classifier"},
        True,
    ),
    "a dropout before the classifier": (lambda state: body(state) | under("fc.1.", head(state)), {}, True),
    "MoCo v2": (
        lambda state: {
            "epoch": 200, "arch": "resnet50", "optimizer": OPTIMIZER,
            "state_dict": under("module.encoder_q.", body(state)) | mlp("module.encoder_q.fc", 0, 2)
            | under("module.encoder_k.", other(body(state))) | mlp("module.encoder_k.fc", 0, 2)
            | {"module.queue": torch.rand(4, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)},
        },
        {"entry": "encoder_q", "drop_head": True},
        False,
    ),
    "DINO": (
        lambda state: {
            "student": under("module.backbone.", other(body(state))) | mlp("module.head.mlp", 0, 2),
            "teacher": under("backbone.", body(state)) | mlp("head.mlp", 0, 2),
            "optimizer": OPTIMIZER, "epoch": 3, "args": argparse.Namespace(lr=1),
            "dino_loss": {"center": torch.rand(1, 4)},
        },
        {"entry": "teacher.backbone"},
        False,
    ),
    "SwAV": (
        lambda state: {
            "epoch": 3, "optimizer": OPTIMIZER, "amp": {"loss_scaler0": {"loss_scale": 1.0}},
            "state_dict": under("module.", body(state)) | mlp("module.projection_head", 0, 1, 3)
            | {"module.prototypes.weight": torch.rand(4, 4)},
        },
        {"drop": ["projection_head", "prototypes"]},
        False,
    ),
    "fastai": (
        lambda state: {"model": under("0.", by_position(state)) | mlp("1", 2, 4, 6, 8), "opt": OPTIMIZER},
        {"entry": "model.0"},
        False,
    ),
    "children in a Sequential": (by_position, {}, False),
    "mmpretrain": (
        lambda state: {
            "meta": {"epoch": 3}, "message_hub": Settings(), "optimizer": OPTIMIZER, "param_schedulers": [],
            "state_dict": under("backbone.", body(state)) | under("head.fc.", head(state)),
        },
        {},
        True,
    ),
    "a detector of torchvision": (
        lambda state: under("backbone.body.", body(state)) | mlp("rpn.head", 0) | mlp("roi_heads.box_head", 6, 7),
        {"entry": "backbone.body"},
        False,
    ),
}  # fmt: skip
"""Files that each program writes, the options that read it, and whether the result has a classifier."""


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_network_in_a_wrapper_gives_its_logits(name: str, model: Any, tmp_path: Path):
    write, options, with_head = WRAPPERS[name]
    torch.save(write(model.state_dict()), tmp_path / "a.pth")
    checkpoint = load(tmp_path / "a.pth", variant="v1.5", **options)
    assert checkpoint.config.num_classes == (10 if with_head else 0)
    for framework in ("numpy", "torch"):
        got = logits(framework, "v1.5", checkpoint)
        assert distance(got, outputs(model, with_head)) < LIMIT, framework


def logits(framework: str, variant: str, checkpoint: Any) -> np.ndarray:
    """Return what an implementation computes with a checkpoint of any number of classes."""
    from impls.config import named_config

    if framework == "numpy":
        from impls.numpy.resnet import resnet

        return resnet(named_config(variant, checkpoint.config.num_classes), checkpoint)(IMAGE)
    from impls.torch.resnet import resnet as torch_resnet

    config = named_config(variant, checkpoint.config.num_classes, dtype="float64")
    with torch.no_grad():
        return torch_resnet(config, checkpoint).eval()(torch.from_numpy(IMAGE)).numpy()


@pytest.mark.parametrize("name", [name for name, (_, options, _) in WRAPPERS.items() if options])
def test_a_wrapper_that_needs_options_names_one(name: str, model: Any, tmp_path: Path):
    write, options, _ = WRAPPERS[name]
    torch.save(write(model.state_dict()), tmp_path / "a.pth")
    with pytest.raises(ConversionError) as refusal:
        load(tmp_path / "a.pth", variant="v1.5")
    named = {"entry": "--entry ", "drop": "--drop ", "head": "--head ", "drop_head": "--"}
    assert any(named[option] in refusal.value.advice for option in options), refusal.value


def test_a_network_of_detectron2_gives_the_logits_of_its_strides(model: Any, tmp_path: Path):
    """The default, STRIDE_IN_1X1, makes the network v1: here torchvision's with its strides moved."""
    moved = copy.deepcopy(model)
    for layer in (moved.layer2, moved.layer3, moved.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = layer[0].conv2.stride, layer[0].conv1.stride
    state = {}
    for name, tensor in body(moved.state_dict()).items():
        name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name).replace("downsample.0.", "shortcut.")
        name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
        state[re.sub(r"bn(\d)\.", r"conv\1.norm.", name).replace("downsample.1.", "shortcut.norm.")] = tensor
    torch.save({"model": under("backbone.bottom_up.", state) | mlp("proposal_generator", 0)}, tmp_path / "a.pth")
    checkpoint = load(tmp_path / "a.pth", variant="v1", entry="bottom_up")
    assert distance(logits("numpy", "v1", checkpoint), outputs(moved, False)) < LIMIT


@pytest.mark.parametrize("form", ["nested", "flat", "sequential"])
@pytest.mark.parametrize("ending", [".weights.h5", ".h5"])
def test_a_transfer_model_of_keras_gives_its_logits(form: str, ending: str, tmp_path: Path):
    import warnings

    import keras

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(64, 64, 3))
        pool, dense = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10, name="own_classes")
        image = keras.Input((64, 64, 3))
        if form == "sequential":
            model = keras.Sequential([image, base, pool, keras.layers.Dropout(0.2), dense])
        elif form == "nested":
            model = keras.Model(image, dense(pool(base(image, training=False))))
        else:
            model = keras.Model(base.input, dense(pool(base.output)))
    finally:
        keras.config.set_dtype_policy(policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that .h5 is a legacy format
        model.save(tmp_path / "a.h5") if ending == ".h5" else model.save_weights(tmp_path / f"a{ending}")
    with pytest.raises(ConversionError, match=r"--head \S*own_classes"):
        load(tmp_path / f"a{ending}")
    checkpoint = load(tmp_path / f"a{ending}", head="own_classes")
    expected = keras.ops.convert_to_numpy(model(IMAGE.transpose(0, 2, 3, 1), training=False))
    assert distance(logits("numpy", "keras", checkpoint), expected) < LIMIT
