"""A small network with weights, as files that the command takes, and the command itself as a process."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from conformance.cases.synthetic import synthetic_weights
from conformance.cli import main
from conformance.run import jobs, worker
from impls.config import VARIANTS, ResNetConfig

HERE = Path(__file__).parent
collect_ignore = ["broken", "handwritten"]  # what workers import, not tests


def small(variant: str) -> ResNetConfig:
    """A network of the variant, with both kinds of block, small enough to run in milliseconds."""
    return replace(VARIANTS[variant], depths=(2, 1, 1, 1), width=8, num_classes=10)


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    files = {variant: folder / f"{variant}.safetensors" for variant in VARIANTS}
    for variant, file in files.items():
        synthetic_weights(small(variant), seed=0).save(file)
    return files


@pytest.fixture(scope="session")
def conformance() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a user does; adapters in `broken` can be named, and modules in `without` cannot be found."""

    def run(
        *arguments: object, without: tuple[str, ...] = (), patience: float = 250
    ) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(HERE / "broken"), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, "HIDDEN_PACKAGES": ",".join(without)}
        command = [sys.executable, "-m", "conformance.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=patience, check=False)

    return run


@pytest.fixture(scope="session")
def reported(
    conformance: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[subprocess.CompletedProcess[str], Any]]:
    """Run the command with a report; return the process and the report. Equal commands are run once."""

    @cache
    def run(*arguments: object) -> tuple[subprocess.CompletedProcess[str], Any]:
        file = tmp_path_factory.mktemp("report") / "report.json"
        done = conformance(*arguments, "--report", file)
        assert file.exists(), done.stdout + done.stderr
        return done, json.loads(file.read_text())

    return run


@contextmanager
def workers_here() -> Iterator[None]:
    """Do what workers do in this process, one after the other, which saves the import of a framework for each.

    This is for tests that show nothing about processes, with candidates in NumPy and PyTorch: other frameworks take
    their precision from the environment of their process. Adapters in `broken` can be named.
    """
    from conformance.run.candidates.torch import switches_put_back

    turn = Lock()

    def follow(job: jobs.Job, events: Any, stopped: Any) -> jobs.Event:
        endings = []

        def say(event: str, **facts: Any) -> None:
            told = jobs.Event(job, event, json.loads(json.dumps(facts)))
            (endings.append if event == "failed" else events.put)(told)

        with turn, switches_put_back(), StringIO() as log, redirect_stdout(log), redirect_stderr(log):
            worker.attempt(lambda: worker.work(jobs.Job.read(job.write()), say), say)
        return endings[0] if endings else jobs.Event(job, "done", {"seconds": 0.0})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_follow", follow)
        patch.setattr(worker, "gc", SimpleNamespace(disable=int, freeze=int, collect=gc.collect))  # a worker's own
        patch.syspath_prepend(HERE / "broken")
        yield


def run_here(*arguments: object) -> Any:
    """Run the command in this process, with its workers; the result has the attributes of a process that ended."""
    with workers_here():
        done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return SimpleNamespace(returncode=done.exit_code, stdout=done.stdout, stderr=done.stderr)


@pytest.fixture(scope="session")
def reported_here(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Any]]:
    """Run the command with a report in this process, with its workers; otherwise as `reported`."""

    @cache
    def run(*arguments: object) -> tuple[Any, Any]:
        file = tmp_path_factory.mktemp("report") / "report.json"
        done = run_here(*arguments, "--report", file)
        return done, json.loads(file.read_text())

    return run
