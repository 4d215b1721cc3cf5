"""`conformance explain`: each fault has a page, and an id that does not exist is answered with the nearest ones."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from click.testing import CliRunner

from conformance.cli import main
from conformance.faults import FAULTS, find_fault
from conformance.faults.page import fault_page, heading
from conformance.faults.rows import SUBJECTS
from conformance.run.implementations import find_implementation
from conformance.selftest.faulty import injection_at
from impls.config import VARIANTS


def explain(*arguments):
    return CliRunner().invoke(main, ["explain", *arguments])


def section(page, title):
    return page.partition(f"\n{title}\n")[2].partition("\n\n")[0]


@pytest.mark.parametrize("id", FAULTS)
def test_every_fault_has_a_page(id):
    fault = find_fault(id)
    page = " ".join(fault_page(fault).split())
    assert page.startswith(f"{id}: {fault.what}")
    assert fault.source.removeprefix("-") in page
    for text in vars(fault.remedies).values():
        assert text in page
    looks = section(fault_page(fault), "How it looks")
    for file, edits in (("resnet", fault.model or fault.initial), ("training", fault.training)):
        for framework in edits:
            assert f"impls/{framework}/{file}.py" in looks
    assert looks.count("      + ") + looks.count("      - ") > 0 or not (fault.model or fault.initial or fault.training)
    assert looks.strip()


@pytest.mark.parametrize("id", FAULTS)
def test_the_commands_of_a_page_show_the_fault(id):
    selftest, run = (shlex.split(line)[1:] for line in section(fault_page(FAULTS[id]), "Try it").splitlines())
    for name, *options in (selftest, run):
        main.commands[name].make_context(name, list(options))
    variant, candidate = (run[run.index(option) + 1] for option in ("--variant", "--impl"))
    ((fault, place),) = find_implementation(candidate).faults
    assert injection_at(fault, place, VARIANTS[variant]).fault is FAULTS[id]


def test_a_page_shows_the_right_and_the_wrong_line():
    lines = explain("relu-after-missing").output.splitlines()
    assert "  impls/torch/resnet.py, impls/flax/resnet.py, impls/keras/resnet.py, impls/numpy/resnet.py" in lines
    assert lines[lines.index("How it looks") + 2 :][:2] == ["      - return relu(y + x)", "      + return y + x"]
    assert "  shows in    inference mode (--task forward)" in lines


def test_a_page_shows_a_wrong_setting_and_where_it_is_read():
    output = explain("eps-keras").output
    assert "ResNetConfig(norm_eps=0.001), where v1.5 has 1e-05" in output
    assert "epsilon=config.norm_eps," in section(output, "How it looks")
    assert "Recipe(milestones=(4, 7)), where (3, 6) is right" in explain("milestones-late").output


def test_a_page_names_wrong_weights_as_each_framework_does():
    looks = section(explain("var-not-loaded").output, "How it looks")
    names = dict(line.split() for line in looks.splitlines()[1:])
    assert names == {"torch": "bn1.running_var", "flax": "bn1.var", "keras": "bn1.moving_variance"}


def test_a_page_says_where_a_fault_can_be_and_where_it_has_no_effect():
    where = section(explain("pad-same").output, "Where it can be")
    assert "a convolution (kernel 3, stride 2) or the whole network" in where
    assert "v1.5: network, stage2.0.conv2, stage3.0.conv2, stage4.0.conv2" in where
    assert "flax: nowhere" in where
    assert "no effect   at a residual block (with an identity shortcut)" in explain("relu-on-branch").output


def test_without_an_id_all_are_listed_by_subject():
    output = explain().output
    for subject in SUBJECTS:
        listed = output.partition(f"{heading(subject)}\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in listed.splitlines()] == list(subject.ROWS)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("pad-sme", "there is no fault 'pad-sme'; the nearest names are pad-same, "),
        ("something", "there is no fault 'something'; `conformance explain` lists all faults"),
    ],
)
def test_an_unknown_id_is_one_message(id, message):
    result = explain(id)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"conformance: {message}")
    assert len(result.stderr.splitlines()) == 1


def test_no_framework_is_imported():
    code = """
import sys
from conformance.faults import FAULTS
from conformance.faults.page import fault_page, index_page
pages = [index_page(), *map(fault_page, FAULTS.values())]
print(len(pages), {'torch', 'jax', 'flax', 'keras', 'tensorflow'} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(FAULTS) + 1} set()\n"
