"""Random trees of random wrappers, prefixes and extra entries: never a wrong network, never an accepted ambiguity."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.weights_convert.conftest import TINY, make_random_bits
from weights_convert import Checkpoint, ConversionError, load
from weights_convert.dialects import DIALECTS, find_dialect
from weights_convert.shapes import expected_shapes

MakeCheckpoint = Callable[..., Checkpoint]
Arrays = dict[str, np.ndarray]

STEPS = (
    *(
        "module",
        "_orig_mod",
        "model",
        "net",
        "backbone",
        "encoder",
        "encoder_q",
        "encoder_k",
        "teacher",
        "student",
        "0",
    ),
    *("state_dict", "state_dict_ema", "model_ema", "ema", "params", "feature_extractor", "layer1", "stage1", "fc", "1"),
)
"""The steps of prefixes: those that libraries write, and names of layers, which must not be taken for the network's."""

EXTRAS = (
    *("queue", "projection_head.0.weight", "prototypes.weight", "head.mlp.0.weight", "classifier.weight", "epoch"),
    *("optimizer.state.0.exp_avg", "fc.2.weight", "conv1.bias", "layer5.0.conv1.weight", "stage5.0.conv1.weight"),
    *("layer1.2.conv1.weight", "layer1.0.conv4.weight", "bn1.momentum", "conv1_conv.alpha", "0.weight", "n_averaged"),
)
"""The names of further arrays; those of the last three lines look like parts of a network."""


@cache
def network(dialect: str, seed: int) -> tuple[Arrays, str, str]:
    """Return the arrays of a tiny network, its content hash, and that of the network without its classifier."""
    shapes = expected_shapes(TINY)
    arrays = {
        name: make_random_bits(shape, "float32", 999 * seed + i) for i, (name, shape) in enumerate(shapes.items())
    }
    checkpoint = Checkpoint(arrays, find_dialect("canonical"), TINY).to(dialect)
    return dict(checkpoint.arrays), checkpoint.content_hash(), checkpoint.without_head().content_hash()


PREFIXES = st.lists(st.sampled_from(STEPS), max_size=3).map(lambda steps: "".join(f"{step}." for step in steps))


@st.composite
def trees(draw: st.DrawFn) -> tuple[Arrays, dict[str, str]]:
    """Draw arrays by name, and the hashes of the networks in them, with their classifiers and without, by place."""
    arrays: Arrays = {}
    hashes: dict[str, str] = {}
    for seed in range(draw(st.integers(1, 3))):
        prefix, dialect = draw(PREFIXES), draw(st.sampled_from(list(DIALECTS)))
        original, with_head, without_head = network(dialect, seed)
        placed = {prefix + name: array for name, array in original.items()}
        damage = draw(st.sampled_from(["none", "none", "none", "an array missing", "no classifier"]))
        if damage == "an array missing":
            del placed[draw(st.sampled_from(sorted(placed)))]
        elif damage == "no classifier":
            readings = DIALECTS[dialect].read_names(original)
            for name, (canonical, _) in readings.items():
                if canonical.startswith("fc."):
                    del placed[prefix + name]
        if not placed.keys() & arrays.keys():
            arrays |= placed
            hashes |= {f"{prefix}{dialect}": with_head, f"{prefix}{dialect} without": without_head}
    for _ in range(draw(st.integers(0, 3))):
        arrays.setdefault(draw(PREFIXES) + draw(st.sampled_from(EXTRAS)), np.ones((2, 2), np.float32))
    return arrays, hashes


def whole_networks(arrays: Arrays) -> set[str]:
    """Return the hashes of all networks that can be read alone, by the definition: with nothing else in the source."""
    found = set()
    for dialect in DIALECTS.values():
        for prefix in {name[:end] for name in arrays for end in range(len(name)) if end == 0 or name[end - 1] == "."}:
            behind = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            known = {name: behind[name] for name in dialect.read_names(behind)}
            if len(known) >= len(expected_shapes(TINY)) - 2:
                try:
                    found.add(load(known, dialect=dialect.name, variant="v1.5").without_head().content_hash())
                except ConversionError:
                    continue
    return found


@given(tree=trees())
@settings(max_examples=150, deadline=None)
def test_what_is_read_is_a_network_that_was_put_there(tree: tuple[Arrays, dict[str, str]]):
    arrays, hashes = tree
    try:
        checkpoint = load(arrays, variant="v1.5")
    except ConversionError:
        return
    assert checkpoint.content_hash() in hashes.values()


@given(tree=trees(), drop_head=st.booleans(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_read_on_request_is_a_network_that_was_put_there(
    tree: tuple[Arrays, dict[str, str]], drop_head: bool, data: st.DataObject
):
    arrays, hashes = tree
    paths = sorted({name.rpartition(".")[0] for name in arrays} | {name.partition(".")[0] for name in arrays})
    entry = data.draw(st.none() | st.sampled_from(paths))
    drop = data.draw(st.lists(st.sampled_from(paths), max_size=2))
    try:
        checkpoint = load(arrays, variant="v1.5", entry=entry, drop=drop, drop_head=drop_head)
    except ConversionError:
        return
    assert checkpoint.content_hash() in hashes.values()


@pytest.mark.slow
@given(tree=trees())
@settings(max_examples=60, deadline=None)
def test_no_ambiguity_is_accepted(tree: tuple[Arrays, dict[str, str]]):
    """A tree of several whole networks is refused unless the others are known averages of it."""
    arrays, _ = tree
    tops = {name.partition(".")[0] for name in arrays}
    if tops & {"state_dict_ema", "model_ema"} or len(whole_networks(arrays)) < 2:
        return
    try:
        load(arrays, variant="v1.5")
    except ConversionError:
        return
    raise AssertionError(f"one of several networks was read: {sorted(tops)}")
