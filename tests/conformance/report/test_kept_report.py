"""A report of today holds the facts that a report of an earlier release held, which is kept beside this file.

`kept_report.json` is the report of the command below, reduced by `reduced`. A key that is renamed or new is named here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from math import log
from pathlib import Path

import pytest

from conformance.cases.synthetic import synthetic_weights
from impls.config import VARIANTS
from tests.conformance.conftest import run_here

KEPT = json.loads((Path(__file__).parent / "kept_report.json").read_text())

RENAMED = {"told": "explanation"}
"""Key then to key now."""

NEW = {"report": {"plan"}, "cause": {"mode"}, "divergence": {"arrays", "examined", "identification"}}
"""Keys that there were not, by kind of object."""

FACTOR = 30
"""Between errors that are rounding, on two machines: of a few numbers they are chance."""


def kind(comparison):
    return "/".join(comparison[key] for key in ("implementation", "precision", "mode", "input", "task"))


def reduced(report):
    """The keys of each kind of object; names, verdicts and errors of all comparisons; and what was diagnosed."""
    comparisons, groups = report["comparisons"] + report["reported"], {}
    for comparison in comparisons:
        groups.setdefault(kind(comparison), []).append(comparison)
    names = list(dict.fromkeys(",".join(c["name"] for c in group) for group in groups.values()))
    workers = report["environment"]["workers"]
    return {
        "verdict": report["verdict"],
        "failures": report["failures"],
        "keys": {
            "report": sorted(report),
            "environment": sorted(report["environment"]),
            "worker": sorted(set.intersection(*map(set, workers.values()))),
            "comparison in float64": sorted(next(c for c in comparisons if not c["floor"])),
            "comparison in float32": sorted(next(c for c in comparisons if c["floor"])),
            "divergence": sorted(report["first_divergences"][0]),
            "finding": sorted(report["first_divergences"][0]["diagnosis"][0]),
            "cause": sorted(report["first_divergences"][0]["diagnosis"][0]["causes"][0]),
        },
        "counts": {key: len(report[key]) for key in ("comparisons", "reported")},
        "workers": sorted(workers),
        "weights": {variant: weights["sha256"] for variant, weights in report["environment"]["weights"].items()},
        "shapes": {name: input["shape"] for name, input in report["environment"]["inputs"]["v1.5"].items()},
        "divergences": [
            {key: d[key] for key in ("implementation", "variant", "precision", "mode", "input", "task", "layer", "fed")}
            | {"causes": [[cause["fault"], cause["place"]] for f in d["diagnosis"] for cause in f["causes"]]}
            for d in report["first_divergences"]
        ],
        "names": names,
        "groups": {
            key: {
                "names": names.index(",".join(c["name"] for c in group)),
                "errors": " ".join("-" if c["error"] is None else f"{c['error']:.1e}" for c in group),
                "failed": "".join("." if c["passed"] else "x" for c in group),
                "judged": "".join("." if c["limit"] is None else "x" for c in group),
            }
            for key, group in groups.items()
        },
    }


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    """A small network of v1.5, right and with two faults, in every task."""
    folder = tmp_path_factory.mktemp("report")
    config = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=8, num_classes=10)
    synthetic_weights(config, seed=0).save(folder / "weights.safetensors")
    broken = "--impl=broken=torch+pad-same@stage3.0.conv2+eps-keras@network"
    tasks = [f"--task={task}" for task in ("forward", "gradients", "steps", "initialisation")]
    options = ("--weights", folder / "weights.safetensors", "--variant=v1.5", "--report", folder / "report.json")
    done = run_here("run", "--impl=torch", broken, *tasks, *options)
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads((folder / "report.json").read_text())
    limits = {}
    for comparison in report["comparisons"] + report["reported"]:
        limits.setdefault(kind(comparison), []).append(comparison["limit"])
    return reduced(report), limits


@pytest.mark.parametrize("key", ["verdict", "failures", "counts", "workers", "weights", "shapes", "divergences"])
def test_the_facts_of_the_run_are_the_same(today, key):
    assert today[0][key] == KEPT[key]


@pytest.mark.parametrize("kind_of_object", KEPT["keys"])
def test_the_keys_are_the_same_but_for_those_renamed(today, kind_of_object):
    renamed = {RENAMED.get(key, key) for key in KEPT["keys"][kind_of_object]}
    assert set(today[0]["keys"][kind_of_object]) == renamed | NEW.get(kind_of_object, set())


def test_each_array_is_compared_under_the_same_name_in_the_same_order(today):
    names = [
        {key: report["names"][group["names"]] for key, group in report["groups"].items()}
        for report in (*today[:1], KEPT)
    ]
    assert names[0] == names[1]
    judged = [{key: group["judged"] for key, group in report["groups"].items()} for report in (*today[:1], KEPT)]
    assert judged[0] == judged[1]


def differences(report, limits, kept):
    """What a verdict or an error says otherwise, in words."""
    for key, then in kept["groups"].items():
        now, names = report["groups"][key], report["names"][report["groups"][key]["names"]].split(",")
        errors = zip(now["errors"].split(), then["errors"].split(), strict=True)
        verdicts = zip(now["failed"], then["failed"], strict=True)
        for name, (error, error_then), (failed, failed_then), limit in zip(
            names, errors, verdicts, limits[key], strict=True
        ):
            at = f"{key}/{name}: {error_then} {failed_then}, now {error} {failed}"
            if "-" in (error, error_then):
                near = error == error_then
            elif limit is None or 0.0 in (float(error), float(error_then)):
                near = True  # what is not judged follows ReLUs that choose otherwise, on another machine
            else:
                wrong = "x" in (failed, failed_then) and float(error_then) > 1e-3
                near = abs(log(float(error) / float(error_then))) < (0.05 if wrong else log(FACTOR))
            borderline = "float32" in key and limit and 1 / 3 < float(error) / limit < 3
            if not near or (failed != failed_then and not borderline):
                yield at


def test_verdicts_and_errors_are_the_same(today):
    assert list(differences(*today, KEPT)) == []


def test_what_differs_is_seen(today):
    report, limits = today
    key = next(key for key in report["groups"] if key.startswith("torch/float64/train/photograph"))
    group = report["groups"][key]
    for changed in (
        {"failed": "x" + group["failed"][1:]},
        {"errors": " ".join(["1.0e-13", *group["errors"].split()[1:]])},
        {"errors": " ".join(["-", *group["errors"].split()[1:]])},
    ):
        planted = report | {"groups": report["groups"] | {key: group | changed}}
        assert len(list(differences(planted, limits, KEPT))) == 1
