"""Workers that come to a bad end cost their own implementation, with a clear word, and nothing else."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import pytest

from conformance.cases.case import Case
from conformance.run.implementations import IMPLEMENTATIONS, find_implementation
from conformance.run.jobs import Job, NetworkFiles
from conformance.run.worker import extras, hidden
from impls.config import VARIANTS


def test_a_worker_reads_the_job_that_was_written(tmp_path):
    case = Case("v1", "noise", "train", layers=True)
    inputs = {"noise": tmp_path / "noise.npy"}
    network = NetworkFiles(VARIANTS["v1"], tmp_path / "weights", "0123", inputs, [["bgr", "input"]])
    job = Job(
        find_implementation("keras@jax"),
        "float32",
        [case],
        {"v1": network, "v1.5": network},
        tmp_path / "job",
        timeout=7.5,
        threads=3,
        feed={case.slug: tmp_path / "oracle"},
    )
    read = Job.read(job.write())
    assert list(read.networks) == ["v1"]  # the others are not this worker's
    for field in ("precision", "cases", "directory", "timeout", "threads", "feed"):
        assert getattr(read, field) == getattr(job, field)
    assert read.networks["v1"] == network
    assert read.implementation.variables == {"KERAS_BACKEND": "jax"}


def test_nothing_is_hidden_from_a_users_model():
    ours = IMPLEMENTATIONS["keras"]
    assert extras(ours) == ["matplotlib", "sklearn"]
    assert extras(replace(ours, settings={"target": "port.py:build"})) == []


def test_a_hidden_module_looks_uninstalled_for_a_while(monkeypatch):
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with hidden(["wave", "json"]):
        with pytest.raises(ImportError):
            importlib.import_module("wave")
        importlib.import_module("json")  # it is imported already
    importlib.import_module("wave")


@pytest.fixture(scope="module")
def mixed_run(reported, small_weights):
    """A run of a correct implementation between broken ones."""
    names = ("Killed", "Chattering", "Crashing", "Exiting", "Imprecise")
    adapters = [f"--impl={name.lower()}=broken_processes:{name}" for name in names]
    adapters.append("--impl=absent=no_such_module:Adapter")
    done, report = reported("run", *adapters, "--weights", small_weights["v1.5"], "--precision=float64")
    assert "Traceback" not in done.stdout
    return done, report


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("killed", "killed by signal 9"),
        ("crashing", "RuntimeError: the sky fell"),
        ("exiting", "exit code 7"),
        ("imprecise", "a matrix product is computed in float16"),
        ("absent", "No module named 'no_such_module'"),
    ],
)
def test_each_bad_end_is_told(mixed_run, name, reason):
    done, report = mixed_run
    (failure,) = [failure for failure in report["failures"] if failure["implementation"] == name]
    assert reason in failure["reason"]
    assert f"{name} (float64) could not run" in done.stdout


def test_a_candidate_that_hangs_is_ended(conformance, small_weights):
    options = ("--weights", small_weights["v1.5"], "--precision=float64", "--timeout=2")
    done = conformance("run", "--impl=hanging=broken_processes:Hanging", *options)
    assert done.returncode == 3
    assert "longer than --timeout 2 allows" in " ".join(done.stdout.split())


def test_the_others_keep_their_verdict(mixed_run):
    done, report = mixed_run
    compared = report["comparisons"]
    assert {comparison["implementation"] for comparison in compared} == {"chattering"}
    assert compared
    assert all(comparison["passed"] for comparison in compared)
    assert (done.returncode, report["verdict"]) == (3, "incomplete")


def test_what_a_library_prints_does_not_disturb(mixed_run):
    _, report = mixed_run
    assert "chattering float64" in report["environment"]["workers"]
    assert report["environment"]["workers"]["chattering float64"]["in_force"]["convolution"] == "float64"
