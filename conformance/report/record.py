"""The record: a whole run as one JSON document, from which every other form of the report is made."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conformance.cases.inputs import content_hash
from conformance.outcome import Outcome
from conformance.plan import Plan

Record = dict[str, Any]
"""A JSON document."""


def make_record(plan: Plan, outcome: Outcome, left_out: Sequence[str]) -> Record:
    """Record a run.

    Args:
        plan: Everything that was to be run.
        outcome: All that came of it.
        left_out: Implementations that are not installed, and how to install each, a line for each.
    """
    return {
        "verdict": outcome.verdict,
        "seconds": round(outcome.seconds, 1),
        "plan": {
            "implementations": [candidate.name for candidate in plan.implementations],
            "variants": list(plan.networks),
            "precisions": [precision for precision in plan.precisions if plan.cases(precision)],
            "tasks": list(plan.tasks),
            "modes": list(plan.modes),
        },
        "environment": environment(plan, outcome),
        "left_out": list(left_out),
        "failures": [failure.to_dict() for failure in outcome.failures],
        "first_divergences": [divergence.to_dict() for divergence in outcome.divergences],
        "comparisons": [comparison.to_dict() for comparison in outcome.comparisons],
        "reported": [comparison.to_dict() for comparison in outcome.reported],
    }


def environment(plan: Plan, outcome: Outcome) -> Record:
    """Record versions, machine, devices, the precision in force, and the hashes of weights and inputs."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "seed": plan.seed,
        "device": plan.device,
        "versions": {worker: facts.get("versions", {}) for worker, facts in outcome.workers.items()},
        "workers": outcome.workers,
        "weights": {
            variant: {
                "source": network.weights.where,
                "sha256": network.weights.content_hash(),
                "known_by": network.weights.recognised_by,
                "accepted": list(network.weights.accepted),
            }
            for variant, network in plan.networks.items()
        },
        "inputs": {
            variant: {
                input.name: {
                    "source": input.source,
                    "shape": list(input.images.shape),
                    "sha256": content_hash(input.images),
                }
                for input in network.inputs
            }
            for variant, network in plan.networks.items()
        },
    }


def write_json(record: Record, path: Path) -> None:
    """Write a record, completely or not at all.

    Raises:
        ValueError: If it holds NaN or infinity, which JSON has no words for.
    """
    write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write a text file, completely or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
