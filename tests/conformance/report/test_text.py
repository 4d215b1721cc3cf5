"""The printed report: whether each float32 error is noise, and why; what to do about a divergence."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.cases.case import Case
from conformance.cases.inputs import noise
from conformance.cases.synthetic import synthetic_weights
from conformance.compare.comparison import Comparison, nearest_to_limit
from conformance.compare.forward import judge_noise
from conformance.compare.limits import FLOAT32
from conformance.compare.noise import NoiseFloor
from conformance.diagnose.forward import Finding
from conformance.faults import Injection, find_fault
from conformance.outcome import Divergence, Failure, Outcome, unlocalised
from conformance.plan import NetworkPlan, Plan
from conformance.report.record import make_record
from conformance.report.text import plain_console, print_divergence, print_record
from conformance.run.implementations import IMPLEMENTATIONS, Implementation
from impls.config import ResNetConfig

CONFIG = ResNetConfig(depths=(1, 1, 1, 1), width=4, num_classes=6)
FLOOR = NoiseFloor(2.4e-6, 2.9e-6)
LENGTH, NUMBERS = 4624, 10**6


def comparison(error: float, name: str = "logits", floor: NoiseFloor = FLOOR) -> Comparison:
    verdict = judge_noise(error, floor, FLOAT32.bound(LENGTH), NUMBERS)
    case = Case("v1.5", "noise-32x32", "inference")
    return Comparison(**vars(verdict), candidate="torch", precision="float32", case=case, name=name)


@pytest.fixture(scope="module")
def plan() -> Plan:
    network = NetworkPlan(CONFIG, synthetic_weights(CONFIG, seed=0), [noise(32, 32, 1, seed=0)])
    return Plan({"v1.5": network}, [IMPLEMENTATIONS["torch"]], ["float32"], Path("nowhere"))


def printed(plan: Plan, outcome: Outcome, left_out: Sequence[str] = ()) -> str:
    text = io.StringIO()
    print_record(make_record(plan, outcome, left_out), plain_console(text, width=110))
    return text.getvalue()


def row(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("│ torch")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_error_of_a_correct_candidate_stands_beside_the_noise_floor_and_is_called_noise(plan):
    outcome = Outcome([comparison(3.1e-6), comparison(1e-6, "stem")])
    text = printed(plan, outcome)
    assert row(text) == ["torch", "v1.5", "logits", "3.1e-6", "2.4e-6 to 2.9e-6", "8.1e-6", "1.07", "noise ✓"]
    (recorded, _) = make_record(plan, outcome, [])["comparisons"]
    assert (recorded["floor"], recorded["bound"]) == ({"best": 2.4e-6, "worst": 2.9e-6}, FLOAT32.bound(LENGTH))
    assert recorded["explanation"] == (
        "error 3.1e-6; correct float32 builds of this run err by 2.4e-6 to 2.9e-6; "
        "rounding in sums of this length can explain 8.1e-6: noise"
    )


def test_the_error_of_a_broken_candidate_stands_beside_it_too_and_is_called_a_bug(plan):
    wrong = comparison(1.2e-4)
    text = printed(plan, Outcome([wrong, comparison(1e-6, "stem")], divergences=[unlocalised(wrong)]))
    assert row(text) == ["torch", "v1.5", "logits", "1.2e-4", "2.4e-6 to 2.9e-6", "8.1e-6", "41", "bug ✗ 1"]
    assert (
        "first at logits: error 1.2e-4; correct float32 builds of this run err by 2.4e-6 to 2.9e-6; rounding in "
        "sums of this length can explain 8.1e-6: 41 times what correct builds err by: a bug, or TF32 in some layer"
    ) in " ".join(text.split())


def test_the_array_shown_is_the_one_nearest_to_its_limit_not_that_of_the_largest_error():
    large = comparison(5e-6, floor=NoiseFloor(1e-5, 2e-5))
    near = comparison(1.9e-6, "stem", NoiseFloor(9e-7, 1e-6))
    assert nearest_to_limit([large, near]) == near
    assert nearest_to_limit([]) is None


def test_a_divergence_says_what_to_do(plan):
    wrong = comparison(1.2e-4)
    fault = find_fault("pad-same")
    finding = Finding("stage2.0.conv2", "stage2.0", (Injection(fault, fault.places(CONFIG)[0]),), 2e-15)
    text = printed(plan, Outcome([wrong], divergences=[unlocalised(wrong, [finding, finding])]))
    assert " ".join(str(finding).split()) in " ".join(text.split())
    assert text.count("what to do: conformance explain pad-same\n") == 1
    assert "what to do" not in printed(plan, Outcome([wrong], divergences=[unlocalised(wrong)]))


def test_a_wrong_list_of_parameters_is_placed_in_no_mode_and_input(plan):
    wrong = replace(comparison(1.2e-4, "parameters"), input_matters=False, reason="one too many")
    text = printed(plan, Outcome([wrong], divergences=[unlocalised(wrong)]))
    assert "torch diverges (v1.5, float32); first at parameters: one too many" in text


INSTALL = "keras is not installed (keras missing; pip install 'resnet-parity[keras]')"


def test_brackets_are_printed_as_they_are(plan):
    """Names, reasons and lines come from users and libraries: "[keras]" is no markup, and ":smile:" no picture."""
    wrong = replace(comparison(1.2e-4, "bn[0]"), candidate="mine[/red]", reason="[bold]:smile:[/]")
    failures = [Failure("torch[gpu]", "float32", INSTALL), Failure("mine", "float64", "no [training]", "steps")]
    outcome = Outcome([wrong], failures=failures, divergences=[unlocalised(wrong, note="see [1]")])
    mine = Implementation("mine[/red]", "", ())
    text = " ".join(printed(replace(plan, implementations=[mine]), outcome, [INSTALL]).split())
    assert f"torch[gpu] (float32) could not run: {INSTALL} mine (float64) steps not compared: no [training]" in text
    assert f"left out: {INSTALL}" in text
    assert (
        "mine[/red] diverges (v1.5, float32, inference, noise-32x32); first at bn[0]: [bold]:smile:[/] (see [1])"
        in text
    )
    assert "│ mine[/red] │" in text


FACT = {"text": "conv1 adds eps", "fault": "eps-other", "layers": ["conv1"]}


@pytest.mark.parametrize(("reproduced", "words"), [(2e-15, "reproduces"), (1e-3, "this is not all"), (None, "")])
def test_what_was_measured_takes_the_place_of_no_known_fault_where_it_explains_the_whole_run(plan, reproduced, words):
    first = comparison(1e-3)
    divergence = Divergence(first, "conv1", "wrong", fed=True, findings=[Finding("conv1", "stem", (), 1.0)]).to_dict()
    divergence["identification"] = {
        "facts": [FACT],
        "unidentified": [{"text": "bn1 is no norm"}],
        "others": ["stage1.0"],
        "reproduced_to": reproduced,
    }
    stream = io.StringIO()
    print_divergence(divergence, plain_console(stream, width=200))
    text = stream.getvalue()
    assert ("no known fault explains conv1" in text) == (words != "reproduces")
    for line in ("measured: conv1 adds eps (`eps-other`)", "not identified: bn1", "not measured: stage1.0", words):
        assert line in text
    assert "conformance explain eps-other" in text


@pytest.mark.parametrize("modes", [("inference",), ("inference", "train")])
def test_a_mode_that_was_not_run_is_told(plan, modes):
    text = " ".join(printed(replace(plan, modes=modes), Outcome([comparison(3.1e-6)])).split())
    told = "not compared: train mode; what this run says holds for inference mode alone"
    assert (told in text) is ("train" not in modes)
