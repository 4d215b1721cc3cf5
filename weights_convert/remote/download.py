"""Downloads of one file, in as many attempts as it takes, each going on where the last one stopped."""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from weights_convert import containers
from weights_convert.errors import ConversionError, first_line
from weights_convert.packages import needed

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
"""How long a server may take to answer at all, and how long it may then send nothing."""

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.5
"""How often a download is tried, and how long the wait before the second try is; each later wait is twice as long."""

CHUNK = 1 << 16
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may give another one in a moment."""

STATUS_ADVICE = {
    401: "It wants a login; fetch the file by other means and give its path.",
    403: "It wants a login, or the address is no longer valid.",
    404: "Check the address.",
    410: "Check the address.",
}


def permitted(url: str) -> bool:
    """Whether an address may be fetched: https, or http from this very machine.

    Example:
        >>> [permitted(url) for url in ("https://a.org/b", "http://a.org/b", "http://127.0.0.1:8000/b", "https:///b")]
        [True, False, True, False]
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "https" or host == "localhost":
            return host != ""
        return parts.scheme == "http" and ipaddress.ip_address(host).is_loopback
    except ValueError:  # it is no address, or the host is a name
        return False


@dataclass(frozen=True)
class Wanted:
    """A file to be fetched.

    Attributes:
        address: As the user typed it, for messages.
        url: Where it is.
        digest: What is known of its hash, as "algorithm:digits"; the digits may be the first few.
    """

    address: str
    url: str
    digest: str | None

    def check(self, file: Path) -> None:
        """Make sure that a file is what was wanted.

        Raises:
            ConversionError: If it is of no kind that can be read, or of another hash.
        """
        try:
            containers.recognise(file)
        except ConversionError as error:
            raise ConversionError(self.address, error.problems) from error
        if self.digest is None:
            return
        algorithm, _, digits = self.digest.partition(":")
        with file.open("rb") as opened:
            held = hashlib.file_digest(opened, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
        if not held.startswith(digits):
            problem = f"its {algorithm} is {held[: len(digits)]}, where {digits} is expected"
            raise ConversionError(
                self.address, [problem], "It was damaged on its way, or is not the file it should be."
            )


class Interrupted(Exception):
    """A download that ended before its end; it may be tried again."""


@dataclass(frozen=True)
class Part:
    """What has come of a file so far, and of which version of it that is.

    Attributes:
        file: Holds the first bytes.
        note: Holds what the server called this version: an ETag, or the time of the last change; empty if nothing.
    """

    file: Path
    note: Path

    def version(self) -> str:
        """The version of the bytes here; empty if that is unknown, so that they cannot be gone on with."""
        return self.note.read_text() if self.note.is_file() and self.file.is_file() else ""

    def size(self) -> int:
        """How many bytes are here."""
        return self.file.stat().st_size if self.file.is_file() else 0

    def discard(self) -> None:
        """Start anew."""
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(wanted: Wanted, part: Part, shown: bool) -> None:
    """Bring all of a file into its part, in as many attempts as it takes.

    Raises:
        ConversionError: If that cannot be done, or not in so many attempts.
    """
    for attempt in range(ATTEMPTS):
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1) if attempt else 0)
        try:
            return _attempt(wanted, part, shown)
        except Interrupted as error:
            problem = f"{error}; tried {ATTEMPTS} times"
    advice = "Try it later."
    if part.version() and part.size():
        advice = f"Try it later; what has come, {part.size():,} bytes, is kept, and it will go on from there."
    else:
        part.discard()
    raise ConversionError(wanted.address, [problem], advice)


def _attempt(wanted: Wanted, part: Part, shown: bool) -> None:
    """Bring the rest of a file into its part.

    Raises:
        Interrupted: If something went wrong that may go right the next time.
        ConversionError: If something went wrong that will not.
    """
    requests = needed("requests", "hub", wanted.address)
    version = part.version()
    start = part.size() if version else 0
    if not start:
        part.discard()
    headers = {"Accept-Encoding": "identity"}  # so that lengths are those of the file
    headers |= {"Range": f"bytes={start}-", "If-Range": version} if start else {}
    timeout = (CONNECT_SECONDS, SILENCE_SECONDS)
    answered = False
    try:
        with requests.get(wanted.url, headers=headers, stream=True, timeout=timeout) as answer:
            answered = True
            if _is_whole(answer, start):
                return
            total = _total(answer, wanted, part, start)
            if answer.status_code == 200:  # all of it
                part.discard()
                part.note.write_text(_version(answer.headers))
            with part.file.open("ab") as file, _bar(wanted, part.size(), total, shown) as advance:
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    advance(len(chunk))
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.TooManyRedirects) as error:
        raise ConversionError(wanted.address, [f"it leads nowhere: {first_line(error)}"]) from error
    except requests.exceptions.RequestException as error:
        if answered:
            raise Interrupted(f"the connection broke or fell silent after {part.size():,} bytes") from error
        if isinstance(error, requests.exceptions.Timeout):
            raise Interrupted("the server does not answer") from error
        raise Interrupted(f"there is no connection: {_cause(error)}") from error
    if total is not None and part.size() != total:
        raise Interrupted(f"the connection broke after {part.size():,} of {total:,} bytes")


def _is_whole(answer: Any, start: int) -> bool:
    """Whether a server says that what was asked for begins where the file ends."""
    return bool(answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{start}")


def _total(answer: Any, wanted: Wanted, part: Part, start: int) -> int | None:
    """How long the file is, by an answer that brings all of it, or the rest; None where only its end will tell.

    Raises:
        Interrupted: If the answer is none that can be used, and the next may be.
        ConversionError: If the next will be none either.
    """
    refused = [url for url in (hop.url for hop in (*answer.history, answer)) if not permitted(url)]
    if refused:
        raise ConversionError(wanted.address, [f"it leads to {refused[0]}, which is not encrypted"])
    status, headers = answer.status_code, answer.headers
    came = f"the server answered {status} {answer.reason}"
    if status in TRY_AGAIN:
        raise Interrupted(came)
    if status == 416 or (status == 206 and not headers.get("Content-Range", "").startswith(f"bytes {start}-")):
        part.discard()
        raise Interrupted(f"{came}, and has not the bytes from {start:,} on")
    if status not in (200, 206):
        raise ConversionError(wanted.address, [f"{came}, where the file was expected"], STATUS_ADVICE.get(status, ""))
    if headers.get("Content-Encoding", "identity") != "identity":
        raise ConversionError(wanted.address, ["the server sends it compressed, though asked not to"])
    if (whole := headers.get("Content-Range", "").rpartition("/")[2]).isdecimal() and status == 206:
        return int(whole)  # what comes now may be less than the rest
    if (length := headers.get("Content-Length", "")).isdecimal():
        return int(length) + (start if status == 206 else 0)
    if wanted.digest is None and headers.get("Transfer-Encoding", "").lower() != "chunked":
        problem = "the server does not say how long it is, so that nobody could tell whether it came whole"
        raise ConversionError(wanted.address, [problem], "State its hash: put #sha256=... behind the address.")
    return None


def _version(headers: Any) -> str:
    """What a server calls this version of a file: a strong ETag, or the time of its last change."""
    tag = str(headers.get("ETag", ""))
    return tag if tag.startswith('"') else str(headers.get("Last-Modified", ""))


def _cause(error: BaseException) -> str:
    """The innermost reason of an error, in one line; urllib3's own are pages of addresses of objects."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return first_line(error) if isinstance(error, Exception) else str(error)


@contextmanager
def _bar(wanted: Wanted, start: int, total: int | None, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while a file comes, and what moves it on."""
    if not shown:
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(urlsplit(wanted.url).path.rpartition("/")[2], total=total, completed=start)
        yield lambda size: progress.advance(task, size)
