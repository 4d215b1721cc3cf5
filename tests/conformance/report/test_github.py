"""Annotations of GitHub Actions: one line each, with nothing in it that ends a message or a property early."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from conformance.checking import Report
from conformance.cli import main
from conformance.outcome import Failure, unlocalised
from conformance.report.github import annotations_of
from tests.conformance.report.test_junit import RIGHT, WRONG, run_of


def test_what_conforms_is_not_annotated():
    assert list(annotations_of([run_of(RIGHT)])) == []


def test_what_diverges_is_an_error_with_the_first_wrong_layer():
    (line,) = annotations_of([run_of(RIGHT, WRONG, divergences=[unlocalised(WRONG)])])
    assert line.startswith("::error title=torch diverges from v1.5%2C first at stage3.0.conv2::diverges: 1 of 2")
    assert "first at stage3.0.conv2: relative L2 error %0A5.0e-01, limit 1e-12" in line


def test_what_could_not_run_is_an_error_and_what_was_left_out_a_notice():
    killed = Failure("mine,yours", "float64", "50% done\r\n::error::no")
    lines = list(annotations_of([run_of(failures=[killed], left_out=["gradients: frozen"])]))
    assert lines == [
        "::error title=mine%2Cyours (float64) could not run::50%25 done%0D%0A::error::no",
        "::notice title=not compared::gradients: frozen",
    ]
    (line,) = annotations_of([run_of(failures=[replace(killed, layer="stem")])])
    assert "diverges before anything is compared; first at stem::" in line


@pytest.mark.parametrize(
    ("variable", "options", "shown"),
    [
        ("true", (), True),
        (None, (), False),
        (None, ("--annotations",), True),
        ("true", ("--no-annotations",), False),
    ],
)
def test_annotations_are_printed_in_github_actions_or_where_asked_for(monkeypatch, variable, options, shown):
    record = run_of(failures=[Failure("mine", "float64", "killed")]) | {"notes": []}
    monkeypatch.setattr("conformance.checking.check_models", lambda *arguments: Report([record]))
    done = CliRunner().invoke(main, ["check", "mine:build", *options], env={"GITHUB_ACTIONS": variable})
    assert done.exit_code == 3, done.output
    assert ("\n::error title=mine (float64) could not run::killed\n" in done.output) is shown
