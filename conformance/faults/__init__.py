"""The catalogue of porting bugs, each executable: in the oracle for diagnosis, in any implementation to test the suite.

Nothing here imports a framework.
"""

from conformance.faults.catalogue import FAULTS, find_fault
from conformance.faults.edit import EditError, edited_module, framework_of
from conformance.faults.fault import (
    Arrays,
    Fault,
    Graft,
    Injection,
    Parameter,
    Place,
    Substitution,
    grafts,
    initial_edits,
    places,
    training_edits,
)

__all__ = [
    "FAULTS",
    "Arrays",
    "EditError",
    "Fault",
    "Graft",
    "Injection",
    "Parameter",
    "Place",
    "Substitution",
    "edited_module",
    "find_fault",
    "framework_of",
    "grafts",
    "initial_edits",
    "places",
    "training_edits",
]
