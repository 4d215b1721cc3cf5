"""Fetching from servers on this machine that serve, stall, break off, lie and recover, and from a small hub."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from weights_convert import Checkpoint, ConversionError, containers, inspect, load, sources
from weights_convert.published import BY_NAME, PUBLISHED
from weights_convert.sources import fetch, is_remote, published_for

NEW, OLD = (
    save({"fc.bias": np.random.default_rng(seed).standard_normal(5000, np.float32), "fc.weight": np.zeros((4, seed))})
    for seed in (1, 2)
)
"""Two safetensors files of 20 kB."""

HALF = len(NEW) // 2
FILE = "/models/resnet50.safetensors"


class Server(ThreadingHTTPServer):
    """What answers on this machine, and all that it was asked.

    Each request is answered by the first of `answers` for its path, which goes, unless it is the last.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Callable[[Handler], None]]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.default: Callable[[Handler], None] = lambda handler: handler.say(404)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of the server's business."""

    def ranges(self) -> list[str | None]:
        """From where each request wanted the file."""
        return [headers.get("Range") for _, _, headers in self.asked]


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together, so that nobody waits for the second packet

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        answers = self.server.answers.get(self.path, [self.server.default])
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        """Standard error is the tests'."""

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """An answer; names of headers with underscores for dashes, and None for one to leave out."""
        self.send_response(status)
        stated = {"Content_Length": str(len(body))} | headers
        for name, value in stated.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        self.wfile.flush()

    def hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


def whole(body: bytes = NEW, **headers: Any) -> Callable[[Handler], None]:
    return lambda handler: handler.say(200, body, **headers)


def status(code: int, **headers: Any) -> Callable[[Handler], None]:
    return lambda handler: handler.say(code, b"no", **headers)


def resumable(body: bytes = NEW, tag: str = '"1"', until: int | None = None) -> Callable[[Handler], None]:
    """What a good server does; one that breaks off, if `until` is given."""

    def answer(handler: Handler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(asked[1]) if asked and handler.headers.get("If-Range") == tag else 0
        headers = {"ETag": tag, "Content_Length": str(len(body) - start)}
        if start >= len(body):
            handler.say(416, Content_Range=f"bytes */{len(body)}")
            return
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.say(206 if start else 200, body[start:until], **headers)
        if until is not None:
            handler.hang_up()

    return answer


def unframed(body: bytes) -> Callable[[Handler], None]:
    """The end of the connection is the end of the file."""

    def answer(handler: Handler) -> None:
        handler.say(200, body, Content_Length=None, Connection="close")  # type: ignore[arg-type]
        handler.hang_up()

    return answer


def chunked(body: bytes, finished: bool = True) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        framed = b"%x\r\n%s\r\n" % (len(body), body)
        headers = {"Content_Length": None, "Transfer_Encoding": "chunked"}
        handler.say(200, framed + b"0\r\n\r\n" * finished, **headers)  # type: ignore[arg-type]
        if not finished:
            handler.hang_up()

    return answer


def stalling(sent: int) -> Callable[[Handler], None]:
    """Sends so many bytes, and then nothing."""

    def answer(handler: Handler) -> None:
        if sent:
            handler.say(200, NEW[:sent], Content_Length=str(len(NEW)))
        handler.server.closing.wait(30)

    return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,0.0.0.0,localhost")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(sources, "SILENCE_SECONDS", 5.0)
    monkeypatch.setattr(sources, "CHUNK", 512)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def left_in(cache: Path) -> set[str]:
    """The names in the cache, but those of locks and the hashes in front."""
    return {path.name[33:] or path.name for path in cache.iterdir() if path.suffix != ".lock"}


def refused(address: str, cache: Path, *expected: str) -> ConversionError:
    """That an address is refused with a message that names it, and has these words."""
    with pytest.raises(ConversionError) as raised:
        fetch(address, cache=cache)
    message = str(raised.value)
    assert message.startswith(f"{address}: ")
    for words in expected:
        assert words in message
    return raised.value


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
    def test_every_row_is_found_by_name_and_by_address(self, row: Any):
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
    def test_other_spellings(self, address: str, name: str):
        assert published_for(address) is BY_NAME[name]

    @pytest.mark.parametrize(
        "address", ["hf://timm/resnet18.a1_in1k", "https://a.org/resnet50.pth", "https://[", "x", ""]
    )
    def test_what_nobody_published(self, address: str):
        assert published_for(address) is None

    @pytest.mark.parametrize(
        ("address", "words"),
        [
            ("ftp://a.org/b.pth", "it starts with ftp://, where one of https://, http://, hf://"),
            ("resnet50.pth", "it is no address, where"),
            ("http://a.org/b.pth", "Use https; http is for addresses of this machine alone."),
            ("http://127.0.0.1.a.org/b.pth", "Use https"),
            ("https:///b.pth", "does not name a server"),
            ("https://[/b.pth", "does not name a server"),
            ("torchvision://resnet50", "known are torchvision://resnet50.IMAGENET1K_V1, torchvision://resnet50.IMAG"),
            ("keras://resnet50v2", "known are keras://resnet50, keras://resnet50_notop"),
            ("keras-hub://resnet_50_imagenet", 'from_preset("resnet_50_imagenet").save_to_preset('),
            ("hf://resnet-50", "hf://organisation/name is expected"),
            ("hf://a/b@/c", "hf://organisation/name is expected"),
            ("https://a.org/b.pth#sha256=12ab", "64 hexadecimal digits are expected"),
            ("https://a.org/b.pth#sha256=" + 64 * "g", "64 hexadecimal digits are expected"),
            ("https://a.org/b.pth#weights", "it ends in #weights, where #sha256="),
        ],
    )
    def test_refused_without_asking_anybody(self, address: str, words: str, cache: Path):
        refused(address, cache, words)
        assert not cache.exists()


class TestAFile:
    def test_comes_whole_and_is_kept(self, server: Server, cache: Path):
        server.answers[FILE] = [whole()]
        path = fetch(server.url + FILE, cache=cache)
        assert path.read_bytes() == NEW
        assert path.parent == cache
        assert left_in(cache) == {"resnet50.safetensors"}
        assert path.stat().st_mode & 0o777 == _mode_of_a_new_file(cache)
        assert fetch(server.url + FILE, cache=cache) == path
        assert len(server.asked) == 1

    def test_of_the_same_name_elsewhere_is_another(self, server: Server, cache: Path):
        server.answers |= {FILE: [whole()], f"/old{FILE}": [whole(OLD)]}
        assert fetch(server.url + FILE, cache=cache) != fetch(f"{server.url}/old{FILE}", cache=cache)

    def test_becomes_a_checkpoint(
        self, server: Server, cache: Path, tmp_path: Path, checkpoint_of: Callable[..., Checkpoint]
    ):
        checkpoint = checkpoint_of()
        checkpoint.save(tmp_path / "a.safetensors")
        server.answers[FILE] = [whole((tmp_path / "a.safetensors").read_bytes())]
        assert load(fetch(server.url + FILE, cache=cache)).content_hash() == checkpoint.content_hash()

    def test_comes_in_chunks(self, server: Server, cache: Path):
        server.answers[FILE] = [chunked(NEW)]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW

    def test_comes_from_where_it_moved(self, server: Server, cache: Path):
        server.answers |= {FILE: [status(302, Location="/there")], "/there": [whole()]}
        path = fetch(server.url + FILE, cache=cache)
        assert path.read_bytes() == NEW
        assert path.name.endswith("-resnet50.safetensors")

    def test_does_not_come_from_where_anybody_could_have_changed_it(self, server: Server, cache: Path):
        """0.0.0.0 leads to this machine, and is no name that is known to."""
        there = f"http://0.0.0.0:{server.server_port}/there"
        server.answers |= {FILE: [status(302, Location=there)], "/there": [whole()]}
        refused(server.url + FILE, cache, f"it leads to {there}, which is not encrypted")
        assert left_in(cache) == set()

    def test_going_round_in_circles(self, server: Server, cache: Path):
        server.answers[FILE] = [status(302, Location=FILE)]
        refused(server.url + FILE, cache, "it leads nowhere: Exceeded 30 redirects")

    def test_is_fetched_once_by_many(self, server: Server, cache: Path):
        server.answers[FILE] = [lambda handler: (time.sleep(0.05), whole()(handler))[0]]
        with ThreadPoolExecutor(4) as pool:
            paths = list(pool.map(lambda _: fetch(server.url + FILE, cache=cache), range(4)))
        assert len(set(paths)) == len(server.asked) == 1

    @pytest.mark.parametrize("by", ["variable", "home"])
    def test_goes_where_the_user_wants_it(
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

    def test_with_no_place_to_keep_it(self, server: Server, cache: Path):
        cache.write_text("a file")
        refused(server.url + FILE, cache, f"it cannot be kept in {str(cache)!r}", "RESNET_PARITY_CACHE")
        assert server.asked == []

    def test_a_disk_that_fills_up(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
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


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (whole(b"<!DOCTYPE html><title>Sign in</title>"), "it is a web page"),
            (whole(b"version https://git-lfs.github.com/spec/v1\n"), "it is a Git LFS pointer"),
            (whole(b""), "it is empty"),
            (whole(b"MZ" + bytes(100)), "it is of no kind that can be read"),
            (whole(Content_Encoding="gzip"), "the server sends it compressed"),
            (status(404), "the server answered 404 Not Found, where the file was expected\nCheck the address."),
            (status(403), "the server answered 403 Forbidden, where the file was expected\nIt wants a login"),
            (status(204), "the server answered 204"),
            (unframed(NEW), "the server does not say how long it is"),
        ],
        ids=["page", "pointer", "empty", "program", "compressed", "404", "403", "204", "unframed"],
    )
    def test_at_once(self, server: Server, cache: Path, answer: Any, words: str):
        server.answers[FILE] = [answer]
        refused(server.url + FILE, cache, words)
        assert len(server.asked) == 1
        assert left_in(cache) == set()

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (status(500), "the server answered 500 Internal Server Error; tried 5 times\nTry it later."),
            (status(429), "the server answered 429 Too Many Requests; tried 5 times"),
            (
                lambda handler: handler.hang_up(),
                "there is no connection: Remote end closed connection without response",
            ),
            (chunked(NEW, finished=False), "the connection broke or fell silent after"),
        ],
        ids=["500", "429", "hangs-up", "broken-chunks"],
    )
    def test_after_some_attempts(self, server: Server, cache: Path, answer: Any, words: str):
        server.answers[FILE] = [answer]
        refused(server.url + FILE, cache, words)
        assert len(server.asked) == sources.ATTEMPTS
        assert left_in(cache) == set()

    def test_where_nobody_listens(self, cache: Path, server: Server):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        refused(f"http://127.0.0.1:{port}/a.pth", cache, "there is no connection: ", "refused")

    @pytest.mark.parametrize(
        ("sent", "words"), [(0, "the server does not answer"), (HALF, "the connection broke or fell silent after")]
    )
    def test_a_server_that_stalls(
        self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, sent: int, words: str
    ):
        monkeypatch.setattr(sources, "SILENCE_SECONDS", 0.1)
        monkeypatch.setattr(sources, "ATTEMPTS", 2)
        server.answers[FILE] = [stalling(sent)]
        refused(server.url + FILE, cache, words, "tried 2 times")
        assert left_in(cache) == set()


class TestHashes:
    @pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha1", "sha512"])
    def test_the_right_one(self, server: Server, cache: Path, algorithm: str):
        server.answers[FILE] = [whole()]
        digits = hashlib.new(algorithm, NEW).hexdigest().upper()
        assert fetch(f"{server.url}{FILE}#{algorithm}={digits}", cache=cache).read_bytes() == NEW

    def test_another(self, server: Server, cache: Path):
        server.answers[FILE] = [whole()]
        wrong = hashlib.sha256(OLD).hexdigest()
        words = f"its sha256 is {hashlib.sha256(NEW).hexdigest()}, where {wrong} is expected"
        refused(f"{server.url}{FILE}#sha256={wrong}", cache, words)
        assert left_in(cache) == set()

    def test_a_file_that_was_kept_and_has_changed_is_fetched_again(self, server: Server, cache: Path):
        server.answers[FILE] = [whole(OLD), whole(NEW)]
        kept = fetch(server.url + FILE, cache=cache)
        assert kept.read_bytes() == OLD
        address = f"{server.url}{FILE}#sha256={hashlib.sha256(NEW).hexdigest()}"
        assert fetch(address, cache=cache) == kept
        assert kept.read_bytes() == NEW
        assert len(server.asked) == 2

    @pytest.mark.parametrize(("body", "whole_file"), [(NEW, True), (NEW[:HALF], False)])
    def test_tell_whether_a_file_without_length_is_whole(
        self, server: Server, cache: Path, body: bytes, whole_file: bool
    ):
        server.answers[FILE] = [unframed(body)]
        address = f"{server.url}{FILE}#sha256={hashlib.sha256(NEW).hexdigest()}"
        if whole_file:
            assert fetch(address, cache=cache).read_bytes() == NEW
        else:
            refused(address, cache, "It was damaged on its way")
            assert left_in(cache) == set()

    def test_a_length_that_is_a_lie(self, server: Server, cache: Path):
        server.answers[FILE] = [whole(NEW[:HALF])]
        refused(f"{server.url}{FILE}#sha256={hashlib.sha256(NEW).hexdigest()}", cache, "It was damaged on its way")

    @pytest.mark.parametrize("name", [row.name for row in PUBLISHED if row.digest])
    def test_of_a_published_file(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str):
        """The file of a row comes from another place here, and does not have the hash that was published."""
        from dataclasses import replace

        algorithm, digits = BY_NAME[name].digest.split(":")
        moved = replace(BY_NAME[name], address=server.url + FILE)
        monkeypatch.setitem(BY_NAME, name, moved)
        server.answers[FILE] = [whole()]
        held = hashlib.new(algorithm, NEW).hexdigest()[: len(digits)]
        refused(name, cache, f"its {algorithm} is {held}, where {digits} is expected")
        monkeypatch.setitem(BY_NAME, name, replace(moved, digest=f"{algorithm}:{held}"))
        assert fetch(name, cache=cache) == fetch(name, cache=cache)
        assert len(server.asked) == 2

    def test_of_a_published_address(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
        from dataclasses import replace

        moved = replace(BY_NAME["keras://resnet50"], address=server.url + FILE)
        monkeypatch.setattr(sources, "PUBLISHED", (moved,))
        server.answers[FILE] = [whole()]
        refused(server.url + FILE, cache, "its md5 is")


class TestADownloadThatBreaksOff:
    def test_goes_on_where_it_stopped(self, server: Server, cache: Path):
        server.answers[FILE] = [resumable(until=HALF), resumable()]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        first, second = server.ranges()
        assert first is None
        assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= HALF
        assert left_in(cache) == {"resnet50.safetensors"}

    def test_goes_on_the_next_day(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(sources, "ATTEMPTS", 1)
        server.answers[FILE] = [resumable(until=HALF), resumable()]
        error = refused(server.url + FILE, cache, "the connection broke", "it will go on from there")
        (part,) = cache.glob("*.part")
        size = part.stat().st_size
        assert f"what has come, {size:,} bytes, is kept" in str(error)
        assert not list(cache.glob("*.safetensors"))
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert server.ranges() == [None, f"bytes={size}-"]

    def test_starts_anew_where_the_file_has_changed(self, server: Server, cache: Path):
        server.answers[FILE] = [resumable(OLD, '"old"', until=HALF), resumable(NEW, '"new"')]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert server.asked[1][2]["If-Range"] == '"old"'

    def test_goes_by_the_time_of_change_where_there_is_no_strong_tag(self, server: Server, cache: Path):
        changed = "Mon, 01 Jan 2024 00:00:00 GMT"

        def breaking(handler: Handler) -> None:
            handler.say(200, NEW[:HALF], Content_Length=str(len(NEW)), ETag='W/"1"', Last_Modified=changed)
            handler.hang_up()

        server.answers[FILE] = [breaking, resumable(tag=changed)]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert server.asked[1][2]["If-Range"] == changed

    def test_starts_anew_where_the_server_names_no_version(self, server: Server, cache: Path):
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
    def test_starts_anew_where_the_server_answers_nonsense(self, server: Server, cache: Path, wrong: Any):
        server.answers[FILE] = [resumable(until=HALF), wrong, resumable()]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert server.ranges()[2] is None

    def test_a_server_that_sends_a_slice_of_the_rest_is_asked_for_the_next(self, server: Server, cache: Path):
        def slices(handler: Handler) -> None:
            start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            body = NEW[start : start + 8000]
            handler.say(206, body, Content_Range=f"bytes {start}-{start + len(body) - 1}/{len(NEW)}", ETag='"1"')

        server.answers[FILE] = [resumable(until=HALF), slices]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert len(server.asked) == 3

    def test_just_before_the_end_needs_no_more_bytes(self, server: Server, cache: Path):
        """As if the process had been ended between the last byte and the renaming."""
        server.answers[FILE] = [resumable()]
        kept = fetch(server.url + FILE, cache=cache)
        kept.rename(cache / f"{kept.name[:32]}.part")
        (cache / f"{kept.name[:32]}.version").write_text('"1"')
        assert fetch(server.url + FILE, cache=cache) == kept
        assert kept.read_bytes() == NEW
        assert server.ranges() == [None, f"bytes={len(NEW)}-"]

    def test_bytes_of_an_unknown_version_are_not_gone_on_with(self, server: Server, cache: Path):
        server.answers[FILE] = [resumable()]
        kept = fetch(server.url + FILE, cache=cache)
        kept.rename(cache / f"{kept.name[:32]}.part")
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW
        assert server.ranges() == [None, None]

    def test_a_server_that_recovers(self, server: Server, cache: Path):
        server.answers[FILE] = [status(500), status(503), whole()]
        assert fetch(server.url + FILE, cache=cache).read_bytes() == NEW

    def test_waits_longer_each_time(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
        waits: list[float] = []
        monkeypatch.setattr(sources, "FIRST_WAIT_SECONDS", 0.5)
        monkeypatch.setattr(sources.time, "sleep", waits.append)
        server.answers[FILE] = [status(500)]
        refused(server.url + FILE, cache, "500")
        assert waits == [0, 0.5, 1.0, 2.0, 4.0]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestProgress:
    def test_is_shown_on_a_terminal(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
        server.answers[FILE] = [whole()]
        monkeypatch.setattr(sys, "stderr", Terminal())
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "200")
        fetch(server.url + FILE, cache=cache)
        assert "resnet50.safetensors" in sys.stderr.getvalue()  # type: ignore[attr-defined]

    @pytest.mark.parametrize(("stream", "progress"), [(Terminal, False), (io.StringIO, True)])
    def test_is_not_shown_else(
        self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, stream: Any, progress: bool
    ):
        server.answers[FILE] = [whole()]
        monkeypatch.setattr(sys, "stderr", stream())
        fetch(server.url + FILE, progress=progress, cache=cache)
        assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


class TestPackages:
    @pytest.mark.parametrize(
        ("package", "address"), [("pooch", "keras://resnet50"), ("huggingface_hub", "hf://microsoft/resnet-50")]
    )
    def test_that_are_missing(self, cache: Path, monkeypatch: pytest.MonkeyPatch, package: str, address: str):
        for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
            monkeypatch.setitem(sys.modules, name, None)
        refused(address, cache, f"it needs {package}, which is not installed", "pip install 'resnet-parity[hub]'")

    def test_are_imported_when_needed(self):
        code = "import sys, weights_convert.sources; print({'pooch', 'requests', 'huggingface_hub'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == "set()"


COMMIT = 40 * "a"
REPOSITORY = "hf://somebody/resnet"


class FakeHub:
    """The addresses of a hub's files, as far as downloads ask for them."""

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
        """What was downloaded, in order."""
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
    def test_the_best_file_is_taken(self, hub: FakeHub, cache: Path, address: str):
        hub.files |= {"model.safetensors": NEW, "pytorch_model.bin": OLD}
        path = fetch(address, cache=cache)
        assert path.read_bytes() == NEW
        assert path.name == "model.safetensors"
        assert path.is_relative_to(cache)
        assert fetch(address, cache=cache) == path
        assert hub.fetched() == ["main/model.safetensors"]

    def test_or_the_next_best(self, hub: FakeHub, cache: Path):
        hub.files["pytorch_model.bin"] = OLD
        assert fetch(REPOSITORY, cache=cache).name == "pytorch_model.bin"

    @pytest.mark.parametrize("folder", ["", "weights/"])
    def test_an_index_comes_with_its_shards_of_the_same_commit(self, hub: FakeHub, cache: Path, folder: str):
        names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
        shards = {name: save({f"{name}.bias": np.full(3, n)}) for n, name in enumerate(names)}
        index = json.dumps({"weight_map": {f"{name}.bias": name for name in names}})
        hub.files |= {f"{folder}{name}": body for name, body in shards.items()}
        hub.files[f"{folder}model.safetensors.index.json"] = index.encode()
        address = f"{REPOSITORY}/{folder}model.safetensors.index.json" if folder else REPOSITORY
        arrays, _ = containers.read(fetch(address, cache=cache))
        assert set(arrays) == {f"{name}.bias" for name in names}
        assert hub.fetched()[1:] == [f"{COMMIT}/{folder}{name}" for name in names]

    def test_an_index_whose_shard_is_missing(self, hub: FakeHub, cache: Path):
        hub.files["model.safetensors.index.json"] = b'{"weight_map": {"a": "a.safetensors"}}'
        refused(REPOSITORY, cache, "the repository has no a.safetensors")

    @pytest.mark.parametrize(
        "shard", ['"../a.safetensors"', '"/etc/passwd"', '"a/b.safetensors"', "7", "null", '""', '".."']
    )
    def test_an_index_that_leads_elsewhere(self, hub: FakeHub, cache: Path, shard: str):
        hub.files["model.safetensors.index.json"] = b'{"weight_map": {"a": %s}}' % shard.encode()
        refused(REPOSITORY, cache, "is not beside model.safetensors.index.json")
        assert hub.fetched() == ["main/model.safetensors.index.json"]

    @pytest.mark.parametrize("index", [b"{}", b"[]", b"<html>", b'{"weight_map": ["a"]}', b'{"weight_map": {"a": []}}'])
    def test_an_index_that_is_none(self, hub: FakeHub, cache: Path, index: bytes):
        hub.files["model.safetensors.index.json"] = index
        refused(REPOSITORY, cache, "model.safetensors.index.json is no index of shards")

    def test_a_file_of_a_revision(self, hub: FakeHub, cache: Path):
        hub.files["old/weights.safetensors"] = OLD
        path = fetch(f"{REPOSITORY}@refs%2Fpr%2F1/old/weights.safetensors", cache=cache)
        assert path.read_bytes() == OLD
        assert hub.fetched() == ["refs%2Fpr%2F1/old/weights.safetensors"]

    @pytest.mark.parametrize(
        ("address", "words"),
        [
            (
                REPOSITORY,
                "the repository has no model.safetensors or model.safetensors.index.json or pytorch_model.bin",
            ),
            (
                f"{REPOSITORY}/a.bin",
                "the repository has no a.bin\nSee https://huggingface.co/somebody/resnet/tree/main",
            ),
            (f"{REPOSITORY}@v9", "the repository has no revision 'v9'"),
            ("hf://somebody/gated", "it is gated)\nAsk for access at https://huggingface.co/somebody/gated"),
            ("hf://nobody/resnet", "the hub has no repository nobody/resnet, or none that you may see"),
            ("hf://-a-/--", "the hub did not give model.safetensors: "),
            (f"{REPOSITORY}/../../a.bin", "the hub did not give ../../a.bin: "),
        ],
    )
    def test_what_it_has_not(self, hub: FakeHub, cache: Path, address: str, words: str):
        refused(address, cache, words)
        assert hub.fetched() == []

    @pytest.mark.parametrize("folder", ["", "sub/folder/"])
    @pytest.mark.parametrize(
        ("config", "variant", "known_by"),
        [
            (b'{"model_type": "resnet", "downsample_in_bottleneck": true}', "v1", "downsample_in_bottleneck is true"),
            (b'{"model_type": "resnet"}', "v1.5", "downsample_in_bottleneck is false"),
            (b'{"architecture": "resnet50"}', "v1.5", "timm's resnet50"),
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
        found = inspect(f"{REPOSITORY}/{folder}pytorch_model.bin")
        assert [network.variant for network in found.networks] == [variant]
        assert found.recognised_by.startswith(known_by)
        assert hub.fetched() == [f"main/{folder}pytorch_model.bin", f"{COMMIT}/{folder}config.json"]

    @pytest.mark.parametrize("config", [b'{"architecture": "resnet50d"}', b'{"model_type": "bit"}', b"[]", None])
    def test_the_config_of_another_model_tells_nothing(
        self,
        hub: FakeHub,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        checkpoint_of: Callable[..., Checkpoint],
        config: bytes | None,
    ):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        checkpoint_of(dialect="torchvision").save(tmp_path / "a.pth")
        hub.files["pytorch_model.bin"] = (tmp_path / "a.pth").read_bytes()
        hub.files |= {"config.json": config} if config else {}
        assert len(inspect(REPOSITORY).networks) > 1

    def test_what_is_kept_does_without_it(self, hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch):
        hub.files["pytorch_model.bin"] = OLD
        path = fetch(REPOSITORY, cache=cache)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        asked = len(hub.server.asked)
        assert fetch(REPOSITORY, cache=cache) == path
        assert len(hub.server.asked) == asked

    def test_switched_off(self, hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        refused(REPOSITORY, cache, "the hub is switched off (HF_HUB_OFFLINE)", "Unset HF_HUB_OFFLINE.")
        assert hub.server.asked == []

    def test_unreachable(self, hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch):
        """It is asked for the first file alone."""
        hub.server.default = status(503)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        refused(REPOSITORY, cache, "the hub cannot be reached, and the file is not in its cache", "HF_ENDPOINT")
        assert {path for _, path, _ in hub.server.asked} == {"/somebody/resnet/resolve/main/model.safetensors"}

    def test_a_server_that_is_no_hub(self, hub: FakeHub, cache: Path):
        hub.server.default = whole(b"<html>")
        refused(REPOSITORY, cache, "HF_ENDPOINT")

    @pytest.mark.parametrize("before", [True, False])
    def test_its_bars_are_off_and_then_as_they_were(
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
