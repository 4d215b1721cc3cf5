"""Single files: fetched once, verified, continued after an interruption, and kept. The server is on this machine."""

from __future__ import annotations

import hashlib
import io
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.weights_convert.remote.server import (
    FILE,
    HALF,
    NEW,
    OLD,
    Handler,
    Server,
    Terminal,
    chunked,
    left_in,
    refused,
    resumable,
    stalling,
    status,
    unframed,
    whole,
)
from weights_convert import Checkpoint, load, remote
from weights_convert.published import BY_NAME, PUBLISHED
from weights_convert.remote import download, fetch


class TestAFile:
    def test_is_fetched_completely_and_kept(self, server: Server, cache: Path):
        server.answers[FILE] = [whole()]
        path = fetch(server.url + FILE, cache=cache)
        assert path.read_bytes() == NEW
        assert path == cache / f"{hashlib.md5((server.url + FILE).encode()).hexdigest()}-resnet50.safetensors"
        assert left_in(cache) == {"resnet50.safetensors"}
        assert path.stat().st_mode & 0o777 == _mode_of_a_new_file(cache)
        assert fetch(server.url + FILE, cache=cache) == path
        assert len(server.asked) == 1

    def test_of_the_same_name_at_another_address_is_another_file(self, server: Server, cache: Path):
        server.answers |= {FILE: [whole()], f"/old{FILE}": [whole(OLD)]}
        assert fetch(server.url + FILE, cache=cache) != fetch(f"{server.url}/old{FILE}", cache=cache)

    def test_becomes_a_checkpoint(
        self, server: Server, cache: Path, tmp_path: Path, checkpoint_of: Callable[..., Checkpoint]
    ):
        checkpoint = checkpoint_of()
        checkpoint.save(tmp_path / "a.safetensors")
        server.answers[FILE] = [whole((tmp_path / "a.safetensors").read_bytes())]
        assert load(fetch(server.url + FILE, cache=cache)).content_hash() == checkpoint.content_hash()

    def test_arrives_in_chunks(self, server: Server, cache: Path):
        server.answers[FILE] = [chunked(NEW)]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW

    def test_follows_redirects(self, server: Server, cache: Path):
        server.answers |= {FILE: [status(302, Location="/there")], "/there": [whole()]}
        path = fetch(server.url + FILE, cache=cache)
        assert path.read_bytes() == NEW
        assert path.name.endswith("-resnet50.safetensors")

    def test_follows_no_redirect_to_an_unencrypted_address(self, server: Server, cache: Path):
        """0.0.0.0 leads to this machine, but is not a loopback address."""
        there = f"http://0.0.0.0:{server.server_port}/there"
        server.answers |= {FILE: [status(302, Location=there)], "/there": [whole()]}
        refused(server.url + FILE, cache, f"it leads to {there}, which is not encrypted")
        assert left_in(cache) == set()

    def test_follows_no_endless_redirects(self, server: Server, cache: Path):
        server.answers[FILE] = [status(302, Location=FILE)]
        refused(server.url + FILE, cache, "it leads nowhere: Exceeded 30 redirects")

    def test_is_fetched_once_by_several_threads(self, server: Server, cache: Path):
        server.answers[FILE] = [lambda handler: (time.sleep(0.05), whole()(handler))[0]]
        with ThreadPoolExecutor(4) as pool:
            paths = list(pool.map(lambda _: fetch(server.url + FILE, cache=cache), range(4)))
        assert len(set(paths)) == len(server.asked) == 1

    @pytest.mark.parametrize("by", ["variable", "home"])
    def test_is_kept_in_the_users_folder(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
    ):
        server.answers[FILE] = [whole()]
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("RESNET_PARITY_CACHE", raising=False)
        folder = tmp_path / ".cache/resnet-parity/files"
        if by == "variable":
            folder = tmp_path / "elsewhere"
            monkeypatch.setenv("RESNET_PARITY_CACHE", str(folder))
        assert fetch(server.url + FILE).parent == folder

    def test_that_cannot_be_kept_is_not_fetched(self, server: Server, cache: Path):
        cache.write_text("a file")
        refused(server.url + FILE, cache, f"it cannot be kept in {str(cache)!r}", "RESNET_PARITY_CACHE")
        assert server.asked == []

    def test_on_a_full_disk_is_refused(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
        def full(self: Path, *arguments: Any, **options: Any) -> Any:
            if self.suffix == ".part":
                raise OSError(28, "No space left on device")
            return opened(self, *arguments, **options)

        opened = Path.open
        server.answers[FILE] = [whole()]
        monkeypatch.setattr(Path, "open", full)
        refused(server.url + FILE, cache, "it cannot be kept in", "No space left on device")


def _mode_of_a_new_file(folder: Path) -> int:
    file = folder / "mode.lock"
    file.touch()
    return file.stat().st_mode & 0o777


class TestRefusals:
    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            (whole(b"<!DOCTYPE html><title>Sign in</title>"), "it is a web page"),
            (whole(b"version https://git-lfs.github.com/spec/v1\n"), "it is a Git LFS pointer"),
            (whole(b""), "it is empty"),
            (whole(b"MZ" + bytes(100)), "it is of no kind that can be read"),
            (whole(Content_Encoding="gzip"), "the server sends it compressed"),
            (status(404), "the server answered 404 Not Found, expected the file\nCheck the address."),
            (status(403), "the server answered 403 Forbidden, expected the file\nIt requires a login"),
            (status(204), "the server answered 204"),
            (unframed(NEW), "the server does not state the length"),
        ],
        ids=["page", "pointer", "empty", "program", "compressed", "404", "403", "204", "unframed"],
    )
    def test_after_one_attempt(self, server: Server, cache: Path, answer: Any, text: str):
        server.answers[FILE] = [answer]
        refused(server.url + FILE, cache, text)
        assert len(server.asked) == 1
        assert left_in(cache) == set()

    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            (status(500), "the server answered 500 Internal Server Error (5 attempts)\nTry again later."),
            (status(429), "the server answered 429 Too Many Requests (5 attempts)"),
            (
                lambda handler: handler.hang_up(),
                "there is no connection: Remote end closed connection without response",
            ),
            (chunked(NEW, finished=False), "the connection broke or fell silent after"),
        ],
        ids=["500", "429", "hangs-up", "broken-chunks"],
    )
    def test_after_all_attempts(self, server: Server, cache: Path, answer: Any, text: str):
        server.answers[FILE] = [answer]
        refused(server.url + FILE, cache, text)
        assert len(server.asked) == download.ATTEMPTS
        assert left_in(cache) == set()

    def test_without_a_server(self, cache: Path, server: Server):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        refused(f"http://127.0.0.1:{port}/a.pth", cache, "there is no connection: ", "refused")

    @pytest.mark.parametrize(
        ("sent", "text"), [(0, "the server does not answer"), (HALF, "the connection broke or fell silent after")]
    )
    def test_of_a_server_that_stalls(
        self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, sent: int, text: str
    ):
        monkeypatch.setattr(download, "SILENCE_SECONDS", 0.1)
        monkeypatch.setattr(download, "ATTEMPTS", 2)
        server.answers[FILE] = [stalling(sent)]
        refused(server.url + FILE, cache, text, "(2 attempts)")
        assert left_in(cache) == set()


class TestHashes:
    @pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha1", "sha512"])
    def test_the_expected_hash_passes(self, server: Server, cache: Path, algorithm: str):
        server.answers[FILE] = [whole()]
        digits = hashlib.new(algorithm, NEW).hexdigest().upper()
        assert fetch(f"{server.url}{FILE}#{algorithm}={digits}", cache=cache).read_bytes() == NEW

    def test_another_hash_is_refused(self, server: Server, cache: Path):
        server.answers[FILE] = [whole()]
        wrong = hashlib.sha256(OLD).hexdigest()
        text = f"its sha256 is {hashlib.sha256(NEW).hexdigest()}, expected {wrong}"
        refused(f"{server.url}{FILE}#sha256={wrong}", cache, text)
        assert left_in(cache) == set()

    def test_a_kept_file_with_another_hash_is_fetched_again(self, server: Server, cache: Path):
        server.answers[FILE] = [whole(OLD), whole(NEW)]
        kept = fetch(server.url + FILE, cache=cache)
        assert kept.read_bytes() == OLD
        address = f"{server.url}{FILE}#sha256={hashlib.sha256(NEW).hexdigest()}"
        assert fetch(address, cache=cache) == kept
        assert kept.read_bytes() == NEW
        assert len(server.asked) == 2

    @pytest.mark.parametrize(("body", "whole_file"), [(NEW, True), (NEW[:HALF], False)])
    def test_a_file_without_a_length_is_verified_by_its_hash(
        self, server: Server, cache: Path, body: bytes, whole_file: bool
    ):
        server.answers[FILE] = [unframed(body)]
        address = f"{server.url}{FILE}#sha256={hashlib.sha256(NEW).hexdigest()}"
        if whole_file:
            assert fetch(address, cache=cache).read_bytes() == NEW
        else:
            refused(address, cache, "It was damaged on its way")
            assert left_in(cache) == set()

    def test_a_wrong_length_is_detected(self, server: Server, cache: Path):
        server.answers[FILE] = [whole(NEW[:HALF])]
        refused(f"{server.url}{FILE}#sha256={hashlib.sha256(NEW).hexdigest()}", cache, "It was damaged on its way")

    @pytest.mark.parametrize("name", [row.name for row in PUBLISHED if row.digest])
    def test_a_published_file_must_have_the_published_hash(
        self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ):
        """The server on this machine serves the file of the row, with another hash and then with the expected one."""
        from dataclasses import replace

        algorithm, digits = BY_NAME[name].digest.split(":")
        moved = replace(BY_NAME[name], address=server.url + FILE)
        monkeypatch.setitem(BY_NAME, name, moved)
        server.answers[FILE] = [whole()]
        held = hashlib.new(algorithm, NEW).hexdigest()[: len(digits)]
        refused(name, cache, f"its {algorithm} is {held}, expected {digits}")
        monkeypatch.setitem(BY_NAME, name, replace(moved, digest=f"{algorithm}:{held}"))
        assert fetch(name, cache=cache) == fetch(name, cache=cache)
        assert len(server.asked) == 2

    def test_a_published_address_must_have_the_published_hash(
        self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
    ):
        from dataclasses import replace

        moved = replace(BY_NAME["keras://resnet50"], address=server.url + FILE)
        monkeypatch.setattr(remote, "PUBLISHED", (moved,))
        server.answers[FILE] = [whole()]
        refused(server.url + FILE, cache, "its md5 is")


class TestAnInterruptedDownload:
    def test_continues_where_it_stopped(self, server: Server, cache: Path):
        server.answers[FILE] = [resumable(until=HALF), resumable()]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        first, second = server.ranges()
        assert first is None
        assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= HALF
        assert left_in(cache) == {"resnet50.safetensors"}

    def test_is_continued_by_a_later_call(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(download, "ATTEMPTS", 1)
        server.answers[FILE] = [resumable(until=HALF), resumable()]
        error = refused(server.url + FILE, cache, "the connection broke", "the download will continue from there")
        (part,) = cache.glob("*.part")
        size = part.stat().st_size
        assert f"{size:,} bytes are kept" in str(error)
        assert not list(cache.glob("*.safetensors"))
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert server.ranges() == [None, f"bytes={size}-"]

    def test_starts_again_if_the_file_has_changed(self, server: Server, cache: Path):
        server.answers[FILE] = [resumable(OLD, '"old"', until=HALF), resumable(NEW, '"new"')]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert server.asked[1][2]["If-Range"] == '"old"'

    def test_uses_the_time_of_change_if_there_is_no_strong_tag(self, server: Server, cache: Path):
        changed = "Mon, 01 Jan 2024 00:00:00 GMT"

        def breaking(handler: Handler) -> None:
            handler.say(200, NEW[:HALF], Content_Length=str(len(NEW)), ETag='W/"1"', Last_Modified=changed)
            handler.hang_up()

        server.answers[FILE] = [breaking, resumable(tag=changed)]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert server.asked[1][2]["If-Range"] == changed

    def test_starts_again_if_the_server_names_no_version(self, server: Server, cache: Path):
        def breaking(handler: Handler) -> None:
            handler.say(200, OLD[:HALF], Content_Length=str(len(OLD)))
            handler.hang_up()

        server.answers[FILE] = [breaking, whole()]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert server.ranges() == [None, None]

    @pytest.mark.parametrize(
        "wrong",
        [
            status(416),
            lambda handler: handler.say(206, NEW[5:], Content_Range=f"bytes 5-{len(NEW) - 1}/{len(NEW)}"),
            lambda handler: handler.say(206, NEW[5:]),
        ],
        ids=["416", "other-bytes", "unsaid-bytes"],
    )
    def test_starts_again_if_the_server_sends_other_bytes(self, server: Server, cache: Path, wrong: Any):
        server.answers[FILE] = [resumable(until=HALF), wrong, resumable()]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert server.ranges()[2] is None

    def test_asks_for_the_next_part_of_a_server_that_sends_parts(self, server: Server, cache: Path):
        def slices(handler: Handler) -> None:
            start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            body = NEW[start : start + 8000]
            handler.say(206, body, Content_Range=f"bytes {start}-{start + len(body) - 1}/{len(NEW)}", ETag='"1"')

        server.answers[FILE] = [resumable(until=HALF), slices]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert len(server.asked) == 3

    def test_that_has_all_bytes_fetches_none(self, server: Server, cache: Path):
        """As after a process that was killed between the last byte and the renaming."""
        server.answers[FILE] = [resumable()]
        kept = fetch(server.url + FILE, cache=cache)
        kept.rename(cache / f"{kept.name[:32]}.part")
        (cache / f"{kept.name[:32]}.version").write_text('"1"')
        assert fetch(server.url + FILE, cache=cache) == kept
        assert kept.read_bytes() == NEW
        assert server.ranges() == [None, f"bytes={len(NEW)}-"]

    def test_starts_again_if_the_version_is_unknown(self, server: Server, cache: Path):
        server.answers[FILE] = [resumable()]
        kept = fetch(server.url + FILE, cache=cache)
        kept.rename(cache / f"{kept.name[:32]}.part")
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert server.ranges() == [None, None]

    def test_continues_once_the_server_recovers(self, server: Server, cache: Path):
        server.answers[FILE] = [status(500), status(503), whole()]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW

    def test_waits_longer_before_each_attempt(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
        waits: list[float] = []
        monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.5)
        monkeypatch.setattr(download.time, "sleep", waits.append)
        server.answers[FILE] = [status(500)]
        refused(server.url + FILE, cache, "500")
        assert waits == [0, 0.5, 1.0, 2.0, 4.0]


class TestProgress:
    def test_is_shown_on_a_terminal(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
        server.answers[FILE] = [whole()]
        monkeypatch.setattr(sys, "stderr", Terminal())
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "200")
        fetch(server.url + FILE, cache=cache)
        assert "resnet50.safetensors" in sys.stderr.getvalue()  # type: ignore[attr-defined]

    def test_prints_brackets_in_a_name(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
        """A console that reads markup would swallow them."""
        server.answers["/resnet50%5Bbold%5D.pth"] = [whole()]
        monkeypatch.setattr(sys, "stderr", Terminal())
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "200")
        fetch(f"{server.url}/resnet50[bold].pth", cache=cache)
        assert "resnet50[bold].pth" in sys.stderr.getvalue()  # type: ignore[attr-defined]

    @pytest.mark.parametrize(("stream", "progress"), [(Terminal, False), (io.StringIO, True)])
    def test_is_not_shown_otherwise(
        self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, stream: Any, progress: bool
    ):
        server.answers[FILE] = [whole()]
        monkeypatch.setattr(sys, "stderr", stream())
        fetch(server.url + FILE, progress=progress, cache=cache)
        assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
