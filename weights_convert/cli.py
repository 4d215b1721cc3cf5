"""The command `weights-convert`: converts checkpoints of a ResNet, and tells what a file holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from impls.config import VARIANTS, ResNetConfig
from weights_convert import ConversionError, Inspection, containers, inspect, load
from weights_convert.dialects import ALIASES, DIALECTS, Dialect, find_dialect
from weights_convert.errors import SHOWN
from weights_convert.table import RUNNING_STATISTICS

DIALECT = click.Choice([*DIALECTS, *ALIASES])
VARIANT = click.Choice(list(VARIANTS))
FILE = click.Path(path_type=Path)


class Refusal(click.ClickException):
    """A conversion that was refused: its message goes to standard error."""

    exit_code = 2


class Commands(click.Group):
    """Commands whose conversion errors are messages, not tracebacks."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except ConversionError as error:
            raise Refusal(str(error)) from error


def examples(*commands: str) -> str:
    """The end of a help page; click leaves the lines after a backspace as they are."""
    return "\n".join(["\b", "Examples:", *(f"  weights-convert {command}" for command in commands)])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "inspect resnet50.pth",
        "convert resnet50.pth resnet50.flax.safetensors --variant v1.5",
        "convert resnet50.flax.safetensors resnet50.keras.safetensors",
    ),
)
def main() -> None:
    """Carry the weights of a ResNet from one framework to another, bit for bit."""


@main.command(
    "convert",
    epilog=examples(
        "convert resnet50.pth resnet50.flax.safetensors --variant v1.5",
        "convert resnet50.keras.safetensors back.torchvision.pth",
        "convert a.safetensors b.safetensors --from torchvision --to canonical --variant v1",
    ),
)
@click.argument("source", type=FILE)
@click.argument("target", type=FILE)
@click.option("--from", "spoken", type=DIALECT, help="How the source names its arrays; else recognised.")
@click.option("--to", "wanted", type=DIALECT, help="How the target names them; else told by its name.")
@click.option("--variant", type=VARIANT, help="The network, where the source does not say it.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def convert_command(
    source: Path, target: Path, spoken: str | None, wanted: str | None, variant: str | None, as_json: bool
) -> None:
    """Write the weights of SOURCE as another dialect names and lays them out to TARGET.

    The target's ending names its container (.safetensors, .pth), what stands before the ending its dialect. A file that
    cannot be converted whole is not converted at all; an existing target is replaced only by a complete one.
    """
    dialect = find_dialect(wanted) if wanted else dialect_of_name(target)
    container = containers.writable(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise ConversionError(str(target), ["it is the source, too; write to another file"])
    checkpoint = load(source, dialect=spoken, variant=variant)
    converted = checkpoint.to(dialect.name)
    metadata = converted.metadata()
    containers.write(target, converted.arrays, metadata)
    report: dict[str, Any] = {
        "source": str(source),
        "target": str(target),
        "from": checkpoint.dialect.name,
        "to": dialect.name,
        "variant": checkpoint.config.variant,
        "recognised_by": checkpoint.recognised_by,
        "network": network_name(checkpoint.config),
        "arrays": len(converted.arrays),
        "dtypes": converted.dtypes(),
        "content_hash": metadata["content_hash"],
        "dropped": dict(checkpoint.dropped),
        "notes": notes(dialect, container, checkpoint.config),
    }
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(f"{click.format_filename(source)} -> {click.format_filename(target)}")
    rows = [
        ("dialect", f"{report['from']} -> {report['to']}"),
        ("variant", f"{report['variant']} (known by: {report['recognised_by']})"),
        ("network", report["network"]),
        ("arrays", f"{report['arrays']}, {', '.join(converted.dtypes())}"),
        ("content hash", report["content_hash"]),
        *(("dropped", line) for line in dropped_lines(checkpoint.dropped)),
        *(("note", note) for note in report["notes"]),
    ]
    echo_rows(rows)


@main.command(
    "inspect",
    epilog=examples(
        "inspect resnet50.flax.safetensors",
        "inspect resnet50.pth --variant v1.5 --json",
    ),
)
@click.argument("file", type=FILE)
@click.option("--from", "spoken", type=DIALECT, help="How the file names its arrays; else recognised.")
@click.option("--variant", type=VARIANT, help="The network that it is held to.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def inspect_command(file: Path, spoken: str | None, variant: str | None, as_json: bool) -> None:
    """Tell what FILE holds, what it lacks, and what it can become.

    Exits with 0 for any file whose arrays can be read, whether or not they are a complete network.
    """
    found = inspect(file, dialect=spoken, variant=variant)
    facts = facts_of(found)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(click.format_filename(file))
    problems = [("problem", problem) for problem in found.problems[:SHOWN]]
    if len(found.problems) > SHOWN:
        problems.append(("problem", f"and {len(found.problems) - SHOWN} more"))
    echo_rows(
        [
            ("container", facts["container"]),
            ("dialect", f"{found.dialect.name}: {found.dialect.about}" if found.dialect else "not recognised"),
            ("variant", variant_line(found)),
            ("network", facts["network"]),
            ("blocks", facts["depths"] and ", ".join(map(str, facts["depths"]))),
            ("classes", facts["num_classes"]),
            ("in channels", facts["in_channels"]),
            ("arrays", f"{facts['arrays']}, {', '.join(facts['dtypes'])}"),
            ("parameters", f"{facts['parameters']:,} and {facts['running_statistics']:,} running statistics"),
            ("content hash", facts["content_hash"]),
            *(("dropped", line) for line in dropped_lines(found.dropped)),
            *(problems or [("problem", "none")]),
            ("converts to", ", ".join(facts["converts_to"])),
        ]
    )


def dialect_of_name(target: Path) -> Dialect:
    """The dialect that a file's name tells: "x.flax.safetensors".

    Raises:
        ConversionError: If it tells none.

    Example:
        >>> dialect_of_name(Path("resnet50.keras.applications.safetensors")).name
        'keras.applications'
    """
    for name in DIALECT.choices:
        if f".{containers.without_ending(target)}".endswith(f".{name}"):
            return find_dialect(name)
    if (container := containers.of_name(target)) and len(container.dialects) == 1:
        return find_dialect(container.dialects[0])
    example = target.with_suffix(f".flax{target.suffix}").name
    raise ConversionError(
        str(target),
        [f"its name tells no dialect to write; say --to, or put it before the ending ({example})"],
        f"The dialects are {', '.join(DIALECT.choices)}.",
    )


def facts_of(found: Inspection) -> dict[str, Any]:
    """What is known of a file, as plain values."""
    network, variants = next(iter(found.networks), None), [candidate.variant for candidate in found.networks]
    weights = found.canonical()
    statistics = sum(array.size for name, array in weights.items() if name.endswith(RUNNING_STATISTICS))
    return {
        "file": found.where,
        "container": found.container,
        "dialect": found.dialect.name if found.dialect else None,
        "variant": variants[0] if len(variants) == 1 else None,
        "recognised_by": found.recognised_by if len(variants) == 1 else None,
        "candidates": variants,
        "network": network_name(network) if network else None,
        "depths": list(network.depths) if network else None,
        "num_classes": network.num_classes if network else None,
        "in_channels": network.in_channels if network else None,
        "dtypes": sorted({array.dtype.name for array in found.arrays.values()}),
        "arrays": len(found.arrays),
        "parameters": sum(array.size for array in weights.values()) - statistics,
        "running_statistics": statistics,
        "content_hash": found.content_hash,
        "dropped": dict(found.dropped),
        "problems": list(found.problems),
        "converts_to": list(DIALECTS) if network and not found.problems else [],
    }


def network_name(network: ResNetConfig) -> str:
    """The name with the number of its layers that hold weights, and its width where that is unusual.

    Example:
        >>> network_name(ResNetConfig()), network_name(ResNetConfig(depths=(3, 8, 36, 3), width=128))
        ('ResNet-50', 'ResNet-152, width 128')
    """
    wider = "" if network.width == ResNetConfig.width else f", width {network.width}"
    return f"ResNet-{3 * sum(network.depths) + 2}{wider}"


def variant_line(found: Inspection) -> str:
    """The variant and how it is known, or why it is not."""
    variants = [network.variant for network in found.networks]
    if not variants:
        return "not recognised"
    if len(variants) == 1:
        return f"{variants[0]} (known by: {found.recognised_by})"
    published = found.dialect.published_variant if found.dialect else None
    advice = f"; {found.dialect.name}'s own published weights are {published}" if found.dialect and published else ""
    return f"the file cannot tell {', '.join(variants[:-1])} and {variants[-1]} apart: say --variant{advice}"


def notes(dialect: Dialect, container: containers.Container, network: ResNetConfig) -> list[str]:
    """What whoever takes the converted file should know."""
    return [
        note
        for note, holds in (
            (
                f"{dialect.name}'s own ResNet is variant {dialect.published_variant}; with the weights of "
                f"{network.variant} it computes another function",
                dialect.published_variant not in (None, network.variant),
            ),
            (
                f"a {container.name} file cannot say its variant; say --variant {network.variant} when it is read",
                not (container.keeps_metadata or network.conv_bias),
            ),
        )
        if holds
    ]


def dropped_lines(dropped: Mapping[str, str]) -> list[str]:
    """How many arrays were left out, for each reason."""
    return [f"{count}, {why}" for why, count in Counter(dropped.values()).items()]


def echo_rows(rows: Sequence[tuple[str, Any]]) -> None:
    """Print labels and what is known, in two columns."""
    for label, value in rows:
        if value is not None:
            click.echo(f"  {label:<13} {value}")
