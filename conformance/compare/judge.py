"""Comparing: two traces in, one verdict per array out. Knows no framework, and cannot pass on nothing.

A missing name, another shape or dtype, a NaN or infinity on either side, an oracle that is constant: each is a failure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, prod, sqrt
from typing import Any, NamedTuple

import numpy as np

from conformance.cases.case import (
    OFFSET,
    Case,
    dot_lengths,
    expected_names,
    gradient_lengths,
    is_judged,
    statistic_names,
)
from conformance.cases.recipes import RECIPES
from conformance.compare.limits import (
    ACTIVATIONS_FLOAT64,
    FIRST_STEP_FLOAT64,
    FLOAT32,
    GRADIENTS_FLOAT64,
    LATER_LOSSES_FLOAT64,
    LATER_STEPS_FLOAT64,
    LOSS_FLOAT64,
    MANY,
    STANDARD_ERRORS,
    STATISTICS_FLOAT64,
    Absolute,
)
from conformance.trace import Trace
from impls.config import ResNetConfig
from weights_convert.shapes import expected_shapes


@dataclass(frozen=True)
class Floor:
    """What correct builds err by: the relative L2 errors of the best and of the worst reference build."""

    best: float
    worst: float


Floors = Mapping[str, Floor]
"""By name of the array."""


@dataclass(frozen=True)
class Measurement:
    """How far an array is from the oracle's."""

    relative_l2: float
    largest: float


@dataclass(frozen=True)
class Comparison:
    """One array of one implementation held against the oracle's.

    Attributes:
        implementation, variant, precision, mode, input, name: What was compared.
        error: Relative L2 error; None where none can be computed.
        limit: The largest error allowed; None where none applies.
        passed: The verdict.
        reason: Why it failed; empty where it passed.
        floor: What correct builds err by in the same run; in float32 alone.
        bound: What rounding can explain, given how many products and values are summed; in float32 alone.
        task: What was done, where it was no forward run: "gradients", "steps" and a recipe, "initialisation" (whose
            error is in standard errors).
    """

    implementation: str
    variant: str
    precision: str
    mode: str
    input: str
    name: str
    error: float | None
    limit: float | None
    passed: bool
    reason: str = ""
    floor: Floor | None = None
    bound: float | None = None
    task: str = ""

    @property
    def told(self) -> str:
        """Noise or bug: the verdict on a float32 error in words, with all that it rests on; of others, the reason."""
        if self.reason or self.error is None or self.floor is None or self.bound is None:
            return self.reason
        return told_beside_noise(self.error, self.floor, self.bound, "noise")

    @property
    def share(self) -> float | None:
        """The error as a share of its limit; None where there is no error or none is allowed."""
        return self.error / self.limit if self.error is not None and self.limit else None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | ({"told": self.told} if self.floor else {})


TRAINING_LIMITS: dict[str, Absolute] = {
    "losses": LATER_LOSSES_FLOAT64,
    "loss": LOSS_FLOAT64,
    "gradient.": GRADIENTS_FLOAT64,
    "first.": FIRST_STEP_FLOAT64,
    "last.": LATER_STEPS_FLOAT64,
}
"""How the name of a training run's array starts, and its limits."""


class Incomparable(ValueError):
    """Two arrays between which no error can be computed: that is a failure, and this says why."""


def measure(oracle: np.ndarray, candidate: np.ndarray, scale: np.ndarray | None = None) -> Measurement:
    """The error of an array, held against itself or, where given, the scale of another.

    Raises:
        Incomparable: If shapes differ, either side holds NaN or infinity, or the oracle is empty or constant.

    Example:
        >>> measure(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
        Measurement(relative_l2=0.1, largest=0.125)
    """
    if oracle.shape != candidate.shape:
        raise Incomparable(f"shape {candidate.shape} where {oracle.shape} is expected")
    if oracle.size == 0:
        raise Incomparable("there are no numbers to compare")
    wide = oracle.astype(np.float64, copy=False).ravel()
    difference = np.subtract(candidate.ravel(), wide, dtype=np.float64)
    smallest, largest = float(wide.min()), float(wide.max())
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise Incomparable("the oracle holds NaN or infinity")
    if smallest == largest and (wide.size > 1 or smallest == 0):
        raise Incomparable("the oracle's numbers are all the same: equality would prove nothing")
    worst = float(max(difference.max(), -difference.min()))
    if not np.isfinite(worst):
        raise Incomparable("it holds NaN or infinity")
    # Not `vector @ vector`: BLAS would set threads on it, which fight with the workers for the processors.
    against = wide if scale is None else scale.ravel()
    distance, norm = (float(np.sqrt(np.einsum("i,i", vector, vector))) for vector in (difference, against))
    return Measurement(distance / norm, worst / float(np.abs(against).max()))


def compare_traces(
    oracle: Trace, candidate: Trace, config: ResNetConfig, floors: Floors | None = None
) -> list[Comparison]:
    """Every array that the case promises, in the order the network computes them; then the running statistics.

    Args:
        oracle: The float64 oracle's trace of the same case.
        candidate: The implementation's.
        config: The network.
        floors: The reference builds' errors; needed where the candidate is float32.

    Raises:
        ValueError: If the traces are of different cases, weights or inputs.
    """
    ran, origin = candidate.origin.case, candidate.origin
    for key in ("case", "weights", "input"):
        left, right = getattr(oracle.origin, key), getattr(origin, key)
        if left != right:
            raise ValueError(f"traces of different {key}: {left} and {right}")
    identity = (origin.candidate, ran.variant, origin.precision, ran.mode, ran.input)
    if ran.task == "initialisation":
        sizes = map(prod, expected_shapes(config).values())
        drawn = {
            n: judge_initial(n, oracle.arrays, candidate.arrays, size)
            for n, size in zip(expected_names(ran, config), sizes, strict=True)
        }
        return [Comparison(*identity[:3], "-", "-", n, **v._asdict(), task=ran.words) for n, v in drawn.items()]
    if ran.task != "forward":
        names, lengths = expected_names(ran, config), gradient_lengths(config)
        verdicts = [
            judge_training(name, oracle, candidate, (floors or {}).get(name), lengths.get(name))._asdict()
            for name in names
        ]
        return [Comparison(*identity, name, **v, task=ran.words) for name, v in zip(names, verdicts, strict=True)]
    statistics, lengths = statistic_names(config), dict(dot_lengths(config, values_per_channel(ran, oracle, config)))
    comparisons = []
    for name in expected_names(ran, config):
        layer = name.removesuffix(".running_mean").removesuffix(".running_var")
        verdict = judge(name, oracle, candidate, (floors or {}).get(name), lengths[layer], name in statistics)
        comparisons.append(Comparison(*identity, name, **verdict._asdict()))
    return comparisons


def values_per_channel(case: Case, oracle: Trace, config: ResNetConfig) -> dict[str, int]:
    """What norms of a train-mode run average over: of the stem and of each block; none in inference mode."""
    names = ["stem", *(block.name for block in config.blocks())] if case.mode == "train" else []
    shapes = {name: oracle.arrays[name].shape for name in names if name in oracle.arrays}
    return {name: prod(shape) // shape[1] for name, shape in shapes.items()}


class Verdict(NamedTuple):
    """What `Comparison` says of one array."""

    error: float | None
    limit: float | None
    passed: bool
    reason: str
    floor: Floor | None = None
    bound: float | None = None


def judge(name: str, oracle: Trace, candidate: Trace, floor: Floor | None, length: int, statistic: bool) -> Verdict:
    """The verdict on one array of a forward run, whose numbers are sums of that many products."""
    precision = candidate.origin.precision
    for side, trace in (("the oracle has", oracle), ("it has", candidate)):
        if name not in trace.arrays:
            return Verdict(None, None, False, f"{side} no such array")
    array = candidate.arrays[name]
    if array.dtype.name != precision:
        return Verdict(None, None, False, f"{array.dtype} where {precision} was asked for")
    try:
        measured = measure(oracle.arrays[name], array)
    except Incomparable as error:
        return Verdict(None, None, False, str(error))
    if precision == "float64":
        limits = (STATISTICS_FLOAT64 if statistic else ACTIVATIONS_FLOAT64).or_rounding(length)
        return Verdict(measured.relative_l2, limits.relative_l2, *judge_absolute(measured, limits))
    if floor is None:
        return Verdict(measured.relative_l2, None, False, "no reference build was measured for it")
    found, limit, bound = measured.relative_l2, FLOAT32.limit(floor.worst, length, array.size), FLOAT32.bound(length)
    return Verdict(found, limit, *judge_by_builds(found, floor, bound, array.size), floor, bound)


def judge_training(
    name: str, oracle: Trace, candidate: Trace, floor: Floor | None = None, length: int | None = None
) -> Verdict:
    """The same of one array of a training run, in float64; of loss and gradients also in float32."""
    precision = candidate.origin.precision
    for side, trace in (("the oracle has", oracle), ("it has", candidate)):
        if name not in trace.arrays:
            return Verdict(None, None, False, f"{side} no such array")
    array = candidate.arrays[name]
    if array.dtype.name != precision:
        return Verdict(None, None, False, f"{array.dtype} where {precision} was asked for")
    try:
        measured = measure(oracle.arrays[name], array, scale_of(name, oracle))
    except Incomparable as error:
        return Verdict(None, None, False, str(error))
    if not is_judged(oracle.origin.case, precision):
        return Verdict(measured.relative_l2, None, True, "")
    if precision == "float32":
        return judge_float32_gradient(measured.relative_l2, floor, length, array.size)
    limits = next(limits for start, limits in TRAINING_LIMITS.items() if name.startswith(start))
    return Verdict(measured.relative_l2, limits.relative_l2, *judge_absolute(measured, limits))


def judge_float32_gradient(error: float, floor: Floor | None, length: int | None, numbers: int) -> Verdict:
    """Whether a gradient in float32 errs by no more than correct builds do, or than rounding on the way back explains.

    One of both suffices: near the output few numbers are summed, and whether the builds happen to err by less than a
    framework that takes another way (the logarithm of the softmax, and the exponential of that) says nothing.
    """
    if floor is None or length is None:
        return Verdict(error, None, False, "no reference build was measured for it")
    bound = FLOAT32.bound(length)
    limit = max(FLOAT32.allowed(floor.worst, numbers), bound)
    reason = told_beside_noise(error, floor, bound, "more than both: a bug, or TF32") if error > limit else ""
    return Verdict(error, limit, error <= limit, reason, floor, bound)


MOMENTS_OF_A_DRAW = {"mean": (1, 1.0), "variance": (2, 2.0), "fourth moment": (4, 96.0)}
"""The power of the deviation that each is of; and its own variance, of a draw of n normal numbers times n."""


def judge_initial(
    name: str, oracle: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray], numbers: int
) -> Verdict:
    """Whether an array may be drawn from what the oracle's is, given the moments of both; constants must be equal.

    Two draws of n normal numbers of variance v have means that differ by about sqrt(2 v / n), variances by
    sqrt(4 v^2 / n) and fourth moments by sqrt(192 v^4 / n) (Kendall and Stuart, The Advanced Theory of Statistics 1,
    ch. 10).
    """
    if name not in candidate:
        return Verdict(None, None, False, "it has no such array")
    right, found = (dict(zip(MOMENTS_OF_A_DRAW, moments[name], strict=True)) for moments in (oracle, candidate))
    if right["variance"] == 0:
        equal = found == right
        return Verdict(None, None, equal, "" if equal else f"not {right['mean']:g} throughout, as it should start")
    variance = (right["variance"] + found["variance"]) / 2
    errors = {
        moment: abs(found[moment] - right[moment]) / sqrt(2 * own * variance**power / numbers)
        for moment, (power, own) in MOMENTS_OF_A_DRAW.items()
        if power < 4 or numbers >= MANY
    }
    worst = max(errors, key=lambda moment: errors[moment])
    reason = f"drawn from something else: {worst} {found[worst]:.2e} where {right[worst]:.2e} is expected"
    passed = all(error <= STANDARD_ERRORS for error in errors.values())
    return Verdict(errors[worst], STANDARD_ERRORS, passed, "" if passed else reason)


def scale_of(name: str, oracle: Trace) -> np.ndarray | None:
    """What an error is held against instead of the array itself, where that is zero in theory and noise in practice.

    An offset that the next norm takes away again has no effect in train mode, so its gradient is rounding: it is held
    against that of the layer's weight, and so is what an optimizer keeps of it. AdamW divides by the gradient's own
    size, so of a gradient that is an error e it makes a step of rate * e / eps: the bias is held against that, for the
    weight's.
    """
    moment, _, array = name.partition(".")
    if not OFFSET.fullmatch(array):
        return None
    layer, path = name.removesuffix(".bias"), array.removesuffix(".bias")
    case = oracle.origin.case
    if case.mode != "train":
        return None
    recipe = RECIPES[case.recipe] if case.recipe else None
    if moment == "gradient" or path.startswith(("momentum_buffer.", "exp_avg.", "exp_avg_sq.")):
        return oracle.arrays[f"{layer}.weight"]
    if recipe is None or recipe.optimizer != "adamw":
        return None
    return oracle.arrays[f"{moment}.exp_avg.{path}.weight"] * (recipe.learning_rate / (1 - recipe.beta1) / recipe.eps)


def judge_absolute(measured: Measurement, limits: Absolute) -> tuple[bool, str]:
    """Whether both errors stay within their limits, and if not, which does not."""
    if measured.relative_l2 > limits.relative_l2:
        return False, f"relative L2 error {measured.relative_l2:.1e}, limit {limits.relative_l2:.2g}"
    if measured.largest > limits.largest:
        return False, f"largest error {measured.largest:.1e} of the largest value, limit {limits.largest:.2g}"
    return True, ""


def judge_by_builds(error: float, floor: Floor, bound: float, numbers: int) -> tuple[bool, str]:
    """Whether a float32 error is noise: what correct builds show, not more and not suspiciously less; if not, why.

    Args:
        error: Of an array.
        floor: What correct builds err by.
        bound: What rounding can explain.
        numbers: How many the array has.

    Example:
        >>> judge_by_builds(1.2e-4, Floor(2.4e-6, 2.9e-6), 8.1e-6, 1000)[1].rpartition("8.1e-6: ")[2]
        '41 times what correct builds err by: a bug, or TF32 in some layer'
    """
    excess = error > FLOAT32.allowed(floor.worst, numbers)
    many = f"{multiple(error, floor)} times what correct builds err by"
    conclusions = (
        (excess and error > FLOAT32.leak * floor.worst, f"{many}: a wrong network, or TF32 or bfloat16 in force"),
        (excess, f"{many}: a bug, or TF32 in some layer"),
        (error > bound, "more than rounding can explain: a bug, and in the builds or the oracle another"),
        (
            error < FLOAT32.least(floor.best, numbers),
            "too small for float32: float64, or the oracle compared with itself",
        ),
    )
    conclusion = next((conclusion for holds, conclusion in conclusions if holds), "")
    return not conclusion, told_beside_noise(error, floor, bound, conclusion) if conclusion else ""


def multiple(error: float, floor: Floor) -> str:
    """An error as a multiple of the worst reference build's.

    Example:
        >>> multiple(3.1e-6, Floor(2.4e-6, 2.9e-6)), multiple(2.9e-3, Floor(2.4e-6, 2.9e-6))
        ('1.07', '1,000')
    """
    found = error / floor.worst if floor.worst else inf
    return f"{found:.2f}" if found < 10 else f"{found:,.0f}"


def told_beside_noise(error: float, floor: Floor, bound: float, conclusion: str) -> str:
    """An error beside what correct builds err by and what rounding can explain.

    Example:
        >>> told_beside_noise(3.1e-6, Floor(2.4e-6, 2.9e-6), 8.1e-6, "noise")[:80]
        'error 3.1e-6; correct float32 builds of this run err by 2.4e-6 to 2.9e-6; roundi'
    """
    return (
        f"error {short(error)}; correct float32 builds of this run err by {short(floor.best)} to {short(floor.worst)}; "
        f"rounding in sums of this length can explain {short(bound)}: {conclusion}"
    )


def short(number: float) -> str:
    """Two digits and an exponent without zeros.

    Example:
        >>> short(3.14e-6), short(0.0), short(2.0e-12)
        ('3.1e-6', '0', '2.0e-12')
    """
    return f"{number:.1e}".replace("e-0", "e-") if number else "0"


def error_floors(oracle: Trace, builds: Sequence[Trace]) -> Floors:
    """What the reference builds err by, by array; one that cannot be compared has no floor, and so cannot pass."""
    floors = {}
    for name, array in oracle.arrays.items():
        with contextlib.suppress(Incomparable):
            errors = [measure(array, build.arrays[name], scale_of(name, oracle)).relative_l2 for build in builds]
            floors[name] = Floor(min(errors), max(errors))
    return floors


def nearest_to_limit(comparisons: Iterable[Comparison]) -> Comparison | None:
    """The comparison whose error is the largest share, or multiple, of its limit; None if none has a limit."""
    limited = [comparison for comparison in comparisons if comparison.share is not None]
    return max(limited, key=lambda comparison: comparison.share or 0.0, default=None)


def compare_parameters(candidate: Trace, config: ResNetConfig) -> Comparison:
    """Whether the model itself lists exactly the arrays that the network has, each in its shape."""
    origin, expected = candidate.origin, expected_shapes(config)
    problems = list(_differences(expected, origin.parameters))
    return Comparison(
        origin.candidate,
        origin.case.variant,
        origin.precision,
        mode="-",
        input="-",
        name="parameters",
        error=float(len(problems)),
        limit=0.0,
        passed=not problems,
        reason="; ".join(problems[:3]),
    )


def _differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            yield f"{name}: {found.get(name, 'missing')} where {expected.get(name, 'nothing')} is expected"
