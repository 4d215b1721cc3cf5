"""Curves: the functions of one number that stand between layers, and which of them some measured values lie on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import atanh, erf, sqrt
from statistics import NormalDist

import numpy as np

from conformance.identify.fact import number

Array = np.ndarray


@dataclass(frozen=True)
class Curve:
    """A function of one number.

    Attributes:
        name: What it is called ("ReLU6"); "no activation" for the identity.
        values: Computes it element by element.
    """

    name: str
    values: Callable[[Array], Array]

    def __call__(self, x: Array) -> Array:
        """Compute the curve at each number of an array."""
        with np.errstate(over="ignore"):
            return self.values(x)


def sigmoid(x: Array) -> Array:
    """Compute 1 / (1 + exp(-x)) element by element, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


_erf = np.vectorize(erf, otypes=[float])

GELU, SILU = sqrt(0.5), 1.0
"""Factors of the input within the gates of GELU and SiLU."""

GELU_TANH, GELU_CUBE = sqrt(2 / np.pi), 0.044715
"""Factors within GELU's tanh form: of the sum, and of the third power in it."""


def gelu(x: Array, factor: float = GELU) -> Array:
    """Compute x times the normal distribution's integral up to x; another factor makes it steeper or flatter."""
    y: Array = 0.5 * x * (1 + _erf(factor * x))
    return y


def gelu_by_tanh(x: Array, factor: float = GELU_TANH, cube: float = GELU_CUBE) -> Array:
    """Compute GELU's tanh form."""
    y: Array = 0.5 * x * (1 + np.tanh(factor * (x + cube * x**3)))
    return y


NONE = Curve("no activation", lambda x: x)
RELU = Curve("ReLU", lambda x: np.maximum(x, 0.0))

CURVES = (
    NONE,
    RELU,
    Curve("ReLU6", lambda x: np.clip(x, 0.0, 6.0)),
    Curve("SiLU", lambda x: x * sigmoid(x)),
    Curve("GELU", gelu),
    Curve("GELU in its tanh form", gelu_by_tanh),
    Curve("GELU in its sigmoid form", lambda x: x * sigmoid(1.702 * x)),
    Curve("ELU", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))),
    Curve("SELU", lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0.0)))),
    Curve("hard swish", lambda x: x * np.clip(x + 3, 0.0, 6.0) / 6),
    Curve("softplus", lambda x: np.logaddexp(x, 0.0)),
    Curve("Mish", lambda x: x * np.tanh(np.logaddexp(x, 0.0))),
    Curve("tanh", np.tanh),
    Curve("sigmoid", sigmoid),
    Curve("hard sigmoid", lambda x: np.clip(x + 3, 0.0, 6.0) / 6),
    Curve("softsign", lambda x: x / (1 + np.abs(x))),
    Curve("absolute value", np.abs),
    Curve("square of ReLU", lambda x: np.maximum(x, 0.0) ** 2),
)
"""The curves that are known by name. Those with a number in them are made by `leaky`, `clipped` and `shifted`."""


def leaky(slope: float) -> Curve:
    """Make the curve that multiplies negative numbers by a slope."""
    return Curve(f"leaky ReLU of slope {number(slope)}", lambda x: np.where(x > 0, x, slope * x))


def clipped(top: float) -> Curve:
    """Make the ReLU that ends at a largest value."""
    return Curve(f"ReLU that ends at {number(top)}", lambda x: np.clip(x, 0.0, top))


def limited(low: float, high: float) -> Curve:
    """Make the curve that cuts numbers off at both ends."""
    return Curve(f"a cut at {number(low)} and {number(high)}", lambda x: np.clip(x, low, high))


def elu(alpha: float) -> Curve:
    """Make the ELU that approaches -alpha."""
    return Curve(f"ELU of alpha {number(alpha)}", lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0))))


def gates(half: float, whole: float) -> Iterator[Curve]:
    """Yield the curves x * gate(x) that have certain values at 1 and 2, with the numbers in them that this takes.

    Args:
        half: The gate, which is the factor of x, at 1.
        whole: The gate at 2.
    """
    if not (0.5 < half < 1 and 0.5 < whole < 1):
        return
    sum_at_1, sum_at_2 = atanh(2 * half - 1), atanh(2 * whole - 1)
    factor = rounded(NormalDist().inv_cdf(half) * GELU)
    yield Curve(_about("GELU", {"its input": (factor, GELU)}), lambda x: gelu(x, factor))
    slope = rounded(2 * sum_at_1)
    yield Curve(_about("SiLU", {"its input": (slope, SILU)}), lambda x: x * sigmoid(slope * x))
    # The sums are factor * (1 + cube) and factor * (2 + 8 * cube).
    tanh_factor = (8 * sum_at_1 - sum_at_2) / 6
    cube = rounded(sum_at_1 / tanh_factor - 1) if tanh_factor else 0.0
    numbers = {"its sum": (tanh_factor, GELU_TANH), "the third power": (cube, GELU_CUBE)}
    yield Curve(_about("GELU in its tanh form", numbers), lambda x: gelu_by_tanh(x, tanh_factor, cube))


def _about(name: str, numbers: Mapping[str, tuple[float, float]]) -> str:
    """Name a curve with the numbers in it, each measured and usual, that are not the usual ones."""
    others = {what: value / usual for what, (value, usual) in numbers.items() if abs(value / usual - 1) > SINGLE}
    if not others:
        return f"{name} (constants of float32)"
    return f"{name} ({', '.join(f'{what} multiplied by {number(ratio)}' for what, ratio in others.items())})"


SINGLE = 1e-7
"""Relative error of a constant that was rounded to float32."""

GRID = np.concatenate([[0.0, 1.0], np.linspace(-4.0, -0.25, 16), np.linspace(0.25, 4.0, 16), [6.5, 8.0, -8.0, 0.5]])
"""Amplitudes at which curves are measured; the first two fix offset and factor, and the last repeats an earlier one."""

SAME_CURVE = 1e-12
"""Largest difference of values, of a curve with the value 0 at 0 and 1 at 1, that counts as the same curve."""


def normalised(values: Array) -> Array:
    """Shift and scale values at `GRID` so that those at 0 and 1 are 0 and 1; infinite where these are equal."""
    with np.errstate(all="ignore"):
        shape: Array = (values - values[0]) / (values[1] - values[0])
        return shape


def find_curve(values: Array) -> Curve | None:
    """Find the curve that values at `GRID`, each known but for one common factor and offset, lie on.

    Args:
        values: A number for each of `GRID`.

    Returns:
        The curve, at first one without a number in it; None if no curve of the library fits.

    Example:
        >>> find_curve(3 * np.where(GRID > 0, GRID, 0.01 * GRID) + 1).name
        'leaky ReLU of slope 0.01'
    """
    shape = normalised(values)
    for curve in (*CURVES, *_estimated(shape)):
        expected = normalised(curve(GRID))
        if np.all(np.isfinite(expected)) and np.max(np.abs(expected - shape)) <= SAME_CURVE * max(
            1.0, float(np.max(np.abs(expected)))
        ):
            return curve
    return None


def _estimated(shape: Array) -> Iterator[Curve]:
    """Yield curves with a number in them that is read off normalised values."""
    at = {float(x): float(y) for x, y in zip(GRID, shape, strict=True)}
    yield leaky(rounded(-at[-1.0]))
    yield elu(rounded(at[-1.0] / float(np.expm1(-1.0))))
    if at[8.0] > 0:
        yield clipped(rounded(at[8.0]))
    if at[-1.0] < 0:
        half = 1 / (1 - at[-1.0])  # gate(-1) = 1 - gate(1), and the curve at 1 is 1 here
        yield from gates(half, half * at[2.0] / 2)
    if np.all(np.isfinite(shape)):
        yield limited(rounded(float(shape.min())), rounded(float(shape.max())))


def rounded(value: float) -> float:
    """Round a number to twelve digits, where that changes it by no more than the measurement's own rounding does."""
    simple = float(f"{value:.12g}")
    return simple if abs(simple - value) <= ROUNDING * abs(value) else value


ROUNDING = 5e-14
"""Largest relative error of a measured number by rounding."""
