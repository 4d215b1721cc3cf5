"""Surveying: what models are, and the network and the weights that each is held against, before anything is compared.

A target is surveyed in a worker of its own, a live object in this process. The arrays of a model tell its size and
dialect, its configuration or the user its variant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import weights_convert
from conformance.cases.synthetic import synthetic_weights
from conformance.outcome import Failure
from conformance.plan import Assignment, Listener, Plan, make_jobs
from conformance.run.candidates.kinds import adapt
from conformance.run.candidates.naming import FOLDED, Naming, read_names
from conformance.run.candidates.options import Layout, Options
from conformance.run.candidates.survey import Survey, Unfit
from conformance.run.candidates.targets import Target, TargetError, parse_target
from conformance.run.candidates.variants import VariantError, find_variant, follow_convention
from conformance.run.implementations import NAMED, ORACLE, REFERENCE_BUILDS, Implementation
from conformance.run.jobs import run_jobs
from conformance.run.live import LiveCandidate
from impls.config import ResNetConfig
from weights_convert import Checkpoint
from weights_convert.dialects import find_dialect
from weights_convert.errors import first_line

OWN_WEIGHTS = "the model's own weights"
"""Source of weights that were read back from a model."""

OPEN = "conformance.run.candidates.kinds:open_candidate"


@dataclass(frozen=True, kw_only=True)
class Request:
    """The request of a check: the arguments of `conformance.check`, or the values of the command's options.

    Attributes:
        variant: The variant that every target is held against; None where targets tell their own.
        weights: A checkpoint that every target is given; None for synthetic weights.
        own_weights: Whether the oracle takes the weights of each target instead.
        images: The user's own pictures.
        precisions: Precisions that were asked for by name; none for both, as far as a target can.
        tasks: Of `conformance.cases.case.TASKS`; none for the first.
        inference: Whether inference mode alone is compared.
        names: A TOML file of path patterns; None where the names of arrays are those of a known dialect.
        output: Key, index or attribute of the logits in what models return.
        layout: Axes of the images that models take; None or empty for those that their framework is used to.
        size: Height and width of the images that models take, where they take no other; None where they do.
        train_argument: The argument of a model's call that asks for train mode.
        device: "cpu", "gpu" or "auto".
        timeout: Seconds that one worker may take.
        seed: Seed of weights and noise.
        interpreters: Candidate name to a Python of another environment.
        keep_traces: Folder in which traces are kept; None for none.
    """

    variant: str | None = None
    weights: str | Path | None = None
    own_weights: bool = False
    images: Sequence[str | Path] = ()
    precisions: Sequence[str] = ()
    tasks: Sequence[str] = ()
    inference: bool = False
    names: str | Path | None = None
    output: str = ""
    layout: Layout | Literal[""] | None = None
    size: int | None = None
    train_argument: str = ""
    device: str = "auto"
    timeout: float = 900.0
    seed: int = 0
    interpreters: Mapping[str, str] = field(default_factory=dict)
    keep_traces: Path | None = None

    def options(self, own_weights: str = "") -> Options:
        """Return what the user says about the models, and the file that their own weights go to."""
        return Options(self.output, self.layout or "", str(self.names or ""), self.train_argument, own_weights)


@dataclass(frozen=True)
class Checked:
    """A target that was surveyed, with the network that it is held against.

    Attributes:
        candidate: It, as a candidate.
        config: The network.
        weights: Weights of the oracle.
        notes: What is to be said about it.
        sides: Height and width of the images that it is fixed to; None if it takes any.
        batch: Number of images that it is fixed to; None if it takes any.
    """

    candidate: Implementation
    config: ResNetConfig
    weights: Checkpoint
    notes: Sequence[str]
    sides: tuple[int, int] | None = None
    batch: int | None = None


def survey_models(
    models: Sequence[Any], request: Request, folder: Path, notify: Listener
) -> tuple[list[Checked], list[Failure]]:
    """Survey models, and tell the network that each is held against; returns them, and those that cannot be loaded.

    Raises:
        ValueError: See `check_models`.
    """
    targets = parse_targets([model for model in models if isinstance(model, str)])
    live = name_objects([model for model in models if not isinstance(model, str)], targets)
    surveys, failures = survey_targets(targets, request, folder, notify)
    checked = [
        prepare(candidate_of(targets[name], request, Path()), targets[name], survey, request)
        for name, survey in surveys.items()
    ]
    return checked + [survey_object(name, model, request, folder) for name, model in live.items()], failures


def parse_targets(texts: Sequence[str]) -> dict[str, Target]:
    """Read targets; returns them by name.

    Raises:
        TargetError: If one is none, or two have the same name, or one has the name of something else.
    """
    targets = [parse_target(text) for text in texts]
    twice = [name for name, count in Counter(target.name for target in targets).items() if count > 1]
    if twice:
        raise TargetError(f"several targets are called {twice[0]}: name them, as in mine={targets[0].text}")
    taken = {ORACLE.name, *(build.name for build in REFERENCE_BUILDS), *NAMED} & {target.name for target in targets}
    if taken:
        raise TargetError(
            f"{taken.pop()!r} is the name of one of our own: name it otherwise, as in mine={targets[0].text}"
        )
    return {target.name: target for target in targets}


def name_objects(models: Sequence[Any], taken: Collection[str]) -> dict[str, Any]:
    """Name live objects after their classes, and number those of one class."""
    named: dict[str, Any] = {}
    for model in models:
        name = type(model).__name__
        numbers = (f"{name}-{number}" for number in count(2))
        named[name if name not in (*named, *taken) else next(n for n in numbers if n not in named)] = model
    return named


def survey_object(name: str, model: Any, request: Request, folder: Path) -> Checked:
    """Survey a live object in this process.

    Raises:
        ValueError: If it is of no kind that is known, or its arrays or its variant cannot be told.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = str(folder / f"{name}.safetensors") if request.own_weights else ""
    try:
        adapter = adapt(model, request.options(own), (type(model).__module__.partition(".")[0],))
    except Unfit as error:
        raise ValueError(str(error)) from error
    candidate = Implementation(name, type(model).__qualname__, (), here=LiveCandidate(adapter))
    return prepare(candidate, None, adapter.survey(), request)


def survey_targets(
    targets: Mapping[str, Target], request: Request, folder: Path, notify: Listener
) -> tuple[dict[str, Survey], list[Failure]]:
    """Survey models in workers; returns what was found out of each, and those that cannot be loaded.

    Raises:
        TargetError: If a target names nothing that is there.
    """
    plan = Plan({}, (), (), folder, device="cpu", timeout=request.timeout, interpreters=request.interpreters)
    candidates = [candidate_of(target, request, folder) for target in targets.values()]
    jobs = make_jobs(plan, [Assignment(candidate, "float32", []) for candidate in candidates], {}, folder)
    surveys, failures = {}, []
    folder.mkdir(parents=True, exist_ok=True)
    for event in run_jobs(jobs, max(1, len(jobs))):
        notify(event)
        name = event.job.implementation.name
        if event.kind == "surveyed":
            surveys[name] = Survey.from_dict(event.facts)
        elif event.kind == "failed" and event.facts.get("bad_input"):
            raise TargetError(event.facts["reason"])
        elif event.kind == "failed":
            failures.append(Failure(name, "", event.facts["reason"]))
    return {name: surveys[name] for name in targets if name in surveys}, failures


def candidate_of(target: Target, request: Request, folder: Path) -> Implementation:
    """Make the candidate that a target is; its own weights go into a folder, where they are asked for."""
    own = str(folder / f"{target.name}.safetensors") if request.own_weights or target.is_file else ""
    settings = {"target": target.text, "options": asdict(request.options(own))}
    return Implementation(target.name, OPEN, (), settings=settings)


def prepare(candidate: Implementation, target: Target | None, survey: Survey, request: Request) -> Checked:
    """Tell the network that a model is held against, and its weights.

    Raises:
        ValueError: If its arrays or its variant cannot be told, or weights do not suit it.
    """
    try:
        held = hold_against(target, survey, request)
    except ValueError as error:
        raise type(error)(f"{candidate.name}: {error}") from error
    candidate = replace(candidate, packages=survey.packages, float32_only=survey.cannot.get("float64", ""))
    named = f", its arrays named as in {held.dialect}" if held.dialect else ""
    notes = [f"{candidate.name}: {survey.kind}{named}; {held.config.variant} {held.known_by}"]
    notes += [f"{candidate.name} is compared with {held.convention}"] * bool(held.convention)
    sides = survey.sides or (request.size and (request.size, request.size)) or None
    if sides:
        notes.append(f"{candidate.name} takes images of {sides[0]}x{sides[1]} alone: no other size is compared")
    if survey.batch:
        notes.append(f"{candidate.name} takes batches of {survey.batch} alone: no other size of batch is compared")
    return Checked(candidate, held.config, held.weights, notes, sides, survey.batch)


@dataclass(frozen=True)
class Held:
    """The network and weights that a model is held against.

    Attributes:
        config: The network.
        weights: Weights of the oracle.
        known_by: How the variant is known.
        dialect: How the model's arrays are named; empty where they are not read.
        convention: The convention of its library in train mode, in words; empty where it is that of the oracle.
    """

    config: ResNetConfig
    weights: Checkpoint
    known_by: str
    dialect: str = ""
    convention: str = ""


def hold_against(target: Target | None, survey: Survey, request: Request) -> Held:
    """Tell what a model is held against.

    A model that keeps its weights is held against those of `--weights`; else the oracle takes its own.

    Raises:
        ValueError: If its arrays or its variant cannot be told, or weights do not suit it or are missing.
    """
    patterns = Path(request.names) if request.names else None
    keeps = survey.cannot.get("weights", "")
    if not keeps and read_names(survey.shapes, survey.framework, patterns).is_folded:
        keeps = FOLDED
    if keeps and request.weights is not None:
        weights = weights_convert.load(request.weights, variant=request.variant)
        config, convention = follow_convention(weights.config, survey)
        return Held(config, replace(weights, config=config), weights.recognised_by, convention=convention)
    if keeps and (keeps == FOLDED or not survey.shapes):
        raise VariantError(f"{keeps}: give those that it was made from by --weights (in Python weights=...)")
    variant, known_by = find_variant(request.variant, target, survey)
    try:
        naming = read_names(survey.shapes, survey.framework, patterns)
        config, convention = follow_convention(naming.config(survey.shapes, variant), survey)
        weights = own_weights(config, naming, survey) if keeps else choose_weights(config, naming, survey, request)
    except ValueError as error:
        if not keeps:
            raise
        raise VariantError(
            f"{keeps}, and its arrays are not those of a whole network (an exporter may fold norms into convolutions): "
            f"give those that it was made from by --weights ({first_line(error)})"
        ) from error
    return Held(config, weights, known_by, naming.dialect, convention)


def choose_weights(config: ResNetConfig, naming: Naming, survey: Survey, request: Request) -> Checkpoint:
    """Choose the oracle's weights: synthetic ones, those of a file, or the model's own.

    Raises:
        ConversionError: If a file cannot be read, or does not fit the model.
    """
    if request.own_weights:
        return own_weights(config, naming, survey)
    if request.weights is None:
        return synthetic_weights(config, request.seed)
    return replace(weights_convert.load(request.weights, variant=config.variant, config=config), config=config)


def own_weights(config: ResNetConfig, naming: Naming, survey: Survey) -> Checkpoint:
    """Read the weights that a model had when it was surveyed.

    Raises:
        ConversionError: If arrays are missing or of another shape.
    """
    from safetensors.numpy import load_file

    arrays = load_file(survey.weights)
    canonical = {known: naming.to_canonical(name, arrays[name]) for name, (known, _) in naming.arrays.items()}
    checkpoint = weights_convert.load(canonical, dialect="canonical", config=config)
    return replace(checkpoint, dialect=find_dialect("canonical"), where=OWN_WEIGHTS)
