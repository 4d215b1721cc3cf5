"""Structure: blocks that are missing, and blocks that use the arrays of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from conformance.cases.segments import segment_of
from conformance.identify.fact import Fact
from conformance.identify.link import IMAGES, Array, Arrays, Link, expected_output, links
from impls.config import ResNetConfig
from impls.numpy.resnet import relu

OWNER = "that of "
"""Start of a measured kernel's name that is another layer's."""


def missing_links(candidate: Mapping[str, Array], config: ResNetConfig) -> list[str]:
    """List the links whose activations a candidate does not have."""
    return [link.name for link in links(config) if link.name not in candidate]


def missing_facts(missing: Sequence[str], config: ResNetConfig) -> list[Fact]:
    """Say which whole blocks are missing; a block that is left out passes its input on."""
    facts = []
    for block in config.blocks():
        own = [link for link in links(config) if segment_of(link.name) == block.name]
        if all(link.name in missing for link in own):
            words = "is missing: none of its layers is run"
            law = None if block.projects else _pass_on
            layers = tuple(link.name for link in own)
            found = Fact(block.name, "structure", words, {"block": "missing"}, {"block": "there"}, 0.0, "", law, layers)
            facts.append(found)
    return facts


def _pass_on(link: Link, inputs: Arrays, arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
    """Return a block's input in the place of its output; its layers, which nothing takes, compute what they would."""
    return inputs[link.inputs[1]] if link.kind == "sum" else expected_output(link, inputs, arrays, config, train)


def repeated_fact(links_of_source: Sequence[Link], block: str, config: ResNetConfig) -> Fact:
    """Say that the output of a layer passes through a further block, with the arrays of another, before it is taken.

    Args:
        links_of_source: The links that take the output.
        block: The block whose arrays the further one has; it has as many channels behind as before.
        config: The network.
    """
    names = tuple(link.name for link in links_of_source)
    shared = set.intersection(*(set(link.inputs) for link in links_of_source))
    source = next(name for name in links_of_source[0].inputs if name in shared)
    own = [link for link in links(config) if segment_of(link.name) == block]
    entered = own[0].inputs[0]

    def law(other: Link, inputs: Arrays, arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
        seen = {entered: inputs[source]}
        for link in own:
            seen[link.name] = expected_output(link, seen, arrays, config, train)
        return expected_output(other, {**inputs, source: seen[block]}, arrays, config, train)

    words = f"passes through one block too many before it is taken: one like {block}, with its arrays"
    measured, expected = {"block": f"one too many, as {block}"}, {"block": "none"}
    return Fact(names[0], "structure", words, measured, expected, 0.0, "", law, names, f"the output of {source}")


INSTEAD: dict[str, Callable[[Array, Array], Array]] = {
    "the sum before its last ReLU": lambda branch, shortcut: branch + shortcut,
    "its branch alone": lambda branch, shortcut: branch,
    "its shortcut alone": lambda branch, shortcut: shortcut,
}
"""Functions of a block's branch and shortcut that may be taken in the place of its output, by their words."""


def instead_facts(link: Link, config: ResNetConfig) -> Iterator[Fact]:
    """Yield the statements that a link takes something else of a block than the block's output."""
    sums = {each.name: each for each in links(config) if each.kind == "sum"}
    for source in (name for name in link.inputs if name in sums):
        for words, function in INSTEAD.items():
            law = partial(_instead, sums[source], function)
            said = f"takes of {source} {words} as its input, not what the block returns"
            yield Fact(
                link.name, "structure", said, {"input": words}, {"input": source}, 0.0, law=law, layers=(link.name,)
            )


def _instead(
    block: Link,
    function: Callable[[Array, Array], Array],
    other: Link,
    inputs: Arrays,
    arrays: Arrays,
    config: ResNetConfig,
    train: bool,
) -> Array:
    branch, shortcut = (inputs[name] for name in block.inputs)
    value = function(relu(branch) if block.after_relu else branch, shortcut)
    return expected_output(other, {**inputs, block.name: value}, arrays, config, train)


def early_shortcut_fact(block: Link) -> Fact:
    """Say that a block adds its shortcut before the last norm of its branch, not behind it."""
    norm, shortcut = block.inputs

    def law(other: Link, inputs: Arrays, arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
        if other.name == norm:
            (source,) = other.inputs
            return expected_output(other, {source: inputs[source] + inputs[shortcut]}, arrays, config, train)
        return relu(inputs[norm])

    words = f"adds its shortcut ({shortcut}) before {norm.rpartition('.')[2]}, not behind it"
    measured, expected = {"shortcut": f"before {norm}"}, {"shortcut": f"behind {norm}"}
    return Fact(block.name, "structure", words, measured, expected, 0.0, law=law, layers=(norm, block.name))


def inputs_there(link: Link, candidate: Mapping[str, Array]) -> bool:
    """Tell whether a candidate has all activations that a link takes, so that they could be fed."""
    return all(name == IMAGES or name in candidate for name in link.inputs)


def owner_fact(link: Link, owner: str) -> Fact:
    """Say that a layer uses the arrays of another one of the same shape."""

    def law(other: Link, inputs: Arrays, arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
        return expected_output(replace(other, layer=owner), inputs, arrays, config, train)

    return Fact(
        link.name, link.kind, f"uses the arrays of {owner}", {"arrays": owner}, {"arrays": "its own"}, 0.0, law=law
    )


def merge_owners(facts: Sequence[Fact], config: ResNetConfig) -> list[Fact]:
    """Say once that all layers of a block use the arrays of another block's."""
    owners: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts:
        owner = owner_of(fact)
        if owner and segment_of(owner) != segment_of(fact.layer) and _same_role(owner, fact.layer):
            owners.setdefault((segment_of(fact.layer), segment_of(owner)), []).append(fact)
    merged: list[Fact] = []
    taken: list[Fact] = []
    whole = {pair: some for pair, some in owners.items() if _layers_with_arrays(pair[0], config) <= _layers(some)}
    for (block, other), some in whole.items():
        back = whole.get((other, block), [])
        if back and list(whole).index((other, block)) < list(whole).index((block, other)):
            continue  # said together with the other direction
        words = f"uses the arrays of {other} in all of its layers" + f", and {other} those of {block}" * bool(back)
        merged.append(_together(block, other, words, [*some, *back]))
        taken += [*some, *back]
    return [*(fact for fact in facts if not any(fact is each for each in taken)), *merged]


def _layers_with_arrays(block: str, config: ResNetConfig) -> set[str]:
    return {link.name for link in links(config) if link.layer and segment_of(link.name) == block}


def _layers(facts: Sequence[Fact]) -> set[str]:
    return {name for fact in facts for name in fact.layers}


def owner_of(fact: Fact) -> str:
    """Name the layer whose arrays a layer uses, where that is all that differs; empty otherwise."""
    if len(fact.measured) != 1:
        return ""
    ((name, value),) = fact.measured.items()
    if name == "arrays":
        return str(value)
    return str(value).removeprefix(OWNER) if name == "kernel" and str(value).startswith(OWNER) else ""


def _same_role(one: str, other: str) -> bool:
    return one.rpartition(".")[2] == other.rpartition(".")[2]


def _together(block: str, other: str, words: str, facts: Sequence[Fact]) -> Fact:
    laws = {name: fact.law for fact in facts for name in fact.layers}

    def law(link: Link, inputs: Arrays, arrays: Arrays, config: ResNetConfig, train: bool) -> Array:
        chosen = laws[link.name]
        assert chosen is not None
        return chosen(link, inputs, arrays, config, train)

    error = max((fact.error for fact in facts if np.isfinite(fact.error)), default=np.inf)
    layers = tuple(dict.fromkeys(name for fact in facts for name in fact.layers))
    measured = {"arrays": other}
    return Fact(block, "structure", words, measured, {"arrays": block}, error, "", law, layers, block)


def first_of(fact: Fact, order: Sequence[str]) -> int:
    """Return the place of a fact in the order of the network."""
    return min((order.index(name) for name in _plain(fact) if name in order), default=len(order))


def _plain(fact: Fact) -> Iterator[str]:
    for name in (fact.layer, *fact.layers):
        yield name.partition(".running_")[0]
