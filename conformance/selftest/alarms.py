"""False alarms: many correct builds are run and judged as `conformance run` judges; none may be accused.

A limit that a correct build exceeds now and then is as bad as one that misses a bug. So networks are drawn: all
variants, weights of a new seed each time, odd and even sizes, batches of one and of several, one thread and two. Every
build runs each of them in both precisions, in inference and train mode.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from conformance.cases.case import MODES, PRECISIONS, Case
from conformance.cases.inputs import noise, noise_sides
from conformance.cases.synthetic import synthetic_weights
from conformance.compare.comparison import Comparison, nearest_to_limit
from conformance.outcome import Failure, Outcome
from conformance.plan import Listener, NetworkPlan, Plan, write_files
from conformance.run.implementations import Implementation
from conformance.selftest.forward import FORWARD_SIZE
from conformance.suite import run_cases
from impls.config import VARIANTS, ResNetConfig


@dataclass(frozen=True)
class Setting:
    """Shape of the input and number of threads: beside the build, these decide in which order it adds up.

    Attributes:
        side: "odd", "even", or "square" for 224x224.
        batch: Number of images.
        threads: Number of threads of the worker.
    """

    side: str
    batch: int
    threads: int


SMALL_SETTINGS = (Setting("odd", 3, 1), Setting("even", 1, 2), Setting("odd", 1, 2), Setting("even", 4, 1))
"""Settings of the small network. They are few, since torch.compile compiles for each; seeds cost nothing."""

FULL_SETTINGS = (Setting("square", 1, 2), Setting("square", 2, 1))
"""Settings of ResNet-50."""


@dataclass(frozen=True)
class Draw:
    """One network with its input.

    Attributes:
        variant: Key of `impls.config.VARIANTS`.
        setting: Shape of the input, and threads.
        seed: Seed of weights and input.
        full: Whether the network is ResNet-50, not the small one.
    """

    variant: str
    setting: Setting
    seed: int
    full: bool = False

    @property
    def name(self) -> str:
        """Name of the network, unique within a campaign."""
        return f"{self.variant}-{self.seed}"

    @property
    def config(self) -> ResNetConfig:
        """Configuration of the network."""
        return VARIANTS[self.variant] if self.full else replace(VARIANTS[self.variant], **FORWARD_SIZE)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the input."""
        odd, even = noise_sides(self.config.head_pool)
        return {"odd": odd[:2], "even": even[:2], "square": (224, 224)}[self.setting.side]

    def network(self) -> NetworkPlan:
        """Make the network's weights and its input.

        Example:
            >>> Draw("v1.5", Setting("odd", 3, 1), seed=4).network().inputs[0].images.shape
            (3, 3, 65, 97)
        """
        images = noise(*self.sides, self.setting.batch, self.seed, self.config.in_channels)
        return NetworkPlan(self.config, synthetic_weights(self.config, self.seed), [images])


def draws(variants: Sequence[str], number: int, seed: int = 0, full: bool = False) -> list[Draw]:
    """Draw networks, each with a seed of its own: every variant in one setting, then in the next.

    Example:
        >>> [draw.name for draw in draws(["v1", "keras"], 3)]
        ['v1-0', 'keras-1', 'v1-2']
    """
    pairs = list(product(FULL_SETTINGS if full else SMALL_SETTINGS, variants))
    turns = (pairs[turn % len(pairs)] for turn in range(number))
    return [Draw(variant, setting, seed + turn, full) for turn, (setting, variant) in enumerate(turns)]


@dataclass
class Campaign:
    """The outcome of running correct builds.

    Attributes:
        comparisons: Everything compared.
        failures: Builds that could not run.
        seconds: Duration of the campaign.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def alarms(self) -> list[Comparison]:
        """False alarms: the comparisons that failed."""
        return [comparison for comparison in self.comparisons if not comparison.passed]

    @property
    def runs(self) -> int:
        """Number of runs: a run is one build in one precision on one network."""
        return len({(c.candidate, c.precision, c.case.variant) for c in self.comparisons})

    def parts(self) -> dict[tuple[str, str], Campaign]:
        """Split the campaign by build and precision."""
        parts: dict[tuple[str, str], Campaign] = {}
        for comparison in self.comparisons:
            key = comparison.candidate, comparison.precision
            parts.setdefault(key, Campaign()).comparisons.append(comparison)
        return parts

    @property
    def nearest(self) -> Comparison | None:
        """The comparison nearest to its limit."""
        return nearest_to_limit(self.comparisons)

    @property
    def smallest(self) -> float | None:
        """The smallest float32 error as a multiple of the best reference build's: far below 1 would be no float32."""
        return min((c.error / c.floor.best for c in self.comparisons if c.error and c.floor), default=None)

    def to_dict(self) -> dict[str, Any]:
        """The campaign as JSON values: counts, alarms, failures, and for each build what came nearest to its limit."""
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


def run_campaign(
    builds: Sequence[Implementation],
    variants: Sequence[str],
    runs: int,
    *,
    seed: int = 0,
    full: bool = False,
    notify: Listener = lambda event: None,
) -> Campaign:
    """Run correct builds and judge them.

    Args:
        builds: Rows of the tables of implementations and builds.
        variants: Variants of the networks.
        runs: Least number of runs, each build in each precision on each network being one.
        seed: Seed of the first network.
        full: Whether the networks are ResNet-50 at 224x224, not the small one.
        notify: Hears every event of the workers.
    """
    started, campaign = time.monotonic(), Campaign()
    runs_per_network = sum(len(build.precisions) for build in builds)
    networks = draws(variants, -(-runs // runs_per_network), seed, full)
    for threads in dict.fromkeys(draw.setting.threads for draw in networks):
        group = [draw for draw in networks if draw.setting.threads == threads]
        with tempfile.TemporaryDirectory(prefix="conformance-alarms-") as folder:
            outcome = run_draws(group, builds, Path(folder), threads, notify)
        campaign.comparisons += outcome.comparisons
        campaign.failures += outcome.failures
    campaign.seconds = time.monotonic() - started
    return campaign


def run_draws(
    group: Sequence[Draw], builds: Sequence[Implementation], folder: Path, threads: int, notify: Listener
) -> Outcome:
    """Run every build on every network of a group, in workers with that many threads."""
    networks = {draw.name: draw.network() for draw in group}
    plan = Plan(networks, builds, PRECISIONS, folder, "cpu", timeout=7200.0, threads=threads)
    cases = [Case(name, network.inputs[0].name, mode) for name, network in networks.items() for mode in MODES]
    return run_cases(plan, write_files(plan), dict.fromkeys(PRECISIONS, cases), notify)
