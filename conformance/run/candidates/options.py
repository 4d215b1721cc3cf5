"""Options of a model that is a candidate as it is: what cannot be read from the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from conformance.run.candidates.survey import Unfit

Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class Options:
    """The options that a user gives for a model.

    Attributes:
        output: Key, index or attribute of the logits in what the model returns; empty where that is plain.
        layout: Axes of the images that it takes; empty for those that its framework is used to.
        names: File of path patterns; empty where a dialect is recognised.
        train_argument: The argument by which train mode is asked for; empty where the signature tells.
        own_weights: File that the survey writes the model's own weights to; empty where they are not asked for.
    """

    output: str = ""
    layout: Layout | Literal[""] = ""
    names: str = ""
    train_argument: str = ""
    own_weights: str = ""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Options:
        """Read what `to_dict` returned."""
        return cls(**fields)


def select_output(returned: Any, key: str, is_tensor: Any) -> Any:
    """Select the logits in what a model returned: a tensor itself, `.logits`, or the only value there is.

    Args:
        returned: What the model returned.
        key: Key of a mapping, index of a sequence or name of an attribute; empty where the logits are plain.
        is_tensor: Tells whether a value is a tensor of the framework.

    Raises:
        Unfit: If no tensor is found; the message lists what there is.

    Example:
        >>> select_output({"logits": 1.0, "features": 2.0}, "", lambda value: isinstance(value, float))
        1.0
        >>> select_output((1.0, 2.0), "1", lambda value: isinstance(value, float))
        2.0
        >>> select_output({"linear": 1.0}, "", lambda value: isinstance(value, float))
        1.0
    """
    if key:
        selected = follow_key(returned, key)
    elif is_tensor(returned):
        selected = returned
    elif follow_key(returned, "logits") is not None:
        selected = follow_key(returned, "logits")
    else:
        values = list(returned.values()) if isinstance(returned, Mapping) else returned
        selected = values[0] if isinstance(values, tuple | list) and len(values) == 1 else None
    if not is_tensor(selected):
        where = f"--output {key} leads to no tensor in it" if key else "name the logits by --output KEY"
        raise Unfit(f"its model returns {described(returned)}: {where}")
    return selected


def follow_key(returned: Any, key: str) -> Any:
    """Return the value at a key, index or attribute; None if there is none."""
    if isinstance(returned, Mapping):
        return returned.get(key)
    if isinstance(returned, tuple | list) and key.isdigit():
        return returned[int(key)] if int(key) < len(returned) else None
    return getattr(returned, key, None)


def described(returned: Any) -> str:
    """Describe what a model returned, in a word or by its keys.

    Example:
        >>> described({"logits": 1, "features": 2}), described((1, 2)), described(None)
        ('a dict of logits, features', 'a tuple of 2', 'a NoneType')
    """
    name = type(returned).__name__
    if isinstance(returned, Mapping):
        return f"a {name} of {', '.join(map(str, returned))}"
    return f"a {name} of {len(returned)}" if isinstance(returned, tuple | list) else f"a {name}"
