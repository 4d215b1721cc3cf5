"""Screening: one run in which every layer is fed known numbers, so that each errs by itself alone.

It tells which layers are wrong, whatever stands before them, and serves to try at one layer what was measured at
another. The oracle's own activations are fed, enlarged and of either sign, so that ReLU6 and a ReLU too many show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from conformance.cases.case import MODES, Mode
from conformance.cases.inputs import noise, noise_sides
from conformance.cases.probe import Probe, Probed
from conformance.identify.fact import Fact, NotIdentified, relative_error
from conformance.identify.link import IMAGES, Array, Arrays, Link, expected_output, links
from conformance.identify.precision import NEAR, format_of
from conformance.identify.structure import inputs_there
from conformance.oracle.forward import build_network
from impls.config import ResNetConfig
from impls.taps import is_layer

WRONG = 1e-11
"""Smallest relative L2 error of a layer, fed the oracle's own input, that counts as wrong."""

EMPTY = np.zeros(0)

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
        fed: Mode to the activations that every layer is fed, and the images.
        candidate: Mode to the candidate's activations, read from disk each time; a mode that could not run is missing.
        again: The same in a second run.
    """

    config: ResNetConfig
    arrays: Arrays
    fed: Mapping[Mode, Mapping[str, Array]]
    candidate: Mapping[Mode, Mapping[str, Array]]
    again: Mapping[Mode, Mapping[str, Array]]

    @cached_property
    def wrong(self) -> dict[str, tuple[Mode, ...]]:
        """Return the links that are wrong by themselves, in the order of the network, each with the modes."""
        found: dict[str, tuple[Mode, ...]] = {}
        for link in links(self.config):
            fed = [mode for mode, arrays in self.candidate.items() if inputs_there(link, arrays)]
            modes = tuple(mode for mode in fed if self._error(link.name, mode) > WRONG)
            if modes:
                found[link.name] = modes
        return found

    def _error(self, name: str, mode: Mode) -> float:
        output = self.candidate[mode].get(name)
        if output is None:
            return np.inf
        link = next(link for link in links(self.config) if link.name == name)
        return relative_error(expected_output(link, self.fed[mode], self.arrays, self.config, mode == "train"), output)

    def is_random(self, name: str, modes: Sequence[Mode]) -> bool:
        """Tell whether a link gives another output in each of two runs, in any of some modes."""
        return any(
            name in self.candidate.get(mode, {})
            and name in self.again.get(mode, {})
            and not np.array_equal(self.candidate[mode][name], self.again[mode][name])
            for mode in modes
        )

    def format(self, link: Link, modes: Sequence[Mode]) -> str:
        """Name the format in whose digits a link computes what it should in some modes; empty if it does not."""
        formats = {format_of(self.candidate[mode].get(link.name, EMPTY)) for mode in modes}
        near = NEAR.get(min(formats), 0.0) if len(formats) == 1 else 0.0
        return formats.pop() if near and all(self._error(link.name, mode) <= near for mode in modes) else ""

    def owner(self, link: Link, modes: Sequence[Mode]) -> str:
        """Name another layer of the same shape with whose arrays a link is right in some modes; empty if none is."""
        shape = self.arrays[f"{link.layer}.weight"].shape if link.layer else ()
        for other in links(self.config):
            if other.layer in ("", link.layer) or other.kind != link.kind:
                continue
            if self.arrays[f"{other.layer}.weight"].shape == shape and self._right(
                replace(link, layer=other.layer), modes
            ):
                return other.layer
        return ""

    def _right(self, link: Link, modes: Sequence[Mode]) -> bool:
        for mode in modes:
            if link.name not in self.candidate.get(mode, {}):
                return False
            expected = expected_output(link, self.fed[mode], self.arrays, self.config, mode == "train")
            if relative_error(expected, self.candidate[mode][link.name]) > WRONG:
                return False
        return True

    def holds(self, fact: Fact, link: Link, modes: Sequence[Mode]) -> bool:
        """Tell whether a fact that was measured at one layer explains another, in the modes in which that is wrong."""
        if fact.law is None or (fact.mode and [*modes] != [fact.mode]):
            return False
        for mode in modes:
            inputs, output = self.fed[mode], self.candidate.get(mode, {}).get(link.name)
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
    """Make the probes of a screening in both modes, and the activations that they feed."""
    height, width, batch = noise_sides(config.head_pool)[1]
    images = noise(height, width, min(batch, MOST_IMAGES), seed, config.in_channels).images
    fed = {mode: enlarged(oracle_run(config, arrays, images, mode == "train"), seed) for mode in MODES}
    probes = [
        Probe(
            f"{PREFIX}{mode}{run}",
            images,
            {name: array for name, array in fed[mode].items() if name != IMAGES},
            train=mode == "train",
        )
        for mode in MODES
        for run in ("", AGAIN)
    ]
    return probes, fed


AGAIN = "-again"
"""End of the names of the second run's probes."""


MOST_IMAGES = 2
"""Largest number of images of a screening: it is to be quick, and more tell no more."""

ENLARGED = 4.0
"""Factor on the activations that are fed, so that numbers above 6 are among those of every layer."""


def enlarged(activations: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """Enlarge activations, and give those behind a ReLU either sign; the images stay as they are."""
    random = np.random.default_rng(seed)
    layers = {name: ENLARGED * array for name, array in activations.items() if name != IMAGES}
    signed = {
        name: array if is_layer(name) else array * random.choice((-1, 1), array.shape) for name, array in layers.items()
    }
    return {**signed, IMAGES: activations[IMAGES]}


def screened(
    config: ResNetConfig, arrays: Arrays, fed: Mapping[Mode, Mapping[str, Array]], answers: Mapping[str, Probed]
) -> Screening:
    """Make a screening of a candidate's answers."""
    ran = {
        run: {
            mode: answers[name].arrays
            for mode in MODES
            if (name := f"{PREFIX}{mode}{run}") in answers and not answers[name].failure
        }
        for run in ("", AGAIN)
    }
    return Screening(config, arrays, fed, ran[""], ran[AGAIN])
