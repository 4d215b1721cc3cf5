"""A trial reading in a process of its own, under limits, before a file is read here.

HDF5 is a large library in C: a damaged file can end the process, keep it busy for ever, or make it ask for gigabytes
(seen with HDF5 1.14.6). In a process of its own, such a file costs that process and becomes one clear error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from weights_convert.errors import ConversionError, first_line

MOST_MEMORY = 2**30
"""Address space beside 40 times the file's size, to which its arrays may expand; the libraries take a third of this."""

MOST_SECONDS = 5
"""Of a processor, beside one for every 10 MB: a file of 100 MB takes a tenth of a second."""

LONGEST_WAIT = 120.0
"""Seconds by the clock, beside ten for each of a processor: for a machine that has other things to do."""

ROOT = Path(__file__).resolve().parents[2]


class TrialFailed(RuntimeError):
    """The reading process failed; the message says how."""


def read_on_trial(module: str, function: str, path: Path) -> None:
    """Have a reader read a file in another process, and forget what it read.

    Args:
        module: By its full name.
        function: In it, taking a path.
        path: The file.

    Raises:
        ConversionError: If the reader refuses the file.
        TrialFailed: If it fails on it, crashes, or takes too long or too much memory.
    """
    size = path.stat().st_size
    seconds, memory = MOST_SECONDS + size // 10_000_000, MOST_MEMORY + 40 * size
    program = f"import sys; from {__name__} import answer; answer(*sys.argv[1:])"
    command = [sys.executable, "-c", program, module, function, os.fspath(path), str(seconds), str(memory)]
    places = os.pathsep.join(filter(None, [os.fspath(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    endless = f"reading it does not come to an end in {seconds} s"
    try:
        wait = LONGEST_WAIT + 10 * seconds
        done = subprocess.run(command, capture_output=True, timeout=wait, env=environment, text=True)
    except subprocess.TimeoutExpired as error:
        raise TrialFailed(endless) from error
    if done.returncode < 0:
        by = signal.Signals(-done.returncode)
        crash = f"the library that reads it crashes ({by.name})"
        raise TrialFailed(endless if by.name in ("SIGXCPU", "SIGKILL") else crash)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TrialFailed(f"the process that was to read it failed: {last}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if said["problems"]:
        raise ConversionError(str(path), said["problems"], said["advice"])
    if said["error"]:
        raise TrialFailed(said["error"])


def answer(module: str, function: str, path: str, seconds: str, memory: str) -> None:
    """Read under limits, and say on standard output what spoke against it."""
    read = getattr(importlib.import_module(module), function)
    _limit(int(seconds), int(memory))
    say: dict[str, Any] = {"problems": [], "advice": "", "error": ""}
    try:
        read(Path(path))
    except ConversionError as error:
        say |= {"problems": error.problems, "advice": error.advice}
    except MemoryError:
        say["error"] = f"it asks for more than {int(memory):,} bytes of memory"
    except Exception as error:  # each library has its own; whatever it is, the file could not be read
        say["error"] = first_line(error)
    sys.stdout.write(json.dumps(say) + "\n")


def _limit(seconds: int, memory: int) -> None:
    """Give this process so much more time and address space than it has, where the system can; and no core file."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        used = int(sum(os.times()[:2]) + 1)
        for kind, most in (("CORE", 0), ("CPU", used + seconds), ("AS", held + memory)):
            number = getattr(resource, f"RLIMIT_{kind}")
            resource.setrlimit(number, (most, resource.getrlimit(number)[1]))
