"""Running probes: a candidate's network with activations of the suite's own choice in the place of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conformance.cases.probe import Probe
from conformance.run.capabilities import Tappable
from conformance.trace import ArrayFolder


class Reached(Exception):
    """Raised by a probe's tap at the activation that is wanted, to end the run."""


def run_probe(adapter: Tappable, probe: Probe, folder: Path) -> None:
    """Run a probe and write the activations that it asks for into a new folder.

    A tap may outlive its run, where an adapter does not remove its hooks when a run ends early: it then does nothing.

    Args:
        adapter: Adapter that has built the network.
        probe: What to replace, and where to stop.
        folder: Folder to make.

    Raises:
        Exception: Whatever the candidate raises before the wanted activation is reached.
        LookupError: If the run ends without it.
    """
    folder.mkdir(parents=True)
    stored = ArrayFolder(folder)
    reached = ended = False

    def tap(name: str, value: np.ndarray) -> np.ndarray | None:
        nonlocal reached
        if ended:
            return None
        if name == probe.target or not probe.target:
            stored.store(name, value)
        if name == probe.target:
            reached = True
            raise Reached
        replacement = probe.feeds.get(name)
        return None if replacement is None else np.array(replacement)

    try:
        for name, array in adapter.run_tapped(probe.images, probe.train, tap).items():
            stored.store(name, array)
    except Exception:  # Keras raises another exception in its place
        if not reached:
            raise
    finally:
        ended = True
    if probe.target and not reached:
        raise LookupError(f"its run ended without the activation {probe.target}")
