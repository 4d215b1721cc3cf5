"""Diagnosis of initialisation: which known faults make the oracle draw what a port draws.

Two draws from the same distribution have moments as near as chance has them: a fault explains a port where all that it
changes in the oracle's draw is then as the port's. The layers are drawn one by one, the smallest first, since most
faults are refuted by those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from math import prod
from zlib import crc32

import numpy as np

from conformance.cases.segments import segment_of
from conformance.cases.sketch import moments
from conformance.compare.comparison import Verdict
from conformance.compare.initial import judge_initial
from conformance.diagnose.forward import MOST_FAULTS, Finding, newton
from conformance.diagnose.training import of_task
from conformance.faults import Fault, Injection, Substitution, edited_module
from impls.config import BLANK, ResNetConfig
from weights_convert.shapes import expected_shapes

Array = np.ndarray

MOST_DIGITS = 6
"""Of an estimated value; it is told in the fewest that explain the port."""


class DrawnFinding(Finding):
    """One fault found; its error is in standard errors."""

    @property
    def nearness(self) -> str:
        """How nearly the first cause explains all it touches, in words."""
        return f"within {self.error:.1f} standard errors" if self.error else "the last digit"


@dataclass(eq=False)
class InitialDiagnosis:
    """One port's draw under examination.

    Attributes:
        config: The network.
        port: Moments of what the port draws, by the names of cases: "initial.conv1.weight", ...
        faults: The catalogue's of initialisation.
    """

    config: ResNetConfig
    port: Mapping[str, Array]
    faults: Sequence[Fault] = field(default_factory=lambda: of_task("initialisation"))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """How many numbers each array has, in the order of computation."""
        return {name: prod(shape) for name, shape in expected_shapes(self.config).items()}

    @cached_property
    def right(self) -> dict[str, Array]:
        """What the oracle draws."""
        return dict(self.drawn((), [*self.sizes]))

    def findings(self) -> list[Finding]:
        """The faults of the port, one after the other, and the admission that none is known of what is left."""
        wrong = [name for name, drawn in self.right.items() if not self.judge(name, drawn).passed]
        found: list[Finding] = []
        while wrong and len(found) < MOST_FAULTS:
            best = self.best(wrong)
            causes = tuple(injection for injection, _ in best)
            errors = best[0][1] if best else {wrong[0]: np.inf}
            first = f"initial.{next(iter(errors))}"
            found.append(DrawnFinding(first, segment_of(next(iter(errors))), causes, max(errors.values())))
            if not causes:
                break
            wrong = [name for name in wrong if name not in errors]
        return found

    def best(self, wrong: Sequence[str]) -> list[tuple[Injection, dict[str, float]]]:
        """The faults that explain the most of what is wrong, with their errors there; if any, those without a value."""
        for continuous in (False, True):
            faults = [fault for fault in self.faults if (fault.parameter is not None) == continuous]
            injections = [Injection(fault, place) for fault in faults for place in fault.places(self.config)]
            valued = [one for injection in injections for one in self.valued(injection, wrong)]
            tried = [(one, explained) for one in valued if (explained := self.explained(one, wrong))]
            if tried:
                most = max((explained for _, explained in tried), key=len)
                return [(one, explained) for one, explained in tried if explained.keys() == most.keys()]
        return []

    def explained(self, injection: Injection, wrong: Sequence[str]) -> dict[str, float]:
        """What a fault explains of what is wrong; nothing if the port differs in anything that it changes."""
        errors: dict[str, float] = {}
        for name, drawn in self.changed(injection, sorted(self.sizes, key=self.sizes.__getitem__)):
            verdict = self.judge(name, drawn)
            if not verdict.passed:
                return {}
            errors[name] = verdict.error or 0.0
        return {name: errors[name] for name in wrong if name in errors}

    def changed(self, injection: Injection, names: Sequence[str]) -> Iterator[tuple[str, Array]]:
        """What the oracle draws with a fault, where that is not what it draws without."""
        for name, drawn in self.drawn(injection.initial("numpy"), names):
            if not np.array_equal(drawn, self.right[name]):
                yield name, drawn

    def valued(self, injection: Injection, wrong: Sequence[str]) -> Iterator[Injection]:
        """A fault, its parameter estimated by the largest wrong array that it changes, in as few digits as explain."""
        parameter = injection.fault.parameter
        if parameter is None:
            yield injection
            return
        largest = sorted((n for n in wrong if f"initial.{n}" in self.port), key=lambda name: -self.sizes[name])
        name, _ = next(self.changed(injection, largest), ("", None))
        if not name:
            return

        def residual(value: float) -> Array:
            ((_, found),) = self.drawn(replace(injection, value=value).initial("numpy"), [name])
            difference: Array = np.log(found[1:2] / self.port[f"initial.{name}"][1])
            return difference

        for start in parameter.starts:
            value = newton(residual, parameter, start)
            shorter = [float(f"{value:.{digits}g}") for digits in range(1, MOST_DIGITS + 1)] if value else []
            valued = (replace(injection, value=one) for one in shorter)
            yield from islice((one for one in valued if self.explained(one, wrong)), 1)

    def drawn(self, edits: tuple[Substitution, ...], names: Sequence[str]) -> Iterator[tuple[str, Array]]:
        """Moments of arrays of the oracle by its text or another; a layer that both write alike is drawn alike."""
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
            yield name, moments(getattr(layer, leaf))

    def judge(self, name: str, drawn: Array) -> Verdict:
        """Whether the port's array may be drawn from the same."""
        name, size = f"initial.{name}", self.sizes[name]
        return judge_initial(name, {name: drawn}, self.port, size)
