"""Recordings of different machines are compared without a framework: what differs is placed, and told from noise."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import conformance as package
from conformance.cases.synthetic import synthetic_weights
from conformance.trace import Trace, TraceError
from conformance.tracing.comparison import check_comparable, compare_recordings
from conformance.tracing.recording import Recording
from impls.config import VARIANTS
from tests.conformance.conftest import run_here, small
from tests.conformance.tracing.test_recording import recording, trace

PORTS = Path(__file__).parents[1] / "candidates" / "small_ports.py"
FRAMEWORKS = ("torch", "torchvision", "jax", "jaxlib", "flax", "optax", "orbax", "keras", "tensorflow", "onnx")


@pytest.fixture(scope="module")
def folder(small_weights, tmp_path_factory):
    """Recordings of small networks in inference mode: right, right in another way, and wrong in one layer."""
    folder = tmp_path_factory.mktemp("traces")
    options = ("--variant=v1.5", "--inference", "--weights", small_weights["v1.5"])
    for name, target, *more in (
        ("torch", "torch"),
        ("port", f"{PORTS}:port(depths=(2, 1, 1, 1))", "--small"),
        ("broken", "broken=torch+pad-same@stage3.0.conv2"),
    ):
        done = run_here("record", target, "--out", folder / f"{name}.trace", *options, *more)
        assert done.returncode == 0, done.stderr
        assert f"{name}.trace: 5 cases of {name}" in done.stdout
    return folder


def test_two_that_agree_conform_without_any_framework(conformance, folder, small_weights):
    traces = (folder / "torch.trace", folder / "port.trace")
    done = conformance("compare", *traces, "--weights", small_weights["v1.5"], without=FRAMEWORKS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "float64: the same mathematics; nearest to its limit" in done.stdout
    assert "float32: noise; nearest to its limit" in done.stdout
    assert "conforms: " in done.stdout


def test_without_the_weights_float32_is_not_judged(conformance, folder):
    done = conformance("compare", folder / "torch.trace", folder / "port.trace", without=FRAMEWORKS)
    assert done.returncode == 3, done.stderr
    assert "not judged: float32: noise is told from bugs by reference builds, which need the weights" in done.stdout
    assert "float64: the same mathematics" in done.stdout


def test_what_differs_is_placed_and_the_oracle_says_which_is_wrong(conformance, folder, small_weights, tmp_path):
    traces, file = (folder / "broken.trace", folder / "port.trace"), tmp_path / "report.json"
    done = conformance("compare", *traces, "--weights", small_weights["v1.5"], "--report", file, without=FRAMEWORKS)
    assert done.returncode == 1, done.stderr
    assert "first at stage3.0.conv2: relative L2 error" in done.stdout
    assert "float32: bug; " in done.stdout
    assert "by the oracle, broken.trace (broken) is wrong, first at stage3.0.conv2" in done.stdout
    assert "by the oracle, port.trace (port) is right" in done.stdout
    report = json.loads(file.read_text())
    assert report["verdict"] == "diverges"
    failed = {c["name"] for c in report["comparisons"] if not c["passed"]}
    assert "stage2.0" not in failed
    assert {"stage3.0.conv2", "logits"} <= failed


def test_what_one_of_them_does_not_show_is_left_out_and_told(folder):
    whole = Recording.load(folder / "torch.trace")
    key = next(key for key in whole.traces if key.precision == "float64")
    trace, hidden = whole.traces[key], {"stage2.0.bn1": "it is no layer of its own in the model"}
    arrays = {name: array for name, array in trace.arrays.items() if name not in hidden}
    partial = Trace(arrays, dataclasses.replace(trace.origin, not_shown=hidden))
    lacking = dataclasses.replace(whole, traces={key: partial}, candidate="partial", path=None)
    for pair in ((whole, lacking), (lacking, whole)):
        report = compare_recordings(*pair)
        assert report.conforms, report
        assert "stage2.0.bn1" not in {comparison.name for comparison in report.comparisons}
        assert "not compared: stage2.0.bn1 of partial: it is no layer of its own in the model" in str(report)
    unexplained = dataclasses.replace(lacking, traces={key: Trace(arrays, trace.origin)})
    for pair in ((whole, unexplained), (unexplained, whole)):
        assert [c.name for c in compare_recordings(*pair).divergences] == ["stage2.0.bn1"]


def test_other_weights_are_refused(folder, small_weights, tmp_path):
    synthetic_weights(small("v1.5"), seed=1).save(tmp_path / "others.safetensors")
    other = tmp_path / "oracle.trace"
    arguments = ("record", "oracle", "--variant=v1.5", "--inference", "--precision=float64", "--out", other)
    assert run_here(*arguments, "--weights", tmp_path / "others.safetensors").returncode == 0
    done = run_here("compare", folder / "torch.trace", other)
    assert done.returncode == 2
    assert "torch.trace (torch) and oracle.trace (oracle) cannot be compared: the weights differ" in done.stderr
    done = run_here("compare", other, other, "--weights", small_weights["v1.5"])
    assert done.returncode == 2
    assert "v1.5.safetensors: these are not the weights of oracle.trace (oracle)" in done.stderr
    assert run_here("compare", other, other, "--weights", tmp_path / "others.safetensors").returncode == 0


def test_what_cannot_be_compared_is_refused_all_at_once():
    check_comparable(recording(), recording())
    other = recording(trace(weights="4567"), config=VARIANTS["keras"], weights="4567")
    with pytest.raises(
        TraceError, match=r"strided_layer is conv2 in the first and conv1 .*the weights differ: .*--weights"
    ):
        check_comparable(recording(), other)
    with pytest.raises(TraceError, match="they have no case in common"):
        check_comparable(recording(), recording(trace("float32", logits=np.ones((1, 10), np.float32))))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("record", "torch", "--out", "{}/a.trace"), 2, "torch computes any variant: say which"),
        (("record", "no_such:thing", "--out", "{}/a.trace"), 2, "there is no module 'no_such'"),
        (("record", "torch", "--out", "{}/none/a.trace", "--variant=v1.5"), 2, "there is no folder"),
        (("compare", "{}/none.trace", "{}/none.trace"), 2, "none.trace: it cannot be read as a recording"),
        (("record", f"{PORTS}:failing", "--out", "{}/a.trace"), 3, "failing raised ValueError: no such size"),
    ],
)
def test_bad_input_is_one_message(tmp_path, arguments, code, message):
    done = run_here(*(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_whose_framework_is_missing_is_told(conformance, tmp_path):
    done = conformance("record", "flax", "--variant=v1.5", "--out", tmp_path / "a.trace", without=("flax", "jax"))
    assert done.returncode == 3
    assert "nothing is recorded: flax is not installed" in done.stderr


def test_the_functions_do_the_same(tmp_path, small_weights):
    from tests.conformance.candidates.small_ports import port

    options = {"variant": "v1.5", "inference": True, "precisions": ["float64"], "weights": small_weights["v1.5"]}
    for name, bug in (("right", ""), ("wrong", "wrong_eps")):
        model = port(bug, depths=small("v1.5").depths)
        package.record_trace(model, tmp_path / name, **options)
    report = package.compare_traces(tmp_path / "right", tmp_path / "wrong")
    assert not report.conforms
    assert report.divergences[0].name == "stage3.0.bn2"
    assert "first at stage3.0.bn2" in str(report)
    assert package.compare_traces(tmp_path / "right", tmp_path / "right").conforms
