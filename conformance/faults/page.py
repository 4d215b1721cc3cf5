"""The page of a fault, and the list of all faults: what `conformance explain` prints. No framework is imported.

Example:
    >>> from conformance.faults import find_fault
    >>> print(fault_page(find_fault("relu-after-missing")).splitlines()[0])
    relu-after-missing: there is no ReLU after the addition
    >>> print(index_page().splitlines()[1])
      kernel-full-transpose  the kernel's height and width are exchanged, as a plain transpose() of all its axes does
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from difflib import unified_diff
from pathlib import Path
from types import ModuleType

import numpy as np

from conformance.cases.recipes import RECIPES
from conformance.faults.edit import FRAMEWORKS, Edits, edited, model_text
from conformance.faults.fault import Fault, Injection
from conformance.faults.rows import SUBJECTS
from impls.config import VARIANTS, ResNetConfig
from weights_convert.errors import listed
from weights_convert.shapes import expected_shapes
from weights_convert.table import Framework, Kind, find_rule

WIDTH = 110
COLUMN = 12
CONVERTED: tuple[Framework, ...] = ("torch", "flax", "keras")


def index_page() -> str:
    """Every fault by subject: its id, and what is wrong."""
    sections = []
    for subject in SUBJECTS:
        longest = max(map(len, subject.ROWS))
        rows = [f"  {id:<{longest}}  {fault.what}" for id, fault in subject.ROWS.items()]
        sections.append("\n".join([heading(subject), *rows]))
    return "\n\n".join([*sections, "conformance explain ID shows the page of a fault."])


def fault_page(fault: Fault) -> str:
    """All that the row of a fault says, with the right and the wrong lines of each framework."""
    subject = next(subject for subject in SUBJECTS if fault.id in subject.ROWS)
    variant = next(name for name in ("v1.5", *VARIANTS) if fault.places(VARIANTS[name]))
    # A single layer or block says more than the whole network.
    place = min(fault.places(VARIANTS[variant]), key=lambda place: place.scope == "network")
    injection = Injection(fault, place)
    sections = {
        "": [*facts(fault), *entry("row", f"conformance/faults/rows/{Path(str(subject.__file__)).name}")],
        "Where it can be": whereabouts(fault),
        "How it looks": [
            *wrong_arrays(injection, VARIANTS[variant]),
            *wrong_settings(injection, variant),
            *wrong_lines(injection),
        ],
        "What to do": [line for name, remedy in vars(fault.remedies).items() for line in entry(name, remedy)],
        "Try it": commands(injection, variant),
    }
    text = "\n".join(textwrap.wrap(f"{fault.id}: {fault.what}", WIDTH, break_on_hyphens=False))
    for title, lines in sections.items():
        text += "\n\n" + "\n".join(([title] if title else []) + [f"  {line}" for line in lines])
    return text


def heading(subject: ModuleType) -> str:
    """The first line of the docstring of a subject's module."""
    return (subject.__doc__ or "").partition("\n")[0]


def entry(name: str, text: str) -> list[str]:
    """A name and a text beside it, wrapped."""
    lines = textwrap.wrap(text, WIDTH - COLUMN, break_on_hyphens=False) or [""]
    return [f"{name:<{COLUMN}}{lines[0]}", *(" " * COLUMN + line for line in lines[1:])]


def facts(fault: Fault) -> list[str]:
    """Who met the fault, where it shows, what the diagnosis estimates, and where it has no effect."""
    lines = entry("met in", "no report that we know of" if fault.source == "-" else fault.source)
    lines += entry("shows in", f"{', '.join(seen.value for seen in fault.seen_in)} (--task {fault.task})")
    if fault.parameter:
        name, value = fault.parameter.name, fault.parameter.injected
        lines += entry("estimated", f"{name}, by the diagnosis (the self-test injects {value:g})")
    if fault.harmless:
        where = f"at {fault.harmless_where}" if fault.harmless_where else "anywhere"
        lines += entry("no effect", f"{where}: {fault.harmless}")
    return lines


def whereabouts(fault: Fault) -> list[str]:
    """The condition on places in words, and the places in each variant."""
    variants: dict[str, list[str]] = {}
    for variant, config in VARIANTS.items():
        names = listed([place.name for place in fault.places(config)]) or "nowhere"
        variants.setdefault(names, []).append(variant)
    alike = [
        f"{', '.join(group) if len(variants) > 1 else 'all variants'}: {names}" for names, group in variants.items()
    ]
    return [*textwrap.wrap(str(fault.condition), WIDTH, break_on_hyphens=False), *alike]


def wrong_arrays(injection: Injection, config: ResNetConfig) -> Iterator[str]:
    """The names in each framework of the weights that differ, or the images that do."""
    if injection.fault.images:
        yield "The prepared images differ before they enter the network."
    ones = {name: np.broadcast_to(1.0, shape) for name, shape in expected_shapes(config).items()}  # without memory
    if names := list(injection.weights(ones, config)):
        yield f"Weights that differ, with the fault at {injection.place.name}:"
        for framework in CONVERTED:
            yield from entry(framework, listed([spelled(name, framework) for name in names]))


def spelled(name: str, framework: Framework) -> str:
    """The canonical name of an array in the words of a framework.

    Example:
        >>> spelled("stage1.0.bn1.running_var", "keras")
        'stage1.0.bn1.moving_variance'
    """
    layer, _, leaf = name.rpartition(".")
    kind: Kind = "linear" if layer == "fc" else "conv" if "conv" in layer else "norm"
    rule = find_rule(kind, "torch", leaf)
    return f"{layer}.{rule.leaf(framework).name}" if rule else name


def wrong_settings(injection: Injection, variant: str) -> Iterator[str]:
    """Fields of the configuration or of recipes that differ, and the lines of each framework that read them."""
    for name, value in injection.configured.items():
        yield f"ResNetConfig({name}={value!r}), where {variant} has {getattr(VARIANTS[variant], name)!r}"
    changes = [
        f"Recipe({name}={wrong!r}), where {right!r} is right"
        for recipe in RECIPES.values()
        for name, right in vars(recipe).items()
        if (wrong := getattr(injection.recipe(recipe), name)) != right
    ]
    yield from dict.fromkeys(changes)
    for file, owner, names in (
        ("resnet", "config", injection.fault.config),
        ("training", "recipe", injection.fault.recipe),
    ):
        for framework in FRAMEWORKS:
            text = model_text(f"impls.{framework}.{file}").splitlines()
            readers = [line.strip() for line in text if any(f"{owner}.{name}" in line for name in names)]
            yield from file_lines({tuple(readers): [f"impls/{framework}/{file}.py"]} if readers else {})


def wrong_lines(injection: Injection) -> Iterator[str]:
    """The right (-) and the wrong (+) lines of each framework; files that change alike stand together."""
    fault = injection.fault
    alike: dict[tuple[str, ...], list[str]] = {}
    for framework in FRAMEWORKS:
        for file, edits in (
            ("resnet", fault.model.get(framework, ()) or injection.initial(framework)),
            ("training", injection.training(framework)),
        ):
            if edits:
                lines = difference(f"impls.{framework}.{file}", edits)
                alike.setdefault(lines, []).append(f"impls/{framework}/{file}.py")
    yield from file_lines(alike)
    if missing := [framework for framework in FRAMEWORKS if not fault.can_be_in(framework)]:
        yield f"{' and '.join(missing)} cannot have this fault: there is no such line."


def file_lines(files: Mapping[tuple[str, ...], Sequence[str]]) -> Iterator[str]:
    """Lines under the names of the files that they are in."""
    for lines, names in files.items():
        yield ", ".join(names)
        yield from (f"    {line}" for line in lines)


def difference(module: str, edits: Edits) -> tuple[str, ...]:
    """The lines of a module that substitutions change, without the indentation that they share."""
    text = model_text(module)
    changes = unified_diff(text.splitlines(), edited(text, edits, module).splitlines(), n=0, lineterm="")
    lines = [line for line in list(changes)[2:] if line[1:].strip()]
    indent = min(len(line) - len(line[1:].lstrip()) for line in lines if not line.startswith("@@")) - 1
    return tuple("..." if line.startswith("@@") else f"{line[0]} {line[1 + indent :]}" for line in lines[1:])


def commands(injection: Injection, variant: str) -> list[str]:
    """Commands that show the fault: the self-test's, and a candidate that has it."""
    fault, place = injection.fault, injection.place
    framework = next(name for name in CONVERTED if fault.can_be_in(name))
    options = f"--variant {variant} --precision {fault.precision}" + f" --task {fault.task}" * (fault.task != "forward")
    return [
        f"conformance selftest --variant {variant} --fault {fault.id}",
        f"conformance run --impl broken={framework}+{fault.id}@{place.name} {options}",
    ]
