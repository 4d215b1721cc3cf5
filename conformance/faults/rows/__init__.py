"""The rows of the catalogue, by subject: a fault is one row, and its subject's module is where to read and add it.

Subjects, and rows within one, stand with the likelier and cheaper to test first: this is the order in which the
diagnosis names faults that it cannot tell apart.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from conformance.faults.fault import Fault
from conformance.faults.rows import (
    adam,
    block,
    clipping,
    conv,
    gradients,
    head,
    initial,
    input,
    loss,
    network,
    norm,
    schedule,
    sgd,
    step,
)

SUBJECTS = (
    *(conv, norm, block, network, head, input),
    *(gradients, loss, sgd, adam, clipping, schedule, step, initial),
)
"""The modules of rows; the first line of a module's docstring says what its subject is."""

FAULTS: dict[str, Fault] = {id: replace(row, id=id) for subject in SUBJECTS for id, row in subject.ROWS.items()}
"""Every fault by its id."""


def find_fault(id: str) -> Fault:
    """Return the fault with an id.

    Raises:
        ValueError: If there is no such fault; the message names the nearest ids.
    """
    if id not in FAULTS:
        nearest = get_close_matches(id, FAULTS)
        raise ValueError(
            f"there is no fault {id!r}"
            + (f"; the nearest names are {', '.join(nearest)}" if nearest else "")
            + "; `conformance explain` lists all faults"
        )
    return FAULTS[id]
