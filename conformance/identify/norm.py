"""Norms: factor and offset of each channel in both modes, and the formula of the layer's arrays that gives them.

Factor and offset of every channel give, for each formula, an eps and a mean; the right formula gives
the same eps in all channels, and predicts factor and offset to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from conformance.identify.curve import rounded
from conformance.identify.fact import PREDICTED, Difference, Exam, Fact, NotIdentified, number, relative_error
from conformance.identify.link import Array, Arrays, Link
from conformance.identify.norm_formula import (
    DENOMINATORS,
    MAGNITUDES,
    ROLES,
    STATISTICS,
    Formula,
    array_in_role,
    factor_formulas,
    offset_formulas,
    per_channel,
)
from impls.config import ResNetConfig

BATCH, SIDES = 6, (5, 7)
"""Images, and height and width, of the probes of norms."""

NormFunction = Callable[[Array, str, Arrays], Array]
"""Takes a map, the norm's path and the arrays to the output."""

FITS = 1e-11
"""Largest relative L2 error with which a formula gives the measured factors, to count: divisions amplify rounding."""


def questions(link: Link, random: np.random.Generator) -> dict[str, Array]:
    """Make the inputs whose outputs tell what a norm computes, in each mode: two batches of other statistics."""
    (channels,) = link.channels
    asked = {}
    for name, spread in (("first", 1.0), ("held-out", 2.5)):
        centre = random.normal(0.0, 1.0, (1, channels, 1, 1)) + random.normal(0.0, 0.5, (BATCH, 1, 1, 1))
        deviation = spread * random.uniform(0.5, 1.5, (1, channels, 1, 1)) * random.uniform(0.7, 1.3, (BATCH, 1, 1, 1))
        asked[name] = centre + deviation * random.normal(0.0, 1.0, (BATCH, channels, *SIDES))
    return asked


def identify(exams: Sequence[Exam]) -> list[Fact]:
    """Measure a norm in each mode and say where it is not the expected one: a fact for both modes, or for each.

    Args:
        exams: Of each mode, inference mode first.

    Raises:
        NotIdentified: If no formula explains the outputs.
    """
    facts = []
    running: tuple[Formula, list[Difference]] | None = None
    for exam in exams:
        special = find_special(exam)
        if special is not None:
            facts.append(special)
            continue
        formula = find_formula(exam)
        differences = [*_differences(formula, exam.config, exam.mode)]
        if exam.mode == "inference":
            running = formula, differences
        elif differences and running and running[0].statistics == "running":
            carried = replace(running[0], statistics="batch")  # one cause, of which this mode shows a part
            if error_of(carried, exam) <= PREDICTED:
                differences = running[1]
        if differences:
            elsewhere = not (formula.owner or formula.lender)
            facts.append(_norm_fact(exam, formula, differences, error_of(formula, exam), elsewhere))
    if not facts:
        raise NotIdentified("computes what is expected, as far as probes show")
    return merge(facts, len(exams))


def find_special(exam: Exam) -> Fact | None:
    """Recognise a norm that is missing, applied twice, or the right one times a factor; None if it is none of these."""
    right = Formula(expected_statistics(exam.mode), eps=exam.config.norm_eps)
    for name, (words, fault, function) in SPECIAL.items():
        factor = _factor(function, right, exam) if "{factor}" in words else 1.0
        compute = partial(_special, function, right, factor)
        errors = [error_of(compute, exam, part) for part in exam.asked]
        trivial = "{factor}" in words and (factor == 0 or abs(factor - 1) < FITS)
        if not trivial and max(errors) <= PREDICTED:
            said = words.replace("{factor}", number(factor))
            return _norm_fact(exam, compute, [Difference(name, factor, 1.0, said, fault)], errors[-1])
    return None


def merge(facts: list[Fact], modes: int) -> list[Fact]:
    """Make one fact of two modes that say the same."""
    if modes != 2 or len(facts) != 2 or facts[0].measured != facts[1].measured:
        return facts
    inference, train = facts
    words = inference.words.replace(
        f"{STATISTICS['running'].words} are expected",
        "running ones in inference mode and the batch's in train mode are expected",
    )

    def law(link: Link, inputs: Arrays, arrays: Arrays, config: ResNetConfig, in_train: bool) -> Array:
        chosen = (train if in_train else inference).law
        assert chosen is not None
        return chosen(link, inputs, arrays, config, in_train)

    return [replace(inference, words=words, law=law, mode="", error=max(inference.error, train.error))]


def expected_statistics(mode: str) -> str:
    """Name the statistics that a norm should use in a mode."""
    return "batch" if mode == "train" else "running"


def find_formula(exam: Exam) -> Formula:
    """Find the formula that a norm's outputs follow: it is made from the first probe and must predict the second.

    Raises:
        NotIdentified: If none of the known ones does.
    """
    link, arrays, expected = exam.link, exam.arrays, expected_statistics(exam.mode)
    for before, after in ((False, False), (False, True), (True, False), (True, True)):
        x = np.maximum(exam.asked["first"], 0) if before else exam.asked["first"]
        factor, offset = fit_channels(x, exam.answers["first"], after)
        if factor is None or offset is None:
            continue
        for formula in factor_formulas(link, expected, arrays):
            own = formula.arrays(link.layer, arrays)
            for eps in fitting_eps(formula, x, factor, own, exam.config):
                for whole in offset_formulas(formula, expected):
                    candidate = replace(whole, eps=eps, before=before, after=after)
                    if _gives_offset(candidate, x, offset, own) and error_of(candidate, exam) <= PREDICTED:
                        return candidate
        raise NotIdentified(_affine_words(factor))
    raise NotIdentified("does not multiply and shift the numbers of a channel, not even image by image")


def error_of(compute: NormFunction, exam: Exam, part: str = "held-out") -> float:
    """Return the relative L2 error with which a function of a norm gives its outputs, of the held-out probe."""
    return exam.error(lambda x: compute(x, exam.link.layer, exam.arrays), part)


def _affine_words(factor: Array) -> str:
    same = np.nanmax(np.ptp(factor, axis=0)) <= FITS * np.nanmax(np.abs(factor))
    kind = "one factor and offset per channel" if same else "a factor and offset of its own for each image and channel"
    return f"applies {kind}, which no known formula of a norm's arrays gives"


def fit_channels(x: Array, y: Array, after_relu: bool) -> tuple[Array | None, Array | None]:
    """Fit y = factor * x + offset for each image and channel: (batch, channels); None where it is no such map.

    Args:
        x: (batch, channels, height, width).
        y: The outputs; where a ReLU stands behind the norm, only those above zero count.
        after_relu: Whether that is to be assumed.
    """
    if x.shape != y.shape or not np.all(np.isfinite(y)):
        return None, None
    weights = (y > 0).astype(float) if after_relu else np.ones_like(y)
    count = np.maximum(weights.sum((2, 3), keepdims=True), 1.0)
    mean_x, mean_y = ((a * weights).sum((2, 3), keepdims=True) / count for a in (x, y))
    spread = (weights * (x - mean_x) ** 2).sum((2, 3), keepdims=True)
    known = spread > 1e-9 * (x**2).sum((2, 3), keepdims=True)
    factor = np.where(
        known, (weights * (x - mean_x) * (y - mean_y)).sum((2, 3), keepdims=True) / np.where(known, spread, 1), np.nan
    )
    offset = mean_y - factor * mean_x
    left = weights * np.where(np.isfinite(factor), y - factor * x - offset, 0.0)
    if np.linalg.norm(left) > FITS * np.linalg.norm(y) or not np.isfinite(factor).any():
        return None, None
    return factor[:, :, 0, 0], offset[:, :, 0, 0]


def fitting_eps(
    formula: Formula, x: Array, factor: Array, own: Mapping[str, Array], config: ResNetConfig
) -> Iterator[float]:
    """Yield the eps with which a formula gives the measured factors, the usual or the simplest number first; or none.

    Args:
        formula: The formula of a factor.
        x: The input of the norm.
        factor: (batch, channels), as measured.
        own: The norm's arrays.
        config: Its eps is tried first.
    """
    _, from_denominator, *_ = DENOMINATORS[formula.denominator]
    numerator = np.broadcast_to(array_in_role(formula.scale, own)[:, :, 0, 0], factor.shape)
    try:
        variance = _per_image(formula.moments(x, own)[1], factor.shape)
    except NotIdentified:
        return
    some = np.abs(numerator) > 1e-9 * np.abs(numerator).max()
    some &= np.isfinite(factor) & (factor != 0) & np.isfinite(variance)
    if not some.any():
        return
    with np.errstate(all="ignore"):
        each = from_denominator(variance[some], numerator[some] / factor[some])
        # Rounding of the variance hides eps: channels of a small variance tell it best.
        size = np.abs(variance[some])
        weight = 1 / np.maximum(size, 1e-6 * size.max()) ** 2
        eps = float((each * weight).sum() / weight.sum())
    if not np.isfinite(eps) or not -1e-9 < eps < LARGEST_EPS:
        eps = config.norm_eps
    for value in dict.fromkeys((config.norm_eps, 0.0, float(f"{eps:.3g}"), float(f"{eps:.6g}"), rounded(eps), eps)):
        with np.errstate(all="ignore"):
            predicted = numerator / DENOMINATORS[formula.denominator][0](variance, value)
        if value >= 0 and relative_error(predicted[np.isfinite(factor)], factor[np.isfinite(factor)]) <= FITS:
            yield value
            return


LARGEST_EPS = 1.0
"""Upper bound of an eps."""


def _gives_offset(formula: Formula, x: Array, offset: Array, own: Mapping[str, Array]) -> bool:
    """Tell whether a formula gives the measured offsets (batch, channels)."""
    mean, variance = (_per_image(each, offset.shape) for each in formula.moments(x, own))
    with np.errstate(all="ignore"):
        scale = array_in_role(formula.scale, own)[:, :, 0, 0] / DENOMINATORS[formula.denominator][0](
            variance, formula.eps
        )
        shift = array_in_role(formula.offset, own)[:, :, 0, 0] - mean * scale
    known = np.isfinite(offset)
    size = float(np.linalg.norm(offset[known]) + np.linalg.norm(scale[np.isfinite(scale)]))
    return bool(np.linalg.norm(shift[known] - offset[known]) <= 10 * FITS * size)


def _per_image(statistic: Array, shape: tuple[int, ...]) -> Array:
    """Return a statistic as (batch, channels); of each pixel's own, there is none.

    Raises:
        NotIdentified: If it differs within a map.
    """
    if statistic.shape[2:] != (1, 1):
        raise NotIdentified("has statistics of each pixel")
    return np.broadcast_to(statistic[:, :, 0, 0], shape)


def _differences(formula: Formula, config: ResNetConfig, mode: str) -> Iterator[Difference]:
    expected = expected_statistics(mode)
    if formula.before or formula.after:
        where = "before" if formula.before else "behind"
        words = f"has a ReLU {where} it, within the same activation" if formula.after else "has a ReLU before it"
        yield Difference("activation", f"ReLU {where}", "none", words, "relu-first" if formula.before else "")
    if formula.owner:
        yield Difference("arrays", formula.owner, "its own", f"uses the arrays of {formula.owner}")
    if formula.lender:
        yield Difference(
            "running statistics", formula.lender, "its own", f"uses the running statistics of {formula.lender}"
        )
    if formula.statistics != expected:
        words = f"uses {STATISTICS[formula.statistics].words}; {STATISTICS[expected].words} are expected"
        faults = {("batch", "running"): "bn-batch-stats", ("running", "batch"): "bn-frozen"}
        yield Difference(
            "statistics", formula.statistics, expected, words, faults.get((formula.statistics, expected), "")
        )
    if formula.denominator:
        _, _, words, fault = DENOMINATORS[formula.denominator]
        yield Difference("denominator", formula.denominator, "sqrt(variance + eps)", words, fault)
    yield from _role_differences(formula)
    if formula.eps != config.norm_eps:
        words = f"adds eps = {number(formula.eps)}; {number(config.norm_eps)} is expected"
        if formula.eps == 0:
            words = f"adds no eps; {number(config.norm_eps)} is expected"
        yield Difference("eps", formula.eps, config.norm_eps, words, EPS_FAULTS.get(formula.eps, "eps-other"))


EPS_FAULTS = {1e-3: "eps-keras", 1.001e-5: "eps-1.001", 1e-5: "eps-1e-5", 0.0: "eps-zero"}
"""The catalogue's rows of usual values of eps."""

PAIR_FAULTS = {
    frozenset({"running_mean", "bias"}): "mean-offset-swap",
    frozenset({"weight", "running_var"}): "scale-var-swap",
    frozenset({"weight", "bias"}): "scale-offset-swap",
}

LOST = {
    "weight": ("one", "its scale is left at 1, as initialised", "scale-not-loaded"),
    "bias": ("zero", "its offset is left at 0, as initialised", "offset-not-loaded"),
    "running_mean": ("zero", "no mean is subtracted", "mean-not-loaded"),
    "running_var": ("one", "its running variance is left at 1, as initialised", "var-not-loaded"),
}
"""Values that take the place of a missing array, by role: in words, and the catalogue's row."""


def _role_differences(formula: Formula) -> Iterator[Difference]:
    """Say which arrays are in each other's place, missing, or used twice."""
    placed = {
        "weight": formula.scale,
        "bias": formula.offset,
        "running_mean": formula.mean,
        "running_var": formula.variance,
    }
    if formula.statistics != "running":
        placed["running_var"] = "running_var"
    wrong = {role: name for role, name in placed.items() if name != role}
    if (
        {"running_mean", "running_var"} <= wrong.keys()
        and wrong["running_mean"] == "zero"
        and wrong["running_var"] == "one"
    ):
        yield Difference(
            "running statistics",
            "as initialised",
            "its own",
            "its running mean and variance are left at 0 and 1, as initialised",
            "norm-not-loaded",
        )
        wrong = {role: name for role, name in wrong.items() if not role.startswith("running")}
    for role, name in list(wrong.items()):
        other = MAGNITUDES.get(name, name)
        if role in wrong and MAGNITUDES.get(wrong.get(other, ""), wrong.get(other)) == role:
            signless = [each for each in (name, wrong[other]) if each in MAGNITUDES]
            words = f"its {ROLES[role]} and its {ROLES[other]} are in each other's place"
            words += "".join(f", the {ROLES[MAGNITUDES[each]]} without its signs" for each in signless)
            fault = "" if signless else PAIR_FAULTS.get(frozenset({role, other}), "")
            yield Difference(ROLES[role], ROLES[other], ROLES[role], words, fault)
            del wrong[role], wrong[other]
    for role, name in wrong.items():
        empty, words, fault = LOST[role]
        if name == empty:
            yield Difference(ROLES[role], empty, "its own", words, fault)
        elif name == "one plus":
            yield Difference("scale", "1 + scale", "scale", "multiplies by 1 + scale; the scale alone is expected")
        else:
            other = MAGNITUDES.get(name, name)
            source = f"{ROLES.get(other, other)}{', without its signs,' if name in MAGNITUDES else ''}"
            yield Difference(ROLES[role], source.rstrip(","), "its own", f"its {source} stands for its {ROLES[role]}")


Special = Callable[[Formula, Array, str, Arrays, float], Array]
"""Takes the right formula, a map, the norm's path, the arrays and a factor to the output."""

SPECIAL: dict[str, tuple[str, str, Special]] = {
    "missing": ("passes its input on: the norm is missing", "", lambda right, x, path, arrays, factor: x),
    "applied twice": (
        "is applied twice",
        "",
        lambda right, x, path, arrays, factor: right(right(x, path, arrays), path, arrays),
    ),
    "factor of its output": (
        "multiplies its output by {factor}",
        "",
        lambda right, x, path, arrays, factor: factor * right(x, path, arrays),
    ),
    "factor of its scale": (
        "multiplies its scale by {factor}",
        "scale-scaled",
        lambda right, x, path, arrays, factor: (
            factor * (y := right(x, path, arrays)) + (1 - factor) * _shift(y, path, arrays)
        ),
    ),
}
"""Norms that no formula of one norm's arrays gives: in words, the catalogue's row, and the function."""


def _shift(y: Array, path: str, arrays: Arrays) -> Array:
    return np.broadcast_to(per_channel(np.asarray(arrays[f"{path}.bias"], np.float64)), y.shape)


def _factor(function: Special, right: Formula, exam: Exam) -> float:
    """Estimate the factor in which a function is linear."""
    x, y = exam.asked["first"], exam.answers["first"]
    zero = function(right, x, exam.link.layer, exam.arrays, 0.0)
    slope = function(right, x, exam.link.layer, exam.arrays, 1.0) - zero
    size = float((slope**2).sum())
    return rounded(float(((y - zero) * slope).sum()) / size) if y.shape == x.shape and size else 0.0


def _special(function: Special, right: Formula, factor: float, x: Array, path: str, arrays: Arrays) -> Array:
    return function(right, x, path, arrays, factor)


def _norm_fact(
    exam: Exam, compute: NormFunction, differences: list[Difference], error: float, elsewhere: bool = True
) -> Fact:
    """Make a fact of a norm; `elsewhere` tells whether it may be true of another norm, too."""

    def law(other: Link, inputs: Arrays, arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
        if not elsewhere and other.name != exam.link.name:
            raise NotIdentified("uses the arrays of one certain norm")
        return compute(inputs[other.inputs[0]], other.layer, arrays)

    return exam.fact(differences, error, law)
