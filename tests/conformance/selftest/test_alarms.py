"""Right builds are run and not accused; a wrong one among them is, and is counted."""

from __future__ import annotations

from itertools import combinations

import pytest

from conformance.run.implementations import BUILDS, IMPLEMENTATIONS, NAMED, find_implementation
from conformance.selftest.alarms import FULL_SETTINGS, SMALL_SETTINGS, Campaign, draws, run_campaign
from impls.config import VARIANTS
from tests.conformance.conftest import run_here


def test_draws_go_through_all_variants_and_settings_with_ever_new_seeds():
    drawn = draws(list(VARIANTS), 40, seed=7)
    assert [draw.seed for draw in drawn] == list(range(7, 47))
    assert len({draw.name for draw in drawn}) == 40
    assert {(draw.variant, draw.setting) for draw in drawn[:20]} == {(v, s) for v in VARIANTS for s in SMALL_SETTINGS}
    sides = {side % 2 for draw in drawn for side in draw.sides}
    assert sides == {0, 1}
    assert {draw.setting.threads for draw in drawn} == {1, 2}
    assert {draw.setting.batch for draw in drawn} == {1, 3, 4}


def test_a_full_draw_is_the_real_network():
    drawn = draws(["v1.5", "tutorial"], 4, full=True)
    assert [(draw.sides, draw.config) for draw in drawn] == [((224, 224), VARIANTS[draw.variant]) for draw in drawn]
    assert {draw.setting for draw in drawn} == set(FULL_SETTINGS)


def each_rounds_in_its_own_way(campaign: Campaign, names: list[str]) -> None:
    """No build is another under a second name: the errors of any two differ in float32."""
    errors = {name: [c.error for c in campaign.parts()[name, "float32"].comparisons] for name in names}
    for left, right in combinations(names, 2):
        assert errors[left] != errors[right], (left, right)


@pytest.mark.slow
def test_right_builds_are_not_accused():
    names = [name for name in NAMED if name.startswith("torch") and name != "torch-compiled"]
    campaign = run_campaign([NAMED[name] for name in names], ["v1.5"], runs=5)
    assert (campaign.failures, campaign.alarms) == ([], [])
    assert campaign.runs == 6  # each build in both precisions
    assert len(campaign.comparisons) == 6 * (11 + 11 + 58 + 1)  # two modes, running statistics, the parameters' names
    assert 0 < campaign.nearest.share < 1
    assert campaign.smallest > 0.5
    each_rounds_in_its_own_way(campaign, names)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_build_is_right_and_none_is_accused():
    runs = sum(len(build.precisions) for build in NAMED.values())
    campaign = run_campaign(list(NAMED.values()), ["v1.5"], runs=runs)
    assert (campaign.failures, campaign.alarms) == ([], [])
    assert campaign.runs == runs
    for framework in IMPLEMENTATIONS:
        each_rounds_in_its_own_way(campaign, [name for name in NAMED if name.startswith(framework)])


@pytest.fixture(scope="module")
def red_run(reported_here):
    candidates = ("--impl=wrong=broken_oracles:BiasedVariance", "--impl=right=conformance.run.adapters.numpy:TapByTap")
    return reported_here("false-alarms", "--runs=4", "--variant=v1", *candidates)


def test_a_wrong_build_is_an_alarm_and_exit_code_1(red_run):
    done, report = red_run
    assert done.returncode == 1, done.stdout + done.stderr
    assert {(alarm["implementation"], alarm["name"]) for alarm in report["false_alarms"]} == {
        ("wrong", "bn1.running_var")
    }
    assert "false alarm (wrong, float64, v1-0, train, noise-65x97) at bn1.running_var" in " ".join(done.stdout.split())


def test_the_counts_are_of_each_build_and_of_all(red_run):
    done, report = red_run
    assert f"4 runs of correct builds, {report['comparisons']} comparisons, " in " ".join(done.stdout.split())
    counts = {
        (build["build"], build["precision"]): (build["runs"], build["false_alarms"]) for build in report["builds"]
    }
    assert {key: runs for key, (runs, _) in counts.items()} == {
        (name, precision): 1 for name in ("wrong", "right") for precision in ("float64", "float32")
    }
    assert sum(alarms for _, alarms in counts.values()) == len(report["false_alarms"])
    assert sum(build["comparisons"] for build in report["builds"]) == report["comparisons"]
    nearest = [build["nearest_to_limit"] for build in report["builds"] if build["build"] == "right"]
    assert all(0 < comparison["share"] < 1 for comparison in nearest)


def test_a_build_that_cannot_run_is_told_with_exit_code_3():
    candidates = ("--impl=absent=no_such_module:Adapter", "--impl=right=conformance.run.adapters.numpy:TapByTap")
    done = run_here("false-alarms", "--runs=1", "--variant=v1", *candidates)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "absent (float64) could not run: No module named 'no_such_module'" in done.stdout


def test_builds_are_found_by_name_and_are_no_part_of_a_usual_run():
    assert find_implementation("torch-compiled") is BUILDS["torch-compiled"]
    assert not IMPLEMENTATIONS.keys() & BUILDS.keys()
    with pytest.raises(ValueError, match="there are torch, flax, keras, torch-channels-last"):
        find_implementation("torch-compiled=my_package:Adapter")
