"""Runs on a GPU, where there is one; and what the suite says of simulated ones, anywhere."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from conformance.run.implementations import IMPLEMENTATIONS

SEES_A_GPU = {
    "torch": "import torch; print(torch.cuda.is_available())",
    "flax": "import jax; print(jax.devices()[0].platform == 'gpu')",
    "keras": "import tensorflow; print(bool(tensorflow.config.list_physical_devices('GPU')))",
    "keras@torch": "import keras, torch; print(torch.cuda.is_available())",
    "keras@jax": "import keras, jax; print(jax.devices()[0].platform == 'gpu')",
}
"""Programs that print whether a framework sees a GPU: in a process of its own, since it depends on earlier imports."""


def sees_a_gpu(name):
    done = subprocess.run([sys.executable, "-c", SEES_A_GPU[name]], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "True"


@pytest.fixture(scope="module")
def on_a_gpu(conformance, small_weights, tmp_path_factory):
    def run(name, *options):
        report = tmp_path_factory.mktemp("reports") / "report.json"
        arguments = ("run", f"--impl={name}", "--device=gpu", "--weights", small_weights["v1.5"], "--report", report)
        done = conformance(*arguments, *options)
        return done, json.loads(report.read_text()) if report.exists() else {}

    return run


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("name", SEES_A_GPU)
def test_an_implementation_conforms_on_a_gpu(on_a_gpu, name):
    if not sees_a_gpu(name):
        pytest.skip(f"needs a GPU that {name} sees")
    tasks = ["forward"] if name == "keras@jax" else ["forward", "gradients", "steps"]  # it trains for minutes there
    done, report = on_a_gpu(name, "--task", *tasks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["environment"]["workers"][f"{name} float32"]["device"] != "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_gpu_that_is_not_there_is_never_replaced_in_silence(on_a_gpu, name):
    if sees_a_gpu(name):
        pytest.skip("this machine has a GPU: the run on it is the test above")
    if missing := IMPLEMENTATIONS[name].missing():
        pytest.skip(f"needs {', '.join(missing)}")
    done, report = on_a_gpu(name, "--precision=float64")
    assert done.returncode == 3
    assert "GPU" in report["failures"][0]["reason"]


def verdicts(report):
    return [comparison for comparison in report["comparisons"] if not comparison["passed"]]


def test_tf32_is_refused_before_anything_is_compared(on_a_gpu):
    done, report = on_a_gpu("card=simulated_cards:Tf32", "--precision=float32")
    assert done.returncode == 3
    assert report["failures"][0]["reason"].endswith(
        "a matrix product is computed in tf32 and a convolution is computed in tf32"
    )
    assert verdicts(report) == []


@pytest.mark.slow
def test_tf32_that_the_probe_does_not_see_is_accused_by_the_activations(on_a_gpu):
    done, report = on_a_gpu("card=simulated_cards:Tf32AfterTheProbe", "--precision=float32")
    assert done.returncode == 1
    assert report["environment"]["workers"]["card float32"]["device"] == "Simulated GPU"
    assert any("TF32" in comparison["reason"] for comparison in verdicts(report))


@pytest.mark.slow
def test_sums_in_another_order_each_time_are_noise(on_a_gpu):
    done, report = on_a_gpu("card=simulated_cards:AnyOrder")
    assert done.returncode == 0, done.stdout
    assert report["verdict"] == "conforms"


def test_a_candidate_that_falls_back_to_the_cpu_is_refused(on_a_gpu):
    done, report = on_a_gpu("card=simulated_cards:FallsBack", "--precision=float32")
    assert done.returncode == 3
    assert "runs on the CPU" in report["failures"][0]["reason"]


@pytest.mark.slow
def test_convolutions_by_winograds_method_are_noise_that_is_measured(conformance, tmp_path):
    report = tmp_path / "report.json"
    options = ("--variant=v1.5", "--precision=float32", "--device=gpu", "--report", report)
    done = conformance("run", "--impl=card=simulated_cards:Winograd", *options)
    assert done.returncode == 0, done.stdout
    compared = [comparison for comparison in json.loads(report.read_text())["comparisons"] if comparison["floor"]]
    multiples = [comparison["error"] / comparison["floor"]["worst"] for comparison in compared]
    assert 1.5 < max(multiples) < 2  # 1.80 at stage4.2 was measured, where other correct builds reach 1.3
