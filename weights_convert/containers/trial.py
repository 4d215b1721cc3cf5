"""Reading a file on trial: in a process of its own and under limits, before it is read in this one.

HDF5 is a large library in C. A damaged file can crash the process, keep it busy without end, or make it ask for
gigabytes (seen with HDF5 1.14.6). On trial, such a file costs that process only, and becomes one clear error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weights_convert.errors import ConversionError, first_line

MAX_MEMORY = 2**30
"""Bytes of address space beside 40 times the size of the file, for its arrays; the libraries take a third of this."""

MAX_SECONDS = 5
"""Seconds of processor time beside one for every 10 MB. Reading a file of 100 MB takes a tenth of a second."""

MAX_WAIT = 120.0
"""Seconds by the clock beside ten for each second of processor time, for a machine that is busy with other work."""

ROOT = Path(__file__).resolve().parents[2]


class TrialFailed(RuntimeError):
    """The process that reads a file on trial failed; the message says how."""


def read_on_trial(module: str, function: str, path: Path, packages: Sequence[str] = ()) -> None:
    """Let another process read a file first, and raise an error if that fails.

    Args:
        module: The full name of a module.
        function: The name of a function in it that takes a path.
        path: The file; a module with a function `files(path)` names others that belong to it.
        packages: Packages that are imported before the limits begin.

    Raises:
        ConversionError: If the function refuses the file.
        TrialFailed: If it raises another error, crashes, or takes too long or too much memory.
    """
    files = getattr(importlib.import_module(module), "files", lambda path: [path])
    size = sum(file.stat().st_size for file in files(path))
    seconds, memory = MAX_SECONDS + size // 10_000_000, MAX_MEMORY + 40 * size
    endless = f"reading it does not end within {seconds} s"
    try:
        arguments = [module, function, os.fspath(path), str(seconds), str(memory), *packages]
        process = run_apart(arguments, MAX_WAIT + 10 * seconds)
    except subprocess.TimeoutExpired as error:
        raise TrialFailed(endless) from error
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise TrialFailed(endless if name in ("SIGXCPU", "SIGKILL") else f"the library that reads it crashes ({name})")
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrialFailed(f"the process that reads it on trial failed: {last_line}")
    outcome: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    if outcome["problems"]:
        raise ConversionError(str(path), outcome["problems"], outcome["advice"])
    if outcome["error"]:
        raise TrialFailed(outcome["error"])


def run_apart(arguments: Sequence[str], wait: float) -> subprocess.CompletedProcess[str]:
    """Run `read_under_limits` with these arguments in a new process.

    Raises:
        subprocess.TimeoutExpired: If it does not end within this many seconds.
    """
    program = f"import sys; from {__name__} import read_under_limits; read_under_limits(*sys.argv[1:])"
    command = [sys.executable, "-c", program, *arguments]
    search_path = os.pathsep.join(filter(None, [os.fspath(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": search_path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, timeout=wait, env=environment, text=True)


def read_under_limits(module: str, function: str, path: str, seconds: str, memory: str, *packages: str) -> None:
    """Read a file under limits, and print the outcome as a line of JSON. This runs in the process of the trial."""
    read = getattr(importlib.import_module(module), function)
    for package in packages:
        with contextlib.suppress(ImportError):  # the function says what to install
            importlib.import_module(package)
    _set_limits(int(seconds), int(memory))
    outcome: dict[str, Any] = {"problems": [], "advice": "", "error": ""}
    try:
        read(Path(path))
    except ConversionError as error:
        outcome |= {"problems": error.problems, "advice": error.advice}
    except MemoryError:
        outcome["error"] = f"reading it asks for more than {int(memory):,} bytes of memory"
    except Exception as error:  # whatever the library raises, the file cannot be read
        outcome["error"] = first_line(error)
    sys.stdout.write(json.dumps(outcome) + "\n")


def _set_limits(seconds: int, memory: int) -> None:
    """Limit the further processor time and address space of this process, where the system can; write no core file."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        address_space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        used_seconds = int(sum(os.times()[:2]) + 1)
        for kind, limit in (("CORE", 0), ("CPU", used_seconds + seconds), ("AS", address_space + memory)):
            number = getattr(resource, f"RLIMIT_{kind}")
            resource.setrlimit(number, (limit, resource.getrlimit(number)[1]))
