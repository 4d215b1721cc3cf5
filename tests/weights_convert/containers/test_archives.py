"""Zip archives: entries that lead out or occur twice, bombs and damaged bytes are refused."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from weights_convert import ConversionError, load
from weights_convert.containers.archives import check_content, check_directory, has_entry


def make(path: Path, names: list[str], content: bytes = b"some bytes") -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore", UserWarning)  # a name that occurs twice
        for name in names:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/a", "..\\a", "C:\\a"])
def test_an_entry_that_leads_out_is_refused(name: str, tmp_path: Path):
    with pytest.raises(ConversionError, match="leads out of the archive"):
        check_directory(make(tmp_path / "a.keras", ["config.json", name]))


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path):
    with pytest.raises(ConversionError, match=r"it has several entries 'config\.json'"):
        check_directory(make(tmp_path / "a.keras", ["config.json", "config.json"]))


def test_a_bomb_is_refused(tmp_path: Path):
    with pytest.raises(ConversionError, match="it promises 10,000,000 bytes and holds"):
        check_directory(make(tmp_path / "a.keras", ["a"], bytes(10_000_000)))


@pytest.mark.parametrize("checksums", [True, False])
def test_an_entry_of_which_pytorch_would_read_nothing_is_refused(checksums: bool, tmp_path: Path):
    path, before = tmp_path / "a.pth", torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save({"fc.bias": torch.arange(4.0)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    check_directory(path)
    content = bytearray(path.read_bytes())
    attributes = content.rindex(b"PK\x01\x02", 0, content.rindex(b"a/data/0")) + 38
    content[attributes] |= 0x10
    path.write_bytes(content)
    with pytest.raises(ConversionError, match="its entry 'a/data/0' is marked as a folder and has content"):
        load(path, variant="v1.5")


def test_a_plain_archive_passes(tmp_path: Path):
    path = make(tmp_path / "a.keras", ["config.json", "folder/a..b"])
    check_directory(path)
    check_content(path)
    assert has_entry(path, "config.json")
    assert not has_entry(path, "model.weights.h5")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["resnet50.pth"], "it holds 'resnet50.pth'"),
        (["a.zip"], "it holds 'a.zip'"),
        (["run/a.pth", "run/b.pth", "run/c.pth", "run/d.pth"], "it holds 'run/a.pth', 'run/b.pth', 'run/c.pth', ..."),
    ],
)
def test_an_archive_of_other_files_is_refused(names: list[str], text: str, tmp_path: Path):
    with pytest.raises(ConversionError) as error:
        load(make(tmp_path / "a.zip", names), variant="v1.5")
    assert f"it is a zip archive that PyTorch did not write; {text}\nUnpack it" in str(error.value)


def test_damaged_content_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a", b"0123456789")
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content.replace(b"0123456789", b"0123456780", 1))
    with pytest.raises(ConversionError, match="its entry 'a' is damaged"):
        check_content(tmp_path / "a.pth")
