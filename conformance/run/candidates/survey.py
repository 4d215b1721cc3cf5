"""Surveys: what a worker finds out about a model before anything is planned; and the exception of unfit models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weights_convert.shapes import Shape
from weights_convert.table import Framework


@dataclass(frozen=True)
class Survey:
    """The facts that a worker found out about a model.

    Attributes:
        kind: Row of the table of kinds.
        framework: The framework whose column of the conversion table its arrays follow.
        shapes: Shape of every array by the model's own name.
        packages: Installed distributions that it comes from.
        facts: Fields of the model's own configuration, where its library gives it one.
        decay: The share of the running statistic that its norms keep; None where that is not known.
        cannot: What it cannot do, each with the reason.
        weights: File of the model's own weights under its own names, where they were asked for.
        sides: Height and width of the images that it is fixed to; None if it takes any.
        batch: Number of images that it is fixed to; None if it takes any.
    """

    kind: str
    framework: Framework
    shapes: Mapping[str, Shape]
    packages: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    decay: float | None = None
    cannot: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""
    sides: tuple[int, int] | None = None
    batch: int | None = None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Survey:
        """Read what `to_dict` returned, also after it went through JSON."""
        shapes = {name: tuple(shape) for name, shape in fields["shapes"].items()}
        sides = tuple(fields["sides"]) if fields["sides"] else None
        return cls(**{**fields, "shapes": shapes, "packages": tuple(fields["packages"]), "sides": sides})


class Unfit(RuntimeError):
    """A model whose runs cannot be judged, or are wrong before anything is compared.

    Attributes:
        lacks: What it lacks ("float64"): it is then not compared there. Empty where the model is wrong.
        layer: The first layer at which it is wrong.
        error: By how much, as a relative L2 error; None where nothing was measured.
    """

    def __init__(self, reason: str, lacks: str = "", layer: str = "", error: float | None = None) -> None:
        super().__init__(reason)
        self.lacks, self.layer, self.error = lacks, layer, error

    def facts(self) -> dict[str, Any]:
        """Return what a worker says of it."""
        return {"reason": str(self), "lacks": self.lacks, "layer": self.layer, "error": self.error}
