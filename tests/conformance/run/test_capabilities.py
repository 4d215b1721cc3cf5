"""What a candidate can do is declared: nothing else is called, and what is missing is told as "not compared"."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.cases.synthetic import synthetic_weights
from conformance.run.capabilities import EVERYTHING, METHODS, REQUIRED, Capability, load_adapter
from conformance.run.implementations import NAMED, ORACLE, REFERENCE_BUILDS
from conformance.run.tasks import TASKS
from impls.config import VARIANTS
from tests.conformance.conftest import run_here

BROKEN = Path(__file__).parents[1] / "broken"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def broken_on_path(monkeypatch):
    monkeypatch.syspath_prepend(BROKEN)


def test_every_capability_has_methods_and_is_needed_or_probed():
    assert set(METHODS) == set(Capability) == {*EVERYTHING, Capability.EXAMINE}
    assert {task.needs for task in TASKS.values()} == {None, *EVERYTHING} - {Capability.PROBE, Capability.TAP}


@pytest.mark.parametrize("implementation", [ORACLE, *REFERENCE_BUILDS], ids=lambda row: row.name)
def test_the_oracle_and_the_reference_builds_declare_everything(implementation):
    assert load_adapter(implementation.adapter).capabilities == EVERYTHING


def test_all_that_an_adapter_lacks_is_told_at_once(broken_on_path):
    with pytest.raises(TypeError) as caught:
        load_adapter("broken_capabilities:Overstated")
    message = str(caught.value)
    assert message.startswith("broken_capabilities:Overstated is no adapter: it has no method `parameters`; no method")
    assert "no method `record`" in message
    assert "no method `training`, though it declares Capability.TRAIN" in message
    assert "run_tapped" not in message
    with pytest.raises(TypeError, match="no frozenset `capabilities`"):
        load_adapter("broken_capabilities:Undeclared")
    assert len(REQUIRED) == 4


@pytest.fixture(scope="module")
def least_run(reported_here, small_weights):
    ports = ("--impl=least=broken_capabilities:Least", "--impl=wrong=broken_capabilities:Wrong")
    tasks = ("--task=forward", "--task=gradients", "--task=steps", "--task=initialisation")
    return reported_here("run", *ports, *tasks, "--weights", small_weights["v1.5"], "--precision=float64")


def test_a_task_without_its_capability_is_not_compared_and_told_once(least_run):
    done, report = least_run
    failures = [failure for failure in report["failures"] if failure["implementation"] == "least"]
    assert sorted(failure["task"] for failure in failures) == ["gradients", "initialisation", "steps"]
    line = "least (float64) steps not compared: the adapter does not declare Capability.TRAIN (training)"
    assert line in " ".join(done.stdout.split())


def test_what_it_can_do_is_compared_and_passes(least_run):
    _, report = least_run
    compared = [c for c in report["comparisons"] if c["implementation"] == "least"]
    assert {comparison["task"] for comparison in compared} == {""}
    assert len(compared) > 100
    assert all(comparison["passed"] for comparison in compared)


def test_without_taps_the_layer_is_named_from_a_recorded_run(least_run):
    done, report = least_run
    (divergence,) = report["first_divergences"]
    assert (divergence["implementation"], divergence["layer"], divergence["fed"]) == ("wrong", "bn1", False)
    assert (done.returncode, report["verdict"]) == (1, "diverges")


def test_alone_it_is_incomplete(small_weights):
    options = ("--weights", small_weights["v1.5"], "--precision=float64", "--task=forward", "--task=steps")
    done = run_here("run", "--impl=least=broken_capabilities:Least", *options)
    assert done.returncode == 3, done.stdout


RECORD_TWICE = """
import json, sys
import numpy as np
from conformance.cases.inputs import noise
from conformance.run.capabilities import load_adapter
from weights_convert import load

adapter_path, file, weights = sys.argv[1:]
adapter = load_adapter(adapter_path)
adapter.prepare("cpu", "float32")
adapter.build(load(weights).config, weights)
images = noise(64, 96, 2, seed=0).images
first = adapter.record(images, True, True)
functions = set()

def note(frame, event, argument):
    if event == "call" and frame.f_code.co_filename.endswith(file):
        functions.add(frame.f_code.co_name)

sys.setprofile(note)
second = adapter.record(images, True, True)
sys.setprofile(None)
equal = all(np.array_equal(first[name], second[name]) for name in first)
print(json.dumps({"names": sorted(second), "equal": equal, "functions": sorted(functions)}))
"""


def record_twice(name, tmp_path):
    """Record one case twice in a process of its own; the functions of the model's file that the second run enters."""
    row, weights = NAMED[name], tmp_path / "weights.safetensors"
    config = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=4, num_classes=10)
    synthetic_weights(config, seed=0).save(weights)
    command = [sys.executable, "-c", RECORD_TWICE, row.adapter, f"impls/{row.packages[0]}/resnet.py", str(weights)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    recorded = json.loads(done.stdout.splitlines()[-1])
    assert recorded["equal"]
    assert set(recorded["names"]) >= {"conv1", "stage4.0.bn3", "logits", "bn1.running_var"}
    return set(recorded["functions"])


@pytest.mark.parametrize(
    ("name", "entered"),
    [
        ("flax-jit", set()),
        pytest.param("keras-compiled", set(), marks=pytest.mark.slow),
        # torch.compile enters the function that it replaces the code of.
        pytest.param("torch-compiled", {"activations"}, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_recording_a_compiled_candidate_runs_nothing_eagerly(name, entered, tmp_path):
    """Once it is compiled, no line of the model's Python runs, while its activations are returned all the same."""
    assert record_twice(name, tmp_path) == entered


def test_recording_an_eager_candidate_runs_the_model(tmp_path):
    assert record_twice("torch", tmp_path) >= {"activations", "forward", "blocks"}
