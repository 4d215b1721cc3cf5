"""Screening: one run in which every layer is fed the oracle's own activation, so that each errs by itself alone.

It tells which layers are wrong, whatever stands before them, and serves to try at one layer what was measured at
another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from conformance.cases.case import MODES, Mode
from conformance.cases.inputs import noise, noise_sides
from conformance.cases.probe import Probe, Probed
from conformance.identify.fact import Fact, NotIdentified, relative_error
from conformance.identify.link import IMAGES, Array, Arrays, Link, links
from conformance.oracle.forward import build_network
from impls.config import ResNetConfig

WRONG = 1e-11
"""Smallest relative L2 error of a layer, fed the oracle's own input, that counts as wrong."""

PREFIX = "screen-"
"""Start of the names of the probes of a screening."""


def oracle_run(
    config: ResNetConfig, arrays: Arrays, images: Array, train: bool, change: Change | None = None
) -> dict[str, Array]:
    """Run the oracle; return every activation by name, and the images.

    Args:
        config: The network.
        arrays: Its canonical arrays, in float64.
        images: (batch, channels, height, width).
        train: Whether norms use the batch's statistics.
        change: Called with each name, value and the activations before it; returns the value to go on with.
    """
    model = build_network(config, arrays).train(train)
    seen: dict[str, Array] = {IMAGES: images.astype(np.float64)}

    def tap(name: str, value: Array) -> Array:
        seen[name] = value if change is None else change(name, value, seen)
        return seen[name]

    model(seen[IMAGES], tap=tap)
    return seen


Change = Callable[[str, Array, Mapping[str, Array]], Array]
"""Takes the name and the value of an activation, and the activations before it, to the value to go on with."""


@dataclass(frozen=True, eq=False)
class Screening:
    """The oracle's activations on one small input in each mode, and a candidate's, each layer fed the oracle's.

    Attributes:
        config: The network.
        arrays: Its canonical arrays, in float64.
        oracle: Mode to the oracle's activations.
        candidate: Mode to the candidate's; a mode that could not run is missing.
    """

    config: ResNetConfig
    arrays: Arrays
    oracle: Mapping[Mode, Mapping[str, Array]]
    candidate: Mapping[Mode, Mapping[str, Array]]

    def wrong(self) -> dict[str, tuple[Mode, ...]]:
        """Return the links that are wrong by themselves, in the order of the network, each with the modes."""
        found: dict[str, tuple[Mode, ...]] = {}
        for link in links(self.config):
            modes = tuple(mode for mode in self.candidate if self._error(link.name, mode) > WRONG)
            if modes:
                found[link.name] = modes
        return found

    def _error(self, name: str, mode: Mode) -> float:
        output = self.candidate[mode].get(name)
        return np.inf if output is None else relative_error(self.oracle[mode][name], output)

    def holds(self, fact: Fact, link: Link, modes: Sequence[Mode]) -> bool:
        """Whether a fact that was measured at one layer explains another one, in the modes in which that is wrong."""
        if fact.law is None or (fact.mode and [*modes] != [fact.mode]):
            return False
        for mode in modes:
            inputs, output = self.oracle[mode], self.candidate[mode].get(link.name)
            try:
                with np.errstate(all="ignore"):
                    predicted = fact.law(link, inputs, self.arrays, self.config, mode == "train")
            except (NotIdentified, ValueError, KeyError, IndexError):
                return False
            if output is None or relative_error(predicted, output) > WRONG:
                return False
        return True


def screening_probes(
    config: ResNetConfig, arrays: Arrays, seed: int = 0
) -> tuple[list[Probe], dict[Mode, dict[str, Array]]]:
    """Make the probes of a screening in both modes, and the oracle's activations that they feed."""
    height, width, batch = noise_sides(config.head_pool)[1]
    images = noise(height, width, batch, seed, config.in_channels).images
    oracle = {mode: oracle_run(config, arrays, images, mode == "train") for mode in MODES}
    probes = [
        Probe(
            f"{PREFIX}{mode}",
            images,
            {name: array for name, array in oracle[mode].items() if name != IMAGES},
            train=mode == "train",
        )
        for mode in MODES
    ]
    return probes, oracle


def screened(
    config: ResNetConfig, arrays: Arrays, oracle: Mapping[Mode, Mapping[str, Array]], answers: Mapping[str, Probed]
) -> Screening:
    """Make a screening of a candidate's answers."""
    ran = {mode: answers[f"{PREFIX}{mode}"] for mode in MODES if f"{PREFIX}{mode}" in answers}
    return Screening(
        config, arrays, oracle, {mode: dict(_read(each)) for mode, each in ran.items() if not each.failure}
    )


def _read(answer: Probed) -> Iterator[tuple[str, Array]]:
    for name in answer.arrays:
        yield name, np.asarray(answer.arrays[name], np.float64)
