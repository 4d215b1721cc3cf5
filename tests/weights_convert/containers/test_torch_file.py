"""PyTorch's files: old and new ones are read, and no code in them is run."""

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
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_files_of_old_and_new_versions_are_read(zipped: bool, dtype: torch.dtype, tmp_path: Path):
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    tensors = {"a": tensor, "transposed": tensor.T, "parameter": torch.nn.Parameter(tensor.float())}
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    arrays, metadata = containers.read(tmp_path / "a.pth")
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "a": str(dtype).removeprefix("torch."),
        "transposed": str(dtype).removeprefix("torch."),
        "parameter": "float32",
    }
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(arrays[name].astype(np.float64), tensor.detach().double().numpy())
    assert metadata == {}


def test_a_file_of_ours_is_a_state_dict(tmp_path: Path, random_bits: Callable[..., np.ndarray]):
    array = random_bits((3, 4), "bfloat16", 0)
    torch_file.write(tmp_path / "a.pth", {"a": array.T}, {"variant": "v1"})
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    assert list(state) == ["a"]
    assert state["a"].is_contiguous()
    np.testing.assert_array_equal(state["a"].view(torch.int16).numpy(), array.T.view(np.int16))


def test_a_read_only_array_is_saved_without_a_warning(tmp_path: Path):
    array = np.zeros(3)
    array.flags.writeable = False  # PyTorch warns of a tensor that shares its memory
    torch_file.write(tmp_path / "a.pth", {"a": array}, {})


@pytest.mark.parametrize("writer", ["torch", "old torch", "pickle"])
def test_code_in_a_file_is_not_run(writer: str, tmp_path: Path):
    path, created = tmp_path / "a.pth", tmp_path / "created"
    content = {"conv1.weight": Program(created)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(ConversionError) as refusal:
        containers.read(path)
    assert not created.exists()
    (problem,) = refusal.value.problems
    assert problem.startswith("it holds more than tensors: reading it would call ")
    assert len(str(refusal.value).splitlines()) == 2
    with path.open("rb") as file:
        if writer == "pickle":
            pickle.load(file)  # noqa: S301 (shows that the code would have run)
            assert created.exists()


def test_a_whole_model_is_refused(tmp_path: Path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(ConversionError, match=r"would call torch\.nn\.modules\.linear\.Linear, which is refused\nSave"):
        containers.read(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ([torch.zeros(1)], ("it is of type list, expected a state_dict",)),
        (torch.zeros(1), ("it is of type Tensor, expected a state_dict",)),
        (
            {"weights": {"a": torch.zeros(1)}, "epoch": 3, 1: torch.zeros(1)},
            (
                "'weights' is of type dict, expected a tensor with a name",
                "'epoch' is of type int, expected a tensor with a name",
                "1 is of type Tensor, expected a tensor with a name",
            ),
        ),
    ],
)
def test_anything_but_a_state_dict_is_refused(content: object, problems: tuple[str, ...], tmp_path: Path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ConversionError, match=r"Save `model\.state_dict\(\)` alone") as refusal:
        containers.read(tmp_path / "a.pth")
    assert refusal.value.problems == problems


def test_a_missing_pytorch_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ConversionError,
        match=r"needs torch, which is not installed\nInstall it with: pip install 'resnet-parity\[torch\]'",
    ):
        containers.read(tmp_path / "a.pth")
    with pytest.raises(ConversionError, match=r"b\.pth: it needs torch"):
        containers.write(tmp_path / "b.pth", {"a": np.zeros(1)}, {})
    assert not (tmp_path / "b.pth").exists()


STATE = {"conv1.weight": torch.ones(2), "bn1.bias": torch.zeros(2)}


@pytest.mark.parametrize(
    "content",
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
    ids=lambda content: ", ".join(map(str, content))[:40],
)
def test_training_checkpoints_are_unwrapped(content: dict[str, object], tmp_path: Path):
    torch.save(content, tmp_path / "a.pth")
    arrays, _ = containers.read(tmp_path / "a.pth")
    assert {name: array.tolist() for name, array in arrays.items()} == {"conv1.weight": [1, 1], "bn1.bias": [0, 0]}


@pytest.mark.parametrize(("last", "average"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
@pytest.mark.parametrize("averaged", [False, True])
def test_averaged_weights_are_read_on_request(last: str, average: str, averaged: bool, tmp_path: Path):
    torch.save({average: {"module.a": torch.zeros(1)}, last: {"a": torch.ones(1)}}, tmp_path / "a.pth")
    arrays, metadata = containers.read(tmp_path / "a.pth", averaged)
    assert arrays["a"].tolist() == [0 if averaged else 1]
    assert metadata == {"other_weights": last if averaged else average}


@pytest.mark.parametrize("content", [STATE, {"state_dict": STATE}, {"state_dict": STATE, "state_dict_ema": None}])
def test_missing_averaged_weights_are_reported(content: dict[str, object], tmp_path: Path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ConversionError, match=r"it holds no averaged weights \(state_dict_ema or model_ema\)"):
        containers.read(tmp_path / "a.pth", averaged=True)


def test_a_prefix_that_not_all_names_share_stays(tmp_path: Path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pth")
    assert list(containers.read(tmp_path / "a.pth")[0]) == ["module.a", "b"]


def test_a_bomb_is_refused_before_it_is_read(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(ConversionError, match="it promises 10,000,000 bytes and holds"):
        containers.read(tmp_path / "a.pth")
