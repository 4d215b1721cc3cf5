"""Checkpoints by address: fetched once, verified, and kept in a cache.

An address is an `https://` one, a repository on the Hugging Face hub (`hf://`), or the name of a published checkpoint
(`torchvision://`, `keras://`). A download goes to the cache. It continues where it stopped if it was interrupted, and
gets its final name only when it is complete, of a kind that can be read, and of the expected hash.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from weights_convert.errors import ConversionError
from weights_convert.published import BY_NAME, PUBLISHED, Published
from weights_convert.remote.cache import fetch_file
from weights_convert.remote.download import RemoteFile, is_secure
from weights_convert.remote.hub import HUB_ADDRESS, fetch_config, fetch_from_hub

__all__ = ["fetch", "fetch_config", "is_remote", "published_for"]

HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""The hash algorithms that an address may name, with the number of digits of each."""


def is_remote(text: str) -> bool:
    """Return whether a text is an address rather than a path.

    Example:
        >>> is_remote("hf://timm/resnet50.a1_in1k"), is_remote("resnet50.pth"), is_remote("C:/resnet50.pth")
        (True, False, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def published_for(address: str) -> Published | None:
    """Return the published checkpoint that an address leads to, in any spelling; None if none is known.

    The row of a repository serves all of its files and revisions.

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
    """Fetch the file at an address, and return its path on this machine.

    Args:
        address: `https://...`, optionally followed by `#sha256=...`; `hf://organisation/name`, optionally followed by
            `@revision` and `/file`; or `torchvision://...` or `keras://...` as in `published.PUBLISHED`. An `http://`
            address must be one of this machine.
        progress: Whether to show a progress bar, if standard error is a terminal.
        cache: The folder to keep files in. None takes the one that RESNET_PARITY_CACHE names, or
            ~/.cache/resnet-parity/files, and the hub's own cache for files of the hub.

    Raises:
        ConversionError: If the address is of no known kind, leads nowhere or cannot be fetched, or if the file is not
            what it should be.

    Example:
        >>> fetch("ftp://example.org/resnet50.pth")
        Traceback (most recent call last):
        ...
        weights_convert.errors.ConversionError: ftp://example.org/resnet50.pth: it starts with ftp://, expected https://, http://, hf://, torchvision:// or keras://
    """  # noqa: E501 (a message is one line)
    scheme = address.partition("://")[0].lower()
    if (fetcher := FETCHERS.get(scheme)) is None:
        *known, last = [f"{known}://" for known in FETCHERS if known != "keras-hub"]
        start = f"it starts with {scheme}://" if is_remote(address) else "it is not an address"
        raise ConversionError(address, [f"{start}, expected {', '.join(known)} or {last}"])
    return fetcher(address, progress and sys.stderr.isatty(), cache)


def _fetch_url(address: str, show_progress: bool, cache: Path | None) -> Path:
    url, _, fragment = address.partition("#")
    if not is_secure(url):
        problem = "it must start with https:// and name a server: an unencrypted file may have been changed on its way"
        raise ConversionError(address, [problem], "Use https; http is only for addresses of this machine.")
    row = published_for(url)
    digest = _stated_digest(address, fragment) if fragment else row.digest if row else None
    return fetch_file(RemoteFile(address, url, digest), show_progress, cache)


def _fetch_published(address: str, show_progress: bool, cache: Path | None) -> Path:
    if (row := BY_NAME.get(address)) is None:
        scheme = address.partition("://")[0]
        names = ", ".join(name for name in BY_NAME if name.startswith(f"{scheme}://"))
        raise ConversionError(address, [f"there is no checkpoint with that name; the names are {names}"])
    return fetch_file(RemoteFile(address, row.address, row.digest), show_progress, cache)


def _refuse_kaggle(address: str, show_progress: bool, cache: Path | None) -> Path:
    preset = address.partition("://")[2]
    raise ConversionError(
        address,
        ["presets of Keras Hub are on Kaggle, whose own program fetches them"],
        f"Let Keras Hub fetch it, then convert the folder: "
        f'keras_hub.models.ImageClassifier.from_preset("{preset}").save_to_preset("{preset}")',
    )


def _stated_digest(address: str, fragment: str) -> str:
    """Return the hash that the end of an address states, as "algorithm:digits".

    Raises:
        ConversionError: If the end of the address is not a hash.
    """
    algorithm, _, digits = fragment.partition("=")
    if HEX_DIGITS.get(algorithm) != len(digits) or not re.fullmatch("[0-9a-fA-F]+", digits):
        raise ConversionError(
            address,
            [f"it ends in #{fragment}, expected #sha256= and 64 hexadecimal digits"],
            f"The hash algorithms that can be stated are {', '.join(HEX_DIGITS)}.",
        )
    return f"{algorithm}:{digits.lower()}"


FETCHERS: dict[str, Callable[[str, bool, Path | None], Path]] = {
    "https": _fetch_url,
    "http": _fetch_url,
    "hf": fetch_from_hub,
    "torchvision": _fetch_published,
    "keras": _fetch_published,
    "keras-hub": _refuse_kaggle,
}
"""The function that fetches an address, by the scheme of the address."""
