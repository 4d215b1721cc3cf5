"""Optional packages, which are imported when a file or an address needs them."""

from __future__ import annotations

import importlib
from typing import Any

from weights_convert.errors import ConversionError


def import_optional(name: str, extra: str, where: str) -> Any:
    """Import a package or module that may not be installed.

    Args:
        name: The name to import ("orbax.checkpoint").
        extra: The extra of this project that installs it.
        where: The file or address that needs it, for the message.

    Raises:
        ConversionError: If it is not installed.

    Example:
        >>> import_optional("no_such_package", "hub", "hf://timm/resnet50.a1_in1k")
        Traceback (most recent call last):
        ...
        weights_convert.errors.ConversionError: hf://timm/resnet50.a1_in1k: it needs no_such_package, which is not installed
        Install it with: pip install 'resnet-parity[hub]'
    """  # noqa: E501 (a message is one line)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        problem = f"it needs {name.partition('.')[0]}, which is not installed"
        raise ConversionError(where, [problem], f"Install it with: pip install 'resnet-parity[{extra}]'") from error
