"""Live candidates: a model that is an object in this process, run here and left as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from conformance.run.jobs import Job, Say
from conformance.run.worker import attempt, work_through


@dataclass(frozen=True)
class LiveCandidate:
    """Runs the jobs of a live object, one at a time: `Implementation.here`.

    Attributes:
        adapter: The adapter of the object. Beside the interface of every adapter it has `leaving_as_it_was`, a context
            that puts back, at the end, weights, mode, dtype and gradients of the model, and its framework's switches.
    """

    adapter: Any
    lock: Any = field(default_factory=Lock, repr=False, compare=False)

    def __call__(self, job: Job, say: Say) -> None:
        """Run a job, and leave everything as it was."""
        with self.lock, random_states(), self.adapter.leaving_as_it_was():
            attempt(lambda: work_through(self.adapter, job, say), say)


@contextmanager
def random_states() -> Iterator[None]:
    """Put back, at the end, the states of Python's and NumPy's generators of random numbers."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the global state is what is kept)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 (likewise)
