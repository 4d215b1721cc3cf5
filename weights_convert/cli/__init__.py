"""The command `weights-convert`: converts checkpoints of a ResNet, and tells what a file holds."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from impls.config import VARIANTS
from weights_convert import ConversionError, changes, containers, differences, inspect, load
from weights_convert.cli.text import (
    dropped_lines,
    echo_rows,
    facts_of,
    network_name,
    notes,
    preprocessing_line,
    variant_line,
)
from weights_convert.dialects import ALIASES, DIALECTS, find_dialect
from weights_convert.errors import SHOWN
from weights_convert.inspection import FLOATS
from weights_convert.naming import Dialect

DIALECT = click.Choice([*DIALECTS, *ALIASES])
VARIANT = click.Choice(list(VARIANTS))
FILE = click.Path(path_type=Path)


AVERAGED = click.option(
    "--averaged", is_flag=True, help="Of a training checkpoint, read the averaged weights (EMA), not the last."
)


def asks_for_changes(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that ask for other numbers, those of `changes.CHANGES`, to a command."""
    for option in (
        click.option("--fold-conv-bias", is_flag=True, help="Move biases of convolutions into running means."),
        click.option("--drop-background", is_flag=True, help="Of 1001 classes, drop the first: ImageNet's 1000."),
        click.option("--dtype", type=click.Choice(FLOATS), help="Round the numbers to this; else they are kept."),
    ):
        command = option(command)
    return command


def in_bytes(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """A size of the command line as a number.

    Raises:
        click.BadParameter: If it is none.
    """
    try:
        return None if text is None else containers.byte_count(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


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
        "convert hf://timm/resnet50.a1_in1k resnet50.keras.weights.h5",
        "convert resnet50.pth resnet50.transformers --variant v1.5 --max-shard-size 50MB",
        "convert resnet50.h5 resnet50.timm.pth --fold-conv-bias --dtype float16",
        "convert a.safetensors b.safetensors --from torchvision --to canonical --variant v1",
    ),
)
@click.argument("source")
@click.argument("target", type=FILE)
@click.option("--from", "spoken", type=DIALECT, help="How the source names its arrays; else recognised.")
@click.option("--to", "wanted", type=DIALECT, help="How the target names them; else told by its name.")
@click.option("--variant", type=VARIANT, help="The network, where the source does not say it.")
@AVERAGED
@asks_for_changes
@click.option(
    "--max-shard-size", callback=in_bytes, help="Split a .transformers folder: a file has this at most (50MB)."
)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def convert_command(
    source: str,
    target: Path,
    spoken: str | None,
    wanted: str | None,
    variant: str | None,
    averaged: bool,
    max_shard_size: int | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Write the weights of SOURCE as another dialect names and lays them out to TARGET.

    SOURCE is a file, a folder or an address (hf://timm/resnet50.a1_in1k; `weights-convert list` shows more). The
    target's ending names its container (.safetensors, .pth, .weights.h5, ...; .transformers and .orbax are folders),
    what stands before the ending its dialect. What cannot be converted whole is not converted at all; an existing
    target is replaced only by a complete one. No number changes unless one of --dtype, --drop-background and
    --fold-conv-bias asks for it.
    """
    dialect = find_dialect(wanted) if wanted else dialect_of_name(target)
    container = containers.writable(target)
    if target.exists() and Path(source).exists() and Path(source).resolve().is_relative_to(target.resolve()):
        raise ConversionError(str(target), ["it is the source, too; write to another file"])
    original = load(source, dialect=spoken, variant=variant, averaged=averaged)
    checkpoint = changes.apply(original, asked)
    converted = checkpoint.to(dialect.name)
    metadata = converted.metadata()
    containers.write(target, converted.arrays, metadata, max_shard_size)
    report: dict[str, Any] = {
        "source": source,
        "target": str(target),
        "from": original.dialect.name,
        "to": dialect.name,
        "variant": checkpoint.config.variant,
        "recognised_by": checkpoint.recognised_by,
        "network": network_name(checkpoint.config),
        "arrays": len(converted.arrays),
        "dtypes": converted.dtypes(),
        "content_hash": metadata["content_hash"],
        "dropped": dict(checkpoint.dropped),
        "changes": list(converted.changes),
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
        *(("changed", line) for line in converted.changes),
        *(("note", note) for note in report["notes"]),
    ]
    echo_rows(rows)


@main.command(
    "diff",
    epilog=examples(
        "diff resnet50.pth resnet50.keras.safetensors",
        "diff before.msgpack after.orbax --json",
    ),
)
@click.argument("first")
@click.argument("second")
@click.option("--variant", type=VARIANT, help="The network, where the sources do not say it.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def diff_command(first: str, second: str, variant: str | None, as_json: bool) -> None:
    """Compare two checkpoints of any dialects and containers, array by array.

    Exits with 0 if all arrays are equal bit for bit and the network is not another one, else with 1.
    """
    sides = [inspect(source) for source in (first, second)]
    for side in sides:
        if side.dialect is None:
            raise ConversionError(side.where, side.problems)
    found = differences(sides[0].canonical(), sides[1].canonical())
    networks = [[network.variant for network in side.networks] for side in sides]
    other_network = bool(networks[0] and networks[1]) and not set(networks[0]) & set(networks[1])
    if as_json:
        facts = {"first": first, "second": second, "arrays": len(sides[0].canonical()), "variants": networks}
        click.echo(json.dumps(facts | {"differences": [difference.to_dict() for difference in found]}, indent=2))
    else:
        for side, variants in zip(sides, networks, strict=True):
            dialect = side.dialect.name if side.dialect else None
            echo_rows([(click.format_filename(side.where), f"{dialect}, {' or '.join(variants) or 'no network'}")])
        for difference in found[:SHOWN]:
            numbers = "" if difference.largest is None else f", the largest difference {difference.largest:.1e}"
            relative = "" if difference.relative_l2 is None else f", relative L2 {difference.relative_l2:.1e}"
            click.echo(f"  {difference.name}: {difference.what}{numbers}{relative}")
        if len(found) > SHOWN:
            click.echo(f"  and {len(found) - SHOWN} more")
        everywhere = sides[0].canonical().keys() | sides[1].canonical().keys()
        click.echo(f"{len(everywhere) - len(found)} arrays are equal bit for bit, {len(found)} are not")
        if other_network:
            click.echo("they belong to different networks: with equal arrays they would compute different functions")
    sys.exit(int(bool(found) or other_network))


@main.command(
    "verify",
    epilog=examples(
        "verify resnet50.pth resnet50.keras.safetensors --variant v1.5",
        "verify hf://timm/resnet50.a1_in1k resnet50.flax.msgpack",
        "verify resnet50.h5 resnet50.timm.pth --fold-conv-bias --dtype float16",
    ),
)
@click.argument("source")
@click.argument("target")
@click.option("--variant", type=VARIANT, help="The network of the source, where it does not say it.")
@AVERAGED
@asks_for_changes
@click.option("--impl", "names", multiple=True, help="Run these alone: torch, flax, keras. Default: all installed.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON: the suite's own report, too.")
def verify_command(
    source: str,
    target: str,
    variant: str | None,
    averaged: bool,
    names: Sequence[str],
    as_json: bool,
    **asked: Any,
) -> None:
    """Prove a conversion: the arrays of SOURCE and TARGET are the same, and so is what TARGET computes everywhere.

    First both are compared array by array under canonical names; where one differs, it is no conversion, and exit code
    2 says so. Changes that the conversion was asked for are asked for here, too: they are made once more, and the
    result must be TARGET's bit for bit. Then the conformance suite runs a photograph and noise through TARGET's weights
    in every installed framework and in the float64 oracle, and compares every block. Exits as it does: 0 if all
    conform, 1 if something diverges, 3 if a framework could not run.
    """
    original = changes.apply(load(source, variant=variant, averaged=averaged), asked)
    variant = original.config.variant
    converted = load(target, variant=variant)
    if found := differences(original.to("canonical").arrays, converted.to("canonical").arrays):
        problems = [f"{difference.name}: {difference.what}" for difference in found]
        advice = f"These arrays are not those of {source}, so it is no conversion of it."
        if told := [change for change in converted.changes if change not in original.changes]:
            advice = f"It says of itself: {'; '.join(told)}. Verify it with the options that it was converted with."
        raise ConversionError(target, problems, advice)
    command = [sys.executable, "-m", "conformance.cli", "run", "--weights", target, "--variant", variant]
    command += ["--precision", "float64", *(word for name in names for word in ("--impl", name))]
    if not as_json:
        for change in original.changes:
            click.echo(f"made once more: {change}")
        click.echo(f"{len(original.arrays)} arrays are equal bit for bit under canonical names; now what they compute")
        sys.exit(subprocess.run(command).returncode)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run([*command, "--report", str(report)], stdout=subprocess.DEVNULL)
        suite = json.loads(report.read_text()) if report.exists() else None
    facts = {"source": source, "target": target, "variant": variant, "changes": list(original.changes)}
    click.echo(json.dumps(facts | {"arrays": len(original.arrays), "suite": suite}, indent=2))
    sys.exit(done.returncode)


@main.command("list", epilog=examples("list", "list --json"))
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def list_command(as_json: bool) -> None:
    """Show the published checkpoints: their addresses, which `convert` and `inspect` take as a SOURCE.

    Each with its variant, classes, the preprocessing it expects, and the hash that is published.
    """
    from weights_convert.published import PUBLISHED

    if as_json:
        click.echo(json.dumps([asdict(row) for row in PUBLISHED], indent=2))
        return
    width = max(len(row.name) for row in PUBLISHED)
    for row in PUBLISHED:
        digest = row.digest or "no hash published"
        click.echo(
            f"{row.name:<{width}}  {row.variant:<6} {row.classes:>5} classes  {preprocessing_line(row)}  {digest}"
        )


@main.command(
    "inspect",
    epilog=examples(
        "inspect resnet50.flax.safetensors",
        "inspect hf://microsoft/resnet-50",
        "inspect resnet50.pth --variant v1.5 --json",
    ),
)
@click.argument("file")
@click.option("--from", "spoken", type=DIALECT, help="How the file names its arrays; else recognised.")
@click.option("--variant", type=VARIANT, help="The network that it is held to.")
@AVERAGED
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def inspect_command(file: str, spoken: str | None, variant: str | None, averaged: bool, as_json: bool) -> None:
    """Tell what FILE holds, what it lacks, and what it can become.

    Exits with 0 for any file whose arrays can be read, whether or not they are a complete network.
    """
    found = inspect(file, dialect=spoken, variant=variant, averaged=averaged)
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
            *(("changed", line) for line in found.changes),
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
    if (container := containers.of_name(target)) and container.default_dialect:
        return find_dialect(container.default_dialect)
    example = target.with_suffix(f".flax{target.suffix}").name
    raise ConversionError(
        str(target),
        [f"its name tells no dialect to write; say --to, or put it before the ending ({example})"],
        f"The dialects are {', '.join(DIALECT.choices)}.",
    )
