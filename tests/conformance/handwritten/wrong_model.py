"""Rows of the catalogue of hand-written wrong models: how each is made, and what the suite is expected to say of it.

Every row is a small edit of a network of another library, or of a script that trains it, written as somebody who ports
the network would write the bug. None is made from a row of the catalogue of faults. What is expected is written down
before the suite has seen the model, and rows are only added.

Some expectations were plainly wrong, and were corrected after they had been measured:

- `block-missing`, `whole-block-missing`: the first wrong array, which is the missing block's own first layer.
- `relu6-everywhere`: the first wrong array, since nothing at the stem is above 6.
- `kernel-rotated` and its whole twin, `first-stages-frozen`: a row of the catalogue of faults computes the same.
- `average-saved`: an average of share 0.9 that goes on in the place of the weights is a tenth of the learning rate.
- `relu-moved-*`: other words for the same fact are accepted, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from conformance.cases.case import MODES

Edit = TypeVar("Edit", bound=Callable[..., Any])


@dataclass(frozen=True)
class WrongModel:
    """A wrong model and what the suite is expected to say of it.

    Attributes:
        id: Unique name, as `--impl` would call it.
        library: "torchvision", "linen" or "keras".
        make: Of a forward run: changes the library's network, which has its weights, in place, or returns another
            network. Of training: the class of a training script, which takes the place of the right one.
        layer: The array that must be named as the first wrong one.
        fact: What is wrong, in words.
        says: Patterns, all of which a statement of the right fact holds, whatever its wording.
        rows: Ids of the faults of the catalogue that compute the same; empty where none does.
        modes: Modes in which the model differs.
        task: The task that shows it.
        full: Whether it is a ResNet-50, made by the library's own function, and not a small network.
    """

    id: str
    library: str
    make: Callable[..., Any]
    layer: str
    fact: str
    says: tuple[str, ...]
    rows: frozenset[str] = frozenset()
    modes: tuple[str, ...] = MODES
    task: str = "forward"
    full: bool = False


WRONG_MODELS: dict[str, WrongModel] = {}
"""The catalogue by id; the modules of this folder fill it when they are imported."""


def wrong(
    layer: str,
    fact: str,
    says: str | tuple[str, ...],
    *,
    rows: str = "",
    modes: tuple[str, ...] = MODES,
    task: str = "forward",
    library: str = "torchvision",
    full: bool = False,
) -> Callable[[Edit], Edit]:
    """Add a wrong model to the catalogue; its id is the name of the function or class.

    Args:
        layer: The first wrong array.
        fact: What is wrong, in words.
        says: One pattern or several that a right statement holds.
        rows: Ids of faults that compute the same, with blanks between them.
        modes: Modes in which it differs.
        task: The task that shows it.
        library: Whose network it is.
        full: Whether it is a whole ResNet-50.
    """

    def add(make: Edit) -> Edit:
        id = re.sub("(?<=[a-z0-9])(?=[A-Z])|_", "-", make.__name__).lower()
        assert id not in WRONG_MODELS, id
        patterns = (says,) if isinstance(says, str) else says
        row = WrongModel(id, library, make, layer, fact, patterns, frozenset(rows.split()), modes, task, full)
        WRONG_MODELS[id] = row
        return make

    return add
