"""The user's choices about what to read of a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weights_convert.naming import Dialect


@dataclass(frozen=True)
class Choice:
    """A user's choice of what is read of a source; the defaults leave every choice to recognition.

    Attributes:
        dialect: The dialect of the names; None recognises it.
        entry: The place of the network, as a dotted path or the end of one ("teacher.backbone").
        drop: The paths of what is left out.
        head: The path of the linear layer that is the classifier, if it lies elsewhere than the dialect has it.
        drop_head: Whether the classifier is left out, whatever it is made of.
        averaged: Whether the averaged weights of a training checkpoint are read, and not the last ones.
        at_top: Whether the network is known to have no prefix, as in a file of this project.
    """

    dialect: Dialect | None = None
    entry: str | None = None
    drop: Sequence[str] = ()
    head: str | None = None
    drop_head: bool = False
    averaged: bool = False
    at_top: bool = False
