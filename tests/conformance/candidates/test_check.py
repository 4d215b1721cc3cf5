"""Models are checked as they are: the verdict is the suite's, and what goes wrong costs one candidate's verdict."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from conformance.cli import main
from tests.conformance.conftest import workers_here

HERE = Path(__file__).parent
PORTS = HERE / "small_ports.py"
INFERENCE64 = ("--variant=v1.5", "--precision=float64", "--inference")


@pytest.fixture
def check(tmp_path):
    """Run the command; returns exit code, what it printed in one line, and its report if there is one."""

    def run(*arguments):
        file = tmp_path / "report.json"
        done = CliRunner().invoke(main, ["check", *map(str, arguments), "--report", str(file)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, " ".join(done.output.split()), json.loads(file.read_text()) if file.exists() else None

    return run


@pytest.fixture
def check_here(check):
    """Run the command, with its workers in this process."""
    with workers_here():
        yield check


def test_a_right_port_conforms_and_a_wrong_one_is_placed_and_named(check):
    targets = (f"right={PORTS}:port", f"wrong={PORTS}:port('wrong_eps')")
    code, text, report = check(*targets, "--variant=v1.5")
    assert code == 1
    failed = {c["implementation"] for c in report["comparisons"] if not c["passed"]}
    assert failed == {"wrong"}
    seen = {(c["precision"], c["mode"]) for c in report["comparisons"]}
    assert seen >= {(p, m) for p in ("float64", "float32") for m in ("inference", "train")}
    assert "likely cause: `eps-keras` at stage3.0.bn2" in text
    assert report["failures"] == []
    assert report["plan"]["implementations"] == ["right", "wrong"]


@pytest.mark.slow
def test_what_a_port_does_to_its_worker_costs_its_own_verdict(check):
    bugs = ("talking", "crashing", "hanging", "not_a_number", "too_short", "without_gradient")
    targets = [f"{bug}={PORTS}:port('{bug}')" for bug in bugs]
    code, text, report = check(*targets, *INFERENCE64, "--task", "forward", "gradients", "--timeout", 30)
    assert code == 1
    failed = {c["implementation"] for c in report["comparisons"] if not c["passed"]}
    assert failed == {"not_a_number", "too_short"}
    assert all(c["passed"] for c in report["comparisons"] if c["implementation"] in ("talking", "without_gradient"))
    assert {failure["implementation"] for failure in report["failures"]} >= {"crashing", "hanging", "without_gradient"}
    assert "crashing (float64) could not run: it was killed by signal 6" in text
    assert "hanging (float64) could not run: it was stopped after" in text
    assert "longer than --timeout 30 allows" in text
    assert "without_gradient (float64) gradients not compared: its logits carry no gradient" in text
    assert "it holds NaN or infinity" in text
    assert re.search(r"shape \(\d+, 5\) where \(\d+, 10\) is expected", text)
    assert "measured: logits: it has 5 output channels, where 10 are expected: the first 5 are right" in text


@pytest.mark.slow
def test_junit_tells_what_conforms_and_what_does_not(check, tmp_path):
    targets = (f"right={PORTS}:port", f"{PORTS}:failing")
    code, _, _ = check(*targets, *INFERENCE64, "--junit", tmp_path / "junit.xml")
    assert code == 3
    suites = ElementTree.parse(tmp_path / "junit.xml").getroot()
    tests = {test.get("classname"): test for suite in suites for test in suite}
    assert tests["conformance.right.v1.5.float64"].find("failure") is None
    assert "no such size" in tests["conformance.failing"].find("error").get("message")


def test_what_is_wrong_before_anything_is_compared_makes_it_diverge(check_here):
    code, text, report = check_here(f"{PORTS}:port(dropout=0.1)", *INFERENCE64)
    assert (code, report["verdict"], report["comparisons"]) == (1, "diverges", [])
    (failure,) = report["failures"]
    assert failure["layer"] == "stage1.0"
    assert "port (float64) diverges before anything is compared; first at stage1.0: two runs of the same input" in text


@pytest.mark.slow
def test_float32_inside_is_not_compared_in_float64_and_excused_unless_float64_was_asked_for(check):
    target = f"{PORTS}:port('single_inside')"
    code, text, report = check(target, "--variant=v1.5", "--inference")
    assert code == 0, text
    assert "left out: port is not compared in float64: its stem is float32 where float64 goes in" in text
    assert {c["precision"] for c in report["comparisons"]} == {"float32"}
    code, text, _ = check(target, *INFERENCE64)
    assert code == 3
    assert "port (float64) is not compared: its stem is float32 where float64 goes in" in text


def test_what_cannot_be_done_is_told(check_here):
    target = f"{PORTS}:port('frozen')"
    code, text, report = check_here(target, "--variant=v1.5", "--precision=float64", "--task", "gradients", "steps")
    assert code == 3
    assert "steps not compared: 2 parameters are frozen (requires_grad is False), conv1.weight among them" in text
    assert "left out: gradient.conv1.weight and 1 more of port: it is frozen (requires_grad is False)" in text
    names = {c["name"] for c in report["comparisons"]}
    assert "gradient.conv1.weight" not in names
    assert "gradient.fc.weight" in names


def test_an_unknown_naming_is_described_by_a_file_of_patterns(check_here):
    target = f"{PORTS}:renamed"
    code, text, _ = check_here(target, *INFERENCE64)
    assert code == 2
    assert "renamed: the names of its arrays belong to no known dialect" in text
    code, text, report = check_here(target, *INFERENCE64, "--names", HERE / "renamed.toml")
    assert code == 0, text
    assert len(report["comparisons"]) > 40


def test_own_weights_go_into_the_oracle(check_here):
    code, text, report = check_here(f"{PORTS}:port", *INFERENCE64, "--own-weights")
    assert code == 0, text
    assert report["environment"]["weights"]["v1.5"]["source"] == "the model's own weights"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module:build", "there is no module 'no_such_module'"),
        (f"{HERE}/none.py:build", "there is no file"),
        (f"{PORTS}:no_such", "has no 'no_such'; it has"),
        ("torchvision", "'torchvision' is no target: a target is MODULE:FACTORY"),
        (f"{PORTS}:port(width=2**3)", "they are literals"),
        (f"{PORTS}:port(bug=open)", "they are literals"),
        (f"torch={PORTS}:port", "'torch' is the name of one of our own"),
        (f"{PORTS}:port", "nothing tells which variant it is held against; give --variant"),
    ],
)
def test_a_target_that_is_none_is_bad_input(check_here, target, message):
    code, text, report = check_here(target)
    assert code == 2
    assert message in text
    assert report is None


def test_two_targets_of_one_name_are_refused(check):
    code, text, _ = check(f"{PORTS}:port", f"{PORTS}:port(width=16)", "--variant=v1.5")
    assert code == 2
    assert "several targets are called port: name them" in text


@pytest.mark.slow
def test_a_factory_that_fails_costs_its_own_verdict(check):
    targets = [f"{PORTS}:failing", f"{PORTS}:nothing", f"keyed={PORTS}:port('no_such_bug')", f"right={PORTS}:port"]
    code, text, report = check(*targets, *INFERENCE64)
    assert code == 3
    assert "failing could not run: failing raised ValueError: no such size" in text
    assert "nothing could not run: the target gives a builtins.int; a model is a" in text
    assert "keyed could not run: port raised KeyError: 'no_such_bug'" in text
    assert {run["verdict"] for run in report["runs"]} == {"conforms", "incomplete"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchvision_and_timm_conform_to_v15_and_are_told_from_v1_by_the_stride(check):
    """torchvision conforms in both precisions in the tests of `examples/check_torchvision`."""
    timm = "timm=timm:create_model('resnet50')"
    code, text, report = check(timm)
    assert code == 0, text
    assert {c["precision"] for c in report["comparisons"]} == {"float64", "float32"}
    targets = ("torchvision.models:resnet50", timm)
    code, text, report = check(*targets, "--variant=v1", "--precision=float64", "--inference")
    assert code == 1
    causes = [d["diagnosis"][0]["causes"][0]["fault"] for d in report["first_divergences"]]
    assert causes == ["stride-3x3"] * 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_transformers_resnet_is_what_its_own_configuration_says(check):
    factory = f"{HERE / 'peers.py'}:transformers_resnet"
    targets = (f"after={factory}(downsample_in_bottleneck=False)", f"before={factory}(downsample_in_bottleneck=True)")
    code, text, report = check(*targets, "--precision=float64")
    assert code == 0, text
    assert [run["plan"]["variants"] for run in report["runs"]] == [["v1.5"], ["v1"]]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_keras_applications_conforms_without_its_softmax_which_is_named(check):
    factory = "keras.applications:ResNet50"
    targets = (f"{factory}(weights=None, classifier_activation=None)", f"soft={factory}(weights=None)")
    code, text, report = check(*targets, "--variant=keras", "--precision=float64")
    assert code == 1, text
    assert {c["implementation"] for c in report["comparisons"] if not c["passed"]} == {"soft"}
    assert "likely cause: `softmax-included` at head" in text
    assert "ResNet50 is compared with Keras's own running statistics: decay 0.99, biased variance" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_keras_hub_conforms(check):
    code, text, report = check(f"{HERE / 'peers.py'}:keras_hub_resnet", "--variant=v1.5", "--precision=float64")
    assert code == 0, text
    assert len(report["comparisons"]) > 500
    assert "is compared with Keras's own running statistics" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_official_linen_example_conforms_to_flax(check):
    target = "tests.weights_convert.linen_example:ResNet50(num_classes=10)"
    code, text, report = check(target, "--variant=flax", "--precision=float64")
    assert code == 0, text
    assert len(report["comparisons"]) > 500
    assert "ResNet50 is compared with Flax's own running statistics: decay 0.9, biased variance" in text
