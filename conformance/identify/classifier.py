"""The classifier: what stands around it, such as a softmax, recognised before its matrix is measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from conformance.identify.curve import rounded, sigmoid
from conformance.identify.fact import PREDICTED, Difference, Exam, Fact, number
from conformance.identify.link import Array, Arrays, Link
from impls.config import ResNetConfig

Head = Callable[[Array, Array, Array], Array]
"""Takes features (batch, in), the matrix (out, in) and the bias (out,) to the output."""


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: Array = powers / powers.sum(1, keepdims=True)
    return shares


def _unit(rows: Array) -> Array:
    result: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


HEADS: dict[str, tuple[str, str, Head]] = {
    "softmax": (
        "ends in a softmax: it returns probabilities, not logits",
        "softmax-included",
        lambda x, w, b: _softmax(x @ w.T + b),
    ),
    "log softmax": ("ends in the logarithm of a softmax", "", lambda x, w, b: np.log(_softmax(x @ w.T + b))),
    "sigmoid": ("ends in a sigmoid", "", lambda x, w, b: sigmoid(x @ w.T + b)),
    "tanh": ("ends in a tanh", "", lambda x, w, b: np.tanh(x @ w.T + b)),
    "ReLU": ("ends in a ReLU", "", lambda x, w, b: np.maximum(x @ w.T + b, 0)),
    "ReLU before": ("takes ReLU of the features first", "", lambda x, w, b: np.maximum(x, 0) @ w.T + b),
    "features of length one": ("divides the features by their length first", "", lambda x, w, b: _unit(x) @ w.T + b),
    "cosine": (
        "returns cosines: features and the rows of its matrix are divided by their lengths",
        "",
        lambda x, w, b: _unit(x) @ _unit(w).T,
    ),
    "rows of length one": ("divides the rows of its matrix by their lengths", "", lambda x, w, b: x @ _unit(w).T + b),
}
"""Functions that may stand around a classifier: words, the catalogue's row, and the function."""


def identify_head(exam: Exam) -> Fact | None:
    """Recognise a classifier that is the right one with something around it; None if it is not."""
    weight, bias = exam.arrays["fc.weight"], exam.arrays["fc.bias"]
    heads = {**HEADS, **_scaled(exam.asked["kernel"] @ weight.T + bias, exam.answers["kernel"])}
    for name, (words, fault, head) in heads.items():
        with np.errstate(all="ignore"):
            error = max(exam.error(lambda x, head=head: head(x, weight, bias), part) for part in ("kernel", "held-out"))
        if error <= PREDICTED:

            def law(
                other: Link, inputs: Arrays, own: Arrays, config: ResNetConfig, train: bool, head: Head = head
            ) -> Array:
                return head(inputs[other.inputs[0]], own["fc.weight"], own["fc.bias"])

            return exam.fact([Difference("around it", name, "nothing", words, fault)], error, law)
    return None


def _scaled(expected: Array, output: Array) -> dict[str, tuple[str, str, Head]]:
    """Return logits times a factor, which is estimated, unless it is one."""
    if expected.shape != output.shape:
        return {}
    factor = rounded(float((expected * output).sum() / (expected**2).sum()))
    if abs(factor - 1) < 1e-11:
        return {}
    words = f"multiplies the logits by {number(factor)}"
    return {"factor": (words, "logits-scaled", lambda x, w, b: factor * (x @ w.T + b))}
