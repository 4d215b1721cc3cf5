"""Worker processes: one for each contender of a comparison, and the parent's end of it."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.models.tables import KERAS_BACKEND, Comparison, Contender

ENGINES: Mapping[str, tuple[str, str]] = {
    "torch": ("benchmarks.models.torch_engine", "TorchEngine"),
    "jax": ("benchmarks.models.jax_engine", "JaxEngine"),
    "keras": ("benchmarks.models.keras_engine", "KerasEngine"),
}
"""Module and class that run the models of a family."""

REMOVED = ("NVIDIA_TF32_OVERRIDE", "JAX_COMPILATION_CACHE_DIR", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64")
"""Variables of the environment that would change a precision, or hide the cost of the first call."""


def environment(device: str, folder: Path) -> dict[str, str]:
    """Variables that a worker sets before it imports a framework."""
    chosen = {"KERAS_BACKEND": KERAS_BACKEND, "TORCHINDUCTOR_CACHE_DIR": os.fspath(folder / "inductor")}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    shared_card = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    no_card = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"} if device == "cpu" else {}
    return chosen | quiet | shared_card | no_card


def resident(peak: bool = False) -> int | None:
    """Bytes of this process in memory, now or at most; None where there is no /proc."""
    key = "VmHWM:" if peak else "VmRSS:"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return None


def forget_resident_peak() -> None:
    """Let the highest resident set of this process begin anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Session:
    """What a worker does when asked: get ready, set up, run calls in turn."""

    def __init__(self, contender: Contender, comparison: Comparison, device: str, weights: Path, folder: Path) -> None:
        self.contender, self.comparison, self.device = contender, comparison, device
        self.weights, self.folder = weights, folder

    def start(self) -> None:
        """Import what the contender needs and reach the device."""
        module, name = ENGINES[self.comparison.family]
        self.engine = getattr(importlib.import_module(module), name)(self.device)
        for module in ("weights_convert", *self.contender.imports):
            importlib.import_module(module)
        self.before = resident()

    def set_up(self) -> dict[str, Any]:
        """Build the model, and run the first call, which compiles, and a second."""
        self.engine.device.set_precision(self.comparison.precision)
        self.call = self.engine.prepare(self.contender, self.comparison, self.weights, self.folder)
        seconds, outputs = zip(*(self.timed() for _ in range(2)), strict=True)
        self.engine.device.forget_peak()
        forget_resident_peak()
        output = self.engine.device.to_numpy(outputs[0])
        logits = [float(output)] if self.comparison.task == "training" else [float(value) for value in output[0]]
        return {"first": seconds[0], "second": seconds[1], "output": logits}

    def timed(self) -> tuple[float, Any]:
        """Seconds of one call, and its output."""
        started = time.perf_counter()
        output = self.engine.device.wait(self.call())
        return time.perf_counter() - started, output

    def turn(self, calls: int, warm_up: bool) -> dict[str, Any]:
        """Seconds of each call, after one that is not counted with `warm_up`, and the peak memory until now."""
        seconds = [self.timed()[0] for _ in range(calls + warm_up)][warm_up:]
        self.engine.device.release()
        return {"seconds": seconds, "memory": self.memory()}

    def memory(self) -> int | None:
        """Peak bytes since the first calls: the allocator's on a card, growth of the resident set on a CPU."""
        if self.device == "gpu":
            return self.engine.device.peak()
        peak = resident(peak=True)
        return None if peak is None or self.before is None else peak - self.before


def serve(connection: Connection, session: Session) -> None:
    """Answer requests until None comes; a failure is an answer, too."""
    log = os.open(session.folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name in REMOVED:
        os.environ.pop(name, None)
    os.environ.update(environment(session.device, session.folder))
    with contextlib.suppress(EOFError):  # the parent is gone
        for request, arguments in iter(connection.recv, None):
            try:
                connection.send((True, getattr(session, request)(*arguments)))
            except Exception as error:
                traceback.print_exc()
                lines = str(error).strip().splitlines() or [""]
                connection.send((False, f"{type(error).__name__}: {lines[0][:200]}"))
    os._exit(0)  # at an orderly end, frameworks take seconds


LONGEST_CALL = 1800.0
"""Seconds after which a worker that does not answer is given up."""


class WorkerError(Exception):
    """A worker failed or ended."""


class NoAnswerError(WorkerError):
    """A worker took too long."""


class Worker:
    """The parent's end of a worker."""

    def __init__(self, session: Session) -> None:
        self.contender, self.folder = session.contender, session.folder
        session.folder.mkdir(parents=True)
        os.environ.setdefault(
            "PYTHONWARNINGS", "ignore:resource_tracker:UserWarning"
        )  # locks of workers that are ended
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, session))
        self.process.start()
        other.close()

    def send(self, request: str, *arguments: Any) -> None:
        """Ask for something; `receive` waits for it."""
        with contextlib.suppress(OSError):
            self.connection.send((request, arguments))

    def receive(self, limit: float) -> Any:
        """The answer to the oldest request that has none.

        Raises:
            WorkerError: If the request failed or the worker ended.
            NoAnswerError: If the time is over.
        """
        try:
            if not self.connection.poll(limit := max(0.0, min(limit, LONGEST_CALL))):
                raise NoAnswerError(f"no answer within {limit:.0f} s")
            worked, answer = self.connection.recv()
        except (EOFError, OSError):
            lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
            raise WorkerError(f"the process ended: {(lines or ['no message'])[-1][:200]}") from None
        if not worked:
            raise WorkerError(answer)
        return answer

    def wait_until_idle(self, limit: float) -> None:
        """Wait for the answer to the oldest request, and leave it for `receive`."""
        with contextlib.suppress(OSError):
            self.connection.poll(max(0.0, limit))

    def end(self) -> None:
        """Let the process end; kill it if it does not."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()
