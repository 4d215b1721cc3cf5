"""The command `conformance`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conformance.cases.case import MODES, PRECISIONS, TASKS
from conformance.options import (
    MODEL_OPTIONS,
    OUTPUT_OPTIONS,
    PATH,
    RUN_OPTIONS,
    SEED,
    WORKER_OPTIONS,
    Candidates,
    Commands,
    choose_candidates,
    choose_networks,
    exit_on_bad_input,
    in_a_folder,
    not_installed,
    report_option,
    trace_folder,
    weights_option,
    with_options,
)
from impls.config import VARIANTS

if TYPE_CHECKING:
    from rich.console import Console


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Compare implementations of ResNet-50 with a float64 oracle, layer by layer, and say why one diverges."""


@main.command(name="list", short_help="List implementations, variants, inputs and tasks.")
def list_command() -> None:
    """List implementations and whether they are installed, variants, precisions, inputs and tasks."""
    from conformance.cases.recipes import RECIPES, STEPS
    from conformance.run.implementations import BUILDS, IMPLEMENTATIONS

    for implementation in IMPLEMENTATIONS.values():
        versions = ", ".join(f"{package} {version}" for package, version in implementation.versions().items())
        line = not_installed(implementation).removeprefix(f"{implementation.name} is ")
        click.echo(f"implementation  {implementation.name:<12}{line if implementation.missing() else versions}")
    click.echo(f"further builds  {', '.join(BUILDS)} (--impl)")
    for name, config in VARIANTS.items():
        traits = f"stride on {config.strided_layer}, eps {config.norm_eps:g}"
        traits += ", SAME padding" * config.same_padding + ", biases" * config.conv_bias
        traits += ", ReLU before the addition" * config.relu_before_addition
        click.echo(f"variant         {name:<12}{traits}")
    click.echo(f"precisions      {', '.join(PRECISIONS)}")
    click.echo("inputs          a photograph (--images takes your own), noise at 224x224, at an odd and an even size")
    modes = " and ".join(MODES)
    click.echo(f"--task          forward: parameters; logits and every block's activation in {modes} mode;")
    click.echo("                running statistics after a run in train mode")
    click.echo(f"                gradients: of every parameter and of the input, in {modes} mode")
    click.echo(f"                steps: losses and state of {STEPS} training steps, by {', '.join(RECIPES)}")
    click.echo("                initialisation: mean, variance and fourth moment of each array that is drawn")


def exit_without_candidates(candidates: Candidates, console: Console) -> None:
    """Print what was asked for and is not installed; exit where nothing else can run."""
    from conformance.outcome import EXIT_CODES

    for line in candidates.absent:
        console.print(line, style="bold red")
    if not candidates.runnable:
        for line in candidates.left_out:
            console.print(line)
        sys.exit(EXIT_CODES["incomplete"])


@main.command(name="run", short_help="Compare candidates with the oracle; say why one diverges.")
@click.option(
    "--impl",
    "names",
    multiple=True,
    metavar="NAME",
    help="A name from `conformance list`; NAME=MODULE:CLASS, your own adapter; or NAME=torch+FAULT@PLACE, a faulty "
    "candidate.  [default: all installed]",
)
@click.option("--variant", "variants", multiple=True, metavar="NAME", help=f"{', '.join(VARIANTS)}.  [default: all]")
@with_options(*RUN_OPTIONS, *OUTPUT_OPTIONS)
def run_command(
    names: Sequence[str],
    variants: Sequence[str],
    precisions: Sequence[str],
    tasks: Sequence[str],
    images: Sequence[Path],
    weights: str | None,
    seed: int,
    device: str,
    timeout: float,
    interpreters: Mapping[str, str],
    report: Path | None,
    junit: Path | None,
    annotations: bool,
    keep_traces: Path | None,
) -> None:
    """Run candidates beside the oracle and compare everything that they compute.

    Without options: every installed implementation, all five variants, float64 and float32, on a photograph and noise.
    --impl, --variant, --precision, --task, --images and --python take several values.

    \b
    Exit code 0: all conform.
              1: one diverges; its first wrong layer and the likely cause are printed.
              2: bad input.
              3: one that was asked for could not run, and nothing that ran diverges.

    \b
    conformance run --impl torch flax --variant v1.5
    conformance run --weights resnet50.pth --variant v1.5 --images cat.jpg dog.png
    """  # noqa: D301 (click's mark of lines to be kept)
    from conformance.outcome import EXIT_CODES
    from conformance.plan import Plan
    from conformance.report.github import annotations_of
    from conformance.report.junit import write_junit
    from conformance.report.progress import progress
    from conformance.report.record import make_record, write_json
    from conformance.report.text import plain_console, print_record
    from conformance.run.implementations import IMPLEMENTATIONS
    from conformance.suite import run_suite

    console, precisions, tasks = plain_console(), precisions or PRECISIONS, tasks or TASKS[:1]
    with exit_on_bad_input():
        candidates = choose_candidates(names, IMPLEMENTATIONS, interpreters)
        exit_without_candidates(candidates, console)
        networks = choose_networks(variants, weights, images, seed)
    chosen, keep = candidates.runnable, keep_traces is not None
    not_compared = [f"{c.name} in float64: {c.float32_only}" for c in chosen if not {*precisions} <= {*c.precisions}]
    with trace_folder(keep_traces) as folder, progress() as notify:
        plan = Plan(networks, chosen, precisions, folder, device, timeout, interpreters, keep, seed, tasks)
        outcome = run_suite(plan, notify)
    record = make_record(plan, outcome, [*candidates.left_out, *not_compared])
    print_record(record, console)
    if report is not None:
        write_json(record, report)
    if junit is not None:
        write_junit([record], junit)
    for line in annotations_of([record]) if annotations else ():
        click.echo(line)
    sys.exit(EXIT_CODES[outcome.verdict] or (EXIT_CODES["incomplete"] if candidates.absent else 0))


@main.command(name="check", short_help="Check models as they are, without an adapter.")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@with_options(*MODEL_OPTIONS, *OUTPUT_OPTIONS)
def check_command(
    targets: Sequence[str], report: Path | None, junit: Path | None, annotations: bool, **options: Any
) -> None:
    """Check models as they are: the same cases, oracle and verdicts as `run`, without an adapter.

    A TARGET is MODULE:FACTORY or FILE.py:FACTORY, with literal arguments if need be. NAME=TARGET gives it a name.

    \b
    Exit code 0: all conform, in what the report says was compared.
              1: one diverges; its first wrong layer and the likely cause are printed.
              2: bad input.
              3: one could not run, or not do what was asked for, and nothing that ran diverges.

    \b
    conformance check torchvision.models:resnet50
    conformance check "mine=./port.py:make_model(num_classes=10)" --variant v1.5
    """  # noqa: D301 (click's mark of lines to be kept)
    from conformance.checking import check_models
    from conformance.report.github import annotations_of
    from conformance.report.junit import write_junit
    from conformance.report.progress import progress
    from conformance.report.record import write_json
    from conformance.report.text import plain_console, print_record
    from conformance.surveying import Request

    console = plain_console()
    with exit_on_bad_input(), progress() as notify:
        result = check_models(targets, Request(**options), notify)
    for record in result.records:
        print_record(record, console)
    if report is not None:
        write_json(result.to_dict(), report)
    if junit is not None:
        write_junit(result.records, junit)
    for line in annotations_of(result.records) if annotations else ():
        click.echo(line)
    sys.exit(result.exit_code)


@main.command(name="record", short_help="Run a model, and write what it computes to a file.")
@click.argument("target")
@click.option("--out", required=True, type=PATH, callback=in_a_folder, help="The file to write.")
@click.option("--small", is_flag=True, help="Keep sketches of large activations, not the activations.")
@with_options(*MODEL_OPTIONS)
def record_command(target: str, out: Path, small: bool, **options: Any) -> None:
    """Run a model and write all that it computes to a file, which `compare` reads on any machine.

    TARGET is one as in `check`; or the name of one of our implementations or builds, or `oracle`.

    \b
    Exit code 0: everything is recorded.
              2: bad input.
              3: something could not be recorded; if nothing could, no file is written.

    \b
    conformance record torchvision.models:resnet50 --out torchvision.trace
    conformance record flax --variant v1.5 --out flax.trace
    """  # noqa: D301 (click's mark of lines to be kept)
    from conformance.outcome import EXIT_CODES
    from conformance.report.progress import progress
    from conformance.surveying import Request
    from conformance.tracing.runs import NothingRecorded, record_model

    with exit_on_bad_input(), progress() as notify:
        try:
            recording = record_model(target, Request(**options), small, notify)
        except NothingRecorded as error:
            click.echo(f"nothing is recorded: {error}", err=True)
            sys.exit(EXIT_CODES["incomplete"])
        try:
            recording.save(out)
        except OSError as error:
            raise ValueError(f"{out}: it cannot be written: {error}") from error
    for line in [*recording.notes, *recording.not_recorded]:
        click.echo(line)
    click.echo(f"{out}: {len(recording.traces)} cases of {recording.candidate}, {out.stat().st_size / 1e6:,.1f} MB")
    sys.exit(EXIT_CODES["incomplete"] if recording.not_recorded else 0)


@main.command(name="map", short_help="Propose path patterns for a model with names of its own.")
@click.argument("target")
@click.option("--out", type=PATH, callback=in_a_folder, help="The TOML file to write.  [default: print it]")
@with_options(*WORKER_OPTIONS)
def map_command(target: str, out: Path | None, **options: Any) -> None:
    """Propose the TOML file of path patterns that `check --names` takes, from the shapes and the names of the arrays.

    TARGET is one as in `check`. What is ambiguous is left to you, in comments.

    \b
    Exit code 0: the patterns read every array, each once; or the names are those of a known dialect.
              2: bad input; the arrays are not those of a bottleneck ResNet, for example.
              3: something is left to you, or the target could not be loaded.

    \b
    conformance map my_port:build --out names.toml
    """  # noqa: D301 (click's mark of lines to be kept)
    from conformance.outcome import EXIT_CODES
    from conformance.proposing import NotLoaded, map_target, write_proposal
    from conformance.report.progress import progress
    from conformance.surveying import Request

    with exit_on_bad_input(), progress() as notify:
        try:
            mapped = map_target(target, Request(**options), notify)
        except NotLoaded as error:
            click.echo(f"{target} could not be loaded: {error}", err=True)
            sys.exit(EXIT_CODES["incomplete"])
        if mapped.proposal is None:
            click.echo(f"{mapped.name}: its arrays are named as in {mapped.dialect}; no file is needed")
            return
        click.echo(write_proposal(mapped, mapped.proposal, out), nl=False)
    if out is not None:
        click.echo(f"{out}: {len(mapped.proposal.layers)} patterns")
    left = [*mapped.proposal.ambiguous, *mapped.proposal.missing]
    if left:
        click.echo(f"left to you, in comments: {', '.join(left)}", err=True)
    sys.exit(EXIT_CODES["incomplete"] if left else 0)


@main.command(name="compare", short_help="Compare two files that `record` wrote; no framework is needed.")
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@weights_option("The checkpoint that both were given, for float32")
@click.option("--names", type=PATH, help="Of any network: a TOML file that maps names.")
@click.option("--noise", type=PATH, help="Of any network: the first, recorded in float32.")
@report_option("every comparison")
def compare_command(
    first: Path, second: Path, weights: str | None, names: Path | None, noise: Path | None, report: Path | None
) -> None:
    """Hold SECOND against FIRST, two files that `record` or `conformance.recording` wrote, array by array.

    float64 is judged by the limits of the suite, float32 by the reference builds, which are run here: they are NumPy.

    \b
    Exit code 0: everything that both hold was compared, and nothing diverges.
              1: they diverge; the first diverging layer is printed, and which of the two the oracle agrees with.
              2: bad input: a damaged file, other weights, other inputs, another network.
              3: something could not be judged, and nothing that was judged diverges.

    \b
    conformance compare torchvision.trace flax.trace
    """  # noqa: D301 (click's mark of lines to be kept)
    from conformance.report.progress import progress
    from conformance.report.record import write_json
    from conformance.tracing.comparison import compare_files

    with exit_on_bad_input(), progress() as notify:
        result = compare_files(first, second, weights, names, noise, notify)
    click.echo(str(result), nl=False)
    if report is not None:
        write_json(result.to_dict(), report)
    sys.exit(result.exit_code)


@main.command(name="selftest", short_help="Try the suite on injected faults.")
@click.option("--impl", "names", multiple=True, metavar="NAME", help="torch, flax or keras.  [default: all installed]")
@click.option("--variant", default="v1.5", show_default=True, type=click.Choice(list(VARIANTS)))
@click.option("--fault", "faults", multiple=True, metavar="ID", help="Fault of the catalogue.  [default: all]")
@click.option("--everywhere", is_flag=True, help="Inject at every place, not at three of each kind.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["auto", "cpu", "gpu"]))
@SEED
@report_option("the whole self-test")
def selftest_command(
    names: Sequence[str],
    variant: str,
    faults: Sequence[str],
    everywhere: bool,
    device: str,
    seed: int,
    report: Path | None,
) -> None:
    """Inject the faults of the catalogue into the implementations: each must be caught, placed and named.

    \b
    Exit code 0: all targets are met.
              1: one is missed, or a correct network is accused.
              2: bad input.
              3: one that was asked for could not be tested, or none could.
    """  # noqa: D301 (click's mark of lines to be kept)
    from conformance.run.switches import THREADS

    for variable in THREADS:  # before NumPy is imported: on small networks its threads cost more than they give
        os.environ.setdefault(variable, "1")
    from conformance.outcome import EXIT_CODES
    from conformance.report.progress import progress
    from conformance.report.record import write_json
    from conformance.report.text import plain_console
    from conformance.run.implementations import IMPLEMENTATIONS
    from conformance.selftest.loop import run_selftest
    from conformance.selftest.text import print_selftest

    console = plain_console()
    with exit_on_bad_input():
        candidates = choose_candidates(names, IMPLEMENTATIONS)
    exit_without_candidates(candidates, console)
    with exit_on_bad_input(), progress() as notify:
        result = run_selftest(
            candidates.runnable, variant, faults, seed=seed, everywhere=everywhere, device=device, notify=notify
        )
    for line in candidates.left_out:
        console.print(f"left out: {line}")
    print_selftest(result, variant, candidates.runnable, console)
    if report is not None:
        write_json(result.to_dict(variant), report)
    sys.exit(EXIT_CODES["diverges"] if result.missed() else EXIT_CODES["incomplete"] if candidates.absent else 0)


@main.command(name="false-alarms", short_help="Try the suite on correct builds.")
@click.option("--runs", default=1000, show_default=True, type=click.IntRange(1), help="At least so many runs.")
@click.option("--impl", "names", multiple=True, metavar="NAME", help="Build.  [default: all that are installed]")
@click.option(
    "--variant", "variants", multiple=True, type=click.Choice(list(VARIANTS)), help="Variants.  [default: all]"
)
@click.option("--full", is_flag=True, help="Run ResNet-50 at 224x224, not the small network.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the first network.")
@report_option("counts and alarms")
def false_alarms_command(
    runs: int, names: Sequence[str], variants: Sequence[str], full: bool, seed: int, report: Path | None
) -> None:
    """Run correct builds, eager and compiled, in every layout, and count those that the suite accuses: none may be.

    A run is one build in one precision on one network, in inference and train mode. Seeds, variants, sizes, batches
    and threads change from network to network.

    \b
    Exit code 0: no false alarm.
              1: at least one.
              2: bad input.
              3: a build could not run.
    """  # noqa: D301 (click's mark of lines to be kept)
    from conformance.outcome import EXIT_CODES
    from conformance.report.progress import progress
    from conformance.report.record import write_json
    from conformance.report.text import plain_console
    from conformance.run.implementations import NAMED
    from conformance.selftest.alarms import run_campaign
    from conformance.selftest.text import print_campaign

    console = plain_console()
    with exit_on_bad_input():
        candidates = choose_candidates(names, NAMED)
    exit_without_candidates(candidates, console)
    for line in candidates.left_out:
        console.print(f"left out: {line}")
    with progress() as notify:
        campaign = run_campaign(
            candidates.runnable, variants or list(VARIANTS), runs, seed=seed, full=full, notify=notify
        )
    print_campaign(campaign, candidates.runnable, console)
    if report is not None:
        write_json(campaign.to_dict(), report)
    incomplete = candidates.absent or campaign.failures
    sys.exit(EXIT_CODES["diverges"] if campaign.alarms else EXIT_CODES["incomplete"] if incomplete else 0)


@main.command(name="explain", short_help="Show the page of a fault.")
@click.argument("fault", required=False, metavar="[ID]")
def explain_command(fault: str | None) -> None:
    """Show the page of a fault: how it looks in each framework, where it can be, who met it, and what to do.

    Without ID: list the faults by subject.

    \b
    conformance explain pad-same
    """  # noqa: D301 (click's mark of lines to be kept)
    from conformance.faults import find_fault
    from conformance.faults.page import fault_page, index_page

    with exit_on_bad_input():
        click.echo(fault_page(find_fault(fault)) if fault else index_page())


if __name__ == "__main__":
    main()
