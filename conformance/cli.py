"""The command `conformance`."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conformance.cases.recipes import TASKS
from impls.config import VARIANTS, ResNetConfig

if TYPE_CHECKING:
    from conformance.plan import Listener, NetworkPlan
    from conformance.run.implementations import Implementation

BAD_INPUT = 2
PRECISIONS = ("float64", "float32")


class SeveralValues(click.Command):
    """A command whose repeatable options also take several values in a row, as a shell makes of `--images *.jpg`."""

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
        return super().parse_args(ctx, spelled)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Compare implementations of ResNet-50 with a float64 oracle, layer by layer."""


@main.command(name="list")
def list_command() -> None:
    """Show implementations and whether they are installed, variants, inputs and cases."""
    from conformance.cases.case import MODES
    from conformance.cases.recipes import RECIPES, STEPS
    from conformance.run.implementations import BUILDS, IMPLEMENTATIONS

    for implementation in IMPLEMENTATIONS.values():
        missing = implementation.missing()
        held = ", ".join(f"{package} {version}" for package, version in implementation.versions().items())
        state = f"not installed (pip install 'resnet-parity[{implementation.extra}]')" if missing else held
        click.echo(f"implementation  {implementation.name:<12}{state}")
    click.echo(f"further builds  {', '.join(BUILDS)} (--impl)")
    for name, config in VARIANTS.items():
        traits = f"stride on {config.strided_layer}, eps {config.norm_eps:g}"
        traits += ", SAME padding" * config.same_padding + ", biases" * config.conv_bias
        traits += ", ReLU before the addition" * config.relu_before_addition
        click.echo(f"variant         {name:<12}{traits}")
    click.echo(f"precisions      {', '.join(PRECISIONS)}")
    click.echo("inputs          a photograph, noise at 224x224, at an odd and at an even size (or --images)")
    click.echo(
        f"cases           parameters; shapes, logits and every block's activation in {' and '.join(MODES)} mode;"
    )
    click.echo("                running statistics after a train-mode run")
    click.echo(f"                --task gradients: of every parameter and the input, in {' and '.join(MODES)} mode")
    click.echo(f"                --task steps: losses and state of {STEPS} steps of {', '.join(RECIPES)}")
    click.echo("                --task initialisation: mean, variance and fourth moment of each array that is drawn")


@main.command(cls=SeveralValues)
@click.option(
    "--impl", "names", multiple=True, metavar="NAME", help="As `conformance list` has it, or NAME=MODULE:CLASS."
)
@click.option("--variant", "variants", multiple=True, metavar="NAME", help=f"{', '.join(VARIANTS)}.")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="Default both.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(TASKS), help="Default forward; several are possible.")
@click.option("--images", multiple=True, type=click.Path(path_type=Path), help="Your own pictures, for the photograph.")
@click.option("--weights", type=click.Path(path_type=Path), help="A checkpoint, for the synthetic weights.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of synthetic weights and noise.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "gpu"]))
@click.option(
    "--timeout", default=900.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Seconds per worker."
)
@click.option("--report", type=click.Path(path_type=Path), help="Write everything to this JSON file.")
@click.option("--keep-traces", type=click.Path(path_type=Path), help="Keep what each implementation computed, here.")
@click.option("--python", "interpreters", multiple=True, metavar="NAME=PATH", help="Run NAME by another interpreter.")
def run(
    names: Sequence[str],
    variants: Sequence[str],
    precisions: Sequence[str],
    tasks: Sequence[str],
    images: Sequence[Path],
    weights: Path | None,
    seed: int,
    device: str,
    timeout: float,
    report: Path | None,
    keep_traces: Path | None,
    interpreters: Sequence[str],
) -> None:
    r"""Run implementations beside the oracle and compare all they compute.

    Without options: every installed implementation, all five variants, float64 and float32, on a photograph and noise.

    \b
    Exit code 0: all conform. 1: something diverges; the first diverging layer is named. 2: bad input.
    3: an implementation that was asked for could not run (and nothing that ran diverges).

    --impl, --variant, --precision, --images and --python take several values.

    \b
    conformance run --impl torch --impl flax --variant v1.5
    conformance run --weights resnet50.pth --variant v1.5 --images cat.jpg dog.png --report report.json
    """
    from conformance.outcome import EXIT_CODES
    from conformance.plan import Plan
    from conformance.report.record import make_record, write_json
    from conformance.report.text import plain_console, print_record
    from conformance.suite import run_suite

    console = plain_console()
    with _bad_input_is_told():
        others = dict(_pair(text, "--python") for text in interpreters)
        chosen, left_out, absent = _implementations(names, others)
        if "float64" in (precisions or PRECISIONS):
            left_out += [f"{i.name} in float64: {i.float32_only}" for i in chosen if i.float32_only]
        networks = _networks(variants, weights, images, seed)
        _check_report(report)
        if keep_traces is not None and keep_traces.exists() and any(keep_traces.iterdir()):
            raise ValueError(f"{keep_traces}: traces are kept in a new or empty folder only")
    for line in absent:
        console.print(line, style="bold red")
    if not chosen:
        sys.exit(EXIT_CODES["incomplete"])
    with _directory(keep_traces) as directory:
        plan = Plan(
            networks,
            chosen,
            precisions or PRECISIONS,
            directory,
            device,
            timeout,
            others,
            keep_traces is not None,
            seed,
            tasks or TASKS[:1],
        )
        with _progress() as notify:
            outcome = run_suite(plan, notify)
        record = make_record(plan, outcome, left_out)
        print_record(record, console)
        if report is not None:
            write_json(record, report)
    code = EXIT_CODES[outcome.verdict]
    sys.exit(code or (EXIT_CODES["incomplete"] if absent else 0))


@main.command(cls=SeveralValues)
@click.option("--impl", "names", multiple=True, metavar="NAME", help="torch, flax, keras; default all installed.")
@click.option("--variant", default="v1.5", show_default=True, type=click.Choice(list(VARIANTS)))
@click.option("--fault", "faults", multiple=True, metavar="ID", help="Default all.")
@click.option("--everywhere", is_flag=True, help="Inject at every place, not at three of each kind.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of weights and noise.")
@click.option("--report", type=click.Path(path_type=Path), help="Write everything to this JSON file.")
def selftest(
    names: Sequence[str], variant: str, faults: Sequence[str], everywhere: bool, seed: int, report: Path | None
) -> None:
    r"""Inject the catalogue's faults into the implementations: each must be caught, placed and named.

    \b
    Exit code 0: all targets are met. 1: one is missed, or a right build is accused. 2: bad input.
    3: no implementation could be tested.
    """
    from conformance.run.switches import THREADS

    for variable in THREADS:  # before NumPy is imported: on small networks its threads cost more than they give
        os.environ.setdefault(variable, "1")
    from conformance.outcome import EXIT_CODES
    from conformance.report.record import write_json
    from conformance.report.text import plain_console
    from conformance.selftest.loop import run_selftest
    from conformance.selftest.text import print_selftest
    from conformance.selftest.trials import Result

    console = plain_console()
    result = Result()
    with _bad_input_is_told():
        chosen, left_out, absent = _implementations(names, {})
        _check_report(report)
        with _counted() as notify:
            if chosen:
                result = run_selftest(chosen, variant, faults, seed=seed, everywhere=everywhere, notify=notify)
    for line in (*absent, *left_out):
        console.print(line)
    if not chosen:
        sys.exit(EXIT_CODES["incomplete"])
    print_selftest(result, variant, chosen, console)
    if report is not None:
        write_json(result.to_dict(variant), report)
    sys.exit(EXIT_CODES["diverges"] if result.missed() else EXIT_CODES["incomplete"] if absent else 0)


@main.command(name="false-alarms", cls=SeveralValues)
@click.option("--runs", default=1000, show_default=True, type=click.IntRange(1), help="At least so many.")
@click.option("--impl", "names", multiple=True, metavar="NAME", help="Default every build that is installed.")
@click.option("--variant", "variants", multiple=True, type=click.Choice(list(VARIANTS)), help="Default all.")
@click.option("--full", is_flag=True, help="Run ResNet-50 at 224x224, not the small network.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the first weights and input.")
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write counts, alarms and worst cases to this JSON file."
)
def false_alarms(
    runs: int, names: Sequence[str], variants: Sequence[str], full: bool, seed: int, report: Path | None
) -> None:
    r"""Run right builds, eager and compiled, in every layout, and count those that the suite accuses: none may be.

    A run is one build in one precision on one network, in inference and train mode. Seeds, variants, sizes, batches
    and threads change from network to network.

    \b
    Exit code 0: no false alarm. 1: at least one. 2: bad input. 3: a build could not run.
    """
    from conformance.outcome import EXIT_CODES
    from conformance.report.record import write_json
    from conformance.report.text import plain_console
    from conformance.run.implementations import NAMED
    from conformance.selftest.alarms import run_right_builds
    from conformance.selftest.text import print_campaign

    console = plain_console()
    with _bad_input_is_told():
        chosen, left_out, absent = _implementations(names, {}, NAMED)
        _check_report(report)
    for line in (*absent, *left_out):
        console.print(line)
    if not chosen:
        sys.exit(EXIT_CODES["incomplete"])
    with _progress() as notify:
        campaign = run_right_builds(chosen, variants or list(VARIANTS), runs, seed=seed, full=full, notify=notify)
    print_campaign(campaign, chosen, console)
    if report is not None:
        write_json(campaign.to_dict(), report)
    incomplete = absent or campaign.failures
    sys.exit(EXIT_CODES["diverges"] if campaign.alarms else EXIT_CODES["incomplete"] if incomplete else 0)


@main.command()
@click.argument("fault", required=False, metavar="[ID]")
def explain(fault: str | None) -> None:
    r"""Show the page of a fault: how it looks in each framework, where it can be, who met it, and what to do.

    Without ID: list the faults by subject.

    \b
    conformance explain pad-same
    """
    from conformance.faults import find_fault
    from conformance.faults.page import fault_page, index_page

    with _bad_input_is_told():
        click.echo(fault_page(find_fault(fault)) if fault else index_page())


@contextlib.contextmanager
def _counted() -> Iterator[Listener]:
    """A count of the traces of the worker at work, on a terminal."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        counts: dict[str, int] = {}

        def notify(event: Any) -> None:
            title = f"{event.job.implementation.name} {event.job.precision}"
            counts[title] = counts.get(title, 0) + (event.kind == "traced")
            status.update(f"{title}: {counts[title]} of {len(event.job.cases)} runs")

        yield notify


def _implementations(
    names: Sequence[str], interpreters: dict[str, str], usual: Mapping[str, Implementation] | None = None
) -> tuple[list[Implementation], list[str], list[str]]:
    """What can run; what was left out because it is not installed; what was asked for by name and is not installed."""
    from conformance.run.implementations import IMPLEMENTATIONS, find_implementation

    usual = IMPLEMENTATIONS if usual is None else usual
    asked = [find_implementation(name) for name in dict.fromkeys(names)] or list(usual.values())
    if unknown := interpreters.keys() - {implementation.name for implementation in asked}:
        raise ValueError(f"--python names {', '.join(sorted(unknown))}, which is not run")
    missing = {i.name: i.missing() for i in asked if i.name not in interpreters}
    told = [
        f"{i.name} is not installed ({', '.join(missing[i.name])} missing; pip install 'resnet-parity[{i.extra}]')"
        for i in asked
        if missing.get(i.name)
    ]
    runnable = [i for i in asked if not missing.get(i.name)]
    if names:
        return runnable, [], told
    if not runnable:
        return [], told, ["no implementation is installed: pip install 'resnet-parity[all]'"]
    return runnable, told, []


def _networks(
    variants: Sequence[str], weights: Path | None, images: Sequence[Path], seed: int
) -> dict[str, NetworkPlan]:
    """The networks to run, each with weights and inputs."""
    import weights_convert
    from conformance.cases.inputs import default_inputs, read_images
    from conformance.cases.weights import synthetic_weights
    from conformance.plan import NetworkPlan

    if unknown := [name for name in variants if name not in VARIANTS]:
        raise ValueError(f"there is no variant {', '.join(unknown)}; the variants are {', '.join(VARIANTS)}")
    if weights is not None and len(variants) > 1:
        raise ValueError("--weights belong to one variant; name one")
    own = read_images(images) if images else []
    if weights is not None:
        checkpoint = weights_convert.load(weights, variant=variants[0] if variants else None)
        checkpoints = {checkpoint.config.variant: checkpoint}
    else:
        configs = {name: VARIANTS[name] for name in dict.fromkeys(variants or VARIANTS)}
        checkpoints = {name: synthetic_weights(config, seed) for name, config in configs.items()}
    return {
        name: NetworkPlan(
            checkpoint.config, checkpoint, _inputs(checkpoint.config, own, default_inputs(checkpoint.config, seed))
        )
        for name, checkpoint in checkpoints.items()
    }


def _inputs(config: ResNetConfig, own: Sequence[Any], usual: Sequence[Any]) -> list[Any]:
    """The usual inputs, the photograph replaced by the user's own pictures where there are any."""
    if not own:
        return list(usual)
    if config.in_channels != 3:
        raise ValueError(f"pictures have 3 channels, and this network takes {config.in_channels}")
    return [*own, *(input for input in usual if input.name != "photograph")]


def _check_report(report: Path | None) -> None:
    if report is not None and not report.parent.is_dir():
        raise ValueError(f"{report}: there is no folder {report.parent} to write the report into")


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise ValueError(f"{option} takes NAME=PATH, not {text!r}")
    return name, value


@contextlib.contextmanager
def _bad_input_is_told() -> Iterator[None]:
    """One message and exit code 2 for what the user gave wrongly; every such error is a ValueError."""
    try:
        yield
    except ValueError as error:
        click.echo(f"conformance: {error}", err=True)
        sys.exit(BAD_INPUT)


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    """Where traces go: the user's folder, or one that is removed whatever happens."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    directory = Path(tempfile.mkdtemp(prefix="conformance-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _progress() -> Iterator[Listener]:
    """A bar on a terminal, a line per worker elsewhere; both on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[Path, Any] = {}

        def notify(event: Any) -> None:
            job = event.job
            title = f"{job.implementation.name} {job.precision}"
            if job.directory not in tasks:
                tasks[job.directory] = progress.add_task(title, total=len(job.cases))
            if event.kind == "traced":
                progress.advance(tasks[job.directory])
            if event.kind in ("done", "failed"):
                progress.remove_task(tasks[job.directory])
                if not console.is_terminal:
                    click.echo(f"{title}: {event.kind}", err=True)

        yield notify


if __name__ == "__main__":
    main()
