"""The benchmark of the models: its tables, its arithmetic, its budget, and one real run."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.models import measure, tables
from benchmarks.models.__main__ import main
from benchmarks.models.measure import (
    SAME_OUTPUT,
    Budget,
    Group,
    Plan,
    Row,
    best_peer,
    calls_per_turn,
    compare_outputs,
    quartiles,
    ratios,
    run,
)
from benchmarks.models.report import comparison_record, not_installed, write_atomically
from benchmarks.models.tables import (
    BATCHES,
    CONTENDERS,
    FAMILIES,
    PRECISIONS,
    TASKS,
    WAYS,
    Comparison,
    Contender,
    comparisons,
    contenders_of,
    runnable,
    way_of,
)
from benchmarks.models.worker import ENGINES, NoAnswerError
from impls.config import VARIANTS

COMPARISON = Comparison("torch", "v1.5", "eager", "inference", 8, "float32")


def row(name: str, *rounds: list[float], output: list[float] | None = None) -> Row:
    contender = Contender("torch", name, "v1.5", (), (), lambda weights, variant, precision: None)
    return Row(contender, first=1.0, rounds=list(rounds), output=[1.0, -2.0] if output is None else output)


class TestTables:
    def test_each_row_names_what_exists(self):
        for contender in CONTENDERS:
            assert contender.family in FAMILIES
            assert contender.variant in VARIANTS
            assert contender.requires
            ways = {way.name for way in WAYS if way.family == contender.family}
            assert set(contender.ways or ways) <= ways
        for way in WAYS:
            assert way.family in FAMILIES
            assert set(way.tasks) <= set(TASKS)
            assert set(way.devices) <= set(BATCHES)
            assert set(way.precisions) <= set(SAME_OUTPUT)

    def test_each_family_has_an_engine(self):
        assert set(ENGINES) == set(FAMILIES)

    def test_no_row_stands_twice(self):
        assert len({(each.family, each.name, each.variant) for each in CONTENDERS}) == len(CONTENDERS)
        assert len({(way.family, way.name) for way in WAYS}) == len(WAYS)

    @pytest.mark.parametrize("device", ["cpu", "gpu"])
    def test_every_comparison_has_ours_and_a_peer(self, device: str):
        chosen = comparisons(device, BATCHES[device], PRECISIONS[device], TASKS, FAMILIES)
        assert len(set(chosen)) == len(chosen)
        for comparison in chosen:
            names = [contender.name for contender in contenders_of(comparison)]
            assert names.count("ours") == 1
            assert len(names) > 1, comparison

    def test_a_card_begins_with_what_matters_most(self):
        chosen = comparisons("gpu", (256, 32, 1), ("float32", "tf32", "bfloat16"), TASKS, ["torch", "jax"])
        first = [each for each in chosen if way_of(each).rank == 0]
        assert chosen[: len(first)] == first
        stages = [(each.batch == 1, each.task == "training") for each in first]
        assert [stage for stage, _ in itertools.groupby(stages)] == [
            (False, False),
            (False, True),
            (True, False),
            (True, True),
        ]
        assert {(each.family, each.way) for each in first} == {
            ("torch", "eager"),
            ("torch", "compiled"),
            ("jax", "jit"),
            ("jax", "jit, split once"),
        }
        assert {each.batch for each in first[:12]} == {256}
        assert [each.precision for each in first[:3]] == ["float32", "tf32", "bfloat16"]

    def test_choices_restrict(self):
        chosen = comparisons("cpu", (8,), ("float32",), ("training",), ["jax"], ["jit"])
        assert chosen == [Comparison("jax", "v1.5", "jit", "training", 8, "float32")]

    def test_what_is_not_installed_is_said(self, monkeypatch: pytest.MonkeyPatch):
        absent = replace(CONTENDERS[1], requires=("torch", "a_module_that_nobody_has"))
        monkeypatch.setattr(tables, "CONTENDERS", (CONTENDERS[0], absent))
        assert not_installed([COMPARISON]) == [
            {
                "family": "torch",
                "name": absent.name,
                "way": "every way",
                "missing": ["a_module_that_nobody_has"],
            }
        ]

    def test_without_a_peer_a_comparison_comes_last(self, monkeypatch: pytest.MonkeyPatch):
        missing = ("a_module_that_nobody_has",)
        ours, peer = (replace(CONTENDERS[0], name=name, requires=()) for name in ("ours", "peer"))
        alone, absent = replace(ours, variant="v1"), replace(peer, variant="v1", requires=missing)
        nothing = replace(ours, variant="keras", requires=missing)
        monkeypatch.setattr(tables, "CONTENDERS", (ours, peer, alone, absent, nothing))
        without_peer, impossible = replace(COMPARISON, variant="v1"), replace(COMPARISON, variant="keras")
        assert runnable([without_peer, impossible, COMPARISON]) == [COMPARISON, without_peer]


class TestArithmetic:
    def test_the_best_peer_has_the_smallest_median_and_is_not_ours(self):
        rows = [row("ours", [1.0]), row("slow", [3.0], [3.0]), row("fast", [2.0], [9.0], [2.0])]
        assert best_peer(rows) is rows[2]
        assert best_peer(rows[:1]) is None
        assert best_peer([row("ours", [1.0]), row("never ran")]) is None

    def test_ratios_pair_the_rounds(self):
        """A machine that slows down by half during the run leaves the ratio as it is."""
        ours, peer = row("ours", [1.1, 1.1, 9.0], [2.2]), row("peer", [1.0, 1.0, 1.0], [2.0], [7.0])
        assert ratios(ours, peer) == pytest.approx([1.1, 1.1])

    def test_quartiles(self):
        assert quartiles([5.0]) == (5.0, 5.0, 5.0)
        assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)

    def test_a_record_says_images_per_second_on_a_card_only(self):
        rows = [row("ours", [2.0], [4.0], [3.0]), row("peer", [2.0], [2.0], [2.0])]
        on_card, on_cpu = (comparison_record(COMPARISON, rows, device) for device in ("gpu", "cpu"))
        assert on_card["best_peer"] == "peer"
        assert on_card["rows"][0]["ratio"] == 1.5
        assert on_card["rows"][0]["ratio_quartiles"] == [1.25, 1.75]
        assert on_card["rows"][0]["median_s"] == 3.0
        assert on_card["rows"][0]["images_per_second"] == 8 / 3.0
        assert "images_per_second" not in on_cpu["rows"][0]

    def test_short_calls_are_many(self):
        assert calls_per_turn([0.001]) == measure.MOST_CALLS
        assert calls_per_turn([0.05, 0.01]) == 3
        assert calls_per_turn([2.0]) == 1
        assert calls_per_turn([]) == 1

    @pytest.mark.parametrize("precision", SAME_OUTPUT)
    def test_the_network_v1_would_be_refused(self, precision: str):
        """With the weights of v1.5 its logits differ by 0.17; see `SAME_OUTPUT`."""
        rows = [row("ours", output=[1.0, 0.0]), row("v1", output=[1.0, 0.169])]
        compare_outputs(rows, precision)
        assert rows[1].failure == "its output differs from that of ours by 1.7e-01"

    def test_another_function_is_refused(self):
        rows = [row("ours"), row("alike", output=[1.0, -2.0001]), row("other", output=[1.0, -2.1])]
        compare_outputs(rows, "float32")
        assert [each.failure is None for each in rows] == [True, True, False]
        broken = [row("ours"), row("peer", output=[float("nan"), 1.0])]
        compare_outputs(broken, "bfloat16")
        assert broken[1].failure is not None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestBudget:
    def test_what_cost_more_than_is_left_is_not_begun(self):
        clock = Clock()
        budget = Budget(100.0, clock)
        assert budget.affords("unknown")
        clock.now = 70.0
        budget.costs["costly"] = 40.0
        assert budget.left() == 30.0
        assert not budget.affords("costly")
        assert budget.affords("unknown")
        clock.now = 100.0
        assert not budget.affords("unknown")

    @pytest.mark.parametrize("device", ["cpu", "gpu"])
    @pytest.mark.parametrize("seconds", [130.0, float("inf")])
    def test_a_run_leaves_out_what_does_not_fit(
        self, device: str, seconds: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        """Inference costs 30 s, a training step 60 s: a comparison that does not fit makes room for one that does."""
        clock, started, ended = Clock(), [], []

        class Group:
            def __init__(self, comparison: Comparison, plan: Plan) -> None:
                self.comparison, self.rows = comparison, []
                started.append(comparison)

            def measure(self, budget: Budget, following: Any) -> None:
                clock.now += 30.0 if self.comparison.task == "inference" else 60.0

            def end(self) -> None:
                ended.append(self.comparison)

        monkeypatch.setattr(measure, "Group", Group)
        inference = [replace(COMPARISON, batch=batch) for batch in (1, 2, 3)]
        training = [replace(COMPARISON, task="training", batch=batch) for batch in (1, 2)]
        chosen, measured = [inference[0], *training, *inference[1:]], []
        budget = Budget(seconds, clock)
        left_out = run(chosen, Plan(device, 1, 1.0, tmp_path), budget, lambda each, *_: measured.append(each))
        assert left_out == ([] if seconds == float("inf") else [training[1], inference[2]])
        assert measured == [each for each in chosen if each not in left_out]
        assert sorted(map(str, ended)) == sorted(map(str, started))

    def test_a_round_cut_short_leaves_the_rounds_before(self, tmp_path: Path):
        """The peer answers once, then no more: its first round counts; without any, it failed."""
        clock = Clock()

        class Worker:
            def __init__(self, answers: int) -> None:
                self.answers = answers

            def send(self, request: str, *arguments: Any) -> None:
                pass

            def receive(self, limit: float) -> dict[str, Any]:
                self.answers -= 1
                clock.now += 10.0
                if self.answers < 0:
                    raise NoAnswerError("no answer")
                return {"seconds": [1.0], "memory": 7, "first": 1.0, "second": 0.1, "output": [1.0]}

        def group(*answers: int) -> Group:
            clock.now = 0.0
            group = Group.__new__(Group)
            group.comparison, group.plan = COMPARISON, Plan("cpu", 15, 60.0, tmp_path)
            group.workers = [Worker(count) for count in answers]  # type: ignore[misc]
            group.rows = [row("ours"), row("peer")]
            group.measure(Budget(75.0, clock), following=None)
            return group

        cut = group(99, 3)
        assert [(len(each.rounds), each.failure) for each in cut.rows] == [(2, None), (1, None)]
        assert [each.memory for each in cut.rows] == [7, 7]
        failed = group(99, 2)
        assert [(len(each.rounds), each.failure) for each in failed.rows] == [(3, None), (0, "no answer")]


class TestFile:
    def test_a_failure_leaves_the_old_file(self, tmp_path: Path):
        path = tmp_path / "a.json"
        write_atomically(path, {"complete": True})
        with pytest.raises(TypeError):
            write_atomically(path, {"complete": object()})
        assert json.loads(path.read_text()) == {"complete": True}


@pytest.mark.slow
def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """One image through the plain functional network and ours, one round, in real workers."""
    out, picture = tmp_path / "results.json", tmp_path / "results.svg"
    arguments = ["--families", "jax", "--ways", "jit", "--tasks", "inference", "--batches", "1", "--rounds", "1"]
    main([*arguments, "--out", str(out), "--plot", str(picture)])
    document = json.loads(out.read_text())
    assert document["complete"]
    assert document["left_out"] == []
    (comparison,) = document["comparisons"]
    assert [each["name"] for each in comparison["rows"]] == ["ours", "plain functional"]
    assert comparison["best_peer"] == "plain functional"
    for each in comparison["rows"]:
        assert "failure" not in each
        assert each["median_s"] > 0
        assert each["ratio"] > 0
        assert each["memory_bytes"] > 100 * 2**20  # the weights alone are 102 MB
    assert "plain functional" in capsys.readouterr().out
    assert picture.stat().st_size > 1000
