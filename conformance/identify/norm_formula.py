"""Formulas of norms: the statistics, the arrays and the denominators that a norm may use, by mistake or not.

A norm computes y = (x - mean) / sqrt(variance + eps) * scale + offset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from conformance.identify.fact import NotIdentified
from conformance.identify.link import NORM_LEAVES, Array, Arrays, Link


@dataclass(frozen=True)
class Statistics:
    """A mean and a variance that a norm may use.

    Attributes:
        words: What they are.
        compute: Function of a map and the layer's arrays to mean and variance, each to be broadcast over the map.
    """

    words: str
    compute: Callable[[Array, Mapping[str, Array]], tuple[Array, Array]]


def _fixed(x: Array, own: Mapping[str, Array]) -> tuple[Array, Array]:
    return per_channel(own["running_mean"]), per_channel(own["running_var"])


def _initial(x: Array, own: Mapping[str, Array]) -> tuple[Array, Array]:
    one = np.ones((1, x.shape[1], 1, 1))
    return 0 * one, one


def _over(axes: tuple[int, ...], unbiased: bool = False) -> Callable[[Array, Mapping[str, Array]], tuple[Array, Array]]:
    def compute(x: Array, own: Mapping[str, Array]) -> tuple[Array, Array]:
        return x.mean(axes, keepdims=True), x.var(axes, ddof=int(unbiased), keepdims=True)

    return compute


def _grouped(groups: int) -> Callable[[Array, Mapping[str, Array]], tuple[Array, Array]]:
    def compute(x: Array, own: Mapping[str, Array]) -> tuple[Array, Array]:
        if x.shape[1] % groups:
            raise NotIdentified("has channels that do not divide into the groups")
        parts = x.reshape(len(x), groups, -1)
        mean, variance = (
            np.repeat(s, x.shape[1] // groups, 1)[:, :, None, None] for s in (parts.mean(2), parts.var(2))
        )
        return mean, variance

    return compute


STATISTICS = {
    "running": Statistics("the running statistics", _fixed),
    "batch": Statistics("the batch's statistics", _over((0, 2, 3))),
    "batch, unbiased": Statistics("the batch's statistics, with its variance divided by n - 1", _over((0, 2, 3), True)),
    "initial": Statistics("mean 0 and variance 1, as initialised", _initial),
    "instance": Statistics("each image's own statistics per channel (instance norm)", _over((2, 3))),
    "instance, unbiased": Statistics(
        "each image's own statistics per channel (instance norm), with a variance divided by n - 1",
        _over((2, 3), True),
    ),
    "layer": Statistics("each image's own statistics over all channels (layer norm)", _over((1, 2, 3))),
    **{
        f"group {groups}": Statistics(f"each image's own statistics in {groups} groups of channels", _grouped(groups))
        for groups in (32, 16, 8, 4, 2)
    },
}
"""The statistics that a norm may use."""


def _eps_of_reciprocal_root(variance: Array, denominator: Array) -> Array:
    """Solve denominator**2 = 1 / sqrt(variance + eps) + eps for eps, by Newton's method from zero.

    Variances near 0.63 hardly tell it, so that only the usual eps is sure to be found.
    """
    eps = np.zeros_like(variance)
    for _ in range(20):
        slope = 1 - 0.5 * (variance + eps) ** -1.5
        eps = eps - (1 / np.sqrt(variance + eps) + eps - denominator**2) / slope
    return eps


DENOMINATORS: dict[str, tuple[Callable[[Array, float], Array], Callable[[Array, Array], Array], str, str]] = {
    "": (lambda v, eps: np.sqrt(v + eps), lambda v, d: d**2 - v, "", ""),
    "eps outside": (
        lambda v, eps: np.sqrt(v) + eps,
        lambda v, d: d - np.sqrt(v),
        "adds eps to the deviation, not to the variance",
        "eps-outside-root",
    ),
    "deviation": (
        lambda v, eps: v + eps,
        lambda v, d: d - v,
        "divides by the variance, not by its root",
        "",
    ),
    "inverse": (
        lambda v, eps: 1 / (v + eps),
        lambda v, d: 1 / d - v,
        "multiplies by the variance, where it should divide by its root",
        "",
    ),
    "root of root": (
        lambda v, eps: np.sqrt(np.sqrt(v + eps)),
        lambda v, d: d**4 - v,
        "divides by the fourth root of the variance",
        "",
    ),
    "deviation loaded": (
        lambda v, eps: np.sqrt(np.sqrt(np.abs(v)) + eps),
        lambda v, d: d**2 - np.sqrt(np.abs(v)),
        "takes the root of the running variance for the variance: a deviation was loaded as the variance",
        "var-is-deviation",
    ),
    "reciprocal loaded": (
        lambda v, eps: np.sqrt(1 / v + eps),
        lambda v, d: d**2 - 1 / v,
        "takes the reciprocal of the running variance for the variance",
        "",
    ),
    "reciprocal root loaded": (
        lambda v, eps: np.sqrt(1 / np.sqrt(v + eps) + eps),
        _eps_of_reciprocal_root,
        "takes 1 / sqrt(running variance + eps) for the variance",
        "var-is-inverse",
    ),
    "square": (
        lambda v, eps: np.sqrt(v**2 + eps),
        lambda v, d: d**2 - v**2,
        "takes the running variance for a deviation",
        "",
    ),
}
"""Ways to make the factor's denominator of the variance and eps: the function, its inverse (eps from variance and
denominator), what it does in words, and the catalogue's row."""

ROLES = {
    "weight": "scale",
    "bias": "offset",
    "running_mean": "running mean",
    "running_var": "running variance",
}
"""The arrays of a norm in words."""


@dataclass(frozen=True)
class Formula:
    """A formula of a norm, which can be executed with any norm's arrays.

    Attributes:
        statistics: Key of `STATISTICS`.
        scale, offset, mean, variance: Which of the layer's arrays is in that role, "one" or "zero" where none is;
            "|bias|" for its magnitudes.
        denominator: Key of `DENOMINATORS`.
        eps: What is added.
        owner: Path of another norm, whose arrays are used; empty for the norm's own.
        lender: Path of another norm, whose running statistics are used; empty for the norm's own.
        before: Whether a ReLU stands before the norm.
        after: Whether a ReLU stands behind it.
    """

    statistics: str
    scale: str = "weight"
    offset: str = "bias"
    mean: str = "running_mean"
    variance: str = "running_var"
    denominator: str = ""
    eps: float = 0.0
    owner: str = ""
    lender: str = ""
    before: bool = False
    after: bool = False

    def __call__(self, x: Array, path: str, arrays: Arrays) -> Array:
        """Compute the norm of a map with the arrays of a norm."""
        own = self.arrays(path, arrays)
        x = np.maximum(x, 0) if self.before else x
        mean, variance = self.moments(x, own)
        scale = array_in_role(self.scale, own) / DENOMINATORS[self.denominator][0](variance, self.eps)
        y: Array = (x - mean) * scale + array_in_role(self.offset, own)
        return np.maximum(y, 0) if self.after else y

    def arrays(self, path: str, arrays: Arrays) -> dict[str, Array]:
        """Return the arrays that are used in the norm at a path, by leaf."""
        own = layer_arrays(self.owner or path, arrays)
        lent = layer_arrays(self.lender, arrays) if self.lender else own
        return own | {leaf: lent[leaf] for leaf in ("running_mean", "running_var")}

    def moments(self, x: Array, own: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return mean and variance, each to be broadcast over the map."""
        mean, variance = STATISTICS[self.statistics].compute(x, own)
        if self.statistics == "running":
            mean, variance = array_in_role(self.mean, own), array_in_role(self.variance, own)
        elif self.mean == "zero":
            mean = np.zeros_like(mean)
        return mean, variance


def layer_arrays(path: str, arrays: Arrays) -> dict[str, Array]:
    """Return the arrays of a norm by leaf, in float64."""
    return {leaf: np.asarray(arrays[f"{path}.{leaf}"], np.float64) for leaf in NORM_LEAVES}


MAGNITUDES = {f"|{leaf}|": leaf for leaf in NORM_LEAVES}
"""Names of the magnitudes of a norm's arrays: what is no variance was made positive, so that it has a root."""


def array_in_role(name: str, own: Mapping[str, Array]) -> Array:
    """Return one of a norm's arrays, or ones or zeros, to be broadcast over a map."""
    if name in ("one", "zero"):
        return np.full((1, len(own["weight"]), 1, 1), float(name == "one"))
    if name in MAGNITUDES:
        return per_channel(np.abs(own[MAGNITUDES[name]]))
    return 1 + per_channel(own["weight"]) if name == "one plus" else per_channel(own[name])


def per_channel(values: Array) -> Array:
    """Give an array of one number per channel the axes of a map."""
    return values[None, :, None, None]


def factor_formulas(link: Link, expected: str, arrays: Arrays) -> list[Formula]:
    """List the formulas of a factor to try, those that differ from the expected one in the fewest places first.

    Args:
        link: The norm.
        expected: Key of the statistics that it should use.
        arrays: Canonical arrays.
    """
    scales = [*NORM_LEAVES, "one", "one plus"]
    fixed = [
        Formula("running", scale=scale, variance=variance, denominator=denominator)
        for scale, variance, denominator in product(scales, [*NORM_LEAVES, "one", *MAGNITUDES], DENOMINATORS)
    ]
    measured = [
        Formula(key, scale=scale, denominator=denominator)
        for key, scale, denominator in product(STATISTICS, scales, DENOMINATORS)
        if key != "running"
    ]
    shape = arrays[f"{link.layer}.weight"].shape
    norms = [name.removesuffix(".running_var") for name in arrays if name.endswith(".running_var")]
    alike = [path for path in norms if arrays[f"{path}.running_var"].shape == shape and path != link.layer]
    others = [Formula(expected, owner=path) for path in alike] + [Formula(expected, lender=path) for path in alike]
    return sorted([*fixed, *others, *measured], key=lambda formula: distance(formula, Formula(expected)))


def offset_formulas(formula: Formula, expected: str) -> list[Formula]:
    """List the formulas of an offset to try with the formula of a factor."""
    means = [*NORM_LEAVES, "zero"] if formula.statistics == "running" else ["running_mean", "zero"]
    every = [
        replace(formula, offset=offset, mean=mean) for offset, mean in product([*NORM_LEAVES, "zero", "one"], means)
    ]
    return sorted(every, key=lambda formula: distance(formula, Formula(expected)))


def distance(formula: Formula, expected: Formula) -> int:
    """Count the places in which a formula differs from the expected one."""
    names = ("statistics", "scale", "offset", "mean", "variance", "denominator", "owner", "lender")
    return sum(getattr(formula, name) != getattr(expected, name) for name in names)
