"""Checkpoints by address: fetched once, checked, and kept; what is kept is not fetched again.

An address is https, a repository of the Hugging Face hub, or the name of a published checkpoint. A download goes to a
file beside the target, goes on where it stopped if it breaks off, and is renamed into place only when it is whole, of a
kind that can be read, and of the hash that is known. The packages that fetch are imported when there is something to
fetch.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from weights_convert import containers
from weights_convert.containers.folders import WHOLE
from weights_convert.errors import ConversionError, first_line
from weights_convert.packages import needed
from weights_convert.published import BY_NAME, PUBLISHED, Published

CACHE = "~/.cache/resnet-parity/files"
CACHE_VARIABLE = "RESNET_PARITY_CACHE"
"""Where files are kept, and the environment variable that says otherwise."""

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
HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""The hashes that the end of an address may state, and their lengths."""

CONFIG = "config.json"
HUB_ADDRESS = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?(/(?P<file>.*))?")


def is_remote(text: str) -> bool:
    """Whether a text is an address and no path.

    Example:
        >>> is_remote("hf://timm/resnet50.a1_in1k"), is_remote("resnet50.pth"), is_remote("C:/resnet50.pth")
        (True, False, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def published_for(address: str) -> Published | None:
    """The published checkpoint that an address is of, whichever way it is spelled; None if it is none that is known.

    A repository's row holds for each of its files and revisions.

    Example:
        >>> published_for("https://download.pytorch.org/models/resnet50-0676ba61.pth").name
        'torchvision://resnet50.IMAGENET1K_V1'
        >>> published_for("hf://timm/resnet50.a1_in1k@main/model.safetensors").variant
        'v1.5'
    """
    match = HUB_ADDRESS.fullmatch(address)
    plain = f"hf://{match['repository']}" if match else address.partition("#")[0]
    return BY_NAME.get(plain) or next((row for row in PUBLISHED if row.address == plain), None)


def fetch(address: str, *, progress: bool = True, cache: Path | None = None) -> Path:
    """The file at an address, on this machine.

    Args:
        address: `https://...`, also with `#sha256=...` at its end; `hf://organisation/name`, also with `@revision` and
            `/file` behind it; `torchvision://...` or `keras://...` as in `published.PUBLISHED`. `http://` is for this
            machine alone.
        progress: Whether to show how far it is, where standard error is a terminal.
        cache: Where to keep it; by default, what RESNET_PARITY_CACHE names, or ~/.cache/resnet-parity/files, and the
            hub's own cache for what is the hub's.

    Raises:
        ConversionError: If the address is of no known kind, nothing is there, it cannot be had, or it is not what it
            should be.

    Example:
        >>> fetch("ftp://example.org/resnet50.pth")
        Traceback (most recent call last):
        ...
        weights_convert.errors.ConversionError: ftp://example.org/resnet50.pth: it starts with ftp://, where one of https://, http://, hf://, torchvision://, keras:// is expected
    """  # noqa: E501 (a message is one line)
    scheme = address.partition("://")[0].lower()
    if (fetcher := FETCHERS.get(scheme)) is None:
        known = ", ".join(f"{known}://" for known in FETCHERS if known != "keras-hub")
        came = f"it starts with {scheme}://" if is_remote(address) else "it is no address"
        raise ConversionError(address, [f"{came}, where one of {known} is expected"])
    return fetcher(address, progress and sys.stderr.isatty(), cache)


def _fetch_address(address: str, shown: bool, cache: Path | None) -> Path:
    plain, _, fragment = address.partition("#")
    if not _permitted(plain):
        problem = "it does not name a server behind https://, and what comes without encryption could be anybody's"
        raise ConversionError(address, [problem], "Use https; http is for addresses of this machine alone.")
    row = published_for(plain)
    digest = _stated_digest(address, fragment) if fragment else row.digest if row else None
    return _fetch_file(Wanted(address, plain, digest), shown, cache)


def _fetch_published(address: str, shown: bool, cache: Path | None) -> Path:
    if (row := BY_NAME.get(address)) is None:
        scheme = address.partition("://")[0]
        known = ", ".join(name for name in BY_NAME if name.startswith(f"{scheme}://"))
        raise ConversionError(address, [f"no checkpoint is known by that name; known are {known}"])
    return _fetch_file(Wanted(address, row.address, row.digest), shown, cache)


def _refuse_kaggle(address: str, shown: bool, cache: Path | None) -> Path:
    preset = address.partition("://")[2]
    raise ConversionError(
        address,
        ["presets of Keras Hub are on Kaggle, whose own program fetches them"],
        f"Let Keras Hub fetch it, then convert the folder: "
        f'keras_hub.models.ImageClassifier.from_preset("{preset}").save_to_preset("{preset}")',
    )


def _permitted(url: str) -> bool:
    """Whether an address may be fetched: https, or http from this very machine.

    Example:
        >>> [_permitted(url) for url in ("https://a.org/b", "http://a.org/b", "http://127.0.0.1:8000/b", "https:///b")]
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


def _stated_digest(address: str, fragment: str) -> str:
    """The hash that the end of an address states, as "algorithm:digits".

    Raises:
        ConversionError: If it states none.
    """
    algorithm, _, digits = fragment.partition("=")
    if HEX_DIGITS.get(algorithm) != len(digits) or not re.fullmatch("[0-9a-fA-F]+", digits):
        raise ConversionError(
            address,
            [f"it ends in #{fragment}, where #sha256= and 64 hexadecimal digits are expected"],
            f"The hashes that can be stated are {', '.join(HEX_DIGITS)}.",
        )
    return f"{algorithm}:{digits.lower()}"


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


def _fetch_file(wanted: Wanted, shown: bool, cache: Path | None) -> Path:
    """A single file, from the cache or from the network."""
    pooch = needed("pooch", "hub", wanted.address)
    folder = cache or Path(os.environ.get(CACHE_VARIABLE) or CACHE).expanduser()
    name = pooch.utils.unique_file_name(wanted.url)  # starts with the hash of the address
    part = Part(folder / f"{name[:32]}.part", folder / f"{name[:32]}.version")

    def download(url: str, target: str, _: Any) -> None:
        """What pooch calls for a file that it has not, with a temporary name."""
        _download(wanted, part, shown)
        try:
            wanted.check(part.file)
            part.file.replace(target)
        finally:
            part.discard()

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f"{name[:32]}.lock"), _quiet(pooch.get_logger()):
            kept = folder / name
            if kept.exists() and not _is(kept, wanted):
                kept.unlink()
            return Path(pooch.retrieve(wanted.url, None, name, folder, downloader=download))
    except OSError as error:
        problem = f"it cannot be kept in {str(folder)!r}: {first_line(error)}"
        raise ConversionError(wanted.address, [problem], f"Name another folder with {CACHE_VARIABLE}.") from error


def _is(file: Path, wanted: Wanted) -> bool:
    try:
        wanted.check(file)
    except ConversionError:
        return False
    return True


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process fetches the same file; where the system cannot tell, do not."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep what a library would say of its success from standard error."""

    def warnings(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    logger.addFilter(warnings)
    try:
        yield
    finally:
        logger.removeFilter(warnings)


def _download(wanted: Wanted, part: Part, shown: bool) -> None:
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
    refused = [url for url in (hop.url for hop in (*answer.history, answer)) if not _permitted(url)]
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


def _fetch_hub(address: str, shown: bool, cache: Path | None) -> Path:
    """A file of a repository on the hub, with its shards if it is an index of some."""
    match = HUB_ADDRESS.fullmatch(address)
    if match is None:
        problem = "hf://organisation/name is expected, with @revision and /file behind it if need be"
        raise ConversionError(address, [problem], "In a revision, write %2F for a slash.")
    hub = Hub(address, match["repository"], unquote(match["revision"] or "main"), cache)
    with nullcontext() if shown else _without_bars(needed("huggingface_hub.utils", "hub", address)):
        file, path = hub.first((match["file"],) if match["file"] else WHOLE)
        if file.endswith(".index.json"):
            hub.shards(file, path)
    return path


def fetch_config(address: str, file: Path, cache: Path | None = None) -> Path | None:
    """The `config.json` beside a file that came from the hub, of the same commit; None where there is none.

    Args:
        address: Of the file; one of no hub has nothing beside it.
        file: Where `fetch` has put it.
        cache: As given to `fetch`.

    Raises:
        ConversionError: If there may be one, and it cannot be had.
    """
    if (match := HUB_ADDRESS.fullmatch(address)) is None:
        return None
    folder = (match["file"] or "").rpartition("/")[0]
    commit = file.parents[len(Path(folder).parts)].name
    hub = Hub(address, match["repository"], commit, cache)
    try:
        with _without_bars(needed("huggingface_hub.utils", "hub", address)):
            return hub.download(f"{folder}/{CONFIG}" if folder else CONFIG, commit)
    except needed("huggingface_hub.errors", "hub", address).EntryNotFoundError:
        return None


@dataclass(frozen=True)
class Hub:
    """A repository on the Hugging Face hub, or on the server that HF_ENDPOINT names.

    Attributes:
        address: As the user typed it, for messages.
        repository: Organisation and name.
        revision: A branch, tag or commit.
        cache: Where to keep files; None for the hub's own place.
    """

    address: str
    repository: str
    revision: str
    cache: Path | None

    def first(self, files: tuple[str, ...]) -> tuple[str, Path]:
        """The first of these files that is there, and where it is now.

        Raises:
            ConversionError: If none is there, or the hub cannot be asked.
        """
        errors: list[Exception] = []
        for file in files:
            try:
                # Once the hub has not answered, asking it for the other files would take as long again.
                return file, self.download(file, self.revision, offline=any(map(self._unreachable, errors)))
            except self._errors().EntryNotFoundError as error:
                errors.append(error)
        raise self._refusal(next(filter(self._unreachable, errors), errors[0]), files)

    def shards(self, index: str, path: Path) -> None:
        """Fetch all that an index names, of the same commit.

        Raises:
            ConversionError: If it is no index, names files elsewhere, or one cannot be had.
        """
        commit, folder = path.parents[index.count("/")].name, index.rpartition("/")[0]
        try:
            named = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConversionError(self.address, [f"{index} is no index of shards"]) from error
        if elsewhere := [shard for shard in named if not re.fullmatch(r"\w[\w.-]*\.\w+", str(shard))]:
            raise ConversionError(self.address, [f"the shard {shard!r} is not beside {index}" for shard in elsewhere])
        for shard in named:
            file = f"{folder}/{shard}" if folder else shard
            try:
                self.download(file, commit)
            except self._errors().EntryNotFoundError as error:
                raise self._refusal(error, (file,)) from error

    def download(self, file: str, revision: str, offline: bool = False) -> Path:
        """A file, from the hub's cache or the network.

        Raises:
            EntryNotFoundError: The hub's own: there is no such file, or none in the cache and no hub to ask.
            ConversionError: For whatever else.
        """
        try:
            return Path(
                needed("huggingface_hub", "hub", self.address).hf_hub_download(
                    self.repository,
                    file,
                    revision=revision,
                    cache_dir=self.cache and self.cache / "hub",
                    endpoint=(os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None,
                    local_files_only=offline,
                )
            )
        except self._errors().EntryNotFoundError:
            raise
        except Exception as error:  # the hub's own, its HTTP library's, and the system's
            raise self._refusal(error, (file,)) from error

    def _errors(self) -> Any:
        return needed("huggingface_hub.errors", "hub", self.address)

    def _unreachable(self, error: Exception) -> bool:
        return isinstance(error, self._errors().LocalEntryNotFoundError)

    def _refusal(self, error: Exception, files: tuple[str, ...]) -> ConversionError:
        """What to tell the user: the first row that fits."""
        theirs = self._errors()
        page = f"https://huggingface.co/{self.repository}"
        offline = needed("huggingface_hub.constants", "hub", self.address).HF_HUB_OFFLINE
        silent = "is switched off (HF_HUB_OFFLINE)" if offline else "cannot be reached"
        rows: tuple[tuple[type[Exception], str, str], ...] = (
            (
                theirs.GatedRepoError,
                "its owner decides who may have it (it is gated)",
                f"Ask for access at {page}, then log in with `hf auth login`, or set HF_TOKEN.",
            ),
            (
                theirs.RepositoryNotFoundError,
                f"the hub has no repository {self.repository}, or none that you may see",
                "Check the name; for a private one, log in with `hf auth login`, or set HF_TOKEN.",
            ),
            (
                theirs.RevisionNotFoundError,
                f"the repository has no revision {self.revision!r}",
                f"Its branches, tags and commits are at {page}/commits.",
            ),
            (
                theirs.LocalEntryNotFoundError,
                f"the hub {silent}, and the file is not in its cache",
                "Unset HF_HUB_OFFLINE." if offline else "Check the connection, and HF_ENDPOINT if it is set.",
            ),
            (
                theirs.EntryNotFoundError,
                f"the repository has no {' or '.join(files)}",
                f"See {page}/tree/{self.revision} for what it has, and put /file behind the address.",
            ),
            (Exception, f"the hub did not give {files[0]}: {first_line(error)}", ""),
        )
        _, problem, advice = next(row for row in rows if isinstance(error, row[0]))
        return ConversionError(self.address, [problem], advice)


@contextmanager
def _without_bars(utilities: Any) -> Iterator[None]:
    """Switch the hub's bars off, unless they are already, or the user said to keep them."""
    if utilities.are_progress_bars_disabled() or os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
        yield
        return
    utilities.disable_progress_bars()
    try:
        yield
    finally:
        utilities.enable_progress_bars()


FETCHERS: dict[str, Callable[[str, bool, Path | None], Path]] = {
    "https": _fetch_address,
    "http": _fetch_address,
    "hf": _fetch_hub,
    "torchvision": _fetch_published,
    "keras": _fetch_published,
    "keras-hub": _refuse_kaggle,
}
"""What fetches an address, by its scheme."""
