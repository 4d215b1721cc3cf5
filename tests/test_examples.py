"""The examples, shortened, as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "train_across_frameworks.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
def test_a_run_goes_through_three_frameworks_to_the_same_predictions(tmp_path):
    done = run("--images", 384, "--epochs", 2, "--handover", 1, "--folder", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[-1] == "the same prediction on every test image"
    shares = [line.partition(": ")[2] for line in lines if "test images right" in line]
    assert len(shares) == 3
    assert len(set(shares)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"handover.safetensors", "trained.safetensors"}


def test_a_handover_that_is_none_is_refused(tmp_path):
    done = run("--epochs", 2, "--handover", 2, "--folder", tmp_path)
    assert done.returncode == 2
    assert "--handover must be between 0 and --epochs 2, not 2" in done.stderr
