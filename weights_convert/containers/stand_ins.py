"""Inert stand-ins for the classes of other libraries in PyTorch's training checkpoints.

A training checkpoint holds more than tensors: settings of other libraries, numbers of NumPy, paths. PyTorch's
`weights_only` refuses every class that it does not know, and takes replacements by name. A stand-in imports nothing,
keeps nothing but its name, and runs no code of the file.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

STANDARD_LIBRARY = {
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *("argparse.Namespace", "collections.defaultdict", "_codecs.encode", "enum.Enum", "types.SimpleNamespace"),
    *("datetime.datetime", "datetime.timedelta", "datetime.date", "datetime.timezone", "uuid.UUID"),
    *("builtins.set", "builtins.frozenset", "builtins.slice", "builtins.range", "builtins.complex"),
    *("builtins.dict", "builtins.list", "builtins.int", "builtins.float", "builtins.str", "builtins.bool"),
    *("pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
}
"""The names of Python's own library that training checkpoints hold. Every other one is refused: `os.system` is one."""

NUMBERS = {f"numpy.{place}" for place in ("core.multiarray.scalar", "_core.multiarray.scalar", "dtype")}
"""The names under which NumPy pickles a number."""

MARK = "_stand_in_for"
"""The attribute of a stand-in that holds the name of the class."""


def is_replaceable(name: str) -> bool:
    """Return whether a class or function may be met by a stand-in: those of other libraries, and a few of Python's.

    Example:
        >>> [is_replaceable(name) for name in ("omegaconf.DictConfig", "pathlib.PosixPath", "os.system")]
        [True, True, False]
    """
    return name in STANDARD_LIBRARY or name.partition(".")[0] not in sys.stdlib_module_names


def stand_in(name: str, like: str = "object") -> type:
    """Return a class that takes the place of another one, and does nothing.

    Args:
        name: The full name of the class that it takes the place of.
        like: "object"; or "dict" or "list" for a class that is filled like one, which PyTorch only does to its own.
    """
    module, _, class_name = name.rpartition(".")
    members: dict[str, Any] = {MARK: name, "__module__": module, "__new__": NEW[like]}
    members |= {"__init__": lambda self, *arguments, **options: None, "__setstate__": lambda self, state: None}
    return type(class_name, (list,) if like == "list" else (object,), members)


def _new_mapping(cls: type, *arguments: Any, **options: Any) -> Any:
    mapping: OrderedDict[Any, Any] = OrderedDict()
    mapping.__dict__[MARK] = getattr(cls, MARK)
    return mapping


NEW: dict[str, Callable[..., Any]] = {
    "object": lambda cls, *arguments, **options: object.__new__(cls),
    "list": lambda cls, *arguments, **options: list.__new__(cls),
    "dict": _new_mapping,
}
"""The functions that make an instance of a stand-in."""


def stands_for(value: Any) -> str | None:
    """Return the name of the class that a value is a stand-in for; None if it is none.

    Example:
        >>> stands_for(stand_in("omegaconf.DictConfig")()), stands_for({})
        ('omegaconf.DictConfig', None)
    """
    marked = vars(value) if isinstance(value, OrderedDict) else vars(type(value))
    if isinstance(value, type):
        marked = vars(value)
    return marked.get(MARK)
