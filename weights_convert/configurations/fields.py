"""Tables of the fields of a library's configuration, and the reading of a configuration by such a table.

A table has a row for every field: one that decides the function, with the variants that each of its values belongs to;
one that states a size, which the arrays must have; or one that leaves the function as it is, with the reason why.
Whatever has no row is unclassified, and nobody knows what it does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from impls.config import VARIANTS, ResNetConfig

ALL = tuple(VARIANTS)
"""The names of all variants, for values that every variant has."""


class Absent:
    """Type of `ABSENT`, which stands for a field that a configuration does not have."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()


@dataclass(frozen=True)
class Field:
    """A field of a library's configuration. Make it with `decides`, `states` or `neutral`.

    Attributes:
        what: For a field that decides the function or states a size, what it is about ("the stride of stage 1"); for
            any other, why it leaves the function as it is.
        variants: For a field that decides the function, the variants that each value belongs to, by the value in JSON.
        default: The value that the library takes where the field is absent; `ABSENT` if there is none.
        sizes: For a field that states a size, a function that returns the values that fit a network; None if any does.
        measure: A function of the value that is compared, such as its length.
        by_place: Whether it decides the function, and its value depends on the place of the layer that it belongs to.
    """

    what: str
    variants: Mapping[str, tuple[str, ...]] | None = None
    default: Any = ABSENT
    sizes: Callable[[ResNetConfig], list[Any] | None] | None = None
    measure: Callable[[Any], Any] = lambda value: value
    by_place: bool = False

    @property
    def kind(self) -> str:
        """The effect of the field, in a word or two."""
        if self.variants is not None or self.by_place:
            return "decides the function"
        return "states a size" if self.sizes is not None else "no part of the function"


def decides(
    what: str,
    *values: tuple[Any, Iterable[str]],
    default: Any = ABSENT,
    sizes: Callable[[ResNetConfig], list[Any] | None] | None = None,
    measure: Callable[[Any], Any] = lambda value: value,
) -> Field:
    r"""Return a field that decides the function.

    Args:
        what: What it decides, for messages.
        *values: Each value that a variant has, with the variants that have it.
        default: The value that the library takes where the field is absent.
        sizes: A function that returns the values that fit a network, if the field states a size as well.
        measure: A function of the value that is compared.

    Example:
        >>> decides("the activation", ("relu", ALL)).variants["\"relu\""] == ALL
        True
    """
    return Field(what, {as_json(value): tuple(names) for value, names in values}, default, sizes, measure)


def states(
    what: str, sizes: Callable[[ResNetConfig], list[Any] | None], measure: Callable[[Any], Any] = lambda value: value
) -> Field:
    """Return a field that states a size, which the arrays must have."""
    return Field(what, sizes=sizes, measure=measure)


def neutral(reason: str, *names: str) -> dict[str, Field]:
    """Return rows of fields that leave the function as it is, all for the same reason.

    Example:
        >>> neutral("training alone", "dropout")["dropout"].kind
        'no part of the function'
    """
    return dict.fromkeys(names, Field(reason))


def as_json(value: Any) -> str:
    """Return a value as JSON, by which values are compared: 1, 1.0 and true are different."""
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class Fact:
    """The value of a field that decides the function.

    Attributes:
        place: Where it stands, for messages: the configuration and, within a model, the layer.
        field: The name of the field.
        value: Its value.
        what: What it decides.
        variants: The variants that have this value; none if it is not one of ours.
        expected: The values that variants have, in words.
        is_stated: Whether the configuration states it; otherwise it is the default of the library.
        tells_apart: Whether its values belong to different variants.
    """

    place: str
    field: str
    value: Any
    what: str
    variants: tuple[str, ...]
    expected: str
    is_stated: bool = True
    tells_apart: bool = False

    def __str__(self) -> str:
        return f"{self.field} is {as_json(self.value)}{'' if self.is_stated else ' by default'}"


@dataclass(frozen=True)
class Size:
    """The value of a field that states a size, with its row of the table."""

    place: str
    field: str
    value: Any
    row: Field

    def problem(self, network: ResNetConfig) -> str | None:
        """Return what is wrong with it, given the network that the arrays belong to."""
        fitting = self.row.sizes(network) if self.row.sizes else None
        if fitting is None or as_json(self.row.measure(self.value)) in map(as_json, fitting):
            return None
        value, expected = as_json(self.row.measure(self.value)), " or ".join(map(as_json, fitting)) or "none"
        return f"{self.place} states {value} for {self.row.what} ({self.field}), and the arrays have {expected}"


@dataclass
class Findings:
    """Everything that a configuration says, sorted by what it does.

    Attributes:
        sources: The places of the configurations that were read, by library.
        facts: The fields that decide the function.
        sizes: The fields that state a size.
        unclassified: The fields that no row classifies, with place and value.
        problems: What is wrong beside the values of fields.
    """

    sources: dict[str, list[str]] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    unclassified: list[tuple[str, str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add_source(self, library: str, place: str) -> str:
        """Note that a configuration was read, and return it in words."""
        self.sources.setdefault(library, []).append(place)
        return f"{library}' {place}" if library.endswith("s") else f"{library}'s {place}"


def read_fields(
    values: Mapping[str, Any], table: Mapping[str, Field], place: str, findings: Findings, prefix: str = ""
) -> None:
    """Add to the findings what every field of a configuration says, and what the absent ones do by default.

    Args:
        values: The fields of the configuration.
        table: The table of the library's fields.
        place: Where they stand, for messages.
        findings: What is added to.
        prefix: Stands before the names of the fields, such as "Conv2D.".
    """
    for name, value in values.items():
        if name not in table:
            findings.unclassified.append((place, f"{prefix}{name}", value))
            continue
        row = table[name]
        if row.variants is not None:
            findings.facts.append(fact(place, f"{prefix}{name}", value, row))
        if row.sizes is not None:
            findings.sizes.append(Size(place, name, value, row))
    for name, row in table.items():
        if name in values or row.variants is None:
            continue
        if row.default is ABSENT:
            findings.problems.append(f"{place}: {name} is absent, {row.what}; its library always states it")
        else:
            findings.facts.append(fact(place, f"{prefix}{name}", row.default, row, is_stated=False))


def fact(place: str, name: str, value: Any, row: Field, is_stated: bool = True) -> Fact:
    """Return the fact that a value of a deciding field is."""
    assert row.variants is not None
    expected = " or ".join(f"{known} ({', '.join(names)})" for known, names in row.variants.items())
    measured = row.measure(value)
    variants = row.variants.get(as_json(measured), ())
    return Fact(place, name, measured, row.what, variants, expected, is_stated, len({*row.variants.values()}) > 1)
