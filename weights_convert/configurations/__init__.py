"""Configurations of libraries, which state the function of the weights beside them: read whole, or not believed.

A reader passes on the configurations that it finds (`found`), and `judge` reads them by the tables of their libraries.
A value that no variant has, and a field that no table classifies, are problems; nothing is skipped.

Example:
    >>> metadata = found("config.json", {"model_type": "resnet", "hidden_act": "gelu"})
    >>> print(judge(metadata).problems[0])
    transformers' config.json: hidden_act is "gelu" (the activation of the stem and after each addition), and no variant is such a network: it would have to be "relu" (v1.5, v1)
"""  # noqa: E501 (a message is one line)

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from impls.config import VARIANTS, ResNetConfig
from weights_convert.configurations import keras_hub, keras_model, timm, transformers
from weights_convert.configurations.fields import Fact, Findings, Size, as_json
from weights_convert.errors import ConversionError, first_line
from weights_convert.metadata import CONFIGURATIONS

CONFIG = "config.json"

LIBRARIES = (keras_hub, keras_model, timm, transformers)
"""The modules that recognise and read a configuration. The first that recognises it reads it."""


def found(place: str, content: Any, others: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return metadata that pass on a configuration, in addition to others that were found before.

    Args:
        place: Where it stands, for messages.
        content: The configuration.
        others: Metadata with the configurations that were found before.
    """
    before = json.loads(others[CONFIGURATIONS]) if others and CONFIGURATIONS in others else []
    return {CONFIGURATIONS: json.dumps([*before, [place, content]])}


def found_in(folder: Path, name: str = CONFIG, others: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return metadata that pass on the configuration of a folder; the others, if it has none of that name.

    Raises:
        ConversionError: If there is something of that name that is no file.
        ValueError: If it is not JSON.
    """
    path = folder / name
    if path.is_file():
        return found(name, json.loads(path.read_bytes()), others)
    if os.path.lexists(path):
        raise ConversionError(str(path), ["it is no regular file, so nobody can read what it says of the network"])
    return {CONFIGURATIONS: others[CONFIGURATIONS]} if others and CONFIGURATIONS in others else {}


@dataclass(frozen=True)
class Judgement:
    """The function that configurations state.

    Attributes:
        variants: The variants that they belong to; empty if they say nothing, or something that no variant is.
        known_by: The fields and values that this rests on.
        problems: Everything that no variant is, and everything that nobody knows.
        accepted: The fields, as FIELD=VALUE, that were accepted as harmless.
        sizes: The sizes that they state.
    """

    variants: tuple[str, ...] = ()
    known_by: str = ""
    problems: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = field(default=(), repr=False)

    def contradictions(self, network: ResNetConfig) -> list[str]:
        """Return a problem for every size that the arrays do not have, and for a variant that is another one."""
        problems = [problem for size in self.sizes if (problem := size.problem(network))]
        if self.variants and network.variant not in self.variants:
            states = f"{self.known_by} is variant {' or '.join(self.variants)}"
            problems.append(f"it holds variant {network.variant}, and its configuration says otherwise: {states}")
        return problems


def judge(metadata: Mapping[str, str], accept: Mapping[str, Any] | None = None) -> Judgement:
    """Return what the configurations that a reader found say about the function.

    Args:
        metadata: The metadata of a reader.
        accept: Values of fields that no table classifies, and that are harmless, by the name of the field.
    """
    findings = Findings()
    try:
        for place, content in json.loads(metadata.get(CONFIGURATIONS, "[]")):
            library = next((module for module in LIBRARIES if _recognises(module, content)), None)
            if library is not None:
                library.read(content, place, findings)
        return _judgement(findings, accept or {})
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        return Judgement(problems=(f"its configuration is damaged: {first_line(error)}",))


def _recognises(module: Any, content: Any) -> bool:
    return isinstance(content, Mapping) and bool(module.is_ours(content))


def _judgement(findings: Findings, accept: Mapping[str, Any]) -> Judgement:
    problems = [*findings.problems, *_foreign(findings.facts)]
    variants = _common(findings.facts) if findings.sources and not problems else ()
    if findings.sources and not problems and not variants:
        problems.append(_contradiction(findings.facts))
    accepted = []
    for place, name, value in findings.unclassified:
        if name in accept and as_json(accept[name]) == as_json(value):
            accepted.append(f"{name}={as_json(value)}")
        else:
            problems.append(
                f"{place}: the field {name} has no row in the table of its library, so {as_json(value)} may change the "
                f"function; if you know that it does not, give --accept '{name}={as_json(value)}' (or accept=...)"
            )
    problems += _useless(accept, findings)
    unique = tuple(dict.fromkeys(accepted))
    return Judgement(variants, _known_by(findings), tuple(dict.fromkeys(problems)), unique, tuple(findings.sizes))


def _foreign(facts: Iterable[Fact]) -> list[str]:
    """Return a problem for every value that no variant has."""
    return [
        f"{fact.place}: {fact} ({fact.what}), and no variant is such a network: it would have to be {fact.expected}"
        for fact in facts
        if not fact.variants
    ]


def _common(facts: Iterable[Fact]) -> tuple[str, ...]:
    return tuple(variant for variant in VARIANTS if all(variant in fact.variants for fact in facts))


def _contradiction(facts: Iterable[Fact]) -> str:
    """Return the problem that facts, each of which some variant has, belong to no single one."""
    telling = {f"{fact} ({', '.join(fact.variants)})" for fact in facts if len(fact.variants) < len(VARIANTS)}
    return f"no variant has all of these: {'; '.join(sorted(telling))}"


def _useless(accept: Mapping[str, Any], findings: Findings) -> list[str]:
    """Return a problem for everything that was accepted without need, since a slip of the pen must not pass."""
    unclassified = {name: value for _, name, value in findings.unclassified}
    known = {fact.field for fact in findings.facts} | {size.field for size in findings.sizes}
    problems = []
    for name, value in accept.items():
        if name in unclassified:
            continue  # if its value differs, the field is a problem already
        if name in known:
            problems.append(f"--accept {name}={as_json(value)}: this field is classified, and cannot be accepted")
        else:
            problems.append(f"--accept {name}={as_json(value)}: there is no unclassified field of this name")
    return problems


def _known_by(findings: Findings) -> str:
    """Return the fields that the variant rests on, in words."""
    shown = [
        fact for fact in findings.facts if fact.tells_apart or (fact.is_stated and len(fact.variants) < len(VARIANTS))
    ]
    stated = list(dict.fromkeys(map(str, shown)))
    others = len({fact.field for fact in findings.facts} - {fact.field for fact in shown})
    rest = f"; and {others} more fields as every variant has them or by the library's default" if others else ""
    places = [f"{library}: {' and '.join(places)}" for library, places in findings.sources.items()]
    return f"{'; '.join(places)} ({', '.join(stated)}{rest})" if places else ""
