"""A campaign against `weights_convert.load`: damaged files must be refused, or read as what they still hold.

    python -m tests.weights_convert.fuzz --seconds 60 --seed 1 --keep findings

Files of every container and dialect are damaged, in their bytes and in their structure. A worker process reads them, so
that a crash, a file that takes too long, and excessive memory become findings about the file that caused them. The exit
code is 1 if there are findings.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from tests.weights_convert.fuzz_originals import LOOSE, Files, Options, Original, Part, description, make_originals
from weights_convert import Checkpoint, ConversionError, UnlikelyNumbers
from weights_convert.containers import trial
from weights_convert.shapes import expected_shapes

ROOT = Path(__file__).parents[2]
READER = "weights_convert:load"

MAX_SECONDS = 60.0
"""Seconds for one file, on a machine that is busy. The slowest undamaged file, an Orbax folder, takes 0.2 s."""

START_SECONDS = 900.0
"""Seconds for a worker to start; it reads one undamaged file of each container, so that all libraries are loaded."""

MAX_MEMORY = 300 * 2**20
MAX_EXPANSION = 8
"""The memory that reading a file may take beyond that of the process: a constant, and a multiple of the file's size."""

LOUD = ("Orbax", "TensorFlow checkpoint")
"""Containers whose library prints from threads of its own at any time. A worker of their own reads them, and what it
prints is not judged."""

HARD_LIMIT = 4 * 2**30
"""Bytes of address space that a worker may take beyond its own. Larger requests fail, which protects the machine."""

LONGEST_MESSAGE = 100_000
PROGRESS_EVERY = 1_000
SHARES = {
    "safetensors": 4.0, "Keras archive": 1.0, "PyTorch": 4.0, "Keras HDF5": 1.5, "legacy Keras HDF5": 1.5,
    "msgpack": 4.0, "NumPy archive": 4.0, "TensorFlow checkpoint": 0.5,
    "Orbax": 0.5, "transformers folder": 1.0, "Keras Hub preset": 0.5,
}  # fmt: skip
"""The share of each container among the files; smaller where reading takes long."""


@dataclass(frozen=True)
class Finding:
    """A damaged file that `load` handled wrongly.

    Attributes:
        original: The file before the damage.
        damage: The name of the damage.
        failure: What is wrong with the outcome.
        files: The damaged file or folder.
    """

    original: Original
    damage: str
    failure: str
    files: Files


@dataclass
class Report:
    """The results of a campaign: counts by container, and findings."""

    refused: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def count(self, row: str) -> tuple[int, int, int, int]:
        """Return the numbers of files, refused files, accepted files and findings of a container."""
        findings = sum(finding.original.row == row for finding in self.findings)
        return self.refused[row] + self.accepted[row] + findings, self.refused[row], self.accepted[row], findings


# The worker


def work(reader: Callable[..., Checkpoint]) -> None:
    """Read the files that standard input names, a line of JSON each, and print each outcome as a line of JSON."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is not an answer
    for line in sys.stdin:
        task = json.loads(line)
        if task.get("limit"):
            resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + HARD_LIMIT, resource.RLIM_INFINITY))
        answers.write(json.dumps(_outcome(reader, task["path"], task["options"])) + "\n")
        answers.flush()


def fork_apart(arguments: Sequence[str], wait: float) -> subprocess.CompletedProcess[str]:
    """Run a trial in a fork of this process, which has imported everything, instead of a new process: much faster.

    Limits, reading and judgement are those of a new process.
    """
    with tempfile.TemporaryFile() as output:
        if (child := os.fork()) == 0:
            code = 1
            with contextlib.suppress(BaseException):
                sys.stdout = os.fdopen(output.fileno(), "w")
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
                trial.read_under_limits(*arguments)
                sys.stdout.flush()
                code = 0
            os._exit(code)
        ends = time.monotonic() + wait
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > ends:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise subprocess.TimeoutExpired(arguments, wait)
            time.sleep(0.0005)
        text = os.pread(output.fileno(), LONGEST_MESSAGE, 0).decode(errors="replace")
    return subprocess.CompletedProcess(arguments, os.waitstatus_to_exitcode(ended[1]), text, "")


def _outcome(reader: Callable[..., Checkpoint], path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reader's answer about a file, with the memory it took, and what it printed and warned of."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    before, printed = _status("VmRSS"), os.fstat(sys.stderr.fileno()).st_size
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", UnlikelyNumbers)  # random bits are
        answer = answer_of(reader, path, options)
    sys.stderr.flush()
    return answer | {
        "memory": _status("VmHWM") - before,
        "printed": os.pread(sys.stderr.fileno(), 4000, printed).decode(errors="replace"),
        "warned": [f"{warning.category.__name__}: {warning.message}"[:500] for warning in warned],
    }


def answer_of(reader: Callable[..., Checkpoint], path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reader's answer about a file, under the key "refused", "accepted" or "raised".

    Args:
        reader: The function under test.
        path: The file.
        options: Its further arguments; a configuration is given as plain values.
    """
    config = {"config": ResNetConfig.from_dict(options["config"])} if "config" in options else {}
    try:
        return _accepted(reader(path, **options | config))
    except ConversionError as error:
        return {"refused": str(error), "problems": list(error.problems)}
    except BaseException as error:
        return {"raised": f"{type(error).__name__}: {error}"[:2000], "traceback": traceback.format_exc()[-4000:]}


def _accepted(checkpoint: Checkpoint) -> dict[str, Any]:
    shapes = {name: array.shape for name, array in checkpoint.to("canonical").arrays.items()}
    defaults = ResNetConfig().to_dict()
    wrong_types = [
        name
        for name, value in checkpoint.config.to_dict().items()
        if defaults[name] is not None and type(value) is not type(defaults[name])
    ]
    return {
        "accepted": description(checkpoint),
        "complete": shapes == expected_shapes(checkpoint.config),
        "wrong_types": wrong_types,
    }


def _status(key: str) -> int:
    """Return a number of bytes from the kernel's status of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


class Worker:
    """A process that reads files. It is started again after a file that ends it."""

    def __init__(self, reader: str, warm_up: Collection[tuple[Path, Options]]) -> None:
        self._reader = reader
        self._warm_up = warm_up
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `stop`)
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, path: Path, options: Options) -> dict[str, Any]:
        """Return the outcome of a file; "ended" or "late" if the process could not answer."""
        if self._process is None:
            self._start()
        began = time.monotonic()
        answer = self._ask({"path": str(path), "options": options}, MAX_SECONDS)
        if "late" in answer:  # a machine may pause, so only a file that is late twice counts
            self._start()
            answer = self._ask({"path": str(path), "options": options}, MAX_SECONDS)
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
        for number, (path, options) in enumerate(self._warm_up, start=1):
            task = {"path": str(path), "options": options, "limit": number == len(self._warm_up)}
            if {"ended", "late"} & (answer := self._ask(task, START_SECONDS)).keys():
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


# Judging an outcome


def failure_of(outcome: Mapping[str, Any], size: int, allowed: Mapping[str, str] | str) -> str | None:
    """Return what is wrong with the outcome of a file; None if nothing is.

    Args:
        outcome: The outcome that the worker reported.
        size: The size of the file in bytes.
        allowed: REFUSED, or the facts that an accepted checkpoint must have.
    """
    if "ended" in outcome:
        return f"the process ended with code {outcome['ended']}"
    if "late" in outcome:
        return f"it took more than {outcome['late']:g} s"
    if "raised" in outcome:
        return f"raised {outcome['raised']}\n{outcome['traceback']}"
    failures = [
        failure
        for failure, holds in (
            (f"took {outcome['memory']:,} bytes", outcome["memory"] > MAX_MEMORY + MAX_EXPANSION * size),
            (f"warned: {outcome['warned']}", bool(outcome["warned"])),
            (f"printed: {outcome['printed']}", bool(outcome["printed"])),
        )
        if holds
    ]
    return failures[0] if failures else _failure_of_answer(outcome, allowed)


def _failure_of_answer(outcome: Mapping[str, Any], allowed: Mapping[str, str] | str) -> str | None:
    if "refused" in outcome:
        problems, message = outcome["problems"], outcome["refused"]
        if isinstance(allowed, Mapping) and "must" in allowed:
            return f"refused wrongly: {message}"
        if not problems or not all(problem.strip() and "\n" not in problem for problem in problems):
            return f"refused without a proper message: {message!r}"
        return "refused with an endless message" if len(message) > LONGEST_MESSAGE else None
    if allowed == REFUSED:
        return "accepted wrongly"
    if not outcome["complete"]:
        return "accepted wrongly: not the shapes of its network"
    if outcome["wrong_types"]:
        return f"accepted wrongly: values of a wrong type for {', '.join(outcome['wrong_types'])}"
    assert isinstance(allowed, Mapping)
    different = [key for key in allowed if key != "must" and outcome["accepted"][key] != allowed[key]]
    return f"accepted wrongly: other {' and '.join(different)}" if different else None


def allowed_of(original: Original, part: Part, damage: Damage, new: bytes) -> Mapping[str, str] | str:
    """Return REFUSED, or the facts of an accepted checkpoint: some of "config", "shapes" and "bits"."""
    if original.is_refused:
        return REFUSED
    facts = original.facts
    same_shapes = {"shapes": facts["shapes"]}
    same_bits = same_shapes | {"bits": facts["bits"]}
    if damage.allowed == KEPT:
        return facts | {"must": "be accepted"}
    if new == part.content or damage.allowed == SAME or (damage.allowed == FREE and part.sealed):
        return facts
    if damage.allowed == REFUSED:
        return facts if part.kind == LOOSE else REFUSED
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
    on_finding: Callable[[Finding], None] = lambda finding: None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Damage and read files until the time is up, the number of files is reached, or the user interrupts.

    Args:
        seed: The seed of everything random.
        seconds: The time, without that of the start.
        files: The number of files.
        rows: The containers, each with its share.
        damages: Only damages whose name contains this are made.
        reader: The function under test, as module:function.
        on_finding: Called with each finding.
        on_progress: Called after each file with the number of files read.
    """
    random, report = Random(seed), Report()
    # If these are damaged, they may look like PyTorch's, whose import must not count as their memory.
    if rows.keys() & {"Keras archive", "NumPy archive"}:
        rows = {"PyTorch": 0.0, **rows}
    with tempfile.TemporaryDirectory() as folder:
        originals = make_originals(Path(folder), rows)
        by_row = {row: [original for original in originals if original.row == row] for row in rows}
        warm_up = {
            row: (
                _written(first[0].files, Path(folder) / "whole" / first[0].target) / first[0].opened,
                first[0].options,
            )
            for row, first in by_row.items()
        }
        workers = {row: Worker(reader, [warm_up[row]]) for row in LOUD if row in rows}
        shared = Worker(reader, [file for row, file in warm_up.items() if row not in LOUD])
        try:
            ends, done = time.monotonic() + seconds, 0
            for original, part, damage in _choices(random, rows, by_row, damages):
                if time.monotonic() > ends or done >= files:
                    break
                try:
                    new = damage.change(random, part.content)
                except Unfit:
                    continue
                damaged = part.wrap(new)
                path = _written(damaged, Path(folder) / "damaged" / original.target) / original.opened
                outcome = workers.get(original.row, shared).read(path, original.options)
                if original.row in LOUD:
                    outcome |= {"printed": ""}
                done += 1
                size = sum(map(len, damaged.values()))
                if failure := failure_of(outcome, size, allowed_of(original, part, damage, new)):
                    place = f" of {part.name}" if part.name else ""
                    report.findings.append(Finding(original, damage.name + place, failure, damaged))
                    on_finding(report.findings[-1])
                else:
                    (report.refused if "refused" in outcome else report.accepted)[original.row] += 1
                on_progress(done)
        except KeyboardInterrupt:
            pass
        finally:
            for worker in (shared, *workers.values()):
                worker.stop()
    return report


def _choices(
    random: Random, rows: Mapping[str, float], by_row: Mapping[str, list[Original]], damages: str
) -> Iterator[tuple[Original, Part, Damage]]:
    """Choose files and damages without end."""
    while True:
        row = random.choices([*rows], [*rows.values()])[0]
        original = random.choice(by_row[row])
        part = random.choice(original.parts[:1] * 3 + original.parts)
        if fitting := [damage for damage in damages_of(part.kind) if damages in damage.name]:
            yield original, part, random.choice(fitting)


def _written(files: Files, target: Path) -> Path:
    """Write a file or folder in place of an old one, and return its path."""
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    for name, content in files.items():
        path = target / name if name else target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return target


@click.command()
@click.option("--seconds", default=float("inf"), help="Time without that of the start.  [default: until interrupted]")
@click.option("--files", default=float("inf"), help="Number of files.  [default: unlimited]")
@click.option("--seed", default=1, help="Seed of everything random.")
@click.option("--row", "rows", multiple=True, type=click.Choice([*SHARES]), help="Only these containers.")
@click.option("--damage", "damages", default="", help="Only damages whose name contains this.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the files of all findings.")
@click.option("--reader", default=READER, help="The function under test, as module:function.")
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
    """Damage files of every container, and judge how `load` handles them."""
    if work:
        trial.run_apart = fork_apart  # type: ignore[assignment]
        module, _, function = reader.partition(":")
        return globals()["work"](getattr(importlib.import_module(module), function))
    console, kept = Console(), count()

    def on_finding(finding: Finding) -> None:
        console.print(f"{finding.original.name}: {finding.damage}: {finding.failure}", markup=False, highlight=False)
        if keep:
            place = keep / f"{next(kept):04}"
            _written(finding.files, place / finding.original.target)
            (place / "finding.txt").write_text(f"{finding.original.name}\n{finding.damage}\n{finding.failure}\n")

    def on_progress(done: int) -> None:
        if done % PROGRESS_EVERY == 0:
            console.print(f"{done:,} files", highlight=False)

    report = run(
        seed=seed,
        seconds=seconds,
        files=files,
        rows={row: SHARES[row] for row in rows or SHARES},
        damages=damages,
        reader=reader,
        on_finding=on_finding,
        on_progress=on_progress,
    )
    table = Table("container", "files", "refused", "accepted", "findings")
    for row in rows or SHARES:
        table.add_row(row, *(f"{number:,}" for number in report.count(row)))
    console.print(table)
    sys.exit(bool(report.findings))


if __name__ == "__main__":
    main()
