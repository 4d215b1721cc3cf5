"""Measuring: a budget of time, rounds in which contenders take turns, and the ratios that follow."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.models.tables import Comparison, Contender, contenders_of, installed, way_of
from benchmarks.models.worker import NoAnswerError, Session, Worker, WorkerError


@dataclass
class Budget:
    """Time that may be used, and how it was used: the last cost of each kind of comparison foretells the next.

    Example:
        >>> budget = Budget(100.0, clock=iter([0.0, 0.0, 70.0]).__next__)
        >>> budget.costs["eager"] = 40.0
        >>> budget.affords("eager"), budget.affords("eager")  # 100 s are left, then 30 s
        (True, False)
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    costs: dict[Any, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def left(self) -> float:
        """Seconds that are left."""
        return self.started + self.seconds - self.clock()

    def affords(self, kind: Any) -> bool:
        """Whether something of a kind may be begun."""
        return self.left() > self.costs.get(kind, 0.0)


@dataclass
class Row:
    """Measurements of one contender in one comparison.

    Attributes:
        first: Seconds of the first call.
        rounds: Seconds of the calls of each round.
        memory: Peak bytes.
        output: Logits of the first image, or the loss of the first step.
        output_error: The relative L2 difference of the output from that of the first row.
        failure: Why there are no measurements.
    """

    contender: Contender
    first: float | None = None
    second: float = 0.0
    rounds: list[list[float]] = field(default_factory=list)
    memory: int | None = None
    output: list[float] = field(default_factory=list)
    output_error: float | None = None
    failure: str | None = None

    @property
    def calls(self) -> list[float]:
        """Seconds of all calls."""
        return [seconds for each in self.rounds for seconds in each]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile.

    Example:
        >>> quartiles([4.0, 1.0, 2.0, 3.0, 5.0])
        (2.0, 3.0, 4.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def best_peer(rows: Sequence[Row]) -> Row | None:
    """The row that is not ours with the smallest median; None if no peer was measured."""
    peers = [row for row in rows if row.contender.name != "ours" and row.rounds]
    return min(peers, key=lambda row: statistics.median(row.calls), default=None)


def ratios(row: Row, peer: Row) -> list[float]:
    """The ratio of medians in each round in which both ran: a drift of the machine's speed cancels out."""
    pairs = zip(row.rounds, peer.rounds, strict=False)  # a budget may have cut a round short
    return [statistics.median(mine) / statistics.median(other) for mine, other in pairs]


def difference(output: Sequence[float], reference: Sequence[float]) -> float:
    """The relative L2 difference of two outputs."""
    distance = sum((a - b) ** 2 for a, b in zip(output, reference, strict=True)) ** 0.5
    return distance / sum(b**2 for b in reference) ** 0.5


SAME_OUTPUT: Mapping[str, float] = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 8e-2}
"""The largest relative L2 difference of outputs that still counts as the same function.

Measured on a CPU with these weights and inputs: v1 for v1.5 differs by 0.17, `flax` by 0.18. Flax and the plain network
differ by 2e-6 in float32 and by 0.031 in bfloat16, which they round at different places. TF32 has three bits more than
bfloat16.
"""


@dataclass(frozen=True)
class Plan:
    """How long and where to measure.

    Attributes:
        device: "cpu" or "gpu".
        rounds: At most this many in a comparison.
        seconds: No round is begun later than this after the first, once there are three.
        folder: Holds weights and the workers' files.
    """

    device: str
    rounds: int
    seconds: float
    folder: Path

    @property
    def side_by_side(self) -> bool:
        """Whether workers of the next comparison start, and compilers of one run, at the same time."""
        return self.device == "gpu"


def weights_file(folder: Path, variant: str) -> Path:
    """A checkpoint with random weights whose activations keep their scale, written once."""
    path = folder / f"{variant}.safetensors"
    if not path.exists():
        from conformance.cases.synthetic import synthetic_weights
        from impls.config import VARIANTS

        synthetic_weights(VARIANTS[variant], seed=0).save(path)
    return path


def start_workers(comparison: Comparison, plan: Plan) -> list[Worker]:
    """Workers for all contenders that are installed; they begin to import their framework."""
    weights = weights_file(plan.folder, comparison.variant)
    workers = []
    for contender in contenders_of(comparison):
        if installed((*contender.requires, *way_of(comparison).requires)):
            folder = Path(tempfile.mkdtemp(dir=plan.folder)) / "worker"
            workers.append(Worker(Session(contender, comparison, plan.device, weights, folder)))
            workers[-1].send("start")
    return workers


class Group:
    """The workers of one comparison, and what was measured of each; one that fails drops out."""

    def __init__(self, comparison: Comparison, plan: Plan) -> None:
        self.comparison, self.plan = comparison, plan
        self.workers = start_workers(comparison, plan)
        self.rows = [Row(worker.contender) for worker in self.workers]

    def ask(self, budget: Budget, request: str | None, *arguments: Any, together: bool = False) -> Iterator[Any]:
        """Pairs of a row and its worker's answer, one worker after the other, or all at work together.

        A request of None is one that was sent before.
        """
        active = [pair for pair in zip(self.rows, self.workers, strict=True) if pair[0].failure is None]
        for _, worker in active if together and request else ():
            worker.send(request, *arguments)
        for row, worker in active:
            if request and not together:
                worker.send(request, *arguments)
            try:
                yield row, worker.receive(budget.left())
            except NoAnswerError as error:
                # A round that the budget cuts short takes nothing away from the rounds before it.
                row.failure = None if row.rounds and budget.left() <= 0 else str(error)
            except WorkerError as error:
                row.failure = str(error)

    def measure(self, budget: Budget, following: Group | None) -> None:
        """Set all contenders up, then let them take turns while no other process works."""
        together = self.plan.side_by_side and self.comparison.family != "jax"  # XLA times kernels as it compiles
        list(self.ask(budget, None))
        for row, answer in self.ask(budget, "set_up", together=together):
            row.first, row.second, row.output = answer["first"], answer["second"], answer["output"]
        compare_outputs(self.rows, self.comparison.precision)
        for worker in following.workers if following else ():
            worker.wait_until_idle(budget.left())
        calls = calls_per_turn([row.second for row in self.rows if row.failure is None])
        warm_up = self.plan.device == "gpu" or calls > 1
        started = time.monotonic()
        for count in range(self.plan.rounds):
            enough = count >= FEWEST_ROUNDS and time.monotonic() - started > self.plan.seconds
            if enough or budget.left() <= 0 or all(row.failure for row in self.rows):
                break
            for row, answer in self.ask(budget, "turn", calls, warm_up):
                row.rounds.append(answer["seconds"])
                row.memory = answer["memory"]

    def end(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.end()


FEWEST_ROUNDS, TURN_SECONDS, MOST_CALLS = 3, 0.15, 20


def calls_per_turn(seconds: Sequence[float]) -> int:
    """The number of calls that makes a turn of the slowest contender last some 0.15 s."""
    return max(1, min(MOST_CALLS, round(TURN_SECONDS / max(seconds, default=TURN_SECONDS))))


def compare_outputs(rows: Sequence[Row], precision: str) -> None:
    """Note how far each output is from that of the first row, and refuse the rows that compute another function."""
    working = [row for row in rows if row.failure is None]
    for row in working:
        row.output_error = difference(row.output, working[0].output)
        if not row.output_error < SAME_OUTPUT[precision]:
            row.failure = f"its output differs from that of {working[0].contender.name} by {row.output_error:.1e}"


def run(
    chosen: Sequence[Comparison], plan: Plan, budget: Budget, report: Callable[[Comparison, list[Row], float], None]
) -> list[Comparison]:
    """Measure the comparisons in order, each that the budget affords; return those that were left out."""
    left_out: list[Comparison] = []
    started: dict[Comparison, Group] = {}

    def kind(comparison: Comparison) -> tuple[str, str, str]:
        return comparison.family, comparison.way, comparison.task

    try:
        for position, comparison in enumerate(chosen):
            if not budget.affords(kind(comparison)):
                left_out.append(comparison)
                continue
            started_at = budget.clock()
            group = started.pop(comparison, None) or Group(comparison, plan)
            started[comparison] = group  # for the end, should an exception come
            following = None
            if plan.side_by_side and position + 1 < len(chosen) and budget.affords(kind(chosen[position + 1])):
                following = started.get(chosen[position + 1]) or Group(chosen[position + 1], plan)
                started[chosen[position + 1]] = following
            group.measure(budget, following)
            started.pop(comparison).end()
            budget.costs[kind(comparison)] = budget.clock() - started_at
            report(comparison, group.rows, budget.costs[kind(comparison)])
    finally:
        for group in started.values():
            group.end()
    return left_out
