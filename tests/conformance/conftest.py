"""A small network with weights, as files that the command takes, and the command itself as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from conformance.cases.synthetic import synthetic_weights
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
