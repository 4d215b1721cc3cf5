"""Full networks in the checkpoints that training programs write: the right logits in float64, or the exact refusal.

Sources of the layouts: PyTorch's ImageNet example (main.py); Lightning's guide to transfer learning; DeepSpeed's
`_save_checkpoint` (runtime/engine.py), whose file is mp_rank_00_model_states.pt; facebookresearch/moco
(moco/builder.py, main_moco.py); facebookresearch/dino (main_dino.py); facebookresearch/swav (main_swav.py,
src/resnet50.py); fastai's `Learner.save` and `create_body`; mmpretrain's `ImageClassifier`; detectron2
(modeling/backbone/resnet.py); torchvision's detectors; tensorflow/models (research/slim/nets/resnet_v1.py);
keras-applications 1.0.6 (resnet50.py).
"""

from __future__ import annotations

import argparse
import copy
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torchvision

from conformance.cases.inputs import noise
from impls.config import ResNetConfig
from impls.numpy.resnet import resnet as numpy_resnet
from tests.weights_convert.conftest import distance
from tests.weights_convert.containers.test_tensorflow_file import write_checkpoint
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
        lambda state: {
            "module": state, "buffer_names": [name for name in state if "running" in name], "optimizer": None,
            "param_shapes": [OrderedDict((name, tensor.shape) for name, tensor in state.items())],
            "frozen_param_shapes": None, "shared_params": {}, "frozen_param_fragments": None,
            "lr_scheduler": {"last_batch_iteration": 7}, "data_sampler": None, "random_ltd": None,
            "sparse_tensor_module_names": set(), "skipped_steps": 0, "global_steps": 7, "global_samples": 56,
            "dp_world_size": 1, "mp_world_size": 1, "ds_config": {"train_batch_size": 8}, "ds_version": "0.15.4",
        },
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


def as_slim(model: Any) -> Any:
    """Return a network of torchvision as TF-Slim builds it: strides in the last unit of a block, a SAME max pool."""
    slim = copy.deepcopy(model)
    stages = [slim.layer1, slim.layer2, slim.layer3, slim.layer4]
    for stage in stages:
        stage[0].conv2.stride = stage[0].downsample[0].stride = (1, 1)
    for stage in stages[:3]:
        stage[-1].conv2.stride = (2, 2)
        stage[-1].downsample = torch.nn.MaxPool2d(1, 2)
    slim.maxpool = torch.nn.Sequential(torch.nn.ConstantPad2d((0, 1, 0, 1), -np.inf), torch.nn.MaxPool2d(3, 2))
    return slim


def slim_arrays(state: State) -> dict[str, np.ndarray]:
    """Return the variables of TF-Slim's resnet_v1_50 (research/slim/nets/resnet_v1.py) with a network's numbers."""
    arrays = {"global_step": np.array(7)}
    leaves = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        path = re.sub(
            r"^layer(\d)\.(\d+)\.", lambda match: f"block{match[1]}/unit_{int(match[2]) + 1}/bottleneck_v1/", path
        )
        path = re.sub(
            r"bn(\d)$|downsample.1$", lambda m: f"conv{m[1]}/BatchNorm" if m[1] else "shortcut/BatchNorm", path
        )
        path = path.replace("downsample.0", "shortcut").replace("fc", "logits")
        array = tensor.numpy()
        if leaf == "weight" and array.ndim > 1:
            kernel = array if array.ndim == 4 else array[:, :, None, None]
            arrays[f"resnet_v1_50/{path}/weights"] = kernel.transpose(2, 3, 1, 0)
        elif leaf == "weight":
            arrays[f"resnet_v1_50/{path}/gamma"] = array
        elif leaf != "num_batches_tracked":
            arrays[f"resnet_v1_50/{path}/{'biases' if path == 'logits' else leaves[leaf]}"] = array
    return arrays


def test_a_checkpoint_of_tf_slim_gives_its_logits_by_the_configuration_that_the_message_names(
    model: Any, tmp_path: Path
):
    write_checkpoint(tmp_path / "resnet_v1_50.ckpt", slim_arrays(model.state_dict()), version=2)
    with pytest.raises(
        ConversionError, match="it is of TF-Slim's resnet_v1, in which stages 1 to 3 stride in"
    ) as refusal:
        load(tmp_path / "resnet_v1_50.ckpt", variant="v1")
    (call,) = re.findall(r"config=(ResNetConfig\(.*\))\)", refusal.value.advice)
    config = eval(call, {"ResNetConfig": ResNetConfig})  # as a user copies it
    checkpoint = load(tmp_path / "resnet_v1_50.ckpt", config=config)
    with torch.no_grad():
        expected = as_slim(model).double()(torch.from_numpy(IMAGE)).numpy()
    assert distance(numpy_resnet(config, checkpoint)(IMAGE), expected) < LIMIT
    assert distance(outputs(model, with_head=True), expected) > 1e-3


def test_old_weights_of_keras_give_their_features_by_the_configuration_that_the_message_names(tmp_path: Path):
    """The layers of keras-applications 1.0.6, resnet50.py: keras.applications' own with other names and epsilons."""
    import keras
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        modern = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg", input_shape=(64, 64, 3))
        text = json.dumps(modern.get_config()).replace("1.001e-05", "0.001")
        for layer in modern.layers:
            text = text.replace(f'"{layer.name}"', f'"{old_name(layer.name)}"')
        old = keras.Model.from_config(json.loads(text))
    finally:
        keras.config.set_dtype_policy(policy)
    random = np.random.default_rng(3)
    for variable in old.variables:
        noise = random.normal(0, 0.1, variable.shape)
        variable.assign(variable.numpy() + (noise if variable.path.rpartition("/")[2] != "kernel" else 0))
    with h5py.File(tmp_path / "old.h5", "w") as file:
        save_weights_to_hdf5_group(file, old)
    with pytest.raises(ConversionError, match=r"all norms have an eps of 1e-3, where variant keras has 1\.001e-5"):
        load(tmp_path / "old.h5", variant="keras")
    config = ResNetConfig(num_classes=0, strided_layer="conv1", conv_bias=True, norm_eps=0.001)
    checkpoint = load(tmp_path / "old.h5", config=config)
    expected = keras.ops.convert_to_numpy(old(IMAGE.transpose(0, 2, 3, 1), training=False))
    assert distance(numpy_resnet(config, checkpoint)(IMAGE), expected) < LIMIT


def old_name(name: str) -> str:
    """Return the name that keras-applications 1.0.6 gave to a layer."""
    if match := re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", name):
        branch = "1" if match[3] == "0" else f"2{'abc'[int(match[3]) - 1]}"
        kind = "res" if match[4] == "conv" else "bn"
        return f"{kind}{match[1]}{'abcdef'[int(match[2]) - 1]}_branch{branch}"
    return {"conv1_conv": "conv1", "conv1_bn": "bn_conv1"}.get(name, name)


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
