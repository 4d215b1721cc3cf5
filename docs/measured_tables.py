"""Tables of what was measured, from the files in docs/results.

`python -m benchmarks.gpu` wrote those of cards, `python -m benchmarks.models --device cpu` the one named cpu.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "results"
VARIANTS = ("tutorial", "v1", "v1.5", "keras", "flax")

Row = Mapping[str, Any]


@cache
def newest() -> dict[str, Row]:
    """Return the newest results of each card, by its name; file names begin with the date."""
    found: dict[str, Row] = {}
    for file in sorted(FOLDER.glob("20*.json")):
        results = json.loads(file.read_text())
        found[results["machine"]["card"].partition(",")[0]] = results
    return found


def short(number: float) -> str:
    """Write a number in two digits and an exponent without zeros.

    Example:
        >>> short(3.14e-06)
        '3.1e-6'
    """
    return f"{number:.1e}".replace("e-0", "e-")


def outcome(results: Row, step: str) -> Row:
    """Return what a step left, or nothing where it was not run."""
    result: Row = results["steps"].get(step, {}).get("result", {})
    return result


def machines() -> tuple[list[str], Iterator[list[str]]]:
    """Cards, and the releases that ran on them."""
    rows = (
        [
            card,
            results["machine"]["date"],
            ", ".join(f"{name} {version}" for name, version in results["machine"]["versions"].items()),
        ]
        for card, results in newest().items()
    )
    return ["card", "date", "releases"], rows


def summary() -> tuple[list[str], Iterator[list[str]]]:
    """Forward runs: the worst variant in float64 and in float32; candidates with the same numbers share a row."""

    def rows() -> Iterator[list[str]]:
        for card, results in newest().items():
            measured = [row for step in ("proof", "variants") for row in outcome(results, step).get("rows", [])]
            alike: dict[tuple[str, ...], list[str]] = {}
            for candidate in sorted({row["candidate"] for row in measured}):
                own = [row for row in measured if row["candidate"] == candidate]
                counts = [sum(row[name] for row in own) for name in ("passed", "compared")]
                cells = (worst(own, "float64"), worst(own, "float32"), "{:,} of {:,}".format(*counts))
                alike.setdefault(cells, []).append(candidate)
            for cells, candidates in alike.items():
                yield [card, ", ".join(candidates), *cells]

    return ["card", "candidate", "float64, limit 1e-12", "float32, limit 2 noise floors", "passed (each)"], rows()


def worst(rows: Sequence[Row], precision: str) -> str:
    """Write the cell of the network that is nearest to its limit."""
    own = [row for row in rows if row["precision"] == precision]
    if not own:
        return "not compared"
    return cell(max(own, key=lambda row: float(cell(row, precision))), precision)


def parity() -> tuple[list[str], Iterator[list[str]]]:
    """Forward runs: the worst float64 error, or the multiple of correct builds in float32, of each variant."""

    def rows() -> Iterator[list[str]]:
        for card, results in newest().items():
            measured = [row for step in ("proof", "variants") for row in outcome(results, step).get("rows", [])]
            for precision in ("float64", "float32"):
                for candidate in dict.fromkeys(row["candidate"] for row in measured):
                    own = {
                        row["variant"]: row
                        for row in measured
                        if (row["candidate"], row["precision"]) == (candidate, precision)
                    }
                    if own:
                        counts = [sum(row[name] for row in own.values()) for name in ("passed", "compared")]
                        cells = [cell(own.get(variant), precision) for variant in VARIANTS]
                        yield [card, precision, candidate, *cells, "{:,} of {:,}".format(*counts)]

    return ["card", "precision", "candidate", *VARIANTS, "passed"], rows()


def cell(row: Row | None, precision: str) -> str:
    """Write one network's error in float64, or its multiple of what correct builds err by in float32."""
    if row is None:
        return "-"
    if precision == "float64":
        return short(row["largest error"]["error"])
    return f"{row['nearest to limit']['multiple of builds']:.2f}"


def training() -> tuple[list[str], Iterator[list[str]]]:
    """Gradients and training steps of v1.5: what is judged, in either precision."""

    def rows() -> Iterator[list[str]]:
        for card, results in newest().items():
            for step in results["steps"]:
                if not step.startswith("training"):
                    continue
                for row in outcome(results, step).get("rows", []):
                    if row["kind"] == "comparisons" and "largest error" in row:
                        nearest = row["nearest to limit"]
                        yield [
                            card,
                            "yes" if "with" in step else "",
                            row["candidate"],
                            row["precision"],
                            row["task"],
                            f"{row['passed']:,} of {row['compared']:,}",
                            f"`{nearest['name']}`",
                            short(nearest["error"]),
                            short(nearest["limit"]),
                        ]

    header = ["card", "float64 scales", "candidate", "precision", "task", "passed", "nearest to its limit", "error"]
    return [*header, "limit"], rows()


def precision() -> tuple[list[str], Iterator[list[str]]]:
    """Lower precisions: what the probe measured, and the errors of the network."""

    def rows() -> Iterator[list[str]]:
        for card, results in newest().items():
            for framework, row in outcome(results, "precision").items():
                for way, measured in row.get("ways", {}).items():
                    force = measured["in_force"]
                    yield [
                        card,
                        framework,
                        way,
                        force["matrix product"],
                        force["convolution"],
                        short(measured["logits"]),
                        f"{short(measured['worst'])} ({measured['worst at']})",
                    ]

    header = ["card", "framework", "asked for", "matrix product", "convolution", "logits err by", "worst block"]
    return header, rows()


def determinism() -> tuple[list[str], Iterator[list[str]]]:
    """Operations, and whether two runs give the same bits: within a process, and between two."""
    ways = {"torch": "PyTorch", "flax": "Flax"}

    def words(row: Row) -> str:
        if "refused" in row:
            return "refused"
        return {
            (True, True): "equal",
            (True, False): "equal in a process, not between two",
        }.get((row["within a process"], row["between processes"]), "differs")

    def rows() -> Iterator[list[str]]:
        for card, results in newest().items():
            measured = outcome(results, "determinism")
            operations = measured.get("torch, deterministic", {}).get("operations", {})
            for operation in operations:
                yield [
                    card,
                    operation,
                    *(
                        words(measured[f"{name}, {how}"]["operations"][operation])
                        for name in ways
                        for how in ("deterministic", "free")
                    ),
                ]

    columns = [f"{title}, {how}" for title in ways.values() for how in ("deterministic", "free")]
    return ["card", "operation", *columns], rows()


def speed() -> tuple[list[str], Iterator[list[str]]]:
    """Our models beside their best peer: images per second, ratio of the times, and peak memory."""

    def rows() -> Iterator[list[str]]:
        for card, results in newest().items():
            for comparison in outcome(results, "speed").get("comparisons", []):
                by_name = {row["name"]: row for row in comparison["rows"] if "median_s" in row}
                ours, peer = by_name.get("ours"), by_name.get(comparison["best_peer"])
                if ours and peer:
                    yield [
                        card,
                        f"{comparison['family']}, {comparison['way']}",
                        f"{comparison['task']}, batch {comparison['batch']}",
                        comparison["precision"],
                        f"{ours['images_per_second']:,.0f}",
                        f"{peer['images_per_second']:,.0f} ({comparison['best_peer']})",
                        f"{ours['ratio']:.2f}",
                        " / ".join(f"{row['memory_bytes'] / 2**30:.1f}" for row in (ours, peer)),
                    ]

    header = ["card", "way", "task", "precision", "images per second", "best peer", "time, ratio", "GiB, ours / peer"]
    return header, rows()


def cpu_speed() -> tuple[list[str], Iterator[list[str]]]:
    """Our models beside their best peer on a CPU: the ratio of the times, and the first call, which compiles."""
    measured = json.loads((FOLDER / "cpu.json").read_text())["comparisons"]

    def rows() -> Iterator[list[str]]:
        for comparison in measured:
            by_name = {row["name"]: row for row in comparison["rows"] if "ratio" in row}
            ours, peer = by_name.get("ours"), by_name.get(comparison["best_peer"])
            if ours and peer:
                yield [
                    comparison["family"] + f" `{comparison['variant']}`" * (comparison["variant"] != "v1.5"),
                    comparison["way"],
                    f"{comparison['task']}, batch {comparison['batch']}",
                    comparison["best_peer"],
                    "{:.2f} ({:.2f} to {:.2f})".format(ours["ratio"], *ours["ratio_quartiles"]),
                    " / ".join(f"{row['first_call_s']:.1f}" for row in (ours, peer)),
                ]

    header = ["family", "way", "task", "best peer", "time, ratio (quartiles)", "first call, seconds, ours / peer"]
    return header, rows()


TABLES: dict[str, Callable[[], tuple[list[str], Iterator[list[str]]]]] = {
    "card-determinism": determinism,
    "card-machines": machines,
    "card-parity": parity,
    "card-precision": precision,
    "card-speed": speed,
    "card-summary": summary,
    "card-training": training,
    "cpu-speed": cpu_speed,
}
