"""The oracle in pieces: stem, blocks and head, each run alone on a given input, right or with faults in it.

Fed the oracle's own input, a piece errs by its own fault and not by those before it; and a fault is tried on one piece
in a few milliseconds. Weights are widened and pieces are built only as far as they are run.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conformance.cases.case import activation_names, statistic_names
from conformance.faults import Arrays, Graft, Injection, edited_module, grafts
from impls.config import BLANK, TOTAL_STRIDE, ResNetConfig
from impls.paths import follow
from impls.taps import within
from weights_convert.shapes import expected_shapes

Array = np.ndarray
ORACLE_MODULE = "impls.numpy.resnet"
BLOCK = re.compile(r"stage\d+\.\d+")


def segment_of(name: str) -> str:
    """The piece that an activation, a statistic or an array belongs to.

    Example:
        >>> [segment_of(name) for name in ("bn1.running_var", "stage1.0.conv2", "stage1.0", "logits", "fc.weight")]
        ['stem', 'stage1.0', 'stage1.0', 'head', 'head']
    """
    block = BLOCK.match(name)
    if block:
        return block.group()
    return "head" if name.split(".")[0] in ("pool", "logits", "fc", "head") else "stem"


def segment_names(config: ResNetConfig) -> list[str]:
    """The pieces of a network in the order they run."""
    return ["stem", *(block.name for block in config.blocks()), "head"]


def input_name(segment: str, config: ResNetConfig) -> str | None:
    """The activation that a piece takes; None for the images.

    Example:
        >>> input_name("stage1.0", ResNetConfig()), input_name("stem", ResNetConfig())
        ('stem', None)
    """
    before = segment_names(config)[: segment_names(config).index(segment)]
    return before[-1] if before else None


def promised_names(segment: str, config: ResNetConfig, train: bool) -> list[str]:
    """The activations and, in train mode, the statistics of a piece, in the order of computation."""
    names = [*activation_names(config, layers=True), *(statistic_names(config) if train else [])]
    return [name for name in names if segment_of(name) == segment]


class Widened(Mapping[str, Array]):
    """Arrays in another dtype, converted when they are asked for; changed ones come first."""

    def __init__(self, arrays: Arrays, dtype: str) -> None:
        self.arrays, self.dtype = arrays, dtype
        self.changed: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        return self.changed[name] if name in self.changed else self.arrays[name].astype(self.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def faulty_weights(arrays: Arrays, injections: Sequence[Injection], config: ResNetConfig, dtype: str) -> Widened:
    """The arrays of a network with faults, those of the right one widened."""
    widened = Widened(arrays, dtype)
    for injection in injections:
        widened.changed.update(injection.weights(widened, config))
    return widened


class Stopped(Exception):
    """Raised by a tap when nothing after it is wanted."""


Tap = Callable[[str, Array], None]


@dataclass(frozen=True, eq=False)
class PiecewiseOracle:
    """A network whose pieces can be run one by one.

    Attributes:
        config: The network.
        arrays: Its canonical arrays, of any dtype.
        dtype: What to compute in: float64 is the oracle.
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
        tap: Tap = lambda name, value: None,
    ) -> dict[str, Array]:
        """A piece's activations by canonical name, every layer's; in train mode its running statistics afterwards.

        Args:
            segment: Which piece.
            entering: Its input: the images for the stem, else the oracle's activation before it.
            train: Whether norms use the batch's statistics.
            injections: Faults; those that do not touch the piece change nothing.
            tap: Sees each activation; may raise `Stopped`, which ends the run early.
        """
        found: dict[str, Array] = {}

        def keep(name: str, value: Array) -> Array:
            found[name] = value
            tap(name, value)
            return value

        model = self.build(segment, injections)
        for norm in norms(model, segment):
            norm.training = train
        x = entering.astype(self.dtype)
        for injection in injections if segment == "stem" else ():
            x = injection.images(x)
        try:
            RUN.get(segment, run_block)(model, segment, x, keep, self.config)
        except Stopped:
            return found
        if train:
            wanted = [name for name in statistic_names(self.config) if segment_of(name) == segment]
            found |= {name: follow(model, name) for name in wanted}
        return found

    def build(self, segment: str, injections: Sequence[Injection] = ()) -> Any:
        """The oracle's network, in which only the piece's arrays are filled, with the faults in place."""
        arrays = faulty_weights(self.arrays, injections, self.config, self.dtype)
        run = {segment, "stem"} if segment == "head" else {segment}  # the head is reached through the stem
        names = [name for name in expected_shapes(self.config) if segment_of(name) in run]
        pieces = grafts(injections, "numpy")
        whole = next((piece for piece in pieces if piece.whole), None)
        model = self._filled(whole, names, arrays)
        for piece in pieces:
            if not piece.whole and segment_of(piece.place.name) == segment:
                become(follow(model, piece.place.name), follow(self._filled(piece, names, arrays), piece.place.name))
        return model

    def _filled(self, piece: Graft | None, names: Sequence[str], arrays: Arrays) -> Any:
        """A network from the text and configuration of a piece, with some of its arrays."""
        module = edited_module(ORACLE_MODULE, piece.edits if piece else ())
        config = replace(self.config, **(piece.configured if piece else {}))
        model = module.ResNet(module.Bottleneck, config.depths, config.num_classes, config=config, rng=BLANK)
        for name in names:
            path, _, leaf = name.rpartition(".")
            setattr(follow(model, path), leaf, arrays[name])
        return model


def become(old: Any, new: Any) -> None:
    """Turn one layer, block or network into another in place: its class and all it holds.

    Whoever refers to the old one, a framework's own register of layers too, finds the new one there.
    """
    object.__setattr__(old, "__class__", type(new))
    object.__setattr__(old, "__dict__", vars(new))


def norms(model: Any, segment: str) -> Iterator[Any]:
    """The norms of a piece; a wrong text's have a class of their own, so they are known by what they have."""
    owner = model if segment in ("stem", "head") else follow(model, segment)
    yield from (layer for layer in vars(owner).values() if hasattr(layer, "running_var"))


class _Ended(Exception):
    """The stem is over."""


def run_stem(model: Any, segment: str, x: Array, keep: Callable[[str, Array], Array], config: ResNetConfig) -> None:
    """Up to the max pool."""

    def until_pool(name: str, value: Array) -> Array:
        keep(name, value)
        if name == "stem":
            raise _Ended
        return value

    with contextlib.suppress(_Ended):
        model(x, tap=until_pool)


def run_block(model: Any, segment: str, x: Array, keep: Callable[[str, Array], Array], config: ResNetConfig) -> None:
    """One block."""
    keep(segment, follow(model, segment)(x, tap=within(segment, keep)))


def run_head(model: Any, segment: str, x: Array, keep: Callable[[str, Array], Array], config: ResNetConfig) -> None:
    """Pool and classifier: the network without blocks, in which `x` takes the place of the stem's output."""
    model.blocks = lambda: iter(())
    side = (config.head_pool or 1) * TOTAL_STRIDE
    model(
        np.zeros((1, config.in_channels, side, side), x.dtype),
        tap=lambda name, value: keep(name, value) if segment_of(name) == "head" else x if name == "stem" else value,
    )


RUN = {"stem": run_stem, "head": run_head}
