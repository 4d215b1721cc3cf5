"""PyTorch's files: old and new ones are read, and nothing in them is ever run."""

from __future__ import annotations

import argparse
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from weights_convert import ConversionError, containers
from weights_convert.containers import torch_file


class Program:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_files_of_every_age_are_read(zipped: bool, dtype: torch.dtype, tmp_path: Path):
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    held = {"a": tensor, "turned": tensor.T, "trained": torch.nn.Parameter(tensor.float())}
    torch.save(held, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    arrays, metadata = containers.read(tmp_path / "a.pth")
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "a": str(dtype).removeprefix("torch."),
        "turned": str(dtype).removeprefix("torch."),
        "trained": "float32",
    }
    for name, tensor in held.items():
        np.testing.assert_array_equal(arrays[name].astype(np.float64), tensor.detach().double().numpy())
    assert metadata == {}


def test_a_file_of_ours_is_a_state_dict(tmp_path: Path, random_bits: Callable[..., np.ndarray]):
    array = random_bits((3, 4), "bfloat16", 0)
    torch_file.write(tmp_path / "a.pth", {"a": array.T}, {"variant": "v1"})
    held = torch.load(tmp_path / "a.pth", weights_only=True)
    assert list(held) == ["a"]
    assert held["a"].is_contiguous()
    np.testing.assert_array_equal(held["a"].view(torch.int16).numpy(), array.T.view(np.int16))


def test_a_saved_array_is_no_view_of_the_model(tmp_path: Path):
    array = np.zeros(3)
    array.flags.writeable = False  # PyTorch would warn
    torch_file.write(tmp_path / "a.pth", {"a": array}, {})


@pytest.mark.parametrize("writer", ["torch", "old torch", "pickle"])
def test_a_program_is_not_run(writer: str, tmp_path: Path):
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    held = {"conv1.weight": Program(trace)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(held, protocol=2))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(ConversionError) as refusal:
        containers.read(path)
    assert not trace.exists()
    (problem,) = refusal.value.problems
    assert problem.startswith("it holds more than tensors: reading it would call ")
    assert len(str(refusal.value).splitlines()) == 2
    with path.open("rb") as file:
        if writer == "pickle":
            pickle.load(file)  # noqa: S301 (shows that the program would have run)
            assert trace.exists()


def test_a_whole_model_is_refused(tmp_path: Path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(ConversionError, match=r"would call torch\.nn\.modules\.linear\.Linear, which is refused\nSave"):
        containers.read(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("held", "problems"),
    [
        ([torch.zeros(1)], ("it is of type list, where a state_dict is expected",)),
        (torch.zeros(1), ("it is of type Tensor, where a state_dict is expected",)),
        (
            {"weights": {"a": torch.zeros(1)}, "epoch": 3, 1: torch.zeros(1)},
            (
                "'weights' is of type dict, where a tensor with a name is expected",
                "'epoch' is of type int, where a tensor with a name is expected",
                "1 is of type Tensor, where a tensor with a name is expected",
            ),
        ),
    ],
)
def test_what_is_no_state_dict_is_refused(held: object, problems: tuple[str, ...], tmp_path: Path):
    torch.save(held, tmp_path / "a.pth")
    with pytest.raises(ConversionError, match=r"Save `model\.state_dict\(\)` alone") as refusal:
        containers.read(tmp_path / "a.pth")
    assert refusal.value.problems == problems


def test_without_pytorch_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ConversionError, match=r"needs torch, which is not installed\npip install 'resnet-parity\[torch\]'"
    ):
        containers.read(tmp_path / "a.pth")
    with pytest.raises(ConversionError, match=r"b\.pth: it needs torch"):
        containers.write(tmp_path / "b.pth", {"a": np.zeros(1)}, {})
    assert not (tmp_path / "b.pth").exists()


STATE = {"conv1.weight": torch.ones(2), "bn1.bias": torch.zeros(2)}


@pytest.mark.parametrize(
    "held",
    [
        {"epoch": 3, "arch": "resnet50", "state_dict": STATE, "optimizer": {"state": {}, "param_groups": []}},
        {"epoch": 3, "state_dict": STATE, "args": argparse.Namespace(model="resnet50"), "version": 2},  # timm
        {"model": STATE, "optimizer": {}, "lr_scheduler": {}, "epoch": 3},  # torchvision's references
        {"model_ema": {"n_averaged": torch.tensor(3), **{f"module.{name}": value for name, value in STATE.items()}}},
        {"state_dict_ema": STATE},
        {f"module.{name}": value for name, value in STATE.items()},
        {f"_orig_mod.{name}": value for name, value in STATE.items()},
        {f"module._orig_mod.{name}": value for name, value in STATE.items()},
        {f"_orig_mod.module.{name}": value for name, value in STATE.items()},
    ],
    ids=lambda held: ", ".join(map(str, held))[:40],
)
def test_training_checkpoints_are_unwrapped(held: dict[str, object], tmp_path: Path):
    torch.save(held, tmp_path / "a.pth")
    arrays, _ = containers.read(tmp_path / "a.pth")
    assert {name: array.tolist() for name, array in arrays.items()} == {"conv1.weight": [1, 1], "bn1.bias": [0, 0]}


@pytest.mark.parametrize(("last", "average"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
@pytest.mark.parametrize("averaged", [False, True])
def test_averaged_weights_are_read_where_they_are_asked_for(last: str, average: str, averaged: bool, tmp_path: Path):
    torch.save({average: {"module.a": torch.zeros(1)}, last: {"a": torch.ones(1)}}, tmp_path / "a.pth")
    arrays, metadata = containers.read(tmp_path / "a.pth", averaged)
    assert arrays["a"].tolist() == [0 if averaged else 1]
    assert metadata == {"other_weights": last if averaged else average}


@pytest.mark.parametrize("held", [STATE, {"state_dict": STATE}, {"state_dict": STATE, "state_dict_ema": None}])
def test_averaged_weights_that_are_not_there(held: dict[str, object], tmp_path: Path):
    torch.save(held, tmp_path / "a.pth")
    with pytest.raises(ConversionError, match=r"it holds no averaged weights \(state_dict_ema or model_ema\)"):
        containers.read(tmp_path / "a.pth", averaged=True)


def test_a_prefix_of_some_names_only_stays(tmp_path: Path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pth")
    assert list(containers.read(tmp_path / "a.pth")[0]) == ["module.a", "b"]


def test_a_bomb_is_refused_before_it_is_read(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(ConversionError, match="it promises 10,000,000 bytes and holds"):
        containers.read(tmp_path / "a.pth")
