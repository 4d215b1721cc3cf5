"""Checkpoints by address: fetched once, checked, and kept; what is kept is not fetched again.

An address is https, a repository of the Hugging Face hub, or the name of a published checkpoint. A download goes to a
file beside the target, goes on where it stopped if it breaks off, and is renamed into place only when it is whole, of a
kind that can be read, and of the hash that is known. The packages that fetch are imported when there is something to
fetch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from weights_convert.errors import ConversionError
from weights_convert.published import BY_NAME, PUBLISHED, Published
from weights_convert.remote.cache import fetch_file
from weights_convert.remote.download import Wanted, permitted
from weights_convert.remote.hub import HUB_ADDRESS, fetch_config, fetch_hub

__all__ = ["fetch", "fetch_config", "is_remote", "published_for"]

HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""The hashes that the end of an address may state, and their lengths."""


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
    if not permitted(plain):
        problem = "it does not name a server behind https://, and what comes without encryption could be anybody's"
        raise ConversionError(address, [problem], "Use https; http is for addresses of this machine alone.")
    row = published_for(plain)
    digest = _stated_digest(address, fragment) if fragment else row.digest if row else None
    return fetch_file(Wanted(address, plain, digest), shown, cache)


def _fetch_published(address: str, shown: bool, cache: Path | None) -> Path:
    if (row := BY_NAME.get(address)) is None:
        scheme = address.partition("://")[0]
        known = ", ".join(name for name in BY_NAME if name.startswith(f"{scheme}://"))
        raise ConversionError(address, [f"no checkpoint is known by that name; known are {known}"])
    return fetch_file(Wanted(address, row.address, row.digest), shown, cache)


def _refuse_kaggle(address: str, shown: bool, cache: Path | None) -> Path:
    preset = address.partition("://")[2]
    raise ConversionError(
        address,
        ["presets of Keras Hub are on Kaggle, whose own program fetches them"],
        f"Let Keras Hub fetch it, then convert the folder: "
        f'keras_hub.models.ImageClassifier.from_preset("{preset}").save_to_preset("{preset}")',
    )


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


FETCHERS: dict[str, Callable[[str, bool, Path | None], Path]] = {
    "https": _fetch_address,
    "http": _fetch_address,
    "hf": fetch_hub,
    "torchvision": _fetch_published,
    "keras": _fetch_published,
    "keras-hub": _refuse_kaggle,
}
"""What fetches an address, by its scheme."""
