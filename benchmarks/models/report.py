"""Reporting: the JSON document, the table and the plot."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.models.measure import Row, best_peer, quartiles, ratios
from benchmarks.models.tables import Comparison, contenders_of, missing_modules, way_of


def row_record(row: Row, peer: Row | None, comparison: Comparison, device: str) -> dict[str, Any]:
    """One row as JSON holds it."""
    record: dict[str, Any] = {"name": row.contender.name}
    if row.failure is not None:
        record["failure"] = row.failure
    if row.rounds:
        low, middle, high = quartiles(row.calls)
        record |= {"first_call_s": row.first, "calls": len(row.calls), "rounds": len(row.rounds)}
        record["output_error"] = row.output_error
        record |= {"median_s": middle, "quartiles_s": [low, high], "memory_bytes": row.memory}
        if device == "gpu":
            record["images_per_second"] = comparison.batch / middle
        if peer is not None:
            low, middle, high = quartiles(ratios(row, peer))
            record |= {"ratio": middle, "ratio_quartiles": [low, high]}
    return record


def comparison_record(comparison: Comparison, rows: Sequence[Row], device: str) -> dict[str, Any]:
    """One comparison as JSON holds it: what was compared, the best peer, and a record for each contender."""
    peer = best_peer(rows)
    return asdict(comparison) | {
        "best_peer": peer.contender.name if peer else None,
        "rows": [row_record(row, peer, comparison, device) for row in rows],
    }


def machine(device: str) -> dict[str, Any]:
    """The processor, and the card where one is used."""
    facts: dict[str, Any] = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts["cpu"] = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    if device == "gpu":
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        with contextlib.suppress(OSError):
            answers = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().split(", ")
            facts |= dict(zip(("card", "driver", "card_memory"), answers, strict=False))  # fewer, if the tool fails
    return facts


PACKAGES = (
    *("torch", "torchvision", "timm", "transformers", "jax", "jaxlib", "flax", "optax", "numpy"),
    *("keras", "keras-hub", "tensorflow", "onnx", "onnxruntime"),
)


def versions() -> dict[str, str]:
    """The releases of Python and of the packages that are installed."""
    known = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known[package] = importlib.metadata.version(package)
    return known


def not_installed(chosen: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Contenders and ways that are left out since modules of theirs are missing."""
    needs: dict[tuple[str, str, str], list[str]] = {}
    for comparison in chosen:
        for contender in contenders_of(comparison):
            needs[contender.family, contender.name, "every way"] = missing_modules(contender.requires)
        way = way_of(comparison)
        needs[way.family, "every contender", way.name] = missing_modules(way.requires)
    return [
        {"family": family, "name": name, "way": way, "missing": missing}
        for (family, name, way), missing in needs.items()
        if missing
    ]


def write_atomically(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON beside the target, then rename it into place: a kill leaves the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)


def table(document: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the table in Markdown."""
    card = document["device"] == "gpu"
    yield "| family, way | task | batch | precision | whose | ratio (quartiles) | first call | peak memory |" + (
        " images/s (quartiles) |" if card else ""
    )
    yield "|---|---|---|---|---|---|---|---|" + ("---|" if card else "")
    for comparison in document["comparisons"]:
        network = "" if comparison["variant"] == "v1.5" else f" ({comparison['variant']})"
        head = f"| {comparison['family']}{network}, {comparison['way']} | {comparison['task']} | {comparison['batch']} "
        for row in comparison["rows"]:
            yield f"{head}| {comparison['precision']} | {row['name']} | {' | '.join(cells(row, comparison, card))} |"


def cells(row: Mapping[str, Any], comparison: Mapping[str, Any], card: bool) -> list[str]:
    """The measurements of one row as text."""
    if "median_s" not in row:
        return [row.get("failure", "not measured"), "", "", *([""] if card else [])]
    ratio = "{:.2f} ({:.2f} to {:.2f})".format(row["ratio"], *row["ratio_quartiles"]) if "ratio" in row else "no peer"
    memory = "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:.0f} MiB"
    rate = [
        "{:.0f} ({:.0f} to {:.0f})".format(
            row["images_per_second"], *sorted(comparison["batch"] / seconds for seconds in row["quartiles_s"])
        )
        for _ in range(card)
    ]
    return [ratio + (f"; {row['failure']}" if "failure" in row else ""), f"{row['first_call_s']:.1f} s", memory, *rate]


def plot(document: Mapping[str, Any], path: Path) -> None:
    """Draw our ratio to the best peer in each comparison, with its quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = [
        (comparison, row)
        for comparison in reversed(document["comparisons"])
        for row in comparison["rows"]
        if row["name"] == "ours" and "ratio" in row
    ]
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.25 * len(points)), layout="constrained")
    for height, (_, row) in enumerate(points):
        axes.plot(row["ratio_quartiles"], [height, height], color="tab:blue", linewidth=2)
        axes.plot(row["ratio"], height, "o", color="tab:blue")
    names = [field.name for field in fields(Comparison)]
    labels = [str(Comparison(**{name: comparison[name] for name in names})) for comparison, _ in points]
    axes.set_yticks(range(len(points)), labels, size=7)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("seconds of ours / seconds of the best peer, median and quartiles of rounds")
    axes.set_title(document["machine"].get("card", document["machine"]["cpu"]), size=9)
    figure.savefig(path)
    pyplot.close(figure)
