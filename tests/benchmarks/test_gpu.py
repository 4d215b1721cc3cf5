"""The proof on a GPU, rehearsed without one: its steps, its budget, and a results file that survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.determinism import repeat
from benchmarks.gpu import Results, by_operation, condense, summary
from benchmarks.kernels import facts

ROOT = Path(__file__).parents[2]


def comparison(**fields):
    usual = {"implementation": "torch", "precision": "float32", "variant": "v1.5", "task": "", "mode": "train"}
    usual |= {"input": "photograph", "name": "stem", "error": 2e-7, "limit": 1e-6, "passed": True, "floor": None}
    return usual | fields


def test_a_group_is_condensed_to_its_worst_arrays():
    far = comparison(name="stage4.2", error=9e-6, limit=1e-4, floor={"best": 5e-6, "worst": 6e-6})
    near = comparison(error=9e-7, floor={"best": 1e-7, "worst": 3e-7})
    row = condense(("torch", "float32", "v1.5", "forward", "comparisons"), [far, near, comparison(passed=False)])
    assert (row["compared"], row["passed"]) == (3, 2)
    assert row["largest error"]["name"] == "stage4.2"
    assert row["nearest to limit"]["name"] == "stem"
    assert row["nearest to limit"]["multiple of builds"] == pytest.approx(3.0)


def test_a_report_keeps_what_failed_and_what_could_not_run():
    report = {
        "verdict": "diverges",
        "seconds": 1.0,
        "environment": {"workers": {}},
        "comparisons": [comparison(), comparison(passed=False, name="logits")],
        "reported": [comparison(task="steps sgd", limit=None)],
        "first_divergences": [],
        "failures": [{"implementation": "flax"}],
        "left_out": ["keras"],
    }
    facts = summary(report)
    assert (facts["passed"], facts["compared"], facts["verdict"]) == (1, 2, "diverges")
    assert [failed["name"] for failed in facts["failed"]] == ["logits"]
    assert {row["kind"] for row in facts["rows"]} == {"comparisons", "reported"}
    assert facts["could not run"]
    assert facts["left out"] == ["keras"]


def test_determinism_is_told_within_a_process_and_between_two():
    def process(equal, digest):
        row = {"equal": equal, "arrays": 1, "differ": [], "compiled": [1, 0, 0], "sha256": digest}
        return {"switches": {}, "operations": {"conv": row}}

    processes = {
        f"torch, {how}, process {number}": process(True, how + str(number)) for how in gpu.HOW for number in (1, 2)
    }
    processes["torch, deterministic, process 2"] = process(True, "deterministic1")
    rows = by_operation(processes, ["torch"])
    told = {"within a process": True, "arrays": 1, "differ": [], "compiled": [1, 0, 0]}
    assert rows["torch, deterministic"]["operations"]["conv"] == {**told, "between processes": True}
    assert rows["torch, free"]["operations"]["conv"] == {**told, "between processes": False}
    processes["torch, free, process 1"] = {"could not run": "killed"}
    assert by_operation(processes, ["torch"])["torch, free"] == {"could not run": "killed"}


def test_a_second_run_continues_the_file_of_the_same_machine_only(tmp_path):
    facts = {"card": "none", "versions": {"torch": "2"}, "device": "cpu", "small": True}
    first = Results(tmp_path / "results.json", facts)
    first.write("speed", {"state": "stopped"})
    first.write("proof", {"state": "done"})
    assert list(first.steps) == ["proof", "speed"]
    assert Results.continued(first.path, facts).steps == first.steps
    with pytest.raises(SystemExit, match="another machine"):
        Results.continued(first.path, facts | {"card": "NVIDIA H100"})


def test_steps_side_by_side_keep_their_order_and_the_speed_is_measured_alone():
    names = [[step.name for step in group] for group in gpu.groups(gpu.STEPS)]
    assert names[0] == ["proof"]
    assert names[-1] == ["speed"]
    assert [name for group in names for name in group] == [step.name for step in gpu.STEPS]


def test_repeated_operations_tell_which_arrays_differ():
    runs = iter([np.zeros(3), np.zeros(3), np.ones(3)])
    row = repeat(lambda: {"same": np.zeros(1), "moved": next(runs)}, lambda: 0)
    assert not row["equal"]
    assert row["differ"] == [{"arrays": 0, "first": []}, {"arrays": 1, "first": ["moved"]}]


def test_kernels_are_counted_by_kind():
    counted = Counter({"winogradForwardData4x4": 2, "sm80_xmma_fprop_implicit_gemm_f32f32": 3, "relu": 5})
    assert facts(counted) == {
        "kinds": {"Winograd": 2, "convolution": 3, "other": 5},
        "kernels": {"sm80_xmma_fprop_implicit_gemm_f32f32": 3, "winogradForwardData4x4": 2},
    }


def start(path, *options):
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(path), "--device", "cpu", "--small", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def test_what_does_not_fit_the_budget_is_left_out_and_said(tmp_path):
    path = tmp_path / "results.json"
    output, _ = start(path, "--budget", "1").communicate(timeout=120)
    steps = json.loads(path.read_text())["steps"]
    assert list(steps) == [step.name for step in gpu.STEPS]
    assert {step["state"] for step in steps.values()} == {"left out"}
    assert "it needs about" in steps["proof"]["reason"]
    assert "proof: left out" in output


def test_a_step_that_takes_too_long_is_stopped_with_its_workers(monkeypatch):
    with pytest.raises(gpu.Stopped, match="after 0 s"):
        gpu.call(["http.server", "0"], seconds=0.2)
    with pytest.raises(gpu.Stopped, match="exit code"):
        gpu.call(["benchmarks.determinism", "--framework", "none"], seconds=60)


@pytest.mark.slow
def test_a_machine_without_a_card_runs_no_kernels_of_one():
    arguments = ("benchmarks.kernels", "--candidate", "torch", "--device", "cpu", "--small")
    row = json.loads(gpu.call(arguments, seconds=200))
    assert row["device"] == "cpu"
    assert row["inference"] == row["train"] == {"kinds": {}, "kernels": {}}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_leaves_a_readable_file_that_a_second_run_continues(tmp_path):
    path = tmp_path / "results.json"
    names = ("precision", "determinism", "selftest")
    options = ("--budget", "1500", "--steps", *names)
    process = start(path, *options, "--at-once", "1")
    deadline = time.monotonic() + 600
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    steps = json.loads(path.read_text())["steps"]
    assert steps["precision"]["state"] == "done"
    assert "determinism" not in steps
    leaks = steps["precision"]["result"]["planted leaks"]  # without tensor cores, both candidates are right
    assert {name: (leak["refused"], leak["accused"]) for name, leak in leaks.items()} == {
        name: ([], "0 of 49 comparisons") for name in ("from the start", "after the probe")
    }
    ways = steps["precision"]["result"]["torch"]["ways"]
    assert ways["bfloat16"]["in_force"] == {"matrix product": "bfloat16", "convolution": "bfloat16"}
    assert ways["float16"]["in_force"] == {"matrix product": "float16", "convolution": "float16"}
    output, _ = start(path, *options, "--at-once", "2").communicate(timeout=600)
    assert "precision" not in output
    steps = json.loads(path.read_text())["steps"]
    assert {name: step["state"] for name, step in steps.items()} == dict.fromkeys(names, "done")
    assert steps["selftest"]["result"]["cause_named"] == 1
    rows = steps["determinism"]["result"]
    operations = rows["flax, deterministic"]["operations"]
    pool = operations["max pool and its gradient"]
    assert (pool["within a process"], pool["between processes"]) == (True, True)
    assert pool["compiled"] == [1, 0, 0]
