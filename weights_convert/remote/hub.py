"""Files of repositories on the Hugging Face hub, through huggingface_hub."""

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

from weights_convert.configurations import CONFIG
from weights_convert.containers.transformers_folder import INDEX_ENDING, WHOLE
from weights_convert.errors import ConversionError, first_line
from weights_convert.packages import import_optional

HUB_ADDRESS = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?(/(?P<file>.*))?")


def fetch_from_hub(address: str, show_progress: bool, cache: Path | None) -> Path:
    """Fetch a file of a repository and, if it is an index, its shards. Without a file name, fetch the first of `WHOLE`.

    Raises:
        ConversionError: If the address has another form, or the file cannot be fetched.
    """
    match = HUB_ADDRESS.fullmatch(address)
    if match is None:
        problem = "expected hf://organisation/name, optionally followed by @revision and /file"
        raise ConversionError(address, [problem], "In a revision, write %2F for a slash.")
    repository = Repository(address, match["repository"], unquote(match["revision"] or "main"), cache)
    with nullcontext() if show_progress else _without_progress_bars(address):
        file, path = repository.fetch_first((match["file"],) if match["file"] else WHOLE)
        if file.endswith(INDEX_ENDING):
            repository.fetch_shards(file, path)
    return path


def fetch_config(address: str, path: Path, cache: Path | None = None) -> Path | None:
    """Fetch the `config.json` that stands beside a file of the hub in the same commit.

    Args:
        address: The address of the file.
        path: The path that `fetch` returned for it.
        cache: The folder that `fetch` was given.

    Returns:
        The path of the config; None if there is none, or the address is not one of the hub.

    Raises:
        ConversionError: If the hub cannot be asked.
    """
    if (match := HUB_ADDRESS.fullmatch(address)) is None:
        return None
    folder = (match["file"] or "").rpartition("/")[0]
    commit = path.parents[len(Path(folder).parts)].name
    repository = Repository(address, match["repository"], commit, cache)
    try:
        with _without_progress_bars(address):
            return repository.download(f"{folder}/{CONFIG}" if folder else CONFIG, commit)
    except _hub(address).errors.EntryNotFoundError:
        return None


def _hub(address: str) -> Any:
    import_optional("huggingface_hub.errors", "hub", address)
    return import_optional("huggingface_hub", "hub", address)


@dataclass(frozen=True)
class Repository:
    """A repository on the hub, or on the server that HF_ENDPOINT names.

    Attributes:
        address: The address as the user typed it, for messages.
        name: Organisation and name.
        revision: A branch, tag or commit.
        cache: The folder to keep files in; None for the hub's own cache.
    """

    address: str
    name: str
    revision: str
    cache: Path | None

    def fetch_first(self, files: tuple[str, ...]) -> tuple[str, Path]:
        """Fetch the first of some files that the repository has, and return its name and its path on this machine.

        Raises:
            ConversionError: If it has none of them, or the hub cannot be asked.
        """
        errors = _hub(self.address).errors
        failures: list[Exception] = []
        unreachable: list[Exception] = []
        for file in files:
            try:
                # Once the hub has not answered, asking it for the next file would take as long again.
                return file, self.download(file, self.revision, offline=bool(unreachable))
            except errors.EntryNotFoundError as error:
                (unreachable if isinstance(error, errors.LocalEntryNotFoundError) else failures).append(error)
        raise self._refusal((unreachable or failures)[0], files)

    def fetch_shards(self, index: str, path: Path) -> None:
        """Fetch every file that an index lists, of the same commit.

        Args:
            index: The name of the index in the repository.
            path: Its path on this machine.

        Raises:
            ConversionError: If it is not an index, lists files elsewhere, or one of them cannot be fetched.
        """
        commit, folder = path.parents[index.count("/")].name, index.rpartition("/")[0]
        try:
            shards = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConversionError(self.address, [f"{index} is not an index of shards"]) from error
        if elsewhere := [shard for shard in shards if not re.fullmatch(r"\w[\w.-]*\.\w+", str(shard))]:
            raise ConversionError(self.address, [f"the shard {shard!r} is not beside {index}" for shard in elsewhere])
        for shard in shards:
            file = f"{folder}/{shard}" if folder else shard
            try:
                self.download(file, commit)
            except _hub(self.address).errors.EntryNotFoundError as error:
                raise self._refusal(error, (file,)) from error

    def download(self, file: str, revision: str, offline: bool = False) -> Path:
        """Return the path of a file, from the cache or the network.

        Args:
            file: The name of the file in the repository.
            revision: A branch, tag or commit.
            offline: Whether to look in the cache only.

        Raises:
            huggingface_hub.errors.EntryNotFoundError: If there is no such file, or it is not in the cache and the hub
                cannot be asked.
            ConversionError: For any other reason.
        """
        hub = _hub(self.address)
        try:
            return Path(
                hub.hf_hub_download(
                    self.name,
                    file,
                    revision=revision,
                    cache_dir=self.cache and self.cache / "hub",
                    endpoint=(os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None,
                    local_files_only=offline,
                )
            )
        except hub.errors.EntryNotFoundError:
            raise
        except Exception as error:  # the hub's errors, those of its HTTP library, and those of the system
            raise self._refusal(error, (file,)) from error

    def _refusal(self, error: Exception, files: tuple[str, ...]) -> ConversionError:
        """Translate an error of the hub into one of ours, with advice: the first row of the table that fits."""
        errors = _hub(self.address).errors
        page = f"https://huggingface.co/{self.name}"
        offline = import_optional("huggingface_hub.constants", "hub", self.address).HF_HUB_OFFLINE
        state = "is switched off (HF_HUB_OFFLINE)" if offline else "cannot be reached"
        rows: dict[type[Exception], tuple[str, str]] = {
            errors.GatedRepoError: (
                "its owner grants access to it on request (it is gated)",
                f"Ask for access at {page}, then log in with `hf auth login`, or set HF_TOKEN.",
            ),
            errors.RepositoryNotFoundError: (
                f"the hub has no repository {self.name}, or it is private",
                "Check the name; for a private one, log in with `hf auth login`, or set HF_TOKEN.",
            ),
            errors.RevisionNotFoundError: (
                f"the repository has no revision {self.revision!r}",
                f"Its branches, tags and commits are at {page}/commits.",
            ),
            errors.LocalEntryNotFoundError: (
                f"the hub {state}, and the file is not in its cache",
                "Unset HF_HUB_OFFLINE." if offline else "Check the connection, and HF_ENDPOINT if it is set.",
            ),
            errors.EntryNotFoundError: (
                f"the repository has no {' or '.join(files)}",
                f"Its files are at {page}/tree/{self.revision}; append one to the address, as in /model.bin.",
            ),
        }
        for kind, (problem, advice) in rows.items():
            if isinstance(error, kind):
                return ConversionError(self.address, [problem], advice)
        return ConversionError(self.address, [f"the hub did not give {files[0]}: {first_line(error)}"])


@contextmanager
def _without_progress_bars(address: str) -> Iterator[None]:
    """Switch off the hub's progress bars within a context, unless a setting of the user decides about them."""
    utilities = import_optional("huggingface_hub.utils", "hub", address)
    if utilities.are_progress_bars_disabled() or os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
        yield
        return
    utilities.disable_progress_bars()
    try:
        yield
    finally:
        utilities.enable_progress_bars()
