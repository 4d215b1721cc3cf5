"""The oracle's forward pass, segment by segment: stem, blocks and head, each run alone, right or with faults in it.

A segment that is fed the oracle's own input shows its own faults and none of those before it, and a fault is tried on
one segment in a few milliseconds. Weights are widened, and segments are built, only as far as they are run.
"""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from conformance.cases.segments import segment_names, segment_of
from conformance.faults import Arrays, Graft, Injection, Substitution, edited_module, grafts
from impls.config import BLANK, TOTAL_STRIDE, ResNetConfig
from impls.paths import follow
from impls.taps import Tap, within
from weights_convert.shapes import expected_shapes
from weights_convert.table import RUNNING_STATISTICS

Array = np.ndarray
ORACLE_MODULE = "impls.numpy.resnet"


MOST_RECENT = 24
"""Arrays that are kept in another dtype: a projecting block has 20, without the biases of its convolutions."""


class WidenedArrays(Mapping[str, Array]):
    """Canonical arrays converted to another dtype when they are read; the last ones, about a segment's, are kept.

    Example:
        >>> widened = WidenedArrays({"fc.bias": np.zeros(2, np.float32)}, "float64")
        >>> widened["fc.bias"].dtype
        dtype('float64')
    """

    def __init__(self, arrays: Arrays, dtype: str) -> None:
        self.arrays = arrays

        @lru_cache(maxsize=MOST_RECENT)
        def widen(name: str) -> Array:
            array: Array = arrays[name].astype(dtype)
            array.setflags(write=False)
            return array

        self.widen = widen

    def __getitem__(self, name: str) -> Array:
        return self.widen(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def faulty_weights(arrays: Arrays, injections: Sequence[Injection], config: ResNetConfig) -> ChainMap[str, Array]:
    """Apply the faults of the weights, one after the other, to a network's canonical arrays, which stay as they are."""
    changed: ChainMap[str, Array] = ChainMap({}, arrays)  # type: ignore[arg-type]  # only the first is written to
    for injection in injections:
        changed.update(injection.weights(changed, config))
    return changed


def build_network(
    config: ResNetConfig, arrays: Arrays, names: Iterable[str] = (), edits: tuple[Substitution, ...] = ()
) -> Any:
    """Build the oracle's network from its text, right or edited, and set its arrays.

    Args:
        config: The network.
        arrays: Canonical arrays, in the dtype to compute in.
        names: Which arrays to set; all of them if empty. The others are not to be used, and of blocks without any of
            them there is None.
        edits: Substitutions in the text of the model.
    """
    module = edited_module(ORACLE_MODULE, edits)
    block = SomeBlocks(module.Bottleneck, config, {segment_of(name) for name in names}) if names else module.Bottleneck
    model = module.ResNet(block, config.depths, config.num_classes, config=config, rng=BLANK)
    for name in names or expected_shapes(config):
        set_array(model, name, arrays[name])
    return model


class SomeBlocks:
    """Stands for the class of a network's blocks, and builds the wanted ones alone, which saves most of the work.

    Attributes:
        block: The class.
        expansion: The class's own `expansion`.
        built: Names of the blocks, in the order in which they are built.
        wanted: Names of the segments that are wanted.
    """

    def __init__(self, block: Any, config: ResNetConfig, wanted: Collection[str]) -> None:
        self.block, self.expansion, self.wanted = block, block.expansion, wanted
        self.built = iter(segment_names(config)[1:-1])

    def __call__(self, *arguments: Any) -> Any:
        """Build the next block, or None in its place."""
        return self.block(*arguments) if next(self.built) in self.wanted else None


def set_array(model: Any, name: str, array: Array) -> None:
    """Set one array of an oracle's network by its canonical name."""
    path, _, leaf = name.rpartition(".")
    setattr(follow(model, path), leaf, array)


IMPOSSIBLE = (ValueError, IndexError)
"""Exceptions that the oracle raises for faults that exclude each other, or cannot be in a network or recipe."""


class Stopped(Exception):
    """Raised by a function that watches a run to end it: no array after the present one is wanted."""


Watch = Callable[[str, Array], None]
"""Called with the name and value of each activation; may raise `Stopped`."""


@dataclass(frozen=True, eq=False)
class SegmentedOracle:
    """A network whose segments can be run one by one.

    Attributes:
        config: The network.
        arrays: Its canonical arrays, of any dtype.
        dtype: The dtype to compute in; float64 for the oracle proper.
    """

    config: ResNetConfig
    arrays: Arrays
    dtype: str = "float64"

    def run(
        self,
        segment: str,
        entering: Array,
        train: bool,
        injections: Sequence[Injection] = (),
        watch: Watch | None = None,
    ) -> dict[str, Array]:
        """Run one segment and return every layer's activation and, in train mode, the running statistics after it.

        Args:
            segment: "stem", a block ("stage1.0") or "head".
            entering: The segment's input: the images for the stem, else the output of the segment before it.
            train: Whether norms use the batch's statistics.
            injections: Faults; those that do not touch the segment, or are not there in the mode, change nothing.
            watch: Called with each activation; `Stopped` ends the run early.

        Returns:
            Arrays by canonical name, as far as the segment was run.
        """
        arrays: dict[str, Array] = {}

        def keep(name: str, value: Array) -> Array:
            arrays[name] = value
            if watch is not None:
                watch(name, value)
            return value

        injections = [injection for injection in injections if injection.is_there(train)]
        model = self.build(segment, injections)
        for norm in norms(model, segment):
            norm.training = train
        x = entering.astype(self.dtype)
        for injection in injections if segment == "stem" else ():
            x = injection.images(x)
        try:
            RUN.get(segment, run_block)(model, segment, x, keep, self.config)
        except Stopped:
            return arrays
        if train:
            statistics = [name for name in self.names[segment] if name.endswith(RUNNING_STATISTICS)]
            arrays |= {name: follow(model, name) for name in statistics}
        return arrays

    @cached_property
    def widened(self) -> WidenedArrays:
        """The network's arrays in the dtype to compute in."""
        return WidenedArrays(self.arrays, self.dtype)

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Names of the arrays of each segment."""
        names: dict[str, list[str]] = {}
        for name in expected_shapes(self.config):
            names.setdefault(segment_of(name), []).append(name)
        return names

    def build(self, segment: str, injections: Sequence[Injection] = ()) -> Any:
        """Build the oracle's network with the faults in place; only the arrays of the segment are set."""
        arrays = faulty_weights(self.widened, injections, self.config)
        names = self.names[segment] + (self.names["stem"] if segment == "head" else [])  # reached through the stem

        def faulty(graft: Graft) -> Any:
            return build_network(replace(self.config, **graft.configured), arrays, names, graft.edits)

        wrong = grafts(injections, "numpy")
        whole = next((graft for graft in wrong if graft.whole), None)
        model = faulty(whole) if whole else build_network(self.config, arrays, names)
        for graft in wrong:
            path = graft.place.name
            if not graft.whole and segment_of(path) == segment:
                become(follow(model, path), follow(faulty(graft), path))
        return model


def become(old: Any, new: Any) -> None:
    """Turn one layer, block or network into another in place: its class and its attributes.

    Whatever refers to the old object, such as a framework's register of layers, refers to the new one afterwards.
    """
    object.__setattr__(old, "__class__", type(new))
    object.__setattr__(old, "__dict__", vars(new))


def norms(model: Any, segment: str) -> Iterator[Any]:
    """Iterate over the norms of a segment.

    They are recognised by `running_var`, since an edited text has classes of its own.
    """
    owner = model if segment in ("stem", "head") else follow(model, segment)
    yield from (layer for layer in vars(owner).values() if hasattr(layer, "running_var"))


class _StemEnded(Exception):
    """Raised when the stem's output has been computed."""


def run_stem(model: Any, segment: str, x: Array, tap: Tap[Array], config: ResNetConfig) -> None:
    """Run the network on images up to the max pool."""

    def until_pool(name: str, value: Array) -> Array:
        tap(name, value)
        if name == "stem":
            raise _StemEnded
        return value

    with contextlib.suppress(_StemEnded):
        model(x, tap=until_pool)


def run_block(model: Any, segment: str, x: Array, tap: Tap[Array], config: ResNetConfig) -> None:
    """Run one block on its input."""
    tap(segment, follow(model, segment)(x, tap=within(segment, tap)))


def run_head(model: Any, segment: str, x: Array, tap: Tap[Array], config: ResNetConfig) -> None:
    """Run pool and classifier: a network without blocks, in which `x` takes the place of the stem's output."""
    model.blocks = lambda: iter(())
    side = (config.head_pool or 1) * TOTAL_STRIDE
    model(
        np.zeros((1, config.in_channels, side, side), x.dtype),
        tap=lambda name, value: tap(name, value) if segment_of(name) == "head" else x if name == "stem" else value,
    )


RUN = {"stem": run_stem, "head": run_head}
"""Functions that run the segments that are no blocks."""
