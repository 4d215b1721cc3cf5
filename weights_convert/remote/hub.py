"""Files of repositories on the Hugging Face hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from weights_convert.containers.folders import WHOLE
from weights_convert.errors import ConversionError, first_line
from weights_convert.packages import needed

CONFIG = "config.json"
HUB_ADDRESS = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?(/(?P<file>.*))?")


def fetch_hub(address: str, shown: bool, cache: Path | None) -> Path:
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
