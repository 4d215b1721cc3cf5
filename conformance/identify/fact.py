"""Facts: the result of a measurement, in words, in numbers, and as a function that can be executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conformance.cases.case import Mode
from conformance.identify.link import Array, Arrays, Link, links
from impls.config import ResNetConfig

PREDICTED = 1e-12
"""Largest relative L2 error with which a fit must predict a probe that it was not made from, to count."""

Law = Callable[[Link, Arrays, Arrays, ResNetConfig, bool], Array]
"""The function that a link computes: from (link, inputs by name, canonical arrays, config, train) to its output.

It has the signature of `conformance.identify.link.expected_output`. A law that was measured at one link may be tried at
another one of the same kind, whose arrays it then uses."""


class NotIdentified(Exception):
    """Raised where a measurement ends without a fact; the message says why, as a predicate: "is no linear map"."""


@dataclass(frozen=True)
class Fact:
    """A statement of what a layer computes, as it was measured.

    Attributes:
        layer: The layer that was measured.
        kind: Its kind ("convolution").
        words: What it does and what is expected, as a predicate ("adds eps = 0.00037; 1e-05 is expected") or as a
            clause that begins with "its".
        measured: The measured properties that differ from the expected ones, as JSON values.
        expected: The expected values of the same properties.
        error: Relative L2 error with which the fit predicts a probe that it was not made from; infinite where the layer
            is not executable, and nothing was fitted.
        fault: Id of the catalogue's row that says the same; empty if there is none.
        law: The layer as an executable function; None where what was measured cannot be executed.
        layers: All layers of which the same was found.
        subject: These layers in the fewest words ("all 53 norms"); empty for the layer's name.
        mode: The mode in which the layer differs, "inference" or "train"; empty for both.
    """

    layer: str
    kind: str
    words: str
    measured: Mapping[str, Any]
    expected: Mapping[str, Any]
    error: float = np.inf
    fault: str = ""
    law: Law | None = field(default=None, compare=False, repr=False)
    layers: tuple[str, ...] = ()
    subject: str = ""
    mode: str = ""

    @property
    def text(self) -> str:
        """Say the fact in a sentence, once for all the layers that are alike."""
        subject = self.subject or self.layer
        subject += f", in {self.mode} mode" if self.mode else ""
        if self.words.startswith(("it ", "its ", "the ")) or self.words[:1].isdigit():
            return f"{subject}: {self.words}"
        return f"{subject}{',' if self.mode else ''} {self.words}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "layer": self.layer,
            "layers": list(self.layers or (self.layer,)),
            "kind": self.kind,
            "mode": self.mode,
            "words": self.words,
            "measured": dict(self.measured),
            "expected": dict(self.expected),
            "predicts_to": self.error if np.isfinite(self.error) else None,
            "fault": self.fault,
            "text": self.text,
        }


@dataclass(frozen=True)
class Unidentified:
    """A layer of which no fact could be measured.

    Attributes:
        layer: The layer.
        words: Why not, as a predicate: "is no linear map of its input".
    """

    layer: str
    words: str

    @property
    def text(self) -> str:
        """Say it in a sentence."""
        return f"{self.layer} {self.words}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"layer": self.layer, "layers": [self.layer], "words": self.words, "text": self.text}


@dataclass(frozen=True)
class Difference:
    """A property of a layer that is not as it should be.

    Attributes:
        name: The property ("dilation").
        measured: Its value as a JSON value.
        expected: The value that it should have.
        words: The clause that says both; empty for "NAME MEASURED", where "EXPECTED" is expected.
        fault: Id of the catalogue's row that says the same.
    """

    name: str
    measured: Any
    expected: Any
    words: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Exam:
    """A link with what it was asked and what it answered, from which facts are made.

    Attributes:
        link: The link.
        asked: Part of the measurement to the link's input; of a sum, to its inputs by name.
        answers: The outputs, by the same parts.
        arrays: Canonical arrays of the network, in float64.
        config: The network.
        mode: The mode in which it was asked.
    """

    link: Link
    asked: Mapping[str, Any]
    answers: Mapping[str, Array]
    arrays: Arrays
    config: ResNetConfig
    mode: Mode = "inference"

    def error(self, compute: Callable[..., Array], part: str = "held-out") -> float:
        """Return the relative L2 error with which a function of the input gives the output, of the held-out probe."""
        return relative_error(compute(self.asked[part]), self.answers[part])

    def fact(self, differences: Sequence[Difference], error: float = np.inf, law: Law | None = None) -> Fact:
        """Make a fact of the properties in which the link differs; of one, its row of the catalogue is the fact's.

        Raises:
            NotIdentified: If there are none.
        """
        if not differences:
            raise NotIdentified("computes what is expected, as far as probes show")
        return fact_of(self.link.name, self.link.kind, differences, error, law, self.mode)


def law_of(compute: Callable[[Array], Array]) -> Law:
    """Make the law of a link that is a function of its one input."""
    return lambda link, inputs, *rest: compute(inputs[link.inputs[0]])


def fact_of(
    layer: str, kind: str, differences: Sequence[Difference], error: float, law: Law | None = None, mode: str = ""
) -> Fact:
    """Make a fact of the properties in which a layer differs; of one, its row of the catalogue is the fact's."""
    return Fact(
        layer,
        kind,
        "; ".join(difference.words for difference in differences),
        {difference.name: difference.measured for difference in differences},
        {difference.name: difference.expected for difference in differences},
        error,
        differences[0].fault if len(differences) == 1 else "",
        law,
        mode=mode,
    )


def group_words(names: Sequence[str], config: ResNetConfig) -> str:
    """Name some links in the fewest words.

    Example:
        >>> config = ResNetConfig()
        >>> group_words([link.name for link in links(config) if link.kind == "norm"], config)
        'each of the 53 norms'
        >>> group_words(["stage2.0.conv2", "stage3.0.conv2"], config)
        'each of stage2.0.conv2 and stage3.0.conv2'
    """
    if len(names) == 1:
        return names[0]
    every = list(links(config))
    for words, among in _groups(every):
        if {*among} == {*names}:
            return f"each of {words}"
    if len(names) <= LISTED:
        return f"each of {', '.join(names[:-1])} and {names[-1]}"
    return f"each of {', '.join(names[: LISTED - 1])} and {len(names) - LISTED + 1} others alike"


LISTED = 4
"""Largest number of layers that are listed one by one."""

PLURAL = {"convolution": "convolutions", "norm": "norms", "sum": "sums of branch and shortcut"}


def _groups(every: Sequence[Link]) -> list[tuple[str, list[str]]]:
    """List groups of links with a name of their own, the largest first."""
    groups = []
    for kind, plural in PLURAL.items():
        alike = [link for link in every if link.kind == kind]
        groups.append((f"the {len(alike)} {plural}", [link.name for link in alike]))
        for facts in dict.fromkeys((link.kernel, link.stride) for link in alike if kind == "convolution"):
            kernel, stride = facts
            some = [link.name for link in alike if (link.kernel, link.stride) == facts]
            groups.append((f"the {len(some)} convolutions of size {kernel}x{kernel} and stride {stride}", some))
        for role in dict.fromkeys(link.role for link in alike):
            some = [link.name for link in alike if link.role == role and "." in link.name]
            groups.append((f"the {len(some)} {role} layers of the blocks", some))
        for stage in ("stage1", "stage2", "stage3", "stage4"):
            some = [link.name for link in alike if link.name.startswith(f"{stage}.")]
            groups.append((f"the {len(some)} {plural} of {stage}", some))
            for role in dict.fromkeys(link.role for link in alike):
                named = [link.name for link in alike if link.name.startswith(f"{stage}.") and link.role == role]
                groups.append((f"the {len(named)} {role} layers of {stage}", named))
    return groups


def number(value: float) -> str:
    """Write a number with as many digits as it needs, at most six.

    Example:
        >>> number(0.00037), number(2.0), number(1e-5), number(-0.25)
        ('0.00037', '2', '1e-05', '-0.25')
    """
    return f"{value:.6g}"


def relative_error(expected: Array, measured: Array) -> float:
    """Compute the relative L2 error of an array; infinite where shapes differ or something is not finite."""
    if expected.shape != measured.shape:
        return float("inf")
    with np.errstate(all="ignore"):
        difference = float(np.linalg.norm((measured - expected).ravel()))
        size = float(np.linalg.norm(measured.ravel()))
    if not np.isfinite(difference) or not np.isfinite(size):
        return float("inf")
    return difference / size if size else (0.0 if difference == 0 else float("inf"))
