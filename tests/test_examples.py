"""Run the examples as a user does, with fewer images and epochs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "train_across_frameworks.py"


def run_example(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
def test_three_frameworks_predict_the_same_after_a_run_that_passes_between_them(tmp_path):
    process = run_example("--images", 384, "--epochs", 2, "--handover", 1, "--folder", tmp_path)
    assert process.returncode == 0, process.stderr[-2000:]
    lines = process.stdout.splitlines()
    assert lines[-1] == "all frameworks predict the same for every test image"
    accuracies = [line.partition(": ")[2] for line in lines if "accuracy" in line]
    assert len(accuracies) == 3
    assert len(set(accuracies)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"handover.safetensors", "trained.safetensors"}


def test_a_handover_after_the_last_epoch_is_refused(tmp_path):
    process = run_example("--epochs", 2, "--handover", 2, "--folder", tmp_path)
    assert process.returncode == 2
    assert "--handover must be between 0 and --epochs 2, not 2" in process.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_project_of_its_own_checks_torchvision_in_its_tests():
    folder = ROOT / "examples" / "check_torchvision"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "conformance.pytest_plugin",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "3 passed" in done.stdout
