"""The command `weights-convert`: converts, inspects, compares and verifies checkpoints of a ResNet."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

from impls.config import VARIANTS
from weights_convert import ConversionError, changes, containers, differences, inspect, load
from weights_convert.cli import text
from weights_convert.comparison import FLOATS
from weights_convert.dialects import ALIASES, DIALECTS, WRITTEN, find_dialect
from weights_convert.errors import SHOWN
from weights_convert.naming import Dialect
from weights_convert.unlikely import UnlikelyNumbers

DIALECT = click.Choice([*DIALECTS, *ALIASES])
TARGET_DIALECT = click.Choice([*WRITTEN, *ALIASES])
VARIANT = click.Choice(list(VARIANTS))

JSON = click.option("--json", "as_json", is_flag=True, help="Print a report as JSON.")


def parse_accepted(context: click.Context, option: click.Parameter, words: Sequence[str]) -> dict[str, Any]:
    """Return the fields that the command line accepts, with their values: JSON, or else text.

    Raises:
        click.BadParameter: If a word is not FIELD=VALUE, or a field is given twice.
    """
    accepted: dict[str, Any] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if not (field and equals) or field in accepted:
            raise click.BadParameter(f"{word!r} is not FIELD=VALUE, or gives a field a second time")
        try:
            accepted[field] = json.loads(value)
        except ValueError:
            accepted[field] = value
    return accepted


def reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add to a command the options that choose what is read of a source, the arguments of `load`."""
    for option in reversed(
        (
            click.option("--averaged", is_flag=True, help="Read the averaged weights (EMA) of a training checkpoint."),
            click.option("--entry", metavar="PATH", help="Read the network at this path, such as teacher.backbone."),
            click.option(
                "--drop", metavar="PATH", multiple=True, help="Leave out what lies at this path; may be repeated."
            ),
            click.option("--head", metavar="PATH", help="The linear layer at this path is the classifier."),
            click.option("--drop-head", is_flag=True, help="Leave out the classifier, whatever it is made of."),
            click.option(
                "--accept",
                metavar="FIELD=VALUE",
                multiple=True,
                callback=parse_accepted,
                help="A field of its configuration that is unknown here, and harmless; may be repeated.",
            ),
        )
    ):
        command = option(command)
    return command


def change_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add to a command the options that request changes of numbers, those of `changes.CHANGES`."""
    for option in (
        click.option("--fold-conv-bias", is_flag=True, help="Move the biases of convolutions into running means."),
        click.option("--drop-background", is_flag=True, help="Drop the first of 1001 classes: leaves ImageNet's 1000."),
        click.option("--head-from", metavar="FILE", help="Take the classifier of another file."),
        click.option("--dtype", type=click.Choice(FLOATS), help="Round the numbers to this dtype."),
    ):
        command = option(command)
    return command


def divided(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that choose what is read, and those that request changes of numbers."""
    requested = {name: value for name, value in options.items() if name in changes.CHANGES}
    return {name: value for name, value in options.items() if name not in requested}, requested


def at_most_two(context: click.Context, option: click.Parameter, words: Sequence[str]) -> Sequence[str]:
    """Return the words of an option that is given for each of two sources.

    Raises:
        click.BadParameter: If there are more.
    """
    if len(words) > 2:
        raise click.BadParameter("it is given once for FIRST and once for SECOND")
    return words


def parse_size(context: click.Context, option: click.Parameter, size: str | None) -> int | None:
    """Return a size from the command line in bytes.

    Raises:
        click.BadParameter: If it is not a size.
    """
    try:
        return None if size is None else containers.byte_count(size)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


class Refusal(click.ClickException):
    """A refused conversion: its message is printed on standard error, and the exit code is 2."""

    exit_code = 2


class Commands(click.Group):
    """A group of commands that print a conversion error as a message instead of a traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnlikelyNumbers)  # the reports tell them
                return super().invoke(context)
        except ConversionError as error:
            raise Refusal(str(error)) from error


def examples(*commands: str) -> str:
    """Return examples for the end of a help page."""
    # A backspace makes click keep the line breaks.
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
    """Convert the weights of a ResNet between frameworks, bit for bit."""


@main.command(
    "convert",
    epilog=examples(
        "convert resnet50.pth resnet50.flax.safetensors --variant v1.5",
        "convert resnet50.keras.safetensors back.torchvision.pth",
        "convert hf://timm/resnet50.a1_in1k resnet50.keras.weights.h5",
        "convert resnet50.pth resnet50.transformers --variant v1.5 --max-shard-size 50MB",
        "convert resnet50.h5 resnet50.timm.pth --fold-conv-bias --dtype float16",
        "convert a.safetensors b.safetensors --from torchvision --to canonical --variant v1",
        "convert moco.pth.tar resnet50.flax.safetensors --variant v1.5 --entry encoder_q --drop-head",
        "convert lightning.ckpt resnet50.keras.safetensors --variant v1.5 --head classifier",
    ),
)
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--from", "source_dialect", type=DIALECT, help="Dialect of SOURCE.  [default: recognised by its names]")
@click.option("--to", "target_dialect", type=TARGET_DIALECT, help="Dialect of TARGET.  [default: from its file name]")
@click.option("--variant", type=VARIANT, help="Variant of the network, if SOURCE does not state it.")
@reading_options
@change_options
@click.option("--max-shard-size", callback=parse_size, help="Largest file of a .transformers folder, as in 50MB.")
@JSON
def convert_command(
    source: str,
    target: Path,
    source_dialect: str | None,
    target_dialect: str | None,
    variant: str | None,
    max_shard_size: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert a checkpoint into another dialect or container.

    SOURCE is a file, a folder or an address (hf://timm/resnet50.a1_in1k; see `weights-convert list`). The ending of
    TARGET selects the container (.safetensors, .pth, .weights.h5, ...; .transformers and .orbax are folders), and the
    part before the ending selects the dialect, as in resnet50.flax.safetensors.

    A network behind any prefix is found. Where SOURCE holds several, or other arrays beside it, the message names the
    --entry, --drop or --head that says what to read.

    A source that cannot be converted completely is not converted at all, and an existing TARGET is replaced only by a
    complete one. Numbers change only on request: --dtype, --drop-background, --fold-conv-bias.

    A configuration that stands beside the weights or within a whole model is read whole. A value that no variant has
    is refused, and so is a field that is not known, unless --accept says that it leaves the function as it is.
    """
    dialect = find_dialect(target_dialect) if target_dialect else dialect_of_name(target)
    container = containers.writable(target)
    if target.exists() and Path(source).exists() and Path(source).resolve().is_relative_to(target.resolve()):
        raise ConversionError(str(target), ["it is the source as well; write to another file"])
    reading, requested = divided(options)
    original = load(source, dialect=source_dialect, variant=variant, **reading)
    changed = changes.apply(original, requested)
    converted = changed.to(dialect.name)
    containers.write(target, converted.arrays, converted.metadata(), max_shard_size)
    facts = text.conversion_facts(source, target, container, original, converted)
    text.print_report(facts, as_json)


def dialect_of_name(target: Path) -> Dialect:
    """Return the dialect that a file name states, as in "x.flax.safetensors", or the default of its container.

    Raises:
        ConversionError: If there is neither.

    Example:
        >>> dialect_of_name(Path("resnet50.keras.applications.safetensors")).name
        'keras.applications'
    """
    for name in TARGET_DIALECT.choices:
        if f".{containers.without_ending(target)}".endswith(f".{name}"):
            return find_dialect(name)
    if (container := containers.for_name(target)) and container.default_dialect:
        return find_dialect(container.default_dialect)
    example = target.with_suffix(f".flax{target.suffix}").name
    raise ConversionError(
        str(target),
        [f"its name states no dialect; give --to, or put the dialect before the ending ({example})"],
        f"The dialects are {', '.join(TARGET_DIALECT.choices)}.",
    )


@main.command(
    "inspect",
    epilog=examples(
        "inspect resnet50.flax.safetensors",
        "inspect hf://microsoft/resnet-50",
        "inspect resnet50.pth --variant v1.5 --json",
    ),
)
@click.argument("source")
@click.option("--from", "dialect", type=DIALECT, help="Dialect of SOURCE.  [default: recognised by its names]")
@click.option("--variant", type=VARIANT, help="Variant to compare the arrays with.")
@reading_options
@JSON
def inspect_command(source: str, dialect: str | None, variant: str | None, as_json: bool, **reading: Any) -> None:
    """Show what a file holds and what is wrong with it.

    SOURCE is a file, a folder or an address. The report lists the dialects that it can be converted to. The exit
    code is 0 for every source whose arrays can be read, whether or not they are a complete network, and 2 otherwise.
    """
    inspection = inspect(source, dialect=dialect, variant=variant, **reading)
    text.print_report(text.inspection_facts(inspection), as_json)


@main.command(
    "diff",
    epilog=examples(
        "diff resnet50.pth resnet50.keras.safetensors",
        "diff before.msgpack after.orbax --json",
        "diff dino.pth dino.pth --entry teacher.backbone --entry student.module.backbone",
    ),
)
@click.argument("first")
@click.argument("second")
@click.option("--variant", type=VARIANT, help="Variant of the network, if the two do not state it.")
@click.option(
    "--entry",
    "entries",
    metavar="PATH",
    multiple=True,
    callback=at_most_two,
    help="Read the network at this path of FIRST; given again, of SECOND.",
)
@JSON
def diff_command(first: str, second: str, variant: str | None, entries: Sequence[str], as_json: bool) -> None:
    """Compare two checkpoints, array by array.

    The two may be of any dialects and containers. The exit code is 0 if all arrays are equal bit for bit and may belong
    to the same variant, and 1 otherwise.
    """
    both = zip_longest((first, second), entries)
    sides = [inspect(source, variant=variant, entry=entry) for source, entry in both]
    for side in sides:
        if side.dialect is None:
            raise ConversionError(side.where, side.problems, side.advice)
    arrays = [side.canonical() for side in sides]
    different = differences(*arrays)
    variants = [[network.variant for network in side.networks] for side in sides]
    other_variant = bool(variants[0] and variants[1]) and not set(variants[0]) & set(variants[1])
    if as_json:
        facts = {"first": first, "second": second, "arrays": len(arrays[0]), "variants": variants}
        click.echo(json.dumps(facts | {"differences": [asdict(difference) for difference in different]}, indent=2))
    else:
        for side, names in zip(sides, variants, strict=True):
            dialect = side.dialect.name if side.dialect else None
            network = f"{dialect}, {' or '.join(names) or 'no known network'}"
            click.echo(f"{click.format_filename(side.where)}: {network}")
        for difference in different[:SHOWN]:
            click.echo(f"  {text.difference_line(difference)}")
        if len(different) > SHOWN:
            click.echo(f"  and {len(different) - SHOWN} more")
        equal = len(arrays[0].keys() | arrays[1].keys()) - len(different)
        click.echo(f"{equal} arrays are equal bit for bit, {len(different)} are not")
        if other_variant:
            click.echo("They are of different variants: even with equal arrays they compute different functions.")
    sys.exit(int(bool(different) or other_variant))


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
@click.option("--variant", type=VARIANT, help="Variant of the network, if SOURCE does not state it.")
@reading_options
@change_options
@click.option("--impl", "names", multiple=True, help="Run only this: torch, flax or keras.  [default: all installed]")
@JSON
def verify_command(
    source: str,
    target: str,
    variant: str | None,
    names: Sequence[str],
    as_json: bool,
    **options: Any,
) -> None:
    """Verify a conversion: its arrays, and what they compute.

    First SOURCE and TARGET are compared array by array under canonical names; if one array differs, TARGET is not a
    conversion, and the exit code is 2. Give the options that the conversion was made with: the changes are made again,
    and the result must equal TARGET bit for bit.

    Then the conformance suite runs a photograph and noise with TARGET's weights through every installed framework and
    the float64 oracle, and compares every block. The exit code is the suite's: 0 if all conform, 1 if something
    diverges, 3 if a framework could not run.
    """
    reading, requested = divided(options)
    original = changes.apply(load(source, variant=variant, **reading), requested)
    variant = original.config.variant
    converted = load(target, variant=variant)
    if different := differences(original.to("canonical").arrays, converted.to("canonical").arrays):
        advice = f"These arrays differ from those of {source}, so {target} is not a conversion of it."
        if unrequested := [change for change in converted.changes if change not in original.changes]:
            advice = f"It records these changes: {'; '.join(unrequested)}. Give the options it was converted with."
        raise ConversionError(target, [f"{difference.name}: {difference.what}" for difference in different], advice)
    command = [sys.executable, "-m", "conformance.cli", "run", "--weights", target, "--variant", variant]
    command += ["--precision", "float64", *(word for name in names for word in ("--impl", name))]
    if not as_json:
        for change in original.changes:
            click.echo(f"made again: {change}")
        click.echo(f"{len(original.arrays)} arrays are equal bit for bit under canonical names; now their computation")
        sys.exit(subprocess.run(command).returncode)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        exit_code = subprocess.run([*command, "--report", str(report)], stdout=subprocess.DEVNULL).returncode
        suite = json.loads(report.read_text()) if report.exists() else None
    facts = {"source": source, "target": target, "variant": variant, "changes": list(original.changes)}
    click.echo(json.dumps(facts | {"arrays": len(original.arrays), "suite": suite}, indent=2))
    sys.exit(exit_code)


@main.command("list", epilog=examples("list", "list --json"))
@JSON
def list_command(as_json: bool) -> None:
    """List the published checkpoints.

    Each line gives the address, which the other commands take as a SOURCE, the variant, the number of classes, the
    images that the network expects, and the published hash.
    """
    from weights_convert.published import PUBLISHED

    if as_json:
        click.echo(json.dumps([asdict(row) for row in PUBLISHED], indent=2))
        return
    width = max(len(row.name) for row in PUBLISHED)
    for row in PUBLISHED:
        click.echo(text.published_line(row, width))
