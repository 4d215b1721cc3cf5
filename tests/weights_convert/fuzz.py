"""A campaign against `weights_convert.load`: damaged files must be refused, or read as what they still are.

    python -m tests.weights_convert.fuzz --seconds 60 --seed 1 --keep findings

Files of every container and dialect are damaged, in bytes and in their structure. A worker process reads them, so that
a crash, a file that takes too long, and memory beyond a bound are findings too, each of the file that it came from. The
exit code is 1 if there are findings.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from impls.config import ResNetConfig
from tests.weights_convert.fuzz_damages import BITS, FREE, KEPT, REFUSED, SAME, Damage, Unfit, damages_of
from tests.weights_convert.fuzz_originals import LOOSE, Files, Original, Part, description, make_originals
from weights_convert import Checkpoint, ConversionError
from weights_convert.shapes import expected_shapes

ROOT = Path(__file__).parents[2]
READER = "weights_convert:load"

MOST_SECONDS = 60.0
"""For one file, of a machine that has other things to do; the slowest whole one, an Orbax folder, takes 0.2 s."""

START_SECONDS = 120.0
"""For a worker to start; it reads one whole file of each container, so that all libraries are there."""

MOST_MEMORY = 300 * 2**20
MOST_EXPANSION = 8
"""What reading a file may take beyond what the process has: a constant, and a multiple of the file's size."""

LOUD = ("Orbax",)
"""Whose library prints from threads of its own, when it likes: read in a process of its own, and not judged by that."""

HARD_LIMIT = 4 * 2**30
"""Address space that a worker may take beyond what it has; larger requests fail, which protects the machine."""

LONGEST_TEXT = 100_000
TOLD_EVERY = 1_000
SHARES = {
    "safetensors": 4.0, "Keras archive": 2.0, "PyTorch": 4.0, "Keras HDF5": 3.0, "legacy Keras HDF5": 3.0,
    "msgpack": 4.0,
    "Orbax": 0.5, "transformers folder": 1.0, "Keras Hub preset": 0.5,
}  # fmt: skip
"""How often a container's files are damaged; less where reading takes long."""


@dataclass(frozen=True)
class Finding:
    """A file of which `load` made what it must not.

    Attributes:
        original: What was damaged.
        damage: How.
        fault: What came of it.
        files: The damaged file, or folder.
    """

    original: Original
    damage: str
    fault: str
    files: Files


@dataclass
class Report:
    """What a campaign did: counts by container, and findings."""

    refused: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def count(self, row: str) -> tuple[int, int, int, int]:
        """Files, refused, accepted, findings."""
        faults = sum(finding.original.row == row for finding in self.findings)
        return self.refused[row] + self.accepted[row] + faults, self.refused[row], self.accepted[row], faults


# The worker


def work(reader: Callable[..., Checkpoint]) -> None:
    """Read the files that standard input names, a line of JSON each, and say on standard output what came of them."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    for line in sys.stdin:
        task = json.loads(line)
        if task.get("limit"):
            resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + HARD_LIMIT, resource.RLIM_INFINITY))
        answers.write(json.dumps(_outcome(reader, task["path"], task["variant"])) + "\n")
        answers.flush()


def _outcome(reader: Callable[..., Checkpoint], path: str, variant: str | None) -> dict[str, Any]:
    """What the reader made of a file, and what that took."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
    before, printed = _status("VmRSS"), os.fstat(sys.stderr.fileno()).st_size
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        answer = answer_of(reader, path, variant)
    sys.stderr.flush()
    return answer | {
        "memory": _status("VmHWM") - before,
        "printed": os.pread(sys.stderr.fileno(), 4000, printed).decode(errors="replace"),
        "warned": [f"{warning.category.__name__}: {warning.message}"[:500] for warning in warned],
    }


def answer_of(reader: Callable[..., Checkpoint], path: str, variant: str | None) -> dict[str, Any]:
    """What the reader made of a file: "refused", "accepted" or "raised"."""
    try:
        return _accepted(reader(path, variant=variant))
    except ConversionError as error:
        return {"refused": str(error), "problems": list(error.problems)}
    except BaseException as error:
        return {"raised": f"{type(error).__name__}: {error}"[:2000], "traceback": traceback.format_exc()[-4000:]}


def _accepted(checkpoint: Checkpoint) -> dict[str, Any]:
    held = {name: array.shape for name, array in checkpoint.to("canonical").arrays.items()}
    defaults = ResNetConfig().to_dict()
    odd = [
        name
        for name, value in checkpoint.config.to_dict().items()
        if defaults[name] is not None and type(value) is not type(defaults[name])
    ]
    return {
        "accepted": description(checkpoint),
        "complete": held == expected_shapes(checkpoint.config),
        "odd": odd,
    }


def _status(key: str) -> int:
    """Bytes that the kernel says this process has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


class Worker:
    """A process that reads files, started anew after each that ends it."""

    def __init__(self, reader: str, warm_up: Collection[tuple[Path, str | None]]) -> None:
        self._reader = reader
        self._warm_up = warm_up
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `stop`)
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, path: Path, variant: str | None) -> dict[str, Any]:
        """What came of a file; "ended" and "late" where the process did not live to say it."""
        if self._process is None:
            self._start()
        began = time.monotonic()
        answer = self._ask({"path": str(path), "variant": variant}, MOST_SECONDS)
        if "late" in answer:  # a machine may pause: late is what is late again
            self._start()
            answer = self._ask({"path": str(path), "variant": variant}, MOST_SECONDS)
        return answer | {"seconds": time.monotonic() - began}

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None
        self._printed.close()

    def _start(self) -> None:
        command = [sys.executable, "-m", "tests.weights_convert.fuzz", "--work", "--reader", self._reader]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._printed
        )
        for number, (path, variant) in enumerate(self._warm_up, start=1):
            task = {"path": str(path), "variant": variant, "limit": number == len(self._warm_up)}
            if "ended" in (answer := self._ask(task, START_SECONDS)):
                raise RuntimeError(f"the worker does not start: {answer}")

    def _ask(self, task: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            late = not selector.select(seconds)
        if not late and (line := process.stdout.readline()):
            answer: dict[str, Any] = json.loads(line)
            return answer
        process.kill()
        process.communicate()
        self._process = None
        return {"late": seconds} if late else {"ended": process.returncode}


# What is a fault


def fault_of(outcome: Mapping[str, Any], size: int, allowed: Mapping[str, str] | str) -> str | None:
    """What is wrong with what came of a file; None if nothing is.

    Args:
        outcome: As the worker tells it.
        size: Of the file.
        allowed: REFUSED, or what must be equal of what was accepted.
    """
    if "ended" in outcome:
        return f"the process ended with code {outcome['ended']}"
    if "late" in outcome:
        return f"it took more than {outcome['late']:g} s"
    if "raised" in outcome:
        return f"raised {outcome['raised']}\n{outcome['traceback']}"
    faults = [
        fault
        for fault, holds in (
            (f"took {outcome['memory']:,} bytes", outcome["memory"] > MOST_MEMORY + MOST_EXPANSION * size),
            (f"warned: {outcome['warned']}", bool(outcome["warned"])),
            (f"printed: {outcome['printed']}", bool(outcome["printed"])),
        )
        if holds
    ]
    return faults[0] if faults else _fault_of_answer(outcome, allowed)


def _fault_of_answer(outcome: Mapping[str, Any], allowed: Mapping[str, str] | str) -> str | None:
    if "refused" in outcome:
        problems, text = outcome["problems"], outcome["refused"]
        if isinstance(allowed, Mapping) and "must" in allowed:
            return f"refused wrongly: {text}"
        if not problems or not all(problem.strip() and "\n" not in problem for problem in problems):
            return f"refused with a message that is none: {text!r}"
        return "refused with a message without end" if len(text) > LONGEST_TEXT else None
    if allowed == REFUSED:
        return "accepted wrongly"
    if not outcome["complete"]:
        return "accepted wrongly: not the shapes of its network"
    if outcome["odd"]:
        return f"accepted wrongly: a network with odd values of {', '.join(outcome['odd'])}"
    assert isinstance(allowed, Mapping)
    different = [key for key in allowed if key != "must" and outcome["accepted"][key] != allowed[key]]
    return f"accepted wrongly: other {' and '.join(different)}" if different else None


def allowed_of(original: Original, part: Part, damage: Damage, new: bytes) -> Mapping[str, str] | str:
    """REFUSED, or what must be equal of what is accepted: "config", "shapes" and "bits"."""
    held = original.held
    same_shapes = {"shapes": held["shapes"]}
    same_bits = same_shapes | {"bits": held["bits"]}
    if damage.allowed == KEPT:
        return held | {"must": "be accepted"}
    if new == part.content or damage.allowed == SAME or (damage.allowed == FREE and part.sealed):
        return held
    if damage.allowed == REFUSED:
        return held if part.kind == LOOSE else REFUSED
    if damage.allowed == BITS:
        return same_bits
    return original.patched(part.content, new) or same_shapes


# The campaign


def run(
    *,
    seed: int,
    seconds: float = float("inf"),
    files: float = float("inf"),
    rows: Mapping[str, float] = SHARES,
    damages: str = "",
    reader: str = READER,
    shown: Callable[[Finding], None] = lambda finding: None,
    advanced: Callable[[int], None] = lambda done: None,
) -> Report:
    """Damage and read files until the time is up, or as many as asked for, or until interrupted.

    Args:
        seed: Of all that is random.
        seconds: Time, beyond the start.
        files: Number of files.
        rows: Which containers, and how often each.
        damages: Only those whose name contains this.
        reader: The function under test, as module:function.
        shown: Told of each finding.
        advanced: Told after each file how many were read.
    """
    random, report = Random(seed), Report()
    if "Keras archive" in rows:  # damaged, it may look like PyTorch's, which must be imported before memory is measured
        rows = {"PyTorch": 0.0, **rows}
    with tempfile.TemporaryDirectory() as folder:
        originals = make_originals(Path(folder), rows)
        by_row = {row: [original for original in originals if original.row == row] for row in rows}
        whole = {
            row: (_written(held[0].files, Path(folder) / "whole" / held[0].target), held[0].variant)
            for row, held in by_row.items()
        }
        workers = {row: Worker(reader, [whole[row]]) for row in LOUD if row in rows}
        shared = Worker(reader, [file for row, file in whole.items() if row not in LOUD])
        try:
            ends, done = time.monotonic() + seconds, 0
            for original, part, damage in _cases(random, rows, by_row, damages):
                if time.monotonic() > ends or done >= files:
                    break
                try:
                    new = damage.change(random, part.content)
                except Unfit:
                    continue
                damaged = part.wrap(new)
                path = _written(damaged, Path(folder) / "damaged" / original.target)
                outcome = workers.get(original.row, shared).read(path, original.variant)
                if original.row in LOUD:
                    outcome |= {"printed": ""}
                done += 1
                size = sum(map(len, damaged.values()))
                if fault := fault_of(outcome, size, allowed_of(original, part, damage, new)):
                    place = f" of {part.name}" if part.name else ""
                    report.findings.append(Finding(original, damage.name + place, fault, damaged))
                    shown(report.findings[-1])
                else:
                    (report.refused if "refused" in outcome else report.accepted)[original.row] += 1
                advanced(done)
        except KeyboardInterrupt:
            pass
        finally:
            for worker in (shared, *workers.values()):
                worker.stop()
    return report


def _cases(
    random: Random, rows: Mapping[str, float], by_row: Mapping[str, list[Original]], damages: str
) -> Iterator[tuple[Original, Part, Damage]]:
    """What to damage next, and how, without end."""
    while True:
        row = random.choices([*rows], [*rows.values()])[0]
        original = random.choice(by_row[row])
        part = random.choice(original.parts[:1] * 3 + original.parts)
        if fitting := [damage for damage in damages_of(part.kind) if damages in damage.name]:
            yield original, part, random.choice(fitting)


def _written(files: Files, target: Path) -> Path:
    """Write a file or folder anew."""
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    for name, content in files.items():
        path = target / name if name else target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return target


@click.command()
@click.option("--seconds", default=float("inf"), help="How long, beyond the start; without a limit: until interrupted.")
@click.option("--files", default=float("inf"), help="How many files at most.")
@click.option("--seed", default=1, help="Of all that is random.")
@click.option("--row", "rows", multiple=True, type=click.Choice([*SHARES]), help="Only these containers.")
@click.option("--damage", "damages", default="", help="Only damages whose name contains this.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the files of all findings.")
@click.option("--reader", default=READER, help="The function under test.")
@click.option("--work", is_flag=True, hidden=True)
def main(
    seconds: float,
    files: float,
    seed: int,
    rows: tuple[str, ...],
    damages: str,
    keep: Path | None,
    reader: str,
    work: bool,
) -> None:
    """Damage files of every container, and see what load makes of them."""
    if work:
        module, _, function = reader.partition(":")
        return globals()["work"](getattr(importlib.import_module(module), function))
    console, kept = Console(), count()

    def shown(finding: Finding) -> None:
        console.print(f"{finding.original.name}: {finding.damage}: {finding.fault}", markup=False, highlight=False)
        if keep:
            place = keep / f"{next(kept):04}"
            _written(finding.files, place / finding.original.target)
            (place / "finding.txt").write_text(f"{finding.original.name}\n{finding.damage}\n{finding.fault}\n")

    def advanced(done: int) -> None:
        if done % TOLD_EVERY == 0:
            console.print(f"{done:,} files", highlight=False)

    report = run(
        seed=seed,
        seconds=seconds,
        files=files,
        rows={row: SHARES[row] for row in rows or SHARES},
        damages=damages,
        reader=reader,
        shown=shown,
        advanced=advanced,
    )
    table = Table("container", "files", "refused", "accepted", "findings")
    for row in rows or SHARES:
        table.add_row(row, *(f"{count:,}" for count in report.count(row)))
    console.print(table)
    sys.exit(bool(report.findings))


if __name__ == "__main__":
    main()
