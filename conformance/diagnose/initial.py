"""Diagnosis of initialisation: the faults with which the oracle draws what a candidate draws.

Two draws from the same distribution have moments as near to each other as chance has them. A fault explains a candidate
if all that it changes in the oracle's draw is then as in the candidate's. The layers are drawn one by one, the smallest
first, since most faults are refuted by those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, prod
from zlib import crc32

import numpy as np

from conformance.cases.segments import segment_of
from conformance.cases.sketch import draw_moments
from conformance.compare.comparison import Verdict
from conformance.compare.initial import judge_initial
from conformance.diagnose.finding import Combination, Finding
from conformance.diagnose.search import Attempt, Search, by_parameter, estimates, hypotheses
from conformance.faults import Injection, Substitution, edited_module, initial_edits
from impls.config import BLANK, ResNetConfig
from weights_convert.shapes import expected_shapes

Array = np.ndarray

DIGITS = range(1, 7)
"""Numbers of digits to round an estimated value to; the smallest with which it explains the candidate is taken."""


@dataclass(eq=False)
class InitialDiagnosis(Search[str]):
    """The search for the faults of a candidate's initial weights.

    Attributes:
        config: The network.
        candidate: Mean, variance and fourth moment of what the candidate draws, by the names of cases:
            "initial.conv1.weight", ...
    """

    config: ResNetConfig
    candidate: Mapping[str, Array]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.wrong = [name for name, drawn in self.right.items() if not self.verdict(name, drawn).passed]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Number of elements of each array, in the order of computation."""
        return {name: prod(shape) for name, shape in expected_shapes(self.config).items()}

    @cached_property
    def right(self) -> dict[str, Array]:
        """Moments of what the right oracle draws."""
        return dict(self.drawn((), [*self.sizes]))

    def locate(self, first: str) -> tuple[str, str, float]:
        """Return the array as cases name it, its segment, and an infinite error, since no fault comes near."""
        return f"initial.{first}", segment_of(first), inf

    def findings_for(self, first: str, best: Sequence[Attempt]) -> list[Finding]:
        """Make findings for faults that explain the same arrays, at the first of those."""
        findings = super().findings_for(best[0].explained[0], best)
        return [replace(finding, unit="standard errors") for finding in findings]

    def rounds(self, first: str) -> Iterator[Sequence[Attempt]]:
        """Try the faults without a parameter, then the others."""
        for injections in by_parameter(hypotheses("initialisation", self.config)):
            yield [attempt for injection in injections for attempt in self.valued(injection)]

    def valued(self, injection: Injection) -> Iterator[Attempt]:
        """Try a fault; its parameter is estimated by the largest wrong array that it changes.

        The value is rounded to as few digits as explain the candidate.
        """
        name = ""
        if injection.fault.parameter:
            largest_first = sorted(self.wrong, key=lambda name: -self.sizes[name])
            present = [name for name in largest_first if f"initial.{name}" in self.candidate]
            name, _ = next(self.changed((injection,), present), ("", None))

        def residual(faults: Combination) -> Array | None:
            if not name:
                return None
            ((_, drawn),) = self.drawn(faults[0].initial("numpy"), [name])
            difference: Array = np.log(drawn[1:2] / self.candidate[f"initial.{name}"][1])
            return difference

        for (estimated,) in estimates((injection,), residual):
            values = [None if estimated.value is None else float(f"{estimated.value:.{digits}g}") for digits in DIGITS]
            attempts = (self.attempt((replace(injection, value=value),)) for value in dict.fromkeys(values))
            yield from [attempt for attempt in attempts if attempt.stands][:1]

    def attempt(self, faults: Combination) -> Attempt:
        """Try faults; they stand if all that they change in the oracle's draw is as in the candidate's."""
        errors: dict[str, float] = {}
        for name, drawn in self.changed(faults, sorted(self.sizes, key=self.sizes.__getitem__)):
            verdict = self.verdict(name, drawn)
            if not verdict.passed:
                return Attempt(faults, stands=False)
            errors[name] = verdict.error or 0.0
        explained = tuple(name for name in self.wrong if name in errors)
        return Attempt(faults, bool(explained), explained, max((errors[name] for name in explained), default=0.0))

    def changed(self, faults: Combination, names: Sequence[str]) -> Iterator[tuple[str, Array]]:
        """Iterate over the moments of what the oracle draws with faults, where that is not what it draws without."""
        for name, drawn in self.drawn(initial_edits(faults, "numpy"), names):
            if not np.array_equal(drawn, self.right[name]):
                yield name, drawn

    def drawn(self, edits: tuple[Substitution, ...], names: Sequence[str]) -> Iterator[tuple[str, Array]]:
        """Draw arrays by the oracle's text or an edited one, and iterate over their names and moments.

        A layer that both texts write alike is drawn alike.
        """
        module, config = edited_module("impls.numpy.resnet", edits), self.config
        blank = module.ResNet(module.Bottleneck, config.depths, config.num_classes, config=config, rng=BLANK)
        layers = dict(blank.layers())

        for name in names:
            path, _, leaf = name.rpartition(".")
            layer, rng = layers[path], np.random.default_rng(crc32(path.encode()))
            outputs, *inputs = layer.weight.shape
            if len(inputs) == 3:
                layer = module.conv(inputs[0], outputs, inputs[1], layer.stride, config, rng)
            elif inputs:
                layer = module.linear(inputs[0], outputs, config, rng)
            yield name, draw_moments(getattr(layer, leaf))

    def verdict(self, name: str, drawn: Array) -> Verdict:
        """Judge whether the candidate's array may be drawn from the same distribution as the oracle's."""
        return judge_initial(f"initial.{name}", {f"initial.{name}": drawn}, self.candidate, self.sizes[name])
