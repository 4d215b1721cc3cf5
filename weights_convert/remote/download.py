"""The download of one file, which continues where an earlier attempt stopped."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from weights_convert.errors import ConversionError, first_line
from weights_convert.packages import import_optional

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
"""Seconds that a server may take to answer, and seconds that it may then be silent."""

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.5
"""The number of attempts, and the wait before the second one; each further wait is twice as long."""

CHUNK_BYTES = 1 << 16
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""The status codes after which another attempt may succeed."""

STATUS_ADVICE = {
    401: "It requires a login; fetch the file by other means and give its path.",
    403: "It requires a login, or the address is no longer valid.",
    404: "Check the address.",
    410: "Check the address.",
}


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch, and its expected hash.

    Attributes:
        address: The address as the user typed it, for messages.
        url: The URL of the file.
        digest: The expected hash as "algorithm:digits"; the digits may be the first few. None if it is unknown.
    """

    address: str
    url: str
    digest: str | None


class Interrupted(Exception):
    """A download that stopped before its end, and may be continued."""


@dataclass(frozen=True)
class PartialFile:
    """The beginning of a file that has arrived, and the version of the file that it belongs to.

    Attributes:
        content: The path of the first bytes.
        version_note: The path of a file that holds the version: an ETag or the time of the last change; may be empty.
    """

    content: Path
    version_note: Path

    def version(self) -> str:
        """Return the version of the bytes; empty if it is unknown, so that the download cannot be continued."""
        return self.version_note.read_text() if self.version_note.is_file() and self.content.is_file() else ""

    def size(self) -> int:
        """Return the number of bytes that have arrived."""
        return self.content.stat().st_size if self.content.is_file() else 0

    def discard(self) -> None:
        """Remove everything that has arrived."""
        self.content.unlink(missing_ok=True)
        self.version_note.unlink(missing_ok=True)


def is_secure(url: str) -> bool:
    """Return whether a URL may be fetched: an https one, or an http one of this machine.

    Example:
        >>> [is_secure(url) for url in ("https://a.org/b", "http://a.org/b", "http://127.0.0.1:8000/b", "https:///b")]
        [True, False, True, False]
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "https" or host == "localhost":
            return host != ""
        return parts.scheme == "http" and ipaddress.ip_address(host).is_loopback
    except ValueError:  # not a URL, or the host is a name
        return False


def download(file: RemoteFile, partial: PartialFile, show_progress: bool) -> None:
    """Complete a partial file, in as many attempts as it takes.

    Raises:
        ConversionError: If that is impossible, or takes more attempts than `ATTEMPTS`.
    """
    for attempt in range(ATTEMPTS):
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1) if attempt else 0)
        try:
            return _attempt(file, partial, show_progress)
        except Interrupted as error:
            problem = f"{error} ({ATTEMPTS} attempts)"
    advice = "Try again later."
    if partial.version() and partial.size():
        advice = f"Try again later: {partial.size():,} bytes are kept, and the download will continue from there."
    else:
        partial.discard()
    raise ConversionError(file.address, [problem], advice)


def _attempt(file: RemoteFile, partial: PartialFile, show_progress: bool) -> None:
    """Fetch the rest of a file.

    Raises:
        Interrupted: If the attempt failed and another one may succeed.
        ConversionError: If no further attempt can succeed.
    """
    requests = import_optional("requests", "hub", file.address)
    version = partial.version()
    start = partial.size() if version else 0
    if not start:
        partial.discard()
    headers = {"Accept-Encoding": "identity"}  # so that lengths are those of the file
    headers |= {"Range": f"bytes={start}-", "If-Range": version} if start else {}
    timeout = (CONNECT_SECONDS, SILENCE_SECONDS)
    has_answered = False
    try:
        with requests.get(file.url, headers=headers, stream=True, timeout=timeout) as response:
            has_answered = True
            if _is_complete(response, start):
                return
            total = _total_bytes(response, file, partial, start)
            if response.status_code == 200:  # the whole file follows
                partial.discard()
                partial.version_note.write_text(_version(response.headers))
            with partial.content.open("ab") as opened, _progress(file, partial.size(), total, show_progress) as advance:
                for chunk in response.iter_content(CHUNK_BYTES):
                    opened.write(chunk)
                    advance(len(chunk))
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.TooManyRedirects) as error:
        raise ConversionError(file.address, [f"it leads nowhere: {first_line(error)}"]) from error
    except requests.exceptions.RequestException as error:
        if has_answered:
            raise Interrupted(f"the connection broke or fell silent after {partial.size():,} bytes") from error
        if isinstance(error, requests.exceptions.Timeout):
            raise Interrupted("the server does not answer") from error
        raise Interrupted(f"there is no connection: {_cause(error)}") from error
    if total is not None and partial.size() != total:
        raise Interrupted(f"the connection broke after {partial.size():,} of {total:,} bytes")


def _is_complete(response: Any, start: int) -> bool:
    """Return whether the server says that all bytes of the file have arrived already."""
    return bool(response.status_code == 416 and response.headers.get("Content-Range") == f"bytes */{start}")


def _total_bytes(response: Any, file: RemoteFile, partial: PartialFile, start: int) -> int | None:
    """Return the length of the file according to the response; None if only the end of the response will tell.

    Raises:
        Interrupted: If the response cannot be used and another attempt may succeed.
        ConversionError: If no further attempt can succeed.
    """
    insecure = [hop.url for hop in (*response.history, response) if not is_secure(hop.url)]
    if insecure:
        raise ConversionError(file.address, [f"it leads to {insecure[0]}, which is not encrypted"])
    status, headers = response.status_code, response.headers
    answer = f"the server answered {status} {response.reason}"
    if status in TRY_AGAIN:
        raise Interrupted(answer)
    if status == 416 or (status == 206 and not headers.get("Content-Range", "").startswith(f"bytes {start}-")):
        partial.discard()
        raise Interrupted(f"{answer} to a request for the bytes from {start:,} on")
    if status not in (200, 206):
        raise ConversionError(file.address, [f"{answer}, expected the file"], STATUS_ADVICE.get(status, ""))
    if headers.get("Content-Encoding", "identity") != "identity":
        raise ConversionError(file.address, ["the server sends it compressed, although asked not to"])
    if (whole := headers.get("Content-Range", "").rpartition("/")[2]).isdecimal() and status == 206:
        return int(whole)  # the response may hold less than the rest
    if (length := headers.get("Content-Length", "")).isdecimal():
        return int(length) + (start if status == 206 else 0)
    if file.digest is None and headers.get("Transfer-Encoding", "").lower() != "chunked":
        problem = "the server does not state the length, so that nothing tells whether the file arrives complete"
        raise ConversionError(file.address, [problem], "State the hash: append #sha256=... to the address.")
    return None


def _version(headers: Any) -> str:
    """Return the server's name for this version of a file: a strong ETag, or the time of its last change."""
    tag = str(headers.get("ETag", ""))
    return tag if tag.startswith('"') else str(headers.get("Last-Modified", ""))


def _cause(error: BaseException) -> str:
    """Return the innermost cause of an error in one line, since the messages of urllib3 fill pages."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return first_line(error)


@contextmanager
def _progress(file: RemoteFile, start: int, total: int | None, show: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error, and give the function that advances it by a number of bytes."""
    if not show:
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(urlsplit(file.url).path.rpartition("/")[2], total=total, completed=start)
        yield lambda size: progress.advance(task, size)
