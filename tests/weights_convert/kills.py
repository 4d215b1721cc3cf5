"""A campaign against `Checkpoint.save`: a process that is killed while it writes leaves the old file or the new one.

    python -m tests.weights_convert.kills --kills 500

Processes write one network over another, in each container, until SIGKILL ends them at a random moment. The target
must then hold one of the two bit for bit, and beside it there may be a partial file under a hidden name. Otherwise the
exit code is 1.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Any

import click

from tests.weights_convert.fuzz import READER, ROOT, Worker, answer_of
from tests.weights_convert.fuzz_originals import VARIANT, description, make_checkpoint
from weights_convert import Checkpoint, UnlikelyNumbers, load

MAX_SECONDS = 0.05
"""The latest kill, in seconds. Writing the tiny network takes 10 to 70 ms, and the processes write without a pause."""

DIALECTS = {
    ".safetensors": "torchvision",
    ".pth": "torchvision",
    ".npz": "torchvision",
    ".msgpack": "flax",
    ".keras": "keras",
    ".weights.h5": "keras-hub",
    ".h5": "keras.applications",
    ".transformers": "transformers",
    ".orbax": "flax",
}
"""The dialect that is written in each container; the last two are folders."""

STARTED = (".orbax",)
"""Containers whose writer is a new process rather than a fork, since JAX has threads."""

ENDINGS = tuple(DIALECTS)
FORKED = tuple(ending for ending in ENDINGS if ending not in STARTED)
TURNS = (*FORKED, *FORKED, *FORKED, *FORKED, *STARTED)
"""The order of the endings; a new process takes seconds to start, and is rarer."""

PARTIAL = re.compile(r"\.[0-9a-f]{8}\.partial(\.orbax-checkpoint-tmp.*)?|\.tmp\w+")
"""The names that a killed process may leave: hidden ones of ours, of safetensors or of Orbax."""


@dataclass
class Report:
    """The results of a campaign: kills, those of them that interrupted a write, and failures."""

    kills: Counter[str] = field(default_factory=Counter)
    midway: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def run(kills: int, seed: int, endings: Collection[str] = ENDINGS) -> Report:
    """Kill writing processes, the endings in turn. This process must have no threads, since it forks."""
    random, report = Random(seed), Report()
    turns = cycle(ending for ending in TURNS if ending in endings)
    # What was found until an interrupt is reported.
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        for number in range(kills):
            place = Path(folder) / str(number)
            place.mkdir()
            _kill_one(next(turns), place, random, report)
            shutil.rmtree(place)
    return report


def _kill_one(ending: str, place: Path, random: Random, report: Report) -> None:
    pair_of(ending)  # made before the fork, once for all children
    writer = _started(ending, place) if ending in STARTED else _forked(ending, place)
    while not _targets(place) and os.waitid(os.P_PID, writer, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.001)
    time.sleep(random.uniform(0, MAX_SECONDS))
    os.kill(writer, signal.SIGKILL)
    _, status = os.waitpid(writer, 0)
    report.kills[ending] += 1
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        report.failures.append(f"{ending}: the writing process ended by itself")
    report.failures += [f"{ending}: {failure}" for failure in failures(place, ending)]
    report.midway[ending] += len(_targets(place)) < len([*place.iterdir()])


def _forked(ending: str, place: Path) -> int:
    if child := os.fork():
        return child
    with contextlib.suppress(BaseException):
        write_without_end(place, ending)
    os._exit(1)  # reached only after an error


def _started(ending: str, place: Path) -> int:
    command = [sys.executable, "-m", "tests.weights_convert.kills", "--write", str(place), "--ending", ending]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL).pid


@cache
def pair_of(ending: str) -> list[Checkpoint]:
    """Return the two networks that are written over each other."""
    return [make_checkpoint(DIALECTS[ending], "float32", seed) for seed in (1, 2)]


@cache
def _bits_of(ending: str) -> list[str]:
    return [description(checkpoint)["bits"] for checkpoint in pair_of(ending)]


def write_without_end(place: Path, ending: str) -> None:
    """Write the two networks in turn, without end."""
    pair = pair_of(ending)
    for number in count():
        pair[number % 2].save(place / f"0{ending}")


def _targets(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if not path.name.startswith(".")]


def failures(place: Path, ending: str) -> Iterator[str]:
    """Yield everything that is wrong in a folder where a process was killed."""
    for path in place.iterdir():
        if path in _targets(place):
            outcome = _read(path, ending)
            if outcome.get("accepted", {}).get("bits") not in _bits_of(ending):
                yield f"{path.name} holds neither the old nor the new: {outcome}"
        elif not PARTIAL.fullmatch(path.name):
            yield f"{path.name} was left behind"


def _read(path: Path, ending: str) -> dict[str, Any]:
    """Read a file, in another process if the library would start threads in this one."""
    if ending not in STARTED:
        return answer_of(load, str(path), {"variant": VARIANT})
    reader = Worker(READER, [])
    try:
        return reader.read(path, {"variant": VARIANT})
    finally:
        reader.stop()


@click.command()
@click.option("--kills", default=100, help="Number of processes to kill.")
@click.option("--seed", default=1, help="Seed of the moments.")
@click.option("--ending", "endings", multiple=True, type=click.Choice(ENDINGS), help="Only these containers.")
@click.option("--write", type=click.Path(path_type=Path), hidden=True)
def main(kills: int, seed: int, endings: tuple[str, ...], write: Path | None) -> None:
    """Kill processes while they write, and check what they leave."""
    warnings.simplefilter("ignore", UnlikelyNumbers)  # random bits are
    if write is not None:
        write_without_end(write, endings[0])
    with tempfile.TemporaryDirectory() as folder:
        for ending in set(endings or ENDINGS) - set(STARTED):  # imports everything before the first fork
            pair_of(ending)[0].save(Path(folder) / f"a{ending}")
    report = run(kills, seed, endings or ENDINGS)
    for ending in endings or ENDINGS:
        click.echo(f"{ending:14}{report.kills[ending]:6} kills, {report.midway[ending]:6} midway")
    for failure in report.failures:
        click.echo(failure)
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    main()
