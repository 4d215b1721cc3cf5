"""A server on this machine whose answers a test chooses: complete, interrupted, stalled or wrong ones."""

from __future__ import annotations

import io
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from weights_convert import ConversionError
from weights_convert.remote import fetch

NEW, OLD = (
    save({"fc.bias": np.random.default_rng(seed).standard_normal(5000, np.float32), "fc.weight": np.zeros((4, seed))})
    for seed in (1, 2)
)
"""Two safetensors files of 20 kB."""

HALF = len(NEW) // 2
FILE = "/models/resnet50.safetensors"


class Server(ThreadingHTTPServer):
    """A server that records every request.

    A request is answered by the first of `answers` for its path. The answer is then removed, unless it is the last.
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
        """Ignore clients that close the connection."""

    def ranges(self) -> list[str | None]:
        """Return the range that each request asked for."""
        return [headers.get("Range") for _, _, headers in self.asked]


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body are sent together, so that no client waits for the second packet

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        answers = self.server.answers.get(self.path, [self.server.default])
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep standard error free for the tests."""

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send an answer. Header names have underscores for dashes; a value of None leaves a header out."""
        self.send_response(status)
        all_headers = {"Content_Length": str(len(body))} | headers
        for name, value in all_headers.items():
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
    """Answer as a correct server does; close the connection after `until` bytes if that is given."""

    def answer(handler: Handler) -> None:
        requested = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(requested[1]) if requested and handler.headers.get("If-Range") == tag else 0
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
    """Answer without a length: the end of the connection is the end of the file."""

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
    """Send some bytes, and then nothing."""

    def answer(handler: Handler) -> None:
        if sent:
            handler.say(200, NEW[:sent], Content_Length=str(len(NEW)))
        handler.server.closing.wait(30)

    return answer


def left_in(cache: Path) -> set[str]:
    """Return the names in the cache without the hashes in front, and without locks."""
    return {path.name[33:] or path.name for path in cache.iterdir() if path.suffix != ".lock"}


def refused(address: str, cache: Path, *texts: str) -> ConversionError:
    """Fetch an address that must be refused, with a message that names it and contains some texts; return the error."""
    with pytest.raises(ConversionError) as raised:
        fetch(address, cache=cache)
    message = str(raised.value)
    assert message.startswith(f"{address}: ")
    for text in texts:
        assert text in message
    return raised.value


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
