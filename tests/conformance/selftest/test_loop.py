"""Faults injected into the frameworks are caught, placed and named, by the self-test and by `conformance run`."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from conformance.cli import main
from conformance.run.implementations import IMPLEMENTATIONS
from conformance.selftest.faulty import injection_at
from conformance.selftest.loop import run_selftest
from conformance.selftest.trials import Result, Trial
from impls.config import VARIANTS

FAMILIES = {  # candidates with one fault of each mechanism: the first wrong layer, the words of the diagnosis
    "config": ("torch+eps-keras@network", "bn1", ["`eps-keras` everywhere"]),
    "statistics": (
        "torch+var-biased@stage1.0.bn1",
        "stage1.0.bn1.running_var",
        ["`var-biased` at stage1.0.bn1"],
    ),
    "input-weights-whole": (
        "torch+normalised-twice@input+kernel-flip@stage2.0.conv2+head-max@head",
        "conv1",
        ["`normalised-twice` at input", "`kernel-flip` at stage2.0.conv2", "`head-max` at head"],
    ),
    "estimated-layer-source": (
        "torch+eps-other@stage1.1.bn2+pad-same@stage3.0.conv2+relu-after-missing@stage4.0",
        "stage1.1.bn2",
        ["eps = 0.00037", "`pad-same` at stage3.0.conv2", "`relu-after-missing` at stage4.0"],
    ),
}


EVERYDAY = ("estimated-layer-source",)
OTHERS = ("config", "statistics", "input-weights-whole")


@pytest.fixture(scope="module")
def red_run(reported_here, small_weights):
    """Run a group of candidates of the table; return the process and the report."""

    def run(group):
        candidates = [f"--impl={name}={FAMILIES[name][0]}" for name in group]
        return reported_here("run", *candidates, "--weights", small_weights["v1.5"], "--precision=float64")

    return run


@pytest.mark.parametrize(
    ("family", "group"),
    [(name, EVERYDAY) for name in EVERYDAY] + [pytest.param(name, OTHERS, marks=pytest.mark.slow) for name in OTHERS],
)
def test_a_fault_of_each_family_is_red_with_the_right_words(red_run, family, group):
    done, report = red_run(group)
    assert (done.returncode, report["verdict"], report["failures"]) == (1, "diverges", [])
    (divergence,) = [d for d in report["first_divergences"] if d["implementation"] == family]
    _, layer, words = FAMILIES[family]
    assert (divergence["layer"], divergence["fed"]) == (layer, True)
    texts = [finding["text"] for finding in divergence["diagnosis"]]
    assert [word in text for word, text in zip(words, texts, strict=True)] == [True] * len(words)
    assert all(word in " ".join(done.stdout.split()) for word in words)


INJECTED = {
    "torch": (
        *("kernel-io-swap", "pad-same", "eps-1.001", "bn-frozen", "relu-missing", "pool-zero", "pool-valid", "bgr"),
        *("shortcut-detached", "relu-grad-half", "loss-sum", "wd-decoupled", "adam-eps-uncorrected", "gamma-other"),
    ),
    "flax": ("bn-frozen", "pool-zero", "relu-grad-half", "adam-eps-uncorrected"),
    "keras": ("pad-same", "pool-valid", "pool-zero", "shortcut-detached", "wd-decoupled", "gamma-other"),
}
"""Faults of the self-test: in Flax and in Keras, which take seconds each, one or two for each task."""


@pytest.mark.slow
@pytest.mark.parametrize(("implementation", "trials"), [("torch", 31), ("flax", 7), ("keras", 12)])
def test_the_selftest_names_what_it_injects(implementation, trials):
    """The faults above; `make selftest` injects the whole catalogue, in some minutes for each implementation."""
    result = run_selftest([IMPLEMENTATIONS[implementation]], "v1.5", INJECTED[implementation])
    assert result.missed() == []
    assert len(result.trials) == trials
    assert result.correct > 1000
    assert result.devices == {"cpu"}
    assert {trial.fault for trial in result.trials if not trial.caught} == {"pool-zero"}


@pytest.mark.slow
def test_a_selftest_on_a_gpu_that_is_not_there_tests_nothing():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = run_selftest([IMPLEMENTATIONS["torch"]], "v1.5", ["bgr"], device="gpu")
    assert "GPU" in result.failures[0]
    assert result.trials == []
    assert result.devices == set()


def trial(**changes):
    return Trial("torch", "bgr", "input", "float64", "", "conv1", **changes)


def test_a_missed_target_is_told():
    good = trial(caught=True, layer="conv1", causes=("bgr@input",))
    assert Result([good] * 100).missed() == []
    assert Result([]).missed() == ["nothing was injected"]
    assert Result([*[good] * 99, trial()]).missed() == ["torch: bgr@input not caught"]
    wrong_layer = trial(caught=True, layer="bn1", causes=("bgr@input",))
    assert Result([*[good] * 9, wrong_layer]).missed() == ["torch: right layer named in 90.0%, target 98%"]
    wrong_cause = trial(caught=True, layer="conv1", causes=("scale-255@input",))
    assert Result([*[good] * 9, wrong_cause]).missed() == ["torch: right cause named in 90.0%, target 95%"]
    accused = Trial("torch", "pool-zero", "stem", "float64", "a proof", "", caught=True)
    assert Result([*[good] * 99, accused]).missed() == ["torch: pool-zero@stem accused"]


@pytest.mark.parametrize(
    ("fault", "place", "message"),
    [
        ("no-such", "conv1", "there is no fault 'no-such'"),
        ("pad-same", "conv1", "pad-same cannot be at 'conv1' of this network"),
        ("pad-same", "nowhere", "the places are input, network, stem, conv1"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(fault, place, message):
    with pytest.raises(ValueError, match=message):
        injection_at(fault, place, VARIANTS["v1.5"])


def test_an_unknown_fault_is_bad_input():
    result = CliRunner().invoke(main, ["selftest", "--fault", "pad-sme", "--impl", "torch"])
    assert result.exit_code == 2, result.output
    assert "there is no fault 'pad-sme'; the nearest names are pad-same" in result.output
