"""The proof on a GPU: one script, no installation, a budget of minutes, and a results file complete at any time.

    python3 -m benchmarks.gpu --out results.json --budget 600
    python3 -m benchmarks.gpu --out results.json --steps proof training     # only these
    python3 -m benchmarks.gpu --out results.json --device cpu --small       # a rehearsal without a card

It takes whatever of PyTorch, JAX with Flax, and Keras (on TensorFlow, or else on JAX and on PyTorch) this Python has,
and needs nothing but the repository on PYTHONPATH. Steps are begun in the order of their importance, several at once
where there are processors for them, since they mostly wait for compilers; the first and that of speed run alone. One
that no longer fits the budget is left out, and said to be. Each has a time limit of its own. The file is written anew
after each step; a second run with the same file repeats only what is not done yet.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

from conformance.run.implementations import NAMED
from conformance.run.switches import switches, worker_environment

ROOT = Path(__file__).resolve().parent.parent
THREADS = 4
"""Number of threads of each process, in a step that runs several side by side."""

PACKAGES = ("torch", "jax", "jaxlib", "flax", "keras", "tensorflow", "numpy", "torchvision", "timm", "transformers")

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """Device, limits and folders of a step.

    Attributes:
        device: "gpu" or "cpu".
        small: Whether small networks do, as in a rehearsal.
        seconds: How long the step may take.
        folder: For files that do not outlast the run.
        reports: Folder where full reports of the suite are kept; None keeps none.
    """

    device: str
    small: bool
    seconds: float
    folder: Path
    reports: Path | None


@dataclass(frozen=True)
class Step:
    """A part of the proof.

    Attributes:
        name: What `--steps` calls it.
        least: Seconds that must be left of the budget for it to be begun.
        limit: Seconds after which it is stopped.
        work: Does it; returns what goes into the file.
        alone: Whether no other step may run beside it.
    """

    name: str
    least: float
    limit: float
    work: Callable[[Run], Any]
    alone: bool = False


class Stopped(RuntimeError):
    """A process that took too long, or failed, with what it said last."""


def call(
    arguments: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] | None = None,
    accepted: Sequence[int] = (0,),
) -> str:
    """Run a Python module in a process of its own and return what it prints.

    Raises:
        Stopped: If it takes longer than `seconds`, or fails; its children are stopped with it.
    """
    command = [sys.executable, "-m", *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(environment or {}), "PYTHONPATH": python_path()},
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Stopped(f"{arguments[0]} was stopped after {seconds:.0f} s") from None
        errors.seek(0)
        last = errors.read().strip().splitlines()[-3:]
    if process.returncode not in accepted:
        raise Stopped(f"{arguments[0]} ended with exit code {process.returncode}: {' | '.join(last)}")
    return output


WITH_A_REPORT = (0, 1, 3)
"""Exit codes of `conformance run` that come with a report: conforms, diverges, incomplete."""


def python_path() -> str:
    """Return PYTHONPATH with this checkout first."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def has(*packages: str) -> bool:
    """Tell whether packages are installed; nothing is imported to find out."""
    return all(importlib.util.find_spec(package) is not None for package in packages)


def frameworks() -> list[str]:
    """Name the frameworks besides Keras that are installed."""
    return [name for name, packages in (("torch", ("torch",)), ("flax", ("jax", "flax"))) if has(*packages)]


def candidates(differentiated: bool = False) -> list[str]:
    """Name the implementations that this Python can run; Keras on its other backends where TensorFlow is missing.

    Args:
        differentiated: Whether they are to train. On JAX, Keras trains operation by operation, which takes minutes.
    """
    names = frameworks()
    if has("keras", "tensorflow"):
        return [*names, "keras"]
    if has("keras"):
        names += [f"keras@{backend}" for backend in ("jax", "torch") if has(backend)]
    return [name for name in names if not (differentiated and name == "keras@jax")]


def conformance(run: Run, name: str, *options: str, impl: Sequence[str] = ()) -> Row:
    """Run the suite and return the facts of its report that a reader asks for."""
    report = (run.reports or run.folder) / f"{name}.json"
    arguments = ["conformance.cli", "run", "--device", run.device, "--timeout", f"{run.seconds:.0f}"]
    arguments += ["--report", str(report), "--impl", *(impl or candidates()), *options]
    call(arguments, run.seconds, accepted=WITH_A_REPORT)
    facts = summary(json.loads(report.read_text()))
    return {"command": f"conformance run {' '.join(options)}", **facts}


def summary(report: Mapping[str, Any]) -> Row:
    """Condense a report of the suite: a row for each candidate, precision, variant and task, with its worst array."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for judged in ("comparisons", "reported"):
        for comparison in report[judged]:
            task = comparison["task"] or "forward"
            key = (comparison["implementation"], comparison["precision"], comparison["variant"], task, judged)
            groups.setdefault(key, []).append(comparison)
    rows = [condense(key, comparisons) for key, comparisons in groups.items()]
    return {
        "verdict": report["verdict"],
        "seconds": report["seconds"],
        "passed": sum(comparison["passed"] for comparison in report["comparisons"]),
        "compared": len(report["comparisons"]),
        "workers": report["environment"]["workers"],
        "rows": rows,
        "failed": [comparison for comparison in report["comparisons"] if not comparison["passed"]][:20],
        "divergences": report["first_divergences"],
        "could not run": report["failures"],
        "left out": report["left_out"],
    }


def condense(key: Sequence[str], comparisons: Sequence[Mapping[str, Any]]) -> Row:
    """Return counts, the largest error and the array nearest to its limit, of one candidate at one task."""
    row: Row = dict(zip(("candidate", "precision", "variant", "task", "kind"), key, strict=True))
    row |= {"compared": len(comparisons), "passed": sum(comparison["passed"] for comparison in comparisons)}
    measured = [c for c in comparisons if c["error"] is not None and c["name"] != "parameters"]
    if measured:
        worst = max(measured, key=lambda c: c["error"])
        row["largest error"] = {name: worst[name] for name in ("name", "mode", "input", "error")}
    limited = [c for c in measured if c["limit"]]
    if limited:
        nearest = max(limited, key=lambda c: c["error"] / c["limit"])
        row["nearest to limit"] = {name: nearest[name] for name in ("name", "mode", "input", "error", "limit")}
        if nearest.get("floor"):
            row["nearest to limit"]["multiple of builds"] = nearest["error"] / nearest["floor"]["worst"]
    return row


def prove(run: Run) -> Row:
    """Compare v1.5, inference and train mode, in float64 and strict float32, block by block."""
    return conformance(run, "proof", "--variant", "v1.5", "--task", "forward")


def prove_training(run: Run) -> Row:
    """Compare gradients and eight training steps of three recipes, of v1.5, in float64 and strict float32."""
    options = ("--variant", "v1.5", "--task", "gradients", "--task", "steps")
    return conformance(run, "training", *options, impl=candidates(differentiated=True))


def prove_variants(run: Run) -> Row:
    """Compare the other variants, inference and train mode."""
    variants = [part for name in ("tutorial", "v1", "keras", "flax") for part in ("--variant", name)]
    return conformance(run, "variants", *variants, "--task", "forward")


def prove_training_of_variants(run: Run) -> Row:
    """Compare gradients of the other variants, in float64 and at the oracle's activations in float32."""
    variants = [part for name in ("tutorial", "v1", "keras", "flax") for part in ("--variant", name)]
    return conformance(run, "gradients", *variants, "--task", "gradients", impl=candidates(differentiated=True))


FAULTS = {
    "torch": ("bgr@input", "pad-same@stage3.0.conv2", "eps-keras@stage2.1.bn2", "kernel-flip@stage4.1.conv2"),
    "flax": ("mean-offset-swap@stage1.0.bn3", "stride-1x1@stage2.0", "relu-after-missing@stage3.2"),
}
"""Framework to faults of the catalogue that are injected into it, with their places."""


def find_faults(run: Run) -> Row:
    """Run faulty candidates of the real network in float32: each must be caught, placed at its layer, and named."""
    injected = {
        f"{name}-{fault.partition('@')[0]}": f"{name}+{fault}" for name in frameworks() for fault in FAULTS[name]
    }
    impl = [f"{candidate}={faulty}" for candidate, faulty in injected.items()]
    facts = conformance(run, "faults", "--variant", "v1.5", "--precision", "float32", impl=impl)
    found = [
        {
            "injected": injected[divergence["implementation"]],
            **{name: divergence[name] for name in ("precision", "mode", "input", "layer")},
            "diagnosis": [finding["text"] for finding in divergence["diagnosis"]],
        }
        for divergence in facts["divergences"]
    ]
    not_caught = {*injected} - {divergence["implementation"] for divergence in facts["divergences"]}
    return {"found": found, "not caught": sorted(not_caught), "could not run": facts["could not run"]}


def inject_everything(run: Run) -> Row:
    """Inject the whole catalogue into the PyTorch implementation, in small networks: the self-test on the card."""
    report = (run.reports or run.folder) / "selftest.json"
    arguments = ["conformance.cli", "selftest", "--impl", "torch", "--device", run.device, "--report", str(report)]
    call([*arguments, *(["--fault", "bgr"] if run.small else [])], run.seconds, accepted=WITH_A_REPORT)
    held = json.loads(report.read_text())
    effective = [trial for trial in held["trials"] if not trial["harmless"]]
    counts = {name: sum(bool(trial[name]) for trial in effective) for name in ("caught", "layer_named", "cause_named")}
    return {
        "devices": held["devices"],
        "injections": len(held["trials"]),
        "effective": len(effective),
        **counts,
        "right comparisons": held["right_comparisons"],
        "false alarms": held["false_alarms"],
        "missed": held["missed"],
    }


PEERS = {
    "torchvision": ("torchvision", "torchvision.models:resnet50"),
    "timm": ("timm", "timm:create_model('resnet50')"),
}
"""Library to its module and to the target of `conformance check`."""


def check_peers(run: Run) -> Row:
    """Check other libraries' own models on the card, without an adapter."""
    targets = [f"{name}={target}" for name, (module, target) in PEERS.items() if has(module)]
    if not targets:
        raise Stopped("none of its libraries is installed")
    report = (run.reports or run.folder) / "peers.json"
    arguments = ["conformance.cli", "check", *targets, "--device", run.device, "--timeout", f"{run.seconds:.0f}"]
    call([*arguments, "--report", str(report)], run.seconds, accepted=WITH_A_REPORT)
    held = json.loads(report.read_text())
    return {"runs": [summary(record) for record in held.get("runs", [held])]}


@dataclass(frozen=True)
class Child:
    """A module that is run in a process of its own and prints JSON.

    Attributes:
        arguments: Module, and its arguments.
        variables: Environment variables beside the common ones.
    """

    arguments: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)


def children(run: Run, calls: Mapping[str, Child]) -> Row:
    """Run modules side by side, and gather what each prints, by the name of the result."""
    common = worker_environment(switches("float32", run.device, THREADS)) | {"XLA_FLAGS": ""}
    every = ["--device", run.device, *(["--small"] if run.small else [])]

    def gather(child: Child) -> Any:
        try:
            return json.loads(call([*child.arguments, *every], run.seconds, common | child.variables))
        except (Stopped, json.JSONDecodeError) as error:
            return {"could not run": str(error)}

    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // THREADS)) as pool:
        return dict(zip(calls, pool.map(gather, calls.values()), strict=True))


def name_kernels(run: Run) -> Row:
    """List the kernels that the card runs for each candidate, by kind, with the switches of the suite."""
    calls = {
        f"{name}, {precision}": Child(
            ("benchmarks.kernels", "--candidate", name, "--precision", precision),
            switches(precision, run.device, THREADS) | NAMED[name].variables,
        )
        for name in candidates()
        for precision in NAMED[name].precisions
    }
    return children(run, calls)


def measure_precision(run: Run) -> Row:
    """Classify TF32, bfloat16 and float16 and measure their errors; plant TF32 where float32 is asked for."""
    module = "benchmarks.low_precision"
    calls = {name: Child((module, "--framework", name)) for name in frameworks()}
    for backend in ("torch", "jax"):
        if has("keras", backend):
            calls[f"keras@{backend}"] = Child((module, "--framework", "keras"), {"KERAS_BACKEND": backend})
    if has("torch"):
        calls["planted leaks"] = Child(("benchmarks.leaks",))
    return children(run, calls)


def measure_determinism(run: Run) -> Row:
    """Run each operation twice, in each of two processes, with deterministic algorithms asked for and without."""
    calls = {
        f"{name}, {how}, process {process}": Child(
            ("benchmarks.determinism", "--framework", name, *flags), {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        )
        for process in (1, 2)
        for how, flags in HOW.items()
        for name in frameworks()
        if (name, how) != ("torch", "untuned")
    }
    return by_operation(children(run, calls), frameworks())


HOW: dict[str, Sequence[str]] = {"deterministic": (), "free": ("--free",), "untuned": ("--untuned",)}
"""Whether deterministic algorithms are asked for, and the option of `benchmarks.determinism`; "untuned" is XLA's."""


def by_operation(processes: Row, names: Sequence[str]) -> Row:
    """For each framework and way, tell of each operation whether its bits are equal within and between processes."""
    rows: Row = {}
    for name in names:
        for how in HOW:
            if f"{name}, {how}, process 1" not in processes:
                continue
            first, second = (processes[f"{name}, {how}, process {number}"] for number in (1, 2))
            if "operations" not in first or "operations" not in second:
                rows[f"{name}, {how}"] = {"could not run": first.get("could not run") or second.get("could not run")}
                continue
            operations = {
                operation: row
                if "refused" in row
                else {
                    "within a process": row["equal"],
                    "between processes": row["sha256"] == second["operations"][operation].get("sha256"),
                    **{name: row[name] for name in ("arrays", "differ", "compiled")},
                }
                for operation, row in first["operations"].items()
            }
            rows[f"{name}, {how}"] = {"switches": first["switches"], "operations": operations}
    return rows


def measure_speed(run: Run) -> Row:
    """Time inference and training steps, ours beside peers."""
    file = run.folder / "models.json"
    arguments = ["benchmarks.models", "--device", run.device, "--budget", f"{run.seconds - 15:.0f}", "--out", str(file)]
    stopped = ""
    try:
        call([*arguments, *(["--batches", "1"] if run.small else [])], run.seconds)
    except Stopped as error:
        stopped = str(error)
        if not file.exists():
            raise
    results: Row = {"stopped": stopped, **json.loads(file.read_text())}
    del results["command"]  # it names a folder of this machine
    return results


STEPS = (
    Step("proof", least=20, limit=100, work=prove, alone=True),
    Step("training", least=60, limit=300, work=prove_training),
    Step("variants", least=40, limit=200, work=prove_variants),
    Step("faults", least=40, limit=200, work=find_faults),
    Step("precision", least=30, limit=150, work=measure_precision),
    Step("determinism", least=30, limit=150, work=measure_determinism),
    Step("peers", least=30, limit=150, work=check_peers),
    Step("kernels", least=20, limit=100, work=name_kernels),
    Step("selftest", least=90, limit=500, work=inject_everything),
    Step("gradients", least=90, limit=400, work=prove_training_of_variants),
    Step("speed", least=60, limit=180, work=measure_speed, alone=True),
)
"""In the order of their importance; limits are for a card with 16 processors beside it, a rehearsal takes longer."""


@dataclass
class Results:
    """The results file: facts about the machine, and each step's outcome by name."""

    path: Path
    facts: Row
    steps: Row = field(default_factory=dict)

    @classmethod
    def continued(cls, path: Path, facts: Row) -> Results:
        """Read the file of an earlier run on the same machine and packages, or begin a new one.

        Raises:
            SystemExit: If the file is of another machine or other packages.
        """
        if not path.exists():
            return cls(path, facts)
        held = json.loads(path.read_text())
        same = ("card", "versions", "device", "small")
        if any(held["machine"].get(name) != facts[name] for name in same):
            raise SystemExit(f"{path} holds results of another machine, other packages or options: name another file")
        return cls(path, facts, held["steps"])

    def write(self, name: str, outcome: Row) -> None:
        """Add the outcome of a step, and replace the file as a whole, its steps in the order of the table."""
        self.steps[name] = outcome
        places = {step.name: place for place, step in enumerate(STEPS)}
        self.steps = dict(sorted(self.steps.items(), key=lambda item: places.get(item[0], len(places))))
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(json.dumps({"machine": self.facts, "steps": self.steps}, indent=1, sort_keys=False) + "\n")
        partial.replace(self.path)


def machine(device: str, small: bool) -> Row:
    """Card, driver, processors, versions and date."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        card = "none"
    found = {package: metadata.version(package) for package in PACKAGES if has(package)}
    return {
        "date": date.today().isoformat(),
        "card": card,
        "device": device,
        "small": small,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "versions": found,
    }


def begin(step: Step, left: float, options: argparse.Namespace, folder: Path) -> Row:
    """Run one step within its limit and what is left of the budget, and tell how it ended."""
    started = time.monotonic()
    seconds = min(step.limit * (10 if options.device == "cpu" else 1), left)
    try:
        result = step.work(Run(options.device, options.small, seconds, folder, options.reports))
        outcome: Row = {"state": "done", "result": result}
    except Stopped as error:
        outcome = {"state": "stopped", "reason": str(error)}
    return {**outcome, "seconds": round(time.monotonic() - started, 1)}


def perform(step: Step, deadline: float, options: argparse.Namespace, folder: Path) -> Row:
    """Run one step if what is left of the budget affords it, or say that it is left out."""
    left = deadline - time.monotonic()
    if left < step.least:
        return {"state": "left out", "reason": f"{left:.0f} s are left, it needs about {step.least:.0f}"}
    print(f"{step.name}: at most {min(step.limit, left):.0f} s", flush=True)
    return begin(step, left, options, folder)


def groups(steps: Sequence[Step]) -> list[list[Step]]:
    """Group the steps that may run side by side, in their order.

    Example:
        >>> [[step.name for step in group] for group in groups(STEPS)][0]
        ['proof']
    """
    return [list(group) for _, group in groupby(steps, key=lambda step: step.name if step.alone else "")]


def parse() -> argparse.Namespace:
    """Read the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the results file")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds for all of it; default 600")
    parser.add_argument("--steps", nargs="+", choices=[step.name for step in STEPS], help="only these; default all")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="small networks where a step allows it: a rehearsal")
    parser.add_argument("--reports", type=Path, help="keep the suite's full reports in this folder")
    parser.add_argument(
        "--at-once",
        type=int,
        default=max(1, (os.cpu_count() or 1) // THREADS),
        help="steps side by side; default: as many as have four processors each",
    )
    return parser.parse_args()


def main() -> None:
    """Run the steps that fit the budget, the most important first."""
    options = parse()
    deadline = time.monotonic() + options.budget
    results = Results.continued(options.out, machine(options.device, options.small))
    if options.reports:
        options.reports.mkdir(parents=True, exist_ok=True)
        options.reports = options.reports.resolve()
    wanted = [
        step
        for step in STEPS
        if step.name in (options.steps or [step.name]) and results.steps.get(step.name, {}).get("state") != "done"
    ]
    with tempfile.TemporaryDirectory(prefix="resnet-parity-gpu-") as folder:
        for group in groups(wanted):
            with ThreadPoolExecutor(options.at_once) as pool:
                running = {pool.submit(perform, step, deadline, options, Path(folder)): step for step in group}
                for finished in as_completed(running):
                    step, outcome = running[finished], finished.result()
                    results.write(step.name, outcome)
                    print(f"{step.name}: {describe(outcome)}", flush=True)


def describe(state: Row) -> str:
    """Summarise the outcome of a step in one line."""
    result = state.get("result", {})
    verdict = f", {result['verdict']}: {result['passed']:,} of {result['compared']:,}" if "verdict" in result else ""
    return (
        f"{state['state']}{verdict}{': ' * ('reason' in state)}{state.get('reason', '')} ({state.get('seconds', 0)} s)"
    )


if __name__ == "__main__":
    main()
