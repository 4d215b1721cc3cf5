"""False alarms: many right builds, of which none may be accused.

A limit that a correct build exceeds now and then is as bad as one that misses a bug. So networks are drawn: all
variants, weights of ever new seeds, odd and even sizes, batches of one and of several, one thread and two. Each is run
by every build that there is, in both precisions, and judged as `conformance run` judges. A run is one build, in one
precision, on one draw, in inference and train mode.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from conformance.cases.case import MODES, Case
from conformance.cases.inputs import noise, noise_sides
from conformance.cases.recipes import PRECISIONS
from conformance.cases.weights import synthetic_weights
from conformance.compare.comparison import Comparison, nearest_to_limit
from conformance.outcome import Failure, Outcome
from conformance.plan import Listener, NetworkPlan, Plan, write_files
from conformance.run.implementations import Implementation
from conformance.selftest.forward import FORWARD_SIZE
from conformance.suite import run_cases
from impls.config import VARIANTS, ResNetConfig


@dataclass(frozen=True)
class Setting:
    """What decides in which order a build adds up, beside the build: the shape of its input and its threads.

    Attributes:
        side: "odd", "even", or "square" for 224x224.
        batch: Number of images.
        threads: Of the worker.
    """

    side: str
    batch: int
    threads: int


SMALL_SETTINGS = (Setting("odd", 3, 1), Setting("even", 1, 2), Setting("odd", 1, 2), Setting("even", 4, 1))
FULL_SETTINGS = (Setting("square", 1, 2), Setting("square", 2, 1))
"""Of the small network and of ResNet-50. Few, since torch.compile compiles for each; seeds cost nothing."""


@dataclass(frozen=True)
class Draw:
    """One network with its input.

    Attributes:
        variant: Of the network.
        setting: Shape and threads.
        seed: Of weights and input.
        full: Whether it is ResNet-50, or the small network of the self-test.
    """

    variant: str
    setting: Setting
    seed: int
    full: bool = False

    @property
    def name(self) -> str:
        """Unique within a campaign."""
        return f"{self.variant}-{self.seed}"

    @property
    def config(self) -> ResNetConfig:
        """Of the network."""
        return VARIANTS[self.variant] if self.full else replace(VARIANTS[self.variant], **FORWARD_SIZE)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        odd, even = noise_sides(self.config.head_pool)
        return {"odd": odd[:2], "even": even[:2], "square": (224, 224)}[self.setting.side]

    def network(self) -> NetworkPlan:
        """Its weights and its input.

        Example:
            >>> Draw("v1.5", Setting("odd", 3, 1), seed=4).network().inputs[0].images.shape
            (3, 3, 65, 97)
        """
        images = noise(*self.sides, self.setting.batch, self.seed, self.config.in_channels)
        return NetworkPlan(self.config, synthetic_weights(self.config, self.seed), [images])


def draws(variants: Sequence[str], number: int, seed: int = 0, full: bool = False) -> list[Draw]:
    """So many draws, each with a seed of its own: every variant in one setting, then in the next.

    Example:
        >>> [draw.name for draw in draws(["v1", "keras"], 3)]
        ['v1-0', 'keras-1', 'v1-2']
    """
    pairs = list(product(FULL_SETTINGS if full else SMALL_SETTINGS, variants))
    turns = (pairs[turn % len(pairs)] for turn in range(number))
    return [Draw(variant, setting, own, full) for own, (setting, variant) in enumerate(turns, start=seed)]


@dataclass
class Campaign:
    """What came of the right builds.

    Attributes:
        comparisons: Of all of them.
        failures: Builds that could not run.
        seconds: That it took.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def alarms(self) -> list[Comparison]:
        """Comparisons that accuse a right build."""
        return [comparison for comparison in self.comparisons if not comparison.passed]

    @property
    def runs(self) -> int:
        """Builds that were judged: one in one precision on one draw."""
        return len({(c.candidate, c.precision, c.case.variant) for c in self.comparisons})

    def parts(self) -> dict[tuple[str, str], Campaign]:
        """The same of each build in each precision."""
        found: dict[tuple[str, str], Campaign] = {}
        for comparison in self.comparisons:
            key = comparison.candidate, comparison.precision
            found.setdefault(key, Campaign()).comparisons.append(comparison)
        return found

    @property
    def nearest(self) -> Comparison | None:
        """The comparison nearest to its limit."""
        return nearest_to_limit(self.comparisons)

    @property
    def smallest(self) -> float | None:
        """The smallest float32 error as a multiple of the best reference build's: far below 1 would be no float32."""
        return min((c.error / c.floor.best for c in self.comparisons if c.error and c.floor), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Counts, alarms, failures, and of each build what came nearest to its limits, as JSON values."""
        return {
            "seconds": round(self.seconds, 1),
            "runs": self.runs,
            "comparisons": len(self.comparisons),
            "false_alarms": [comparison.to_dict() for comparison in self.alarms],
            "failures": [failure.to_dict() for failure in self.failures],
            "builds": [
                {
                    "build": build,
                    "precision": precision,
                    "runs": part.runs,
                    "comparisons": len(part.comparisons),
                    "false_alarms": len(part.alarms),
                    "nearest_to_limit": part.nearest.to_dict() | {"share": part.nearest.share}
                    if part.nearest
                    else None,
                    "smallest_of_best_build": part.smallest,
                }
                for (build, precision), part in self.parts().items()
            ],
        }


def run_right_builds(
    implementations: Sequence[Implementation],
    variants: Sequence[str],
    runs: int,
    *,
    seed: int = 0,
    full: bool = False,
    notify: Listener = lambda event: None,
) -> Campaign:
    """Run right builds and judge them.

    Args:
        implementations: Rows of the tables of implementations.
        variants: Of the networks.
        runs: At least so many, each build in each precision on each draw being one.
        seed: Of the first draw.
        full: Whether the networks are ResNet-50 at 224x224, not the small one.
        notify: Hears every event of the workers.
    """
    started, campaign = time.monotonic(), Campaign()
    drawn = draws(variants, -(-runs // (len(implementations) * len(PRECISIONS))), seed, full)
    for threads in dict.fromkeys(draw.setting.threads for draw in drawn):
        with tempfile.TemporaryDirectory(prefix="conformance-alarms-") as folder:
            own = [draw for draw in drawn if draw.setting.threads == threads]
            outcome = run_draws(own, implementations, Path(folder), threads, notify)
        campaign.comparisons += outcome.comparisons
        campaign.failures += outcome.failures
    campaign.seconds = time.monotonic() - started
    return campaign


def run_draws(
    drawn: Sequence[Draw], implementations: Sequence[Implementation], folder: Path, threads: int, notify: Listener
) -> Outcome:
    """Run every build on every draw."""
    networks = {draw.name: draw.network() for draw in drawn}
    plan = Plan(networks, implementations, PRECISIONS, folder, "cpu", timeout=7200.0, threads=threads)
    cases = [Case(name, network.inputs[0].name, mode) for name, network in networks.items() for mode in MODES]
    return run_cases(plan, write_files(plan), dict.fromkeys(PRECISIONS, cases), notify)
