"""The plugin gives tests a fixture, costs nothing where it is not used, and says on a screen why a model diverges."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PORTS = Path(__file__).parent / "candidates" / "small_ports.py"


@pytest.fixture
def run_tests(tmp_path):
    """Run a file of tests in a project of its own."""

    def run(text, *arguments):
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        (tmp_path / "test_it.py").write_text(f"import pytest, sys\nPORTS = {str(PORTS)!r}\n{text}")
        command = [sys.executable, "-m", "pytest", "-p", "conformance.pytest_plugin", "-p", "no:xdist", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=250, check=False
        )

    return run


UNUSED = """
def test_nothing_is_imported():
    heavy = {"numpy", "click", "rich", "torch", "conformance.checking", "conformance.cases.case"}
    assert "conformance.pytest_plugin" in sys.modules
    assert not heavy & sys.modules.keys()

def test_asking_for_the_fixture_imports_nothing(check_conformance):
    test_nothing_is_imported()
"""


def test_it_costs_nothing_where_it_is_not_used(run_tests):
    done = run_tests(UNUSED)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


USED = """
pytestmark = pytest.mark.conformance(variant="v1.5", precisions=["float64"])

@pytest.mark.conformance(inference=True)
class TestPort:
    def test_right(self, check_conformance):
        report = check_conformance(f"{PORTS}:port")
        assert report.conforms
        (record,) = report.records
        assert (record["plan"]["precisions"], record["plan"]["modes"]) == (["float64"], ["inference"])

    def test_wrong(self, check_conformance):
        check_conformance(f"{PORTS}:port('wrong_eps')")

    @pytest.mark.conformance(variant="v1")
    def test_dropout(self, check_conformance):
        check_conformance(f"{PORTS}:port(dropout=0.1)", variant="v1.5")

def test_no_model(check_conformance):
    check_conformance()

@pytest.mark.conformance("v1.5")
def test_no_name(check_conformance):
    pass
"""


@pytest.mark.slow
def test_a_failure_names_the_layer_and_the_cause_and_fits_a_screen(run_tests):
    done = run_tests(USED)
    assert done.returncode == 1, done.stdout
    assert "1 passed, 3 failed, 1 error" in done.stdout or "3 failed, 1 passed, 1 error" in done.stdout
    words = " ".join(done.stdout.split())
    assert "first at stage3.0.bn2, fed the oracle's own input" in words
    assert "likely cause: `eps-keras` at stage3.0.bn2" in words
    assert "diverges before anything is compared; first at stage1.0: two runs of the same input" in words
    assert "check_conformance() was given no model" in words
    assert "takes its options by name, as in variant='v1.5', and not ('v1.5',)" in words
    assert "Traceback" not in done.stdout
    assert len(done.stdout.splitlines()) < 90  # of five tests


def test_the_marker_is_described(run_tests):
    assert "@pytest.mark.conformance(variant=None" in run_tests("", "--markers").stdout
