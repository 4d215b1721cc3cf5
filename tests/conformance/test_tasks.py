"""Each stage has one table of tasks, and all have the same keys; no code asks which task it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from conformance.cases.case import TASKS
from conformance.cases.names import NAMES
from conformance.compare.traces import JUDGES
from conformance.faults import FAULTS
from conformance.localise import LOCALISERS
from conformance.plan import ASKED_AS, CASES
from conformance.report.text import NOTES
from conformance.run.tasks import TASKS as RUN
from conformance.selftest.loop import BENCHES

TABLES = {"names": NAMES, "cases": CASES, "run": RUN, "judge": JUDGES, "localise": LOCALISERS, "report": NOTES}


@pytest.mark.parametrize("stage", TABLES)
def test_each_stage_has_a_row_for_each_task(stage):
    assert TABLES[stage].keys() == JUDGES.keys()


def test_what_a_user_can_ask_for_are_all_tasks_but_those_asked_for_by_another():
    assert set(TASKS) == JUDGES.keys() - ASKED_AS.keys()
    assert set(ASKED_AS.values()) <= set(TASKS)


def test_the_selftest_has_a_bench_for_each_task_of_the_catalogue():
    assert BENCHES.keys() == {fault.task for fault in FAULTS.values()}


ROOT = Path(__file__).parents[2] / "conformance"

ORDERED = {
    ("localise.py", "diagnose_steps"): "whether the run took gradients, too",
    ("case.py", "words"): "a forward run needs no words",
    ("plan.py", "shows_layers"): "only a forward run has activations of layers",
    ("suite.py", "first_failures"): "activations come first, whatever the other tasks are",
}
"""Comparisons with the name of a task that are no branch of a stage."""


def asked_tasks(path):
    """Functions of a file that compare anything with the name of a task."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Compare):
                    constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                    if set(constants) & JUDGES.keys():
                        yield function.name


STAGES = ("cases", "run", "compare", "report", "selftest", "suite.py", "localise.py", "outcome.py", "plan.py")


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_branches_by_task(stage):
    folder = ROOT / stage
    for path in folder.rglob("*.py") if folder.is_dir() else [folder]:
        allowed = {function for file, function in ORDERED if file == path.name}
        assert set(asked_tasks(path)) <= allowed, path


def test_a_branch_by_task_is_found(tmp_path):
    path = tmp_path / "stage.py"
    branches = ('if case.task == "steps":', "    return 1", 'return case.task in ("forward",)')
    path.write_text("\n    ".join(("def judge(case):", *branches)))
    assert set(asked_tasks(path)) == {"judge"}
