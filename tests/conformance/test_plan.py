"""The plan: how many threads each worker may use."""

from __future__ import annotations

import os

import pytest

from conformance.plan import usual_threads


@pytest.mark.parametrize(("allowed", "threads"), [("3", 3), ("", 4), ("many", 4)])
def test_workers_share_the_processors_unless_the_environment_says_how_many_threads(monkeypatch, allowed, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    assert usual_threads(workers=2) == threads
