"""A candidate is run by the interpreter of another environment, beside one that is run by this one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from conformance.tracing.recording import Recording

PORTS = Path(__file__).parent / "small_ports.py"
OTHER = os.environ.get("CONFORMANCE_OTHER_PYTHON", "")

pytestmark = pytest.mark.skipif(
    not OTHER, reason="CONFORMANCE_OTHER_PYTHON names no Python of another environment with PyTorch"
)
OPTIONS = ("--variant=v1.5", "--inference", "--timeout=200", f"--python=old={OTHER}")


@pytest.fixture(scope="module")
def version():
    """Release of the other Python, as it says itself."""
    done = subprocess.run(
        [OTHER, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_models_of_two_environments_are_checked_side_by_side(conformance, tmp_path, version):
    targets = [f"old={PORTS}:port", f"here={PORTS}:port", f"--report={tmp_path / 'report.json'}"]
    done = conformance("check", *targets, *OPTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert {comparison["implementation"] for comparison in report["comparisons"]} == {"old", "here"}
    versions = report["environment"]["versions"]
    assert versions["old float64"]["python"] == version


def test_a_wrong_model_of_another_environment_is_placed_and_named(conformance):
    done = conformance("check", f"old={PORTS}:port('wrong_eps')", *OPTIONS, "--precision=float64")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "likely cause: `eps-keras` at stage3.0.bn2" in " ".join(done.stdout.split())


def test_what_one_environment_records_is_compared_with_the_other(conformance, small_weights, tmp_path, version):
    weights = ("--weights", small_weights["v1.5"])
    for name, more in (("old", OPTIONS), ("here", OPTIONS[:-1])):
        arguments = (
            "record",
            f"{name}={PORTS}:port(depths=(2, 1, 1, 1))",
            "--out",
            tmp_path / f"{name}.trace",
            "--small",
            *weights,
        )
        assert conformance(*arguments, *more).returncode == 0
    recording = Recording.load(tmp_path / "old.trace")
    assert {trace.origin.versions["python"] for trace in recording.traces.values()} == {version}
    done = conformance("compare", tmp_path / "here.trace", tmp_path / "old.trace", *weights)
    assert done.returncode == 0, done.stdout + done.stderr
