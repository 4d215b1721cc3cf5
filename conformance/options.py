"""Options of the command: the candidates, networks and inputs that they name. A wrong option is a ValueError."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conformance.cases.case import PRECISIONS, TASKS
from impls.config import VARIANTS, ResNetConfig

if TYPE_CHECKING:
    from conformance.cases.inputs import Input
    from conformance.plan import NetworkPlan
    from conformance.run.implementations import Implementation

BAD_INPUT = 2
"""Exit code of a command whose options are wrong."""

Option = Callable[[Callable[..., None]], Callable[..., None]]
"""A decorator that gives a command an option."""


@contextlib.contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Turn a ValueError into one message and exit code 2."""
    try:
        yield
    except ValueError as error:
        click.echo(f"conformance: {error}", err=True)
        sys.exit(BAD_INPUT)


class SeveralValues(click.Command):
    """A command whose repeatable options also take several values in a row, as a shell makes of `--images *.jpg`.

    A value that is wrong is a ValueError, too, and ends the command with one message.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Spell `--images a b` as `--images a --images b`."""
        repeatable = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spelled: list[str] = []
        name, values = "", 0
        for argument in args:
            if argument.startswith("-"):
                name, values = argument, 0
            elif name in repeatable:
                values += 1
                spelled += [name] * (values > 1)
            spelled.append(argument)
        with exit_on_bad_input():
            return super().parse_args(ctx, spelled)


class Commands(click.Group):
    """A group of such commands."""

    command_class = SeveralValues


def parse_pairs(context: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, str]:
    """Read the values NAME=PATH of an option."""
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise ValueError(f"{option.opts[0]} takes NAME=PATH, not {text!r}")
        pairs[name] = value
    return pairs


def in_a_folder(context: click.Context, option: click.Parameter, file: Path | None) -> Path | None:
    """Check before a long run that a file can be written: its folder must be there."""
    if file is not None and not file.parent.is_dir():
        raise ValueError(f"{file}: there is no folder {file.parent} to write it into")
    return file


def new_or_empty(context: click.Context, option: click.Parameter, folder: Path | None) -> Path | None:
    """Check that the folder in which traces are kept is new or empty."""
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: traces are kept in a new or empty folder only")
    return folder


PATH = click.Path(path_type=Path)


def weights_option(what: str) -> Option:
    """Make the option `--weights` of a command; it stays text, since a path would change an address (`hf://...`)."""
    return click.option("--weights", metavar="FILE", help=f"{what}: a file, a folder or an address.")


SEED = click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of weights and noise.")

WORKER_OPTIONS = (
    click.option(
        "--timeout",
        default=900.0,
        show_default=True,
        type=click.FloatRange(0, min_open=True),
        help="Seconds per worker.",
    ),
    click.option(
        "--python",
        "interpreters",
        multiple=True,
        metavar="NAME=PATH",
        callback=parse_pairs,
        help="Run NAME by another interpreter.",
    ),
)
"""Options of every command that starts workers."""

RUN_OPTIONS = (
    click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="[default: both]"),
    click.option("--task", "tasks", multiple=True, type=click.Choice(TASKS), help="What to run.  [default: forward]"),
    click.option("--images", multiple=True, type=PATH, help="Your own pictures, not the photograph."),
    weights_option("A checkpoint, in place of synthetic weights"),
    SEED,
    click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "gpu"])),
    *WORKER_OPTIONS,
)
"""Options of every command that runs candidates."""

MODEL_OPTIONS = (
    click.option("--variant", metavar="NAME", help=f"{', '.join(VARIANTS)}.  [default: as the model tells]"),
    click.option("--inference", is_flag=True, help="Run inference mode alone."),
    click.option("--own-weights", is_flag=True, help="Give the model's own weights to the oracle."),
    click.option("--names", type=PATH, help="A TOML file of path patterns: the model's names."),
    click.option("--output", default="", metavar="KEY", help="Key, index or attribute of the logits in its output."),
    click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="Axes of the images that it takes."),
    click.option("--size", type=click.IntRange(1), metavar="SIDE", help="Images have this height and width alone."),
    click.option("--train-argument", default="", metavar="NAME", help="Argument of its call that asks for train mode."),
    *RUN_OPTIONS,
)
"""Options of commands that run a model as it is; their names are the arguments of `conformance.check`."""


def report_option(what: str) -> Option:
    """Make the option `--report` of a command, whose help says what is written."""
    return click.option("--report", type=PATH, callback=in_a_folder, help=f"Write {what} to this JSON file.")


OUTPUT_OPTIONS = (
    report_option("the whole run"),
    click.option("--junit", type=PATH, callback=in_a_folder, help="Write a test for each case to this JUnit XML file."),
    click.option(
        "--annotations/--no-annotations",
        envvar="GITHUB_ACTIONS",
        show_envvar=True,
        help="Print the outcome as annotations of GitHub Actions, too.",
    ),
    click.option(
        "--keep-traces", type=PATH, callback=new_or_empty, help="Keep the arrays of every run in this folder."
    ),
)
"""Options of commands that report a run."""


def with_options(*options: Option) -> Option:
    """Give a command options, in that order."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@dataclass(frozen=True)
class Candidates:
    """The candidates of a command.

    Attributes:
        runnable: Those that can run.
        absent: A line for each that was asked for by name and is not installed, which makes the run incomplete.
        left_out: A line for each other that is not installed.
    """

    runnable: list[Implementation] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def choose_candidates(
    names: Sequence[str], usual: Mapping[str, Implementation], interpreters: Mapping[str, str] | None = None
) -> Candidates:
    """Choose the candidates that run.

    Args:
        names: Values of `--impl`; none means the usual candidates.
        usual: The usual candidates, which are left out where they are not installed.
        interpreters: Names of candidates that run by another Python; what that has installed is not known here.

    Raises:
        ValueError: If a name is unknown, or an interpreter is given for a candidate that does not run.
    """
    from conformance.run.implementations import find_implementation

    interpreters = interpreters or {}
    asked = [find_implementation(name) for name in dict.fromkeys(names)] or list(usual.values())
    if unknown := interpreters.keys() - {candidate.name for candidate in asked}:
        raise ValueError(f"--python names {', '.join(sorted(unknown))}, which is not run")
    missing = {c.name: c.missing() for c in asked if c.name not in interpreters}
    runnable = [candidate for candidate in asked if not missing.get(candidate.name)]
    lines = [not_installed(candidate) for candidate in asked if missing.get(candidate.name)]
    if names:
        return Candidates(runnable, absent=lines)
    if not runnable:
        return Candidates([], ["no implementation is installed: pip install 'resnet-parity[all]'"], lines)
    return Candidates(runnable, left_out=lines)


def not_installed(candidate: Implementation) -> str:
    """Say which packages an implementation lacks, and how to install them."""
    missing = ", ".join(candidate.missing())
    return f"{candidate.name} is not installed ({missing} missing; pip install 'resnet-parity[{candidate.extra}]')"


def choose_networks(
    variants: Sequence[str], weights: str | Path | None, images: Sequence[str | Path], seed: int
) -> dict[str, NetworkPlan]:
    """Choose the networks to run, by variant, each with weights and inputs.

    Args:
        variants: Values of `--variant`; none means all, or with weights the variant that the file holds.
        weights: A checkpoint of one variant; by default weights are synthetic.
        images: The user's own pictures, in place of the photograph.
        seed: Seed of synthetic weights and of noise.

    Raises:
        ValueError: If a variant is unknown, or if weights or pictures cannot be read or do not suit the network.
    """
    import weights_convert
    from conformance.cases.defaults import default_inputs
    from conformance.cases.pictures import read_images
    from conformance.cases.synthetic import synthetic_weights
    from conformance.plan import NetworkPlan

    if unknown := [name for name in variants if name not in VARIANTS]:
        raise ValueError(f"there is no variant {', '.join(unknown)}; the variants are {', '.join(VARIANTS)}")
    if weights is not None and len(variants) > 1:
        raise ValueError("--weights belong to one variant; name one")
    pictures = read_images(images) if images else []
    if weights is not None:
        checkpoints = [weights_convert.load(weights, variant=variants[0] if variants else None)]
    else:
        checkpoints = [synthetic_weights(VARIANTS[name], seed) for name in dict.fromkeys(variants or VARIANTS)]
    return {
        checkpoint.config.variant: NetworkPlan(
            checkpoint.config,
            checkpoint,
            with_pictures(checkpoint.config, pictures, default_inputs(checkpoint.config, seed)),
        )
        for checkpoint in checkpoints
    }


def with_pictures(config: ResNetConfig, pictures: Sequence[Input], usual: Sequence[Input]) -> list[Input]:
    """Put the user's own pictures, if there are any, in the place of the photograph among the usual inputs."""
    if not pictures:
        return list(usual)
    if config.in_channels != 3:
        raise ValueError(f"pictures have 3 channels, and this network takes {config.in_channels}")
    return [*pictures, *(input for input in usual if input.name != "photograph")]


@contextlib.contextmanager
def trace_folder(kept: Path | None) -> Iterator[Path]:
    """Yield the folder that traces go to: the user's own, or a temporary one, which is removed whatever happens."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    folder = Path(tempfile.mkdtemp(prefix="conformance-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
