"""The implementations that can be run, as a table. Adding a framework is adding a row here and an adapter."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any


@dataclass(frozen=True)
class Implementation:
    """A candidate that `--impl` can name, the oracle, or a reference build.

    Attributes:
        name: What `--impl` calls it.
        adapter: Where its adapter class is, "module:class"; or what makes an adapter of `settings`.
        packages: Distributions whose versions matter; the first ones must be there for it to run.
        extra: The extra of this project that installs it.
        cost: Roughly how long a run takes, beside the others; the slowest is started first.
        variables: Environment variables that its worker starts with.
        float32_only: Why it computes in float32 alone, and is not compared in float64; empty where it can be.
        faults: Faults of a faulty candidate: ids with the names of their places.
        injector: Function that builds an adapter's network with faults: "module:function", imported by a worker that
            needs it.
        settings: Arguments of what makes the adapter, beside the precision; JSON values.
        not_shown: Arrays that it shows wrongly, as a run before has told, each with the reason: they are not compared,
            and nothing is fed there.
        here: Runs a job in this process, given the job and what reports events; of a live object alone.
    """

    name: str
    adapter: str
    packages: tuple[str, ...]
    extra: str = ""
    cost: float = 1.0
    variables: Mapping[str, str] = field(default_factory=dict)
    float32_only: str = ""
    faults: Sequence[tuple[str, str]] = ()
    injector: str = "conformance.selftest.faulty:faulty_adapter"
    settings: Mapping[str, Any] = field(default_factory=dict)
    not_shown: Mapping[str, str] = field(default_factory=dict)
    here: Callable[[Any, Callable[..., None]], None] | None = None

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions in which it can be compared."""
        return ("float32",) if self.float32_only else ("float64", "float32")

    def missing(self) -> list[str]:
        """List the packages that are not installed here; nothing is imported to find out."""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]

    def versions(self) -> dict[str, str]:
        """Package to installed version."""
        return {package: metadata.version(package) for package in self.packages if package not in self.missing()}


ORACLE = Implementation("oracle", "conformance.run.adapters.numpy:Oracle", ("numpy",), cost=9.0)

REFERENCE_BUILDS = (
    Implementation("products", "conformance.run.adapters.numpy:OneProduct", ("numpy",)),
    Implementation("taps", "conformance.run.adapters.numpy:TapByTap", ("numpy",)),
    Implementation("blocks", "conformance.run.adapters.numpy:BlockedSums", ("numpy",)),
)
"""Correct float32 builds that sum and normalise in different orders: what they err by is what rounding costs."""

IMPLEMENTATIONS: dict[str, Implementation] = {
    implementation.name: implementation
    for implementation in (
        Implementation("torch", "conformance.run.adapters.torch:TorchAdapter", ("torch",), "torch"),
        Implementation("flax", "conformance.run.adapters.flax:FlaxAdapter", ("flax", "jax"), "flax", 3.0),
        Implementation("keras", "conformance.run.adapters.keras:KerasAdapter", ("keras", "tensorflow"), "keras", 2.0),
    )
}

PARTS_IN_FLOAT32 = (
    "Keras 3.15 computes parts of a float64 model in float32 on this backend (batch norm and global pooling; on "
    "PyTorch the classifier, too)"
)
KERAS_ELSEWHERE = [
    Implementation(
        f"keras@{backend}",
        "conformance.run.adapters.keras:KerasAdapter",
        ("keras", backend),
        extra,
        cost,
        {"KERAS_BACKEND": backend},
        PARTS_IN_FLOAT32,
    )
    for backend, extra, cost in (("jax", "flax", 3.0), ("torch", "torch", 2.0))
]
"""The Keras implementation on its other backends, where TensorFlow need not be installed."""

BUILDS: dict[str, Implementation] = {
    build.name: build
    for build in (
        Implementation("torch-channels-last", "conformance.run.adapters.torch:ChannelsLast", ("torch",), "torch"),
        Implementation(
            "torch-without-onednn", "conformance.run.adapters.torch:WithoutOneDnn", ("torch",), "torch", 2.0
        ),
        Implementation("torch-compiled", "conformance.run.adapters.torch:Compiled", ("torch",), "torch", 20.0),
        Implementation("flax-jit", "conformance.run.adapters.flax:Jit", ("flax", "jax"), "flax", 3.0),
        Implementation(
            "keras-compiled", "conformance.run.adapters.keras:Compiled", ("keras", "tensorflow"), "keras", 3.0
        ),
        Implementation("keras-xla", "conformance.run.adapters.keras:Xla", ("keras", "tensorflow"), "keras", 5.0),
        *KERAS_ELSEWHERE,
    )
}
"""Further builds of the implementations, laid out or compiled in another way: run where `--impl` names them, and by
`conformance false-alarms`."""

NAMED = IMPLEMENTATIONS | BUILDS
"""Every row that `--impl` knows by name."""


def find_implementation(text: str) -> Implementation:
    """Find the candidate that `--impl` names.

    Args:
        text: NAME, a row of the tables; NAME=MODULE:CLASS, an adapter of one's own; or NAME=ROW+FAULT@PLACE, a row (or
            "oracle") with a fault of the catalogue, to which further +FAULT@PLACE may be added.

    Raises:
        ValueError: If it is none of these; the message says what they look like.

    Example:
        >>> find_implementation("mine=my_package.adapter:MyAdapter").adapter
        'my_package.adapter:MyAdapter'
        >>> find_implementation("broken=torch+pad-same@stage3.0.conv2+bgr@input").faults
        [('pad-same', 'stage3.0.conv2'), ('bgr', 'input')]
    """
    if text in NAMED:
        return NAMED[text]
    name, _, described = text.partition("=")
    if not name or not described or name in (*NAMED, ORACLE.name):
        raise ValueError(f"there is no implementation {text!r}; {SPELLINGS}")
    row, *faults = described.split("+")
    module, _, attribute = row.partition(":")
    if not faults and module and attribute:
        return Implementation(name, row, ())
    rows = NAMED | {ORACLE.name: ORACLE}
    pairs = [(fault, place) for fault, _, place in (each.partition("@") for each in faults)]
    if row not in rows or not pairs or not all(fault and place for fault, place in pairs):
        raise ValueError(f"--impl {text!r} names no candidate; {SPELLINGS}")
    return replace(rows[row], name=name, faults=pairs)


SPELLINGS = (
    f"there are {', '.join(NAMED)}; NAME=MODULE:CLASS names an adapter of your own, and NAME=torch+FAULT@PLACE a "
    "faulty candidate, as in broken=torch+pad-same@stage3.0.conv2+bgr@input (NAME must not be taken)"
)
