"""The catalogue of porting bugs, each executable: in the oracle for diagnosis, in any implementation to test the suite.

Nothing here imports a framework.
"""

from conformance.faults.catalogue import FAULTS, find_fault
from conformance.faults.fault import Fault, Injection, Place, places

__all__ = ["FAULTS", "Fault", "Injection", "Place", "find_fault", "places"]
