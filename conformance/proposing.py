"""Proposals of a file of path patterns for a model that a target names: the command `conformance map`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conformance.options import trace_folder
from conformance.plan import Listener
from conformance.run.candidates.mapping import Proposal, propose
from conformance.run.candidates.naming import NamingError, read_names
from conformance.surveying import Request, parse_targets, survey_targets
from impls.config import ResNetConfig


@dataclass(frozen=True)
class Mapped:
    """A model whose arrays were looked at.

    Attributes:
        name: The name of the target.
        kind: The kind of model.
        dialect: The dialect that its arrays are named as; empty where there is none.
        proposal: Path patterns; None where there is a dialect.
    """

    name: str
    kind: str
    dialect: str = ""
    proposal: Proposal | None = None


class NotLoaded(RuntimeError):
    """Raised where a target could not be loaded; the message says why."""


def map_target(text: str, request: Request, notify: Listener = lambda event: None) -> Mapped:
    """Look at the arrays of a model, and propose path patterns for them where no dialect reads them.

    Args:
        text: The target.
        request: Time limit and interpreters.
        notify: Hears every event of the worker.

    Raises:
        ValueError: If the target is none or names nothing, or its arrays are not those of a bottleneck ResNet.
        NotLoaded: If it cannot be loaded.
    """
    targets = parse_targets([text])
    with trace_folder(None) as folder:
        surveys, failures = survey_targets(targets, request, folder / "surveys", notify)
    if failures:
        raise NotLoaded(failures[0].reason)
    ((name, survey),) = surveys.items()
    if not survey.shapes:
        raise NamingError(f"{name}: {survey.cannot.get('weights', 'it shows no arrays')}, so there is nothing to map")
    try:
        naming = read_names(survey.shapes, survey.framework)
    except NamingError:
        naming = None
    if naming is None or naming.unread:
        return Mapped(name, survey.kind, proposal=propose(survey.shapes, survey.framework))
    naming.config(survey.shapes, ResNetConfig())
    return Mapped(name, survey.kind, naming.dialect)


def write_proposal(mapped: Mapped, proposal: Proposal, out: Path | None) -> str:
    """Write the file of path patterns, or return its text where no file is named.

    Raises:
        ValueError: If the file is there already, or cannot be written.
    """
    text = f"# Paths of the layers of {mapped.name}, a {mapped.kind}, for conformance check --names FILE.\n"
    text += proposal.to_toml()
    if out is None:
        return text
    try:
        with out.open("x") as file:
            file.write(text)
    except OSError as error:
        raise ValueError(f"{out}: it cannot be written: {error.strerror}") from error
    return ""
