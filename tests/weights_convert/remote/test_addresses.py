"""Addresses: which are recognised, and which are refused without a request."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.weights_convert.remote.server import (
    refused,
)
from weights_convert.published import BY_NAME, PUBLISHED
from weights_convert.remote import is_remote, published_for


class TestAddresses:
    @pytest.mark.parametrize("address", ["https://a.org/b", "HTTP://a", "hf://a/b", "keras://resnet50", "s3://a/b"])
    def test_are_remote(self, address: str):
        assert is_remote(address)

    @pytest.mark.parametrize(
        "path", ["resnet50.pth", "/a/b.pth", "C:\\b.pth", "C:/b.pth", "./hf:/b", "", "://a", "a b://c"]
    )
    def test_paths_are_not(self, path: str):
        assert not is_remote(path)

    @pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
    def test_every_published_checkpoint_is_found_by_name_and_by_address(self, row: Any):
        assert is_remote(row.name)
        assert published_for(row.name) == published_for(row.address) == row

    @pytest.mark.parametrize(
        ("address", "name"),
        [
            ("hf://microsoft/resnet-50@main", "hf://microsoft/resnet-50"),
            ("hf://microsoft/resnet-50@refs%2Fpr%2F1/pytorch_model.bin", "hf://microsoft/resnet-50"),
            ("hf://timm/resnet50.a1_in1k/", "hf://timm/resnet50.a1_in1k"),
            (
                "https://download.pytorch.org/models/resnet50-11ad3fa6.pth#sha256=" + 64 * "a",
                "torchvision://resnet50.IMAGENET1K_V2",
            ),
        ],
    )
    def test_other_spellings_of_a_published_address(self, address: str, name: str):
        assert published_for(address) is BY_NAME[name]

    @pytest.mark.parametrize(
        "address", ["hf://timm/resnet18.a1_in1k", "https://a.org/resnet50.pth", "https://[", "x", ""]
    )
    def test_unpublished_addresses(self, address: str):
        assert published_for(address) is None

    @pytest.mark.parametrize(
        ("address", "text"),
        [
            ("ftp://a.org/b.pth", "it starts with ftp://, expected https://, http://, hf://"),
            ("resnet50.pth", "it is not an address, expected https://"),
            ("http://a.org/b.pth", "Use https; http is only for addresses of this machine."),
            ("http://127.0.0.1.a.org/b.pth", "Use https"),
            ("https:///b.pth", "and name a server"),
            ("https://[/b.pth", "and name a server"),
            (
                "torchvision://resnet50",
                "the names are torchvision://resnet50.IMAGENET1K_V1, torchvision://resnet50.IMAG",
            ),
            ("keras://resnet50v2", "the names are keras://resnet50, keras://resnet50_notop"),
            ("keras-hub://resnet_50_imagenet", 'from_preset("resnet_50_imagenet").save_to_preset('),
            ("hf://resnet-50", "expected hf://organisation/name"),
            ("hf://a/b@/c", "expected hf://organisation/name"),
            ("https://a.org/b.pth#sha256=12ab", "64 hexadecimal digits"),
            ("https://a.org/b.pth#sha256=" + 64 * "g", "64 hexadecimal digits"),
            ("https://a.org/b.pth#weights", "it ends in #weights, expected #sha256="),
        ],
    )
    def test_refused_without_a_request(self, address: str, text: str, cache: Path):
        refused(address, cache, text)
        assert not cache.exists()


class TestPackages:
    @pytest.mark.parametrize(
        ("package", "address"), [("requests", "keras://resnet50"), ("huggingface_hub", "hf://microsoft/resnet-50")]
    )
    def test_that_are_missing_are_named(self, cache: Path, monkeypatch: pytest.MonkeyPatch, package: str, address: str):
        for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
            monkeypatch.setitem(sys.modules, name, None)
        refused(address, cache, f"it needs {package}, which is not installed", "pip install 'resnet-parity[hub]'")

    def test_are_imported_only_to_fetch(self):
        code = "import sys, weights_convert.remote; print({'requests', 'huggingface_hub'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == "set()"
