"""Identification of gradients: the factor of each array's gradient, and the loss by its gradient for the logits.

Where all gradients are multiples of the right ones, the factors say it all. Where the loss is another one, its gradient
for the logits is solved for: that of the classifier's weight is its product with the pooled features. It is then
compared with the gradients of usual losses, and gives targets, smoothing and the weight of each image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from conformance.cases.batches import labels_for
from conformance.cases.names import OFFSET
from conformance.cases.recipes import LOSS
from conformance.identify.fact import LISTED, Fact, Unidentified, number, relative_error
from conformance.identify.gradient_gates import find_gate
from conformance.identify.identification import Identification
from conformance.identify.link import Array, Arrays
from conformance.identify.step_facts import array_words, joined
from conformance.oracle.gradients import SegmentedGradients

PREDICTED = 1e-11
"""Largest relative L2 error of a gradient that counts as reproduced: the limit of right gradients."""

LOSS_LIMIT = 1e-12
"""Largest relative error of a loss that counts as reproduced."""

PREFIX = "gradient."


def identify_gradients(oracle: SegmentedGradients, candidate: Arrays) -> Identification:
    """Measure by which factors a candidate's gradients differ from the right ones, and of which loss they are.

    Args:
        oracle: The right gradients.
        candidate: The candidate's arrays by the names that cases give them: "loss", "gradient.fc.bias", ...
    """
    right = {name: array for _, _, arrays in oracle.run([]) for name, array in arrays.items()}
    right_loss = [right["loss"]]  # a gradient may be scaled where the loss is not
    facts: list[Fact] = []
    loss = measure_loss(oracle, candidate)
    if loss is not None and (words := loss.words(oracle)):
        right |= loss.gradients(oracle) | {"loss": np.array([loss.value(oracle)])}
        facts.append(
            Fact("logits", "loss", words, loss.measured(), {"loss": "softmax"}, loss.error, subject="the loss")
        )
    sizes = {name: float(np.linalg.norm(array.ravel())) for name, array in right.items()}
    if not facts and (found := find_gate(oracle, right, candidate, PREDICTED)):
        facts.append(found[0])
        right |= found[1]
    multiples = Multiples(right, candidate, oracle.train, sizes)
    facts += multiples.facts()
    unidentified = multiples.unidentified()
    values = [float(np.ravel(array)[0]) for array in (right["loss"], *right_loss, candidate["loss"])]
    if not any(abs(value - values[-1]) <= LOSS_LIMIT * abs(values[-1]) for value in values[:-1]):
        unidentified = (*unidentified, Unidentified("loss", "has a value that its gradients do not explain"))
    reproduced = multiples.left() if facts and not unidentified else None
    return Identification(facts, unidentified, reproduced=reproduced, task="gradients")


@dataclass(frozen=True, eq=False)
class Multiples:
    """The gradients of a candidate as multiples of the right ones.

    Attributes:
        right: The right gradients, and the loss.
        candidate: The candidate's.
        train: Whether norms use the batch's statistics, by which some gradients are noise.
        sizes: Norms of the gradients of a right network; what is small beside them may be noise.
    """

    right: Arrays
    candidate: Arrays
    train: bool
    sizes: Mapping[str, float]

    def factors(self) -> dict[str, float]:
        """Return the factor of each gradient that is a multiple of the right one, by the array's name."""
        found = {}
        for name, expected in self._judged().items():
            size = float(np.vdot(expected, expected))
            factor = float(np.vdot(expected, self.candidate[name])) / size if size else 1.0
            for value in (1.0, 0.0, float(f"{factor:.6g}"), factor):
                if self._left(name, value) <= PREDICTED:
                    found[name.removeprefix(PREFIX)] = value
                    break
        return found

    def _judged(self) -> dict[str, Array]:
        return {
            name: array
            for name, array in self.right.items()
            if name.startswith(PREFIX)
            and name in self.candidate
            and self.candidate[name].shape == array.shape
            and not (self.train and OFFSET.fullmatch(name.removeprefix(PREFIX)))
        }

    def _left(self, name: str, factor: float) -> float:
        """Return what a factor leaves of a gradient, relative to the right one."""
        right = self.right[name]
        size = max(float(np.linalg.norm(right.ravel())), self.sizes[name])
        left = float(np.linalg.norm((self.candidate[name] - factor * right).ravel()))
        return left / size if size else (0.0 if left == 0 else np.inf)

    def facts(self) -> list[Fact]:
        """Say which gradients have a factor, once for all with the same."""
        groups: dict[float, list[str]] = {}
        factors = self.factors()
        for name, factor in factors.items():
            groups.setdefault(float(f"{factor:.9g}"), []).append(name)
        facts = []
        for factor, names in groups.items():
            if factor != 1.0:
                error = max(self._left(PREFIX + name, factors[name]) for name in names)
                layers = tuple(PREFIX + name for name in names)
                values = {"factor": factor}, {"factor": 1.0}
                words, subject = _factor_words(factor), self._subject(names)
                facts.append(Fact(layers[0], "gradient", words, *values, error, layers=layers, subject=subject))
        return facts

    def _subject(self, names: Sequence[str]) -> str:
        """Name arrays in the fewest words: all from one on, in the order that gradients pass, or a group."""
        every = [name.removeprefix(PREFIX) for name in self._judged()]
        if len(names) > 1 and {*names} == {*every[every.index(names[0]) :]}:
            return f"everything from {names[0]} back to the images" if len(names) < len(every) else "everything"
        rest = [name for name in names if name != "input"]
        images = " and the images" if "input" in names else ""
        return array_words(rest, [name for name in every if name != "input"]) + images if rest else "the images"

    def unidentified(self) -> tuple[Unidentified, ...]:
        """Say which gradients are no multiples of the right ones, once."""
        factors = self.factors()
        names = [name for each in self._judged() if (name := each.removeprefix(PREFIX)) not in factors]
        if not names:
            return ()
        return (Unidentified(self._subject(names), "has a gradient that is no multiple of the right one"),)

    def left(self) -> float:
        """Return the largest error that the factors leave of a gradient."""
        return max((self._left(PREFIX + name, factor) for name, factor in self.factors().items()), default=0.0)


def _factor_words(factor: float) -> str:
    if factor == 0:
        return "has no gradient: it is zero"
    if factor == -1:
        return "has its right gradient with the opposite sign"
    return f"has its right gradient multiplied by {number(factor)}"


def _softmax(logits: Array) -> Array:
    likelihood = np.exp(logits - logits.max(1, keepdims=True))
    result: Array = likelihood / likelihood.sum(1, keepdims=True)
    return result


def _sigmoid(logits: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-logits))
    return result


class Form(NamedTuple):
    """A loss whose gradient for the logits is (likelihood - target) / count.

    Attributes:
        likelihood: Takes logits to likelihoods.
        count: Takes logits to the number that divides.
        value: Takes logits and targets to the loss of each image, before it is averaged.
    """

    likelihood: Callable[[Array], Array]
    count: Callable[[Array], int]
    value: Callable[[Array, Array], Array]


def _cross_entropy(logits: Array, targets: Array) -> Array:
    value: Array = -(targets * np.log(_softmax(logits))).sum(1)
    return value


def _binary(logits: Array, targets: Array) -> Array:
    value: Array = (np.logaddexp(0, logits) - targets * logits).sum(1)
    return value


LOSSES = {
    "cross-entropy of a softmax": Form(_softmax, len, _cross_entropy),
    "binary cross-entropy of sigmoids, averaged over images and classes": Form(_sigmoid, np.size, _binary),
    "binary cross-entropy of sigmoids, summed over the classes": Form(_sigmoid, len, _binary),
}
"""Losses by their words, the right one first."""


@dataclass(frozen=True, eq=False)
class MeasuredLoss:
    """A loss as its gradient for the logits shows it.

    Attributes:
        name: Key of `LOSSES`.
        labels: The class of each image.
        smoothing: Share of the target that is spread evenly over all classes.
        weights: Weight of each class; 1 is expected, and not a number stands for a class that does not matter.
        by_logits: The gradient of the loss for the logits, (batch, classes).
        error: Relative L2 error that these facts leave of it.
    """

    name: str
    labels: Sequence[int]
    smoothing: float
    weights: Sequence[float]
    by_logits: Array
    error: float

    def words(self, oracle: SegmentedGradients) -> str:
        """Say how the loss differs from the right one; empty where it does not."""
        right = [int(label) for label in labels_for(len(oracle.images), oracle.config.num_classes)]
        said = []
        if self.name != next(iter(LOSSES)):
            said.append(f"is the {self.name}; the {next(iter(LOSSES))} is expected")
        if list(self.labels) != right:
            shifts = {(label - own) % oracle.config.num_classes for label, own in zip(self.labels, right, strict=True)}
            by = f": labels are off by {shifts.pop()}" if len(shifts) == 1 else ""
            labels, expected = joined(map(str, self.labels)), joined(map(str, right))
            said.append(f"is that of the labels {labels}; {expected} are expected{by}")
        if abs(self.smoothing - LOSS.label_smoothing) > 1e-9:
            measured = f"a label smoothing of {number(self.smoothing)}" if self.smoothing else "no label smoothing"
            said.append(f"has {measured}; {number(LOSS.label_smoothing)} is expected")
        known = self.known_weights()
        if len(known) == 1 and known[0] != 1:
            summed = ", as where it is summed over the batch" if known[0] == len(oracle.images) else ""
            said.append(f"has a gradient that is multiplied by a factor of {number(known[0])}{summed}")
        elif len(known) > 1:
            weights = (
                joined(map(number, known)) if len(known) <= LISTED else f"{number(known[0])} to {number(known[-1])}"
            )
            said.append(f"weights its classes by {weights}; 1 each is expected")
        return "; it ".join(said)

    def known_weights(self) -> list[float]:
        """Return the weights of classes that differ, in ascending order."""
        return sorted({float(f"{weight:.9g}") for weight in self.weights if np.isfinite(weight)})

    def value(self, oracle: SegmentedGradients) -> float:
        """Compute the loss itself."""
        logits = oracle.activations["logits"]
        form = LOSSES[self.name]
        targets = _targets(np.array(self.labels), logits.shape[1], self.smoothing) * np.nan_to_num(self.weights)
        return float(form.value(logits, targets).sum()) / form.count(logits)

    def measured(self) -> dict[str, object]:
        """Return the facts as JSON values."""
        return {
            "loss": self.name,
            "labels": list(self.labels),
            "smoothing": self.smoothing,
            "weights": self.known_weights(),
        }

    def gradients(self, oracle: SegmentedGradients) -> dict[str, Array]:
        """Compute the gradients of this loss, from the classifier to the images."""
        config, activations = oracle.config, oracle.activations
        last = oracle.segments[1]
        x = activations[last]
        height, width = (min(size, config.head_pool or size) for size in x.shape[2:])
        entering = np.zeros_like(x)
        passed = self.by_logits @ np.asarray(oracle.arrays["fc.weight"], np.float64)
        entering[:, :, :height, :width] = passed[:, :, None, None] / (height * width)
        gradients = {
            "gradient.fc.weight": self.by_logits.T @ activations["pool"],
            "gradient.fc.bias": self.by_logits.sum(0),
        }
        for _, _, arrays in oracle.run([], last, entering):
            gradients |= arrays
        return gradients


def measure_loss(oracle: SegmentedGradients, candidate: Mapping[str, Array]) -> MeasuredLoss | None:
    """Measure the loss by the gradient of the classifier's weight; None where that is of no known loss."""
    pool, logits = oracle.activations["pool"], oracle.activations["logits"]
    of_weight = candidate.get("gradient.fc.weight")
    if of_weight is None or of_weight.shape != (logits.shape[1], pool.shape[1]) or not of_weight.any():
        return None
    solved, *_ = np.linalg.lstsq(pool.T, np.asarray(of_weight, np.float64).T, rcond=None)
    by_logits: Array = solved
    if relative_error(by_logits.T @ pool, of_weight) > PREDICTED:
        return None
    own = labels_for(len(logits), logits.shape[1])
    for weighted, (name, form) in product((False, True), LOSSES.items()):
        likelihood, difference = form.likelihood(logits), by_logits * form.count(logits)
        targets = likelihood - difference
        labels = own if weighted else targets.argmax(1)
        for smoothing in (LOSS.label_smoothing, 0.0, _smoothing(targets, labels)):
            weights = _class_weights(likelihood, difference, labels, smoothing) if weighted else None
            error = relative_error(_weighted(likelihood, labels, smoothing, weights), difference)
            if error <= PREDICTED:
                values = [1.0] * logits.shape[1] if weights is None else [*map(float, weights)]
                return MeasuredLoss(name, [*map(int, labels)], smoothing, values, by_logits, error)
    return None


def _weighted(likelihood: Array, labels: Array, smoothing: float, weights: Array | None) -> Array:
    """Compute the gradient of a loss for the logits, times the count; classes may have weights, as PyTorch's have.

    With the target t of an image and the weights w of the classes it is likelihood * sum(t * w) - t * w.
    """
    targets = _targets(labels, likelihood.shape[1], smoothing)
    if weights is not None:
        targets = targets * np.nan_to_num(weights)
    difference: Array = likelihood * targets.sum(1, keepdims=True) - targets
    return difference


def _class_weights(likelihood: Array, difference: Array, labels: Array, smoothing: float) -> Array:
    """Solve for the weight of each class; a class that is in no target has none.

    For a class, the gradients of all images are likelihood * sums - targets * weight. What is left without the part
    along the targets gives the sums, which are one for each image; these give the weights.
    """
    targets = _targets(labels, likelihood.shape[1], smoothing)
    sizes = np.linalg.norm(targets, axis=0)
    along = (targets / np.where(sizes == 0, 1.0, sizes)).T  # (classes, images), of length 1
    factors = np.eye(len(labels))[None] * likelihood.T[:, None, :]
    factors -= along[:, :, None] * (along * likelihood.T)[:, None, :]
    left = difference.T - along * (along * difference.T).sum(1, keepdims=True)
    sums, *_ = np.linalg.lstsq(factors.reshape(-1, len(labels)), left.ravel(), rcond=None)
    with np.errstate(all="ignore"):
        weights: Array = (targets * (likelihood * sums[:, None] - difference)).sum(0) / sizes**2
    return weights


def _targets(labels: Array, classes: int, smoothing: float) -> Array:
    result: Array = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    return result


def _smoothing(targets: Array, labels: Array) -> float:
    """Return the share of targets that is spread evenly, by those of the other classes."""
    others = np.ones_like(targets, bool)
    others[np.arange(len(labels)), labels] = False
    share: float = np.mean(targets[others]).item() * targets.shape[1]
    return share
