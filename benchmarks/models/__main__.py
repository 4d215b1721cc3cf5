"""The command `python -m benchmarks.models`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.models.measure import SAME_OUTPUT, Budget, Plan, Row, run
from benchmarks.models.report import (
    comparison_record,
    machine,
    not_installed,
    plot,
    table,
    versions,
    write_atomically,
)
from benchmarks.models.tables import BATCHES, FAMILIES, PRECISIONS, TASKS, WAYS, Comparison, comparisons, runnable


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models",
        description=models.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(";" if ";" in text else ",")]

    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin nothing after this; default: no limit")
    parser.add_argument("--batches", type=lambda text: [int(each) for each in text.split(",")], metavar="N,N")
    parser.add_argument("--families", type=names, default=list(FAMILIES), help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--ways", type=names, help="separated by commas, or by semicolons: 'eager;jit, split once'")
    parser.add_argument("--tasks", type=names, default=list(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument(
        "--precisions", type=names, help=f"of {', '.join(SAME_OUTPUT)}; default: float32, on a card all"
    )
    parser.add_argument("--rounds", type=int, default=15, help="of a comparison, at most")
    parser.add_argument("--seconds", type=float, help="of a comparison's rounds, about; default: 60, on a card 3")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="written anew after each comparison")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    options = parser.parse_args(arguments)
    options.batches = options.batches or BATCHES[options.device]
    options.precisions = options.precisions or PRECISIONS[options.device]
    options.seconds = options.seconds or {"cpu": 60.0, "gpu": 3.0}[options.device]
    known = {"families": FAMILIES, "tasks": TASKS, "precisions": SAME_OUTPUT, "ways": {way.name for way in WAYS}}
    for option, values in known.items():
        if unknown := set(getattr(options, option) or ()) - set(values):
            parser.error(f"--{option}: unknown {', '.join(sorted(unknown))}; known are {', '.join(values)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write what was asked for."""
    options = parse(arguments)
    chosen = comparisons(
        options.device, options.batches, options.precisions, options.tasks, options.families, options.ways
    )
    missing = not_installed(chosen)
    document: dict[str, Any] = {
        "command": ["python", "-m", "benchmarks.models", *(sys.argv[1:] if arguments is None else arguments)],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": options.device,
        "machine": machine(options.device),
        "versions": versions(),
        "complete": False,
        "not_installed": missing,
        "left_out": [],
        "comparisons": [],
    }
    for each in missing:
        print(f"left out: {each['family']}, {each['name']}, {each['way']}: {', '.join(each['missing'])} not installed")

    def report(comparison: Comparison, rows: list[Row], seconds: float) -> None:
        record = comparison_record(comparison, rows, options.device) | {"seconds": round(seconds, 1)}
        document["comparisons"].append(record)
        if options.out:
            write_atomically(options.out, document)
        summary = ", ".join(
            f"{row['name']} {row['ratio']:.2f}" if "ratio" in row else f"{row['name']}: {row.get('failure', 'alone')}"
            for row in record["rows"]
        )
        print(f"{comparison}: {summary}", flush=True)

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that workers end, too
    budget = Budget(float("inf") if options.budget is None else options.budget)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        plan = Plan(options.device, options.rounds, options.seconds, Path(folder))
        left_out = run(runnable(chosen), plan, budget, report)
    document |= {"complete": True, "left_out": [str(each) for each in left_out]}
    if options.out:
        write_atomically(options.out, document)
    print("", *table(document), sep="\n")
    for each in left_out:
        print(f"left out for want of time: {each}")
    if options.plot:
        plot(document, options.plot)


if __name__ == "__main__":
    main()
