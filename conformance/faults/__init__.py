"""The catalogue of porting bugs, each executable: in the oracle for diagnosis, in any implementation to test the suite.

Nothing here imports a framework.
"""

from conformance.faults.edit import EditError, Substitution, edited_module
from conformance.faults.fault import (
    Arrays,
    Fault,
    Graft,
    Injection,
    Parameter,
    Seen,
    grafts,
    initial_edits,
    training_edits,
)
from conformance.faults.place import Place, places
from conformance.faults.rows import FAULTS, find_fault

__all__ = [
    "FAULTS",
    "Arrays",
    "EditError",
    "Fault",
    "Graft",
    "Injection",
    "Parameter",
    "Place",
    "Seen",
    "Substitution",
    "edited_module",
    "find_fault",
    "grafts",
    "initial_edits",
    "places",
    "training_edits",
]
