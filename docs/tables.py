"""Write the tables of the README and of docs that the code itself knows.

    python -m docs.tables

Each table stands between `<!-- table: NAME -->` and `<!-- end of table -->`, where NAME is a key of `TABLES`. A test
compares the tables in the pages with the code.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from conformance.compare import limits
from conformance.faults import FAULTS
from conformance.faults.rows import SUBJECTS
from conformance.outcome import EXIT_CODES
from conformance.run.candidates.kinds import KINDS
from conformance.run.implementations import BUILDS
from docs import measured_tables
from impls.config import TOTAL_STRIDE, VARIANTS, ResNetConfig
from weights_convert.configurations import keras_hub, keras_layers, timm, transformers
from weights_convert.configurations.fields import Field
from weights_convert.containers import CONTAINERS
from weights_convert.dialects import ALIASES, DIALECTS, WRITTEN
from weights_convert.recognition.beside import BESIDE
from weights_convert.recognition.families import FAMILIES, statement
from weights_convert.recognition.heads import BACKBONE_HEADS, SPELLINGS
from weights_convert.recognition.relatives import RELATIVES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out a Markdown table; an empty row is an error, and so is one of another length.

    Example:
        >>> table(["a", "b"], [["1", "2"]])
        ['| a | b |', '|---|---|', '| 1 | 2 |']
    """
    lines = ["|" + "---|" * len(header)]
    for row in rows:
        assert len(row) == len(header), row
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |".replace("  |", " |"))
    return [f"| {' | '.join(header)} |", *lines]


def code(names: Iterable[str]) -> str:
    """Names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


PUBLISHERS = {
    "tutorial": "a widely copied PyTorch tutorial",
    "v1": "He et al. 2015",
    "v1.5": "torchvision, timm, transformers; the default",
    "keras": "keras.applications",
    "flax": "the Flax ImageNet example",
}
STRIDED = {"conv1": "first 1x1", "conv2": "3x3"}


def variants() -> list[str]:
    """The five variants, and what each does differently."""
    assert PUBLISHERS.keys() == VARIANTS.keys()
    rows = [
        (
            f"`{name}`",
            PUBLISHERS[name],
            STRIDED[config.strided_layer],
            "SAME on strided 3x3 and max pool" if config.same_padding else "symmetric",
            f"{config.norm_eps:g}".replace("e-0", "e-"),
            "; ".join(traits(config)),
        )
        for name, config in VARIANTS.items()
    ]
    return table(["variant", "published by", "stride on", "padding", "eps", "also"], rows)


def traits(config: ResNetConfig) -> Iterator[str]:
    """What else a variant does otherwise than the default."""
    if config.relu_before_addition:
        yield "ReLU before the addition"
    if config.conv_bias:
        yield "convolutions have biases"
    if pool := config.head_pool:
        sides = f"{(pool - 1) * TOTAL_STRIDE + 1} to {(2 * pool - 1) * TOTAL_STRIDE}"
        yield f"{pool}x{pool} average pool, so sides from {sides}"


def spoken(name: str) -> str:
    """A dialect's names."""
    return code([name, *(alias for alias, meant in ALIASES.items() if meant == name)])


def formats() -> list[str]:
    """The containers of each dialect that is written, beside those that hold every dialect; equal ones share a row."""
    rows: dict[str, list[str]] = {}
    for name in WRITTEN:
        written = [ending for c in CONTAINERS if name in c.dialects for ending in c.endings]
        rows.setdefault(code(written), []).append(spoken(name))
    header = ["dialect", "containers beside `.safetensors`, `.pth` and `.npz`"]
    return table(header, [(", ".join(names), containers) for containers, names in rows.items()])


def beside() -> list[str]:
    """The state that training keeps beside a network."""
    rows = [(row.reason, code([row.names]), row.source) for row in BESIDE]
    return table(["left out", "named (a regular expression)", "written by"], rows)


def heads() -> list[str]:
    """The further paths at which a classifier is found."""
    rows = [(code([path]), who) for path, who in SPELLINGS.items()]
    rows += [(code([f"{head} beside {prefix}"]), who) for prefix, (head, who) in BACKBONE_HEADS.items()]
    return table(["path", "written by"], rows)


def families() -> list[str]:
    """The functions that libraries build under the names of the network."""
    rows = [
        (
            family.name,
            "<br>".join(f"`{variant}`: {when}" for variant, when in family.functions.items()),
            "<br>".join([family.others, *(f"`{statement(config)}`: {who}" for who, config in family.custom.items())]),
            family.source,
        )
        for family in FAMILIES
    ]
    return table(
        ["library", "variants", "functions that no variant has, and the `config` that states them", "source"], rows
    )


def relatives() -> list[str]:
    """The networks that are told apart by their names or shapes."""
    return table(["relative", "built by"], [(relative.name, relative.source) for relative in RELATIVES])


def dialects() -> list[str]:
    """The dialects, and what each leaves out."""
    rows = [
        (
            spoken(name),
            dialect.used_by,
            code([dialect.published_variant] if dialect.published_variant else []),
            "<br>".join((dialect.dropped or {}).values()),
        )
        for name, dialect in DIALECTS.items()
    ]
    return table(["dialect", "used by", "variant of the published weights", "left out"], rows)


def containers() -> list[str]:
    """The kinds of files and folders."""
    rows = [
        (
            container.name,
            code(container.endings) or "read only",
            "folder" if container.folder else "file",
            code(container.dialects) or "all",
            "yes" if container.keeps_metadata else "no",
            code(container.library_only),
        )
        for container in CONTAINERS
    ]
    header = ["container", "endings", "", "dialects", "says what it holds", "written by the library itself for"]
    return table(header, rows)


CONFIGURATIONS: dict[str, Mapping[str, Field]] = {
    "transformers": transformers.FIELDS,
    "timm": timm.TOP,
    "timm, `model_args`": timm.MODEL_ARGS,
    "timm, `pretrained_cfg`": timm.PRETRAINED_CFG,
    "Keras Hub, backbone": keras_hub.BACKBONE_FIELDS,
    "Keras Hub, classifier": keras_hub.CLASSIFIER_FIELDS,
    **{f"Keras, `{kind}`": fields for kind, fields in keras_layers.LAYERS.items()},
}
SHOWN_VALUES = 4
"""The most values of a field that are printed."""


def configurations() -> list[str]:
    """The fields of each library's configuration, by what they do."""
    rows = []
    for name, fields in CONFIGURATIONS.items():
        deciding = [deciding_field(field, row) for field, row in fields.items() if row.variants is not None]
        walked = [f"`{field}` by its place" for field, row in fields.items() if row.by_place]
        sizes = code(field for field, row in fields.items() if row.kind == "states a size")
        others = sorted(field for field, row in fields.items() if row.kind == "no part of the function")
        rows.append((name, "<br>".join(deciding + walked), sizes, code(others)))
    return table(["configuration", "decides the function", "a size", "no part of the function"], rows)


def deciding_field(name: str, row: Field) -> str:
    """A field that decides the function, with the values that variants have."""
    values = {value: set(variants) for value, variants in (row.variants or {}).items()}
    tell_apart = len({frozenset(variants) for variants in values.values()}) > 1
    shown = [
        f"`{value}`" + (f" ({', '.join(v for v in VARIANTS if v in variants)})" if tell_apart else "")
        for value, variants in list(values.items())[:SHOWN_VALUES]
    ]
    return f"`{name}`: {' or '.join(shown)}{', ...' if len(values) > SHOWN_VALUES else ''}"


def builds() -> list[str]:
    """Further builds, each described by its environment, or else by the first sentence of its adapter."""
    rows = []
    for name, build in BUILDS.items():
        settings = code(f"{variable}={value}" for variable, value in build.variables.items())
        rows.append((f"`{name}`", settings or summary(build.adapter), "" if build.float32_only else "yes", "yes"))
    return table(["build", "how it differs", "float64", "float32"], rows)


def summary(adapter: str) -> str:
    """The first paragraph of the docstring of a class, given as "module:class", without importing it."""
    module, _, name = adapter.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    nodes = ast.parse(Path(spec.origin).read_text()).body
    definition = next(node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name)
    return " ".join((ast.get_docstring(definition) or "").partition("\n\n")[0].split())


MEANINGS = {
    "conforms": "every comparison passed",
    "diverges": "a candidate diverges; the first diverging layer is named",
    "bad input": "for example a file that is not a picture, a truncated file, a checkpoint of another variant",
    "incomplete": "a candidate that was asked for could not run, and nothing that ran diverges: its framework is not "
    "installed, it crashed or timed out, or there is no GPU where `--device gpu` asks for one",
}


def exit_codes() -> list[str]:
    """The exit codes of `conformance run`."""
    codes = EXIT_CODES | {"bad input": 2}
    assert codes.keys() == MEANINGS.keys()
    rows = sorted((str(number), verdict, MEANINGS[verdict]) for verdict, number in codes.items())
    return table(["exit code", "verdict", "meaning"], rows)


def kinds() -> list[str]:
    """The kinds of models that are checked as they are, and what each can do."""
    header = ["kind", "float64", "train mode", "given weights", "activations", "fed", "differentiated and trained"]
    rows = [(k.name, k.float64, k.train, k.weights, k.activations, k.taps, k.gradients) for k in KINDS]
    return table(header, rows)


def limits_of_errors() -> list[str]:
    """Every limit, with the measurement that it stands on."""
    rows = []
    for name, limit in vars(limits).items():
        subject, _, precision = name.lower().rpartition("_")
        if isinstance(limit, limits.Absolute):
            row = (subject.replace("_", " "), f"{limit.relative_l2:g}", f"{limit.largest:g}", limit.why)
        elif isinstance(limit, limits.RelativeToBuilds):
            row = ("all that is judged", f"{limit.times_floor:g} times the worst reference build's", "", limit.why)
        else:
            continue
        rows.append((precision, *row))
    header = ["precision", "array", "relative L2 error", "largest error / largest value", "reason"]
    return table(header, [[cell.replace("e-0", "e-") for cell in row] for row in rows])


SHOWN = {
    "forward": "a forward pass",
    "gradients": "gradients",
    "steps": "training steps alone",
    "initialisation": "initialisation",
}


def faults() -> list[str]:
    """The catalogue, a table for each subject."""
    shown = Counter(SHOWN[fault.task] for fault in FAULTS.values())
    lines = [
        f"{len(FAULTS)} faults, by what shows them: {', '.join(f'{count} {name}' for name, count in shown.items())}."
    ]
    for subject in SUBJECTS:
        lines += ["", f"## {(subject.__doc__ or '').partition(':')[0]}", ""]
        lines += table(
            ["fault", "what is wrong", "where it can be", "shows in", "met in"],
            [
                (
                    f"`{id}`",
                    fault.what,
                    str(fault.condition),
                    ", ".join(seen.value for seen in fault.seen_in),
                    fault.source.removeprefix("-"),
                )
                for id, fault in subject.ROWS.items()
            ],
        )
    return lines


TABLES: dict[str, Callable[[], list[str]]] = {
    "builds": builds,
    "configurations": configurations,
    "containers": containers,
    "dialects": dialects,
    "beside": beside,
    "heads": heads,
    "families": families,
    "relatives": relatives,
    "exit-codes": exit_codes,
    "faults": faults,
    "formats": formats,
    "kinds": kinds,
    "limits": limits_of_errors,
    "variants": variants,
    **{name: lambda rows=rows: table(*rows()) for name, rows in measured_tables.TABLES.items()},
}


def updated(page: str) -> str:
    """The text of a page with its tables as the code has them now.

    Raises:
        KeyError: If a table's name is no key of `TABLES`.
    """
    return MARKED.sub(lambda found: f"{found[1]}{chr(10).join(TABLES[found[2]]())}\n{found[3]}", page)


def main() -> None:
    """Write every table anew."""
    for page in PAGES:
        page.write_text(updated(page.read_text()))


if __name__ == "__main__":
    main()
