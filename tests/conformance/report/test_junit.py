"""JUnit XML says of every case of every candidate whether it conforms; what could not run is an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conformance.cases.case import Case
from conformance.cases.inputs import noise
from conformance.cases.synthetic import synthetic_weights
from conformance.compare.comparison import Comparison
from conformance.outcome import Failure, Outcome, unlocalised
from conformance.plan import NetworkPlan, Plan
from conformance.report.brief import LINES, brief_text
from conformance.report.junit import junit_text, write_junit
from conformance.report.record import make_record
from conformance.run.implementations import IMPLEMENTATIONS
from impls.config import ResNetConfig

CONFIG = ResNetConfig(depths=(1, 1, 1, 1), width=4, num_classes=6)
RIGHT = Comparison(
    *(1e-15, 1e-12, True),
    candidate="torch",
    precision="float64",
    case=Case("v1.5", "noise-32x32", "inference"),
    name="stem",
)
WRONG = replace(RIGHT, error=0.5, passed=False, reason="relative L2 error 5.0e-01, limit 1e-12", name="stage3.0.conv2")
IN_TRAIN_MODE = replace(RIGHT, case=replace(RIGHT.case, mode="train"))


def run_of(*comparisons, failures=(), left_out=(), divergences=()):
    network = NetworkPlan(CONFIG, synthetic_weights(CONFIG, seed=0), [noise(32, 32, 1, seed=0)])
    plan = Plan({"v1.5": network}, [IMPLEMENTATIONS["torch"]], ["float64"], Path("nowhere"))
    return make_record(plan, Outcome([*comparisons], [], [*failures], [*divergences]), left_out)


@pytest.fixture(scope="module")
def record():
    return run_of(RIGHT, WRONG, IN_TRAIN_MODE, divergences=[unlocalised(WRONG)])


def suite_of(record):
    (suite,) = ElementTree.fromstring(junit_text([record]))
    return suite


def test_each_case_is_a_test_and_each_failure_is_counted(record):
    suite = suite_of(record)
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "2", "failures": "1", "errors": "0", "skipped": "0"}
    wrong, right = suite
    assert (wrong.get("classname"), wrong.get("name")) == (
        "conformance.torch.v1.5.float64",
        "forward inference noise-32x32",
    )
    assert (right.get("name"), list(right)) == ("forward train noise-32x32", [])
    (failure,) = wrong
    assert failure.get("message") == "first at stage3.0.conv2: relative L2 error 5.0e-01, limit 1e-12"
    assert "torch diverges (v1.5, float64, inference, noise-32x32); first at stage3.0.conv2" in failure.text


def test_what_could_not_run_is_an_error_and_what_was_left_out_is_skipped():
    killed = Failure("mine", "float64", "killed:\x00\x1b[31m <&>")
    suite = suite_of(run_of(failures=[killed], left_out=["keras is not installed"]))
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["2", "0", "1", "1"]
    (error,) = suite.iter("error")
    assert error.get("message") == "killed:\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m <&>"
    (skipped,) = suite.iter("skipped")
    assert skipped.get("message") == "keras is not installed"
    suite = suite_of(run_of(failures=[replace(killed, layer="stem")]))
    assert [suite.get(name) for name in ("failures", "errors")] == ["1", "0"]


def test_the_file_is_written_whole(record, tmp_path):
    write_junit([record, record], tmp_path / "junit.xml")
    assert len(ElementTree.parse(tmp_path / "junit.xml").getroot()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["junit.xml"]


def test_a_brief_text_fits_a_screen(record):
    text = brief_text([record])
    assert text.startswith("diverges: 2 of 3 comparisons passed\ntorch diverges (v1.5, float64, inference")
    assert "first at stage3.0.conv2" in text
    lines = brief_text([record] * 30).splitlines()
    assert len(lines) == LINES
    assert lines[-1].endswith("more lines, in print(report)")
    assert max(map(len, lines)) <= 100
