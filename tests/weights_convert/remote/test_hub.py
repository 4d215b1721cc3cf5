"""Files of the Hugging Face hub, played by a server on this machine."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.weights_convert.remote.server import (
    NEW,
    OLD,
    Handler,
    Server,
    Terminal,
    refused,
    status,
    whole,
)
from weights_convert import Checkpoint, containers, inspect
from weights_convert.published import BY_NAME
from weights_convert.remote import fetch

COMMIT = 40 * "a"
REPOSITORY = "hf://somebody/resnet"


class FakeHub:
    """A server that answers requests for files as the hub does."""

    def __init__(self, server: Server) -> None:
        self.server, self.files, server.default = server, dict[str, bytes](), self.answer

    def answer(self, handler: Handler) -> None:
        match = re.fullmatch(r"/(\w+/\w+)/resolve/([^/]+)/(.+)", handler.path)
        assert match, handler.path
        repository, revision, file = match.groups()
        refusal = next(
            (
                (code, error)
                for code, error, holds in (
                    (403, "GatedRepo", repository == "somebody/gated"),
                    (401, "RepoNotFound", repository != "somebody/resnet"),
                    (404, "RevisionNotFound", revision not in ("main", "refs%2Fpr%2F1", COMMIT)),
                    (404, "EntryNotFound", file not in self.files),
                )
                if holds
            ),
            None,
        )
        if refusal:
            handler.say(refusal[0], X_Error_Code=refusal[1], X_Repo_Commit=COMMIT)
            return
        body = self.files[file]
        handler.say(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=COMMIT)

    def fetched(self) -> list[str]:
        """Return the files that were downloaded, in order."""
        return [path.partition("/resolve/")[2] for command, path, _ in self.server.asked if command == "GET"]


class TestTheHub:
    @pytest.fixture
    def hub(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
        from huggingface_hub import constants
        from huggingface_hub.utils import close_session

        monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
        for constant in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
            monkeypatch.setattr(constants, constant, True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        close_session()  # the next one sees that there is no proxy
        yield FakeHub(server)
        close_session()

    @pytest.mark.parametrize("address", [REPOSITORY, f"{REPOSITORY}/", f"{REPOSITORY}@main"])
    def test_the_preferred_file_is_fetched(self, hub: FakeHub, cache: Path, address: str):
        hub.files |= {"model.safetensors": NEW, "pytorch_model.bin": OLD}
        path = fetch(address, cache=cache)
        assert path.read_bytes() == NEW
        assert path.name == "model.safetensors"
        assert path.is_relative_to(cache)
        assert fetch(address, cache=cache) == path
        assert hub.fetched() == ["main/model.safetensors"]

    def test_the_next_file_is_fetched_if_the_preferred_one_is_missing(self, hub: FakeHub, cache: Path):
        hub.files["pytorch_model.bin"] = OLD
        assert fetch(REPOSITORY, cache=cache).name == "pytorch_model.bin"

    @pytest.mark.parametrize("folder", ["", "weights/"])
    def test_an_index_is_fetched_with_its_shards_of_the_same_commit(self, hub: FakeHub, cache: Path, folder: str):
        names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
        shards = {name: save({f"{name}.bias": np.full(3, n)}) for n, name in enumerate(names)}
        index = json.dumps({"weight_map": {f"{name}.bias": name for name in names}})
        hub.files |= {f"{folder}{name}": body for name, body in shards.items()}
        hub.files[f"{folder}model.safetensors.index.json"] = index.encode()
        address = f"{REPOSITORY}/{folder}model.safetensors.index.json" if folder else REPOSITORY
        arrays, _ = containers.read(fetch(address, cache=cache))
        assert set(arrays) == {f"{name}.bias" for name in names}
        assert hub.fetched()[1:] == [f"{COMMIT}/{folder}{name}" for name in names]

    def test_an_index_with_a_missing_shard_is_refused(self, hub: FakeHub, cache: Path):
        hub.files["model.safetensors.index.json"] = b'{"weight_map": {"a": "a.safetensors"}}'
        refused(REPOSITORY, cache, "the repository has no a.safetensors")

    @pytest.mark.parametrize(
        "shard", ['"../a.safetensors"', '"/etc/passwd"', '"a/b.safetensors"', "7", "null", '""', '".."']
    )
    def test_an_index_that_lists_files_elsewhere_is_refused(self, hub: FakeHub, cache: Path, shard: str):
        hub.files["model.safetensors.index.json"] = b'{"weight_map": {"a": %s}}' % shard.encode()
        refused(REPOSITORY, cache, "is not beside model.safetensors.index.json")
        assert hub.fetched() == ["main/model.safetensors.index.json"]

    @pytest.mark.parametrize("index", [b"{}", b"[]", b"<html>", b'{"weight_map": ["a"]}', b'{"weight_map": {"a": []}}'])
    def test_another_file_in_place_of_an_index_is_refused(self, hub: FakeHub, cache: Path, index: bytes):
        hub.files["model.safetensors.index.json"] = index
        refused(REPOSITORY, cache, "model.safetensors.index.json is not an index of shards")

    def test_a_file_of_a_revision_is_fetched(self, hub: FakeHub, cache: Path):
        hub.files["old/weights.safetensors"] = OLD
        path = fetch(f"{REPOSITORY}@refs%2Fpr%2F1/old/weights.safetensors", cache=cache)
        assert path.read_bytes() == OLD
        assert hub.fetched() == ["refs%2Fpr%2F1/old/weights.safetensors"]

    @pytest.mark.parametrize(
        ("address", "text"),
        [
            (
                REPOSITORY,
                "the repository has no model.safetensors or model.safetensors.index.json or pytorch_model.bin",
            ),
            (
                f"{REPOSITORY}/a.bin",
                "the repository has no a.bin\nIts files are at https://huggingface.co/somebody/resnet/tree/main",
            ),
            (f"{REPOSITORY}@v9", "the repository has no revision 'v9'"),
            ("hf://somebody/gated", "it is gated)\nAsk for access at https://huggingface.co/somebody/gated"),
            ("hf://nobody/resnet", "the hub has no repository nobody/resnet, or it is private"),
            ("hf://-a-/--", "the hub did not give model.safetensors: "),
            (f"{REPOSITORY}/../../a.bin", "the hub did not give ../../a.bin: "),
        ],
    )
    def test_a_missing_file_is_refused_with_the_reason(self, hub: FakeHub, cache: Path, address: str, text: str):
        refused(address, cache, text)
        assert hub.fetched() == []

    @pytest.mark.parametrize("folder", ["", "sub/folder/"])
    @pytest.mark.parametrize(
        ("config", "variant", "known_by"),
        [
            (b'{"model_type": "resnet", "downsample_in_bottleneck": true}', "v1", "downsample_in_bottleneck is true"),
            (b'{"model_type": "resnet"}', "v1.5", "downsample_in_bottleneck is false by default"),
            (
                b'{"architecture": "resnet50", "model_args": {"layers": [2, 1, 1, 1]}}',
                "v1.5",
                "timm: config.json (arch",
            ),
        ],
    )
    def test_the_config_beside_the_weights_tells_the_variant(
        self,
        hub: FakeHub,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        checkpoint_of: Callable[..., Checkpoint],
        folder: str,
        config: bytes,
        variant: str,
        known_by: str,
    ):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        checkpoint_of(dialect="transformers").save(tmp_path / "a.pth")
        hub.files |= {f"{folder}pytorch_model.bin": (tmp_path / "a.pth").read_bytes(), f"{folder}config.json": config}
        inspection = inspect(f"{REPOSITORY}/{folder}pytorch_model.bin")
        assert [network.variant for network in inspection.networks] == [variant]
        assert known_by in inspection.recognised_by
        assert hub.fetched() == [f"main/{folder}pytorch_model.bin", f"{COMMIT}/{folder}config.json"]

    @pytest.mark.parametrize(
        ("config", "problem"),
        [
            (b'{"architecture": "resnet50d"}', 'timm\'s config.json: architecture is "resnet50d" (the model)'),
            (b'{"model_type": "bit"}', 'transformers\' config.json: model_type is "bit" (the model)'),
            (b"[]", ""),
            (None, ""),
        ],
    )
    def test_the_config_of_another_model_is_a_problem_and_others_tell_nothing(
        self,
        hub: FakeHub,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        checkpoint_of: Callable[..., Checkpoint],
        config: bytes | None,
        problem: str,
    ):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        checkpoint_of(dialect="torchvision").save(tmp_path / "a.pth")
        hub.files["pytorch_model.bin"] = (tmp_path / "a.pth").read_bytes()
        hub.files |= {"config.json": config} if config else {}
        inspection = inspect(REPOSITORY)
        assert "".join(inspection.problems).startswith(problem)
        assert len(inspection.networks) == (0 if problem else 4)

    @pytest.mark.parametrize(
        ("config", "problem"),
        [
            (
                b'{"architecture": "resnet50", "model_args": {"layers": [2, 1, 1, 1], "output_stride": 8}}',
                "output_stride",
            ),
            (b'{"model_type": "resnet", "downsample_in_bottleneck": true}', "its configuration says otherwise"),
            (b'{"architecture": "resnet50", "model_args": {"layers": [2, 1, 1, 1]}}', ""),
            (None, ""),
        ],
    )
    def test_the_config_of_a_published_checkpoint_must_agree_with_the_table(
        self,
        hub: FakeHub,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        checkpoint_of: Callable[..., Checkpoint],
        config: bytes | None,
        problem: str,
    ):
        """A repository may be changed, and an address may lead to a branch of somebody else."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(
            "weights_convert.remote.published_for", lambda address: BY_NAME["hf://timm/resnet50.a1_in1k"]
        )
        checkpoint_of(dialect="torchvision").save(tmp_path / "a.pth")
        hub.files["pytorch_model.bin"] = (tmp_path / "a.pth").read_bytes()
        hub.files |= {"config.json": config} if config else {}
        inspection = inspect(REPOSITORY)
        assert inspection.recognised_by == "published by timm as v1.5"
        assert len(inspection.problems) == (1 if problem else 0)
        assert problem in "".join(inspection.problems)

    def test_a_kept_file_needs_no_hub(self, hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch):
        hub.files["pytorch_model.bin"] = OLD
        path = fetch(REPOSITORY, cache=cache)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        asked = len(hub.server.asked)
        assert fetch(REPOSITORY, cache=cache) == path
        assert len(hub.server.asked) == asked

    def test_a_hub_that_is_switched_off_is_reported(self, hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        refused(REPOSITORY, cache, "the hub is switched off (HF_HUB_OFFLINE)", "Unset HF_HUB_OFFLINE.")
        assert hub.server.asked == []

    def test_an_unreachable_hub_is_reported(self, hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch):
        """The hub is asked for the first file only."""
        hub.server.default = status(503)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        refused(REPOSITORY, cache, "the hub cannot be reached, and the file is not in its cache", "HF_ENDPOINT")
        assert {path for _, path, _ in hub.server.asked} == {"/somebody/resnet/resolve/main/model.safetensors"}

    def test_another_server_is_refused(self, hub: FakeHub, cache: Path):
        hub.server.default = whole(b"<html>")
        refused(REPOSITORY, cache, "HF_ENDPOINT")

    @pytest.mark.parametrize("before", [True, False])
    def test_progress_bars_are_off_and_then_as_before(
        self, hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, before: bool
    ):
        from huggingface_hub import utils

        monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
        (utils.enable_progress_bars if before else utils.disable_progress_bars)()
        monkeypatch.setattr(sys, "stderr", Terminal())
        hub.files["model.safetensors"] = NEW
        try:
            fetch(REPOSITORY, progress=False, cache=cache)
            assert utils.are_progress_bars_disabled() is not before
            assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
        finally:
            utils.enable_progress_bars()
