"""The implementations that can be run, as a table. Adding a framework is adding a row here and an adapter."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata


@dataclass(frozen=True)
class Implementation:
    """Something that computes the network.

    Attributes:
        name: What `--impl` calls it.
        adapter: Where its adapter class is: "module:class".
        packages: Distributions whose versions matter; the first ones must be there for it to run.
        extra: The extra of this project that installs it.
        cost: Roughly how long a run takes, beside the others; the slowest is started first.
        variables: Environment variables that its worker starts with.
        float32_only: Why it computes in float32 alone, and is not compared in float64; empty where it can be.
    """

    name: str
    adapter: str
    packages: tuple[str, ...]
    extra: str = ""
    cost: float = 1.0
    variables: Mapping[str, str] = field(default_factory=dict)
    float32_only: str = ""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions in which it can be compared."""
        return ("float32",) if self.float32_only else ("float64", "float32")

    def missing(self) -> list[str]:
        """The packages that are not installed here; nothing is imported to find out."""
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
"""The same networks, laid out or compiled in another way: run where named, and by `conformance false-alarms`."""

NAMED = IMPLEMENTATIONS | BUILDS
"""All that `--impl` knows by name."""


def find_implementation(text: str) -> Implementation:
    """The implementation that `--impl` names: a row of the table, or NAME=MODULE:CLASS for an adapter of one's own.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> find_implementation("mine=my_package.adapter:MyAdapter").name
        'mine'
    """
    if text in NAMED:
        return NAMED[text]
    name, _, adapter = text.partition("=")
    module, _, attribute = adapter.partition(":")
    if name and module and attribute and name not in (*NAMED, ORACLE.name):
        return Implementation(name, adapter, ())
    raise ValueError(
        f"there is no implementation {text!r}; there are {', '.join(NAMED)}, and NAME=MODULE:CLASS names an "
        "adapter of your own (a name that is not taken)"
    )
