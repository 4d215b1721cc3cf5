"""PyTorch's files: old and new ones are read, and no code in them is run."""

from __future__ import annotations

import argparse
import collections
import pickle
import re
import sys
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from weights_convert import ConversionError, containers
from weights_convert.containers import torch_file
from weights_convert.metadata import other_values


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
    with pytest.raises(ConversionError, match=r"it is an object of torch\.nn\.modules\.linear\.Linear, .*\nSave"):
        containers.read(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ([torch.zeros(1)], ("it is of type list, expected a state_dict",)),
        (torch.zeros(1), ("it is of type Tensor, expected a state_dict",)),
        ({"epoch": 3}, ("it holds no tensors by name ('epoch': of type int)",)),
        ({}, ("it holds no tensors by name (it is empty)",)),
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


class Settings(dict[str, object]):
    """A class as another library has it, which is filled like a dict."""


class Progress:
    def __init__(self) -> None:
        self.steps = [1, 2]


class Losses(list[float]):
    pass


VALUES: dict[str, tuple[object, str]] = {
    "epoch": (3, "of type int"),
    "arch": ("resnet50", "of type str"),
    "best_acc": (np.float64(0.5), r"of type numpy\.\S*scalar"),
    "path": (Path("a"), r"of type pathlib\.\S*"),
    "args": (argparse.Namespace(lr=0.1), "of type argparse.Namespace"),
    "seen": (collections.defaultdict(list, {"a": [1]}), "of type collections.defaultdict"),
    "history": ([1.0, {"a": 2}], "of type list"),
    "hyper_parameters": (Settings(lr=0.1), r"an object of \S+\.Settings"),
    "progress": (Progress(), r"an object of \S+\.Progress"),
    "losses": (Losses([1.0]), r"an object of \S+\.Losses"),
    "numbers": (np.zeros(3), r"an object of numpy\.\S*"),
    "loss": (torch.nn.CrossEntropyLoss(), r"an object of torch\.nn\.modules\.loss\.CrossEntropyLoss"),
    "sparse": (torch.zeros(3).to_sparse(), "a tensor of torch.float32 that NumPy lacks"),
}
"""Values that training checkpoints hold beside tensors, each with its type as the metadata states it."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", VALUES)
def test_values_beside_tensors_are_named_and_not_built(name: str, zipped: bool, tmp_path: Path):
    if not zipped and name == "loss":
        pytest.skip("old files hold the source of a module, and are refused")
    value, kind = VALUES[name]
    content = {"state_dict": {"a": torch.ones(2)}, name: value, "optimizer": {"state": {0: {"x": torch.zeros(1)}}}}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    arrays, metadata = containers.read(tmp_path / "a.pth")
    assert {key: array.tolist() for key, array in arrays.items()} == {
        "state_dict.a": [1, 1],
        "optimizer.state.0.x": [0],
    }
    (kept,) = other_values(metadata).items()
    assert kept[0] == name
    assert re.fullmatch(kind, kept[1])


def test_classes_that_are_not_there_are_not_imported(tmp_path: Path):
    module = types.ModuleType("a_library_of_others")
    module.Config = type("Config", (dict,), {"__module__": module.__name__})  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        torch.save({"model": {"a": torch.ones(2)}, "cfg": module.Config(lr=1)}, tmp_path / "a.pth")
    finally:
        del sys.modules[module.__name__]
    arrays, metadata = containers.read(tmp_path / "a.pth")
    assert list(arrays) == ["model.a"]
    assert other_values(metadata) == {"cfg": "an object of a_library_of_others.Config"}


def test_content_that_contains_itself_is_refused(tmp_path: Path):
    content: dict[str, object] = {"a": torch.zeros(1)}
    content["b"] = content
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ConversionError, match="nested too deeply, contains itself, or is too large"):
        containers.read(tmp_path / "a.pth")


def test_content_of_many_names_for_one_list_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch_file, "MAX_VALUES", 10_000)  # a million take seconds
    content: list[object] = [torch.zeros(1)]
    for _ in range(40):
        content = [content, content]
    torch.save({"a": content}, tmp_path / "a.pth")
    with pytest.raises(ConversionError, match="nested too deeply, contains itself, or is too large"):
        containers.read(tmp_path / "a.pth")


def test_a_program_is_refused_in_one_sentence(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(ConversionError, match=r"it is a TorchScript file, which holds a program.*\nSave its weights"):
        containers.read(tmp_path / "a.pt")


def test_a_bomb_is_refused_before_it_is_read(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(ConversionError, match="it promises 10,000,000 bytes and holds"):
        containers.read(tmp_path / "a.pth")


def test_a_pickle_that_promises_more_than_its_entry_is_refused(tmp_path: Path):
    """PyTorch would read on into the next entry with `mmap=True`."""
    torch.save({"a": torch.zeros(4), "b": torch.ones(4)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    entries[pickled] = entries[pickled].replace(b"K\x04", b"K\x08", 2)  # the size of the first storage, and the shape
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for name, entry in entries.items():
            archive.writestr(name, entry)
    with pytest.raises(ConversionError, match=r"record size \(16 bytes\) does not match expected size"):
        containers.read(tmp_path / "b.pth")
