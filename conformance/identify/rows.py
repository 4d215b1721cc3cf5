"""Rows of the catalogue that a measured fact names: each is put into the oracle and must compute what was measured.

A row is run in the segments of the fact's layers, on what enters them in the candidate's own run. Where the output of a
layer is not what the fact's law makes of its inputs in that run, the row is not the same, and its name is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from conformance.cases.segments import input_name, segment_of
from conformance.compare.limits import REPRODUCED
from conformance.faults import FAULTS, Fault, Injection
from conformance.identify.fact import Fact, NotIdentified, relative_error
from conformance.identify.link import IMAGES, Array, Arrays, Link, links
from conformance.oracle.forward import IMPOSSIBLE, SegmentedOracle
from impls.config import ResNetConfig

ROUNDED = 1e-5
"""Largest relative L2 error of a row whose number was read off a fact's words, which have six digits."""

Runs = Mapping[bool, Arrays]
"""Every activation of a run by name, and the images, in train mode (True) and inference mode."""


def confirmed(
    facts: Sequence[Fact], config: ResNetConfig, arrays: Arrays, runs: Runs, own: Mapping[bool, Arrays]
) -> list[Fact]:
    """Return facts without the names of rows that do not compute what was measured.

    Args:
        facts: The facts.
        config: The network.
        arrays: Its canonical arrays, of any dtype.
        runs: The candidate's own runs as the oracle with all facts reproduces them, or the right ones.
        own: What the candidate itself left in these runs, by which running statistics are judged.
    """
    oracle = SegmentedOracle(config, {name: np.asarray(array, np.float64) for name, array in arrays.items()})
    table = {link.name: link for link in links(config)}

    def stands(fact: Fact) -> bool:
        options = [*injections(fact, FAULTS[fact.fault], config, table)]
        return any(_is_same(fact, option, oracle, table, runs, own) for option in options)

    return [fact if not fact.fault or stands(fact) else replace(fact, fault="") for fact in facts]


def injections(
    fact: Fact, fault: Fault, config: ResNetConfig, table: Mapping[str, Link]
) -> Iterator[tuple[Injection, ...]]:
    """Yield a row at the places that a fact's layers are, one by one or as the whole network."""
    value = measured_number(fact) if fault.parameter else None
    if fault.parameter and value is None:
        return
    places = {place.name: place for place in fault.places(config)}
    names = [_place_names(table.get(layer.partition(".running_")[0]), layer) for layer in fact.layers or (fact.layer,)]
    chosen = [next((places[name] for name in some if name in places), None) for some in names]
    if all(chosen):
        unique = dict.fromkeys(place for place in chosen if place)
        yield tuple(Injection(fault, place, value, fact.mode) for place in unique)
    if "network" in places:
        yield (Injection(fault, places["network"], value, fact.mode),)


def _place_names(link: Link | None, layer: str) -> list[str]:
    """List the names of the places that a layer may be at, the smallest first."""
    segment = segment_of(layer)
    of_images = ["input"] if link is not None and link.inputs == (IMAGES,) else []
    return [layer.partition(".running_")[0], *([link.layer] if link is not None else []), *of_images, segment]


def measured_number(fact: Fact) -> float | None:
    """Return the number that a fact has measured; None if there is none.

    Example:
        >>> measured_number(Fact("bn1", "norm", "", {"eps": 0.001}, {"eps": 1e-5}))
        0.001
    """
    for value in fact.measured.values():
        if isinstance(value, float | int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and (found := re.search(r"-?\d+(\.\d+)?(e[+-]?\d+)?", value)):
            return float(found.group())
    return None


def _is_same(
    fact: Fact,
    option: Sequence[Injection],
    oracle: SegmentedOracle,
    table: Mapping[str, Link],
    runs: Runs,
    own: Mapping[bool, Arrays],
) -> bool:
    """Tell whether a row computes what was measured in all of the fact's layers."""
    limit = ROUNDED if option[0].fault.parameter else REPRODUCED
    layers = fact.layers or (fact.layer,)
    for train, run in runs.items():
        if not option[0].is_there(train):
            continue
        for segment in dict.fromkeys(map(segment_of, layers)):
            source = input_name(segment, oracle.config) or IMAGES
            try:
                with np.errstate(all="ignore"):
                    arrays = oracle.run(segment, run[source], train, option)
            except (*IMPOSSIBLE, AttributeError):
                return False
            for layer in (layer for layer in layers if segment_of(layer) == segment):
                expected = _expected(fact, layer, {**arrays, source: run[source]}, oracle, table, train, own)
                if expected is None:
                    continue
                if layer not in arrays or relative_error(expected, arrays[layer]) > limit:
                    return False
    return True


def _expected(
    fact: Fact,
    layer: str,
    inputs: Arrays,
    oracle: SegmentedOracle,
    table: Mapping[str, Link],
    train: bool,
    own: Mapping[bool, Arrays],
) -> Array | None:
    """Compute what was measured of a layer; None where it says nothing in the mode."""
    if fact.law is None:
        return own.get(train, {}).get(layer)
    try:
        return fact.law(table[layer], inputs, oracle.arrays, oracle.config, train)
    except (NotIdentified, KeyError, ValueError):
        return None if layer not in inputs else np.empty(0)
