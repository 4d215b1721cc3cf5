"""Reading a checkpoint: what a file or a set of arrays holds, and everything that is wrong with it.

`inspect` collects every problem, so that none hides another; `load` is an inspection that must not find any.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from impls.config import ResNetConfig, named_config
from weights_convert.checkpoint import Checkpoint
from weights_convert.comparison import fitting_networks, mismatches, problems_of_names, wrong_arrays
from weights_convert.configurations import Judgement, judge
from weights_convert.dialects import find_dialect
from weights_convert.errors import ConversionError
from weights_convert.metadata import ACCEPTED, BY_ORDER, is_ours, other_values
from weights_convert.naming import Dialect
from weights_convert.recognition import Choice, Subtree, family_of, relative_of, select, without_copies
from weights_convert.sources import Source, open_source
from weights_convert.table import reorder
from weights_convert.unlikely import UnlikelyNumbers, unlikely_numbers

SAY_WHICH = "Give the variant (--variant or variant=...)"
USUAL = "the ResNet-50 of torchvision, timm and transformers is v1.5."

UNNAMED = "the file does not name its layers, and their order alone tells which is which"


@dataclass(frozen=True, eq=False)
class Inspection:
    """The result of inspecting a source.

    Attributes:
        where: What was inspected, for messages.
        container: The name of the container; None for arrays in memory.
        arrays: All arrays, by the names in the source.
        dialect: The dialect of the names; None if it was not recognised.
        weights: The arrays that the dialect has a rule for and whose number of axes is right.
        networks: Every network that the weights may belong to: none, one, or several of the same shapes.
        recognised_by: How the network is known; empty if nothing tells it.
        dropped: Names that are left out on purpose, each with the reason.
        problems: Everything that is wrong, one line each.
        changes: The changes of numbers that the file records.
        advice: The option that would accept what is wrong; may be empty.
        notes: How the network was found in the source, one line each.
        choices: What the library of its names builds, where that tells which variant is right; may be empty.
        accepted: The fields of a library's configuration, as FIELD=VALUE, that somebody said to be harmless.
    """

    where: str
    container: str | None
    arrays: Mapping[str, np.ndarray]
    dialect: Dialect | None = None
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    networks: tuple[ResNetConfig, ...] = ()
    recognised_by: str = ""
    dropped: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    advice: str = ""
    notes: tuple[str, ...] = ()
    choices: str = ""
    accepted: tuple[str, ...] = ()

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint that the source holds.

        Raises:
            ConversionError: With every problem; also if the weights may belong to several networks.
        """
        problems, advice = list(self.problems), self.advice
        if self.networks and self.variant is None:
            variants = ", ".join(network.variant for network in self.networks)
            several = len(self.networks) > 1
            fitting = f"several: {variants}" if several else f"{variants} alone, whose strides nothing states"
            problems.append(f"it does not state its variant, and its arrays fit {fitting}")
            say = f"{SAY_WHICH}: {self.choices or USUAL}"
            if not several:
                say = f"If it computes what {variants} computes, say so: --variant {variants}."
            advice = "\n".join(filter(None, [advice, say]))
        if problems or self.dialect is None:
            raise ConversionError(self.where, problems, advice)
        network, known_by = self.networks[0], self.recognised_by
        facts = (self.dropped, self.where, known_by, self.changes, self.notes, self.accepted)
        return Checkpoint(self.weights, self.dialect, network, *facts)

    @property
    def variant(self) -> str | None:
        """The variant of the weights; None if nothing tells it."""
        return self.networks[0].variant if len(self.networks) == 1 and self.recognised_by else None

    def canonical(self) -> Mapping[str, np.ndarray]:
        """Return the weights by canonical name; empty if the dialect was not recognised."""
        return self._renamable.to("canonical").arrays if self._renamable else {}

    @cached_property
    def content_hash(self) -> str | None:
        """The content hash of the weights, as a checkpoint has it; None if the dialect was not recognised."""
        return self._renamable.content_hash() if self._renamable else None

    @property
    def _renamable(self) -> Checkpoint | None:
        """A checkpoint for renaming and hashing the weights; its configuration is a placeholder."""
        return Checkpoint(self.weights, self.dialect, ResNetConfig()) if self.dialect else None


def load(
    source: Source,
    *,
    dialect: str | None = None,
    variant: str | None = None,
    config: ResNetConfig | None = None,
    averaged: bool = False,
    entry: str | None = None,
    drop: Sequence[str] = (),
    head: str | None = None,
    drop_head: bool = False,
    accept: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read a checkpoint, and verify that it is complete and belongs to the expected network.

    Numbers that no trained network has, such as NaN, are kept, with a warning of class `UnlikelyNumbers`.

    Args:
        source: A file or folder, an address (`hf://timm/resnet50.a1_in1k`, `torchvision://...`, `keras://...`,
            `https://...`), arrays or tensors by name, a model of PyTorch, Flax NNX or Keras, or a checkpoint.
        dialect: The dialect of the names. None takes it from the file's metadata or recognises it by the names.
        variant: The variant, where the file does not state it.
        config: The network of the model that will take the weights. The checkpoint must fit it; a file that does not
            state its variant is taken to be of this one.
        averaged: Whether to read the averaged weights (EMA) of a training checkpoint instead of the last ones.
        entry: The dotted path of the network, or the end of one, where the source holds more ("teacher.backbone").
        drop: Paths of arrays to leave out, such as a projection head.
        head: The path of the linear layer that is the classifier, where it stands beside the network ("classifier").
        drop_head: Whether to leave out the classifier, whatever it is made of.
        accept: Values of fields of a library's configuration that no table of ours classifies, and that you know to
            leave the function as it is, by the name of the field. The file that is written records them.

    Raises:
        ConversionError: With every problem at once: an unreadable file, names without a rule, arrays missing, extra or
            of another shape, several networks, a variant that is unknown or not the expected one.
        ValueError: If there is no such variant.

    Example:
        >>> load({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, dialect="torchvision", variant="v1.5")
        Traceback (most recent call last):
        ...
        weights_convert.errors.ConversionError: these arrays: not a bottleneck ResNet: stage1 to stage4 must each have blocks of three convolutions
    """  # noqa: E501 (a message is one line)
    if isinstance(source, Checkpoint):
        if averaged or entry or drop or head:
            raise ValueError("a checkpoint is one network; averaged, entry, drop and head choose in other sources")
        return _fitting(source.without_head() if drop_head else source, variant, config)
    inspection = inspect(
        source,
        dialect=dialect,
        variant=variant,
        config=config,
        averaged=averaged,
        entry=entry,
        drop=drop,
        head=head,
        drop_head=drop_head,
        accept=accept,
    )
    return _warned_of(inspection.checkpoint())


def _fitting(checkpoint: Checkpoint, variant: str | None, config: ResNetConfig | None) -> Checkpoint:
    """Return a checkpoint if it is of the expected network."""
    if problems := mismatches(checkpoint.config, checkpoint.recognised_by, variant, config):
        raise ConversionError(checkpoint.where, problems)
    return checkpoint


def _warned_of(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint, with a warning of the numbers in it that no trained network has."""
    if unlikely := unlikely_numbers(checkpoint.to("canonical").arrays):
        message = "".join(f"\n{checkpoint.where}: {line}" for line in unlikely)
        warnings.warn(f"numbers that no trained network has:{message}", UnlikelyNumbers, stacklevel=3)
    return checkpoint


def inspect(
    source: Source,
    *,
    dialect: str | None = None,
    variant: str | None = None,
    config: ResNetConfig | None = None,
    averaged: bool = False,
    entry: str | None = None,
    drop: Sequence[str] = (),
    head: str | None = None,
    drop_head: bool = False,
    accept: Mapping[str, Any] | None = None,
) -> Inspection:
    """Read a source, and collect what it holds and what is wrong with it. The arguments are those of `load`.

    Raises:
        ConversionError: If a file cannot be read at all.
        ValueError: If there is no such variant.

    Example:
        >>> inspect({"fc.bias": np.zeros(10, np.int64)}, dialect="flax").problems[0]
        "'fc.bias' is int64; weights are bfloat16, float16, float32 or float64"
    """
    found = open_source(source)
    opened = Inspection(found.where, found.container, found.arrays, problems=found.problems)
    metadata, ours = found.metadata, found.metadata if is_ours(found.metadata) else {}
    expected = named_config(variant) if variant is not None else found.config or config
    try:
        name = dialect or ours.get("dialect")
        known = find_dialect(name) if name else None
    except ValueError as error:
        return replace(opened, problems=(*opened.problems, str(error)))
    stated = judge(metadata, accept)
    # The hash of a file of ours covers the classifier, which is therefore dropped behind the comparison with it.
    choice = Choice(known, entry, drop, head, drop_head and not ours, averaged, at_top=bool(ours))
    shapes = {name: array.shape for name, array in opened.arrays.items()}
    selection = select(opened.arrays, other_values(metadata), choice, shapes)
    opened = replace(
        opened,
        dropped=selection.dropped,
        problems=(*opened.problems, *stated.problems, *selection.problems),
        advice=selection.advice,
        notes=(*selection.notes, *([UNNAMED] if BY_ORDER in metadata else [])),
        changes=(ours["changes"],) if "changes" in ours else (),
        accepted=tuple(dict.fromkeys([*ours.get(ACCEPTED, "").splitlines(), *stated.accepted])),
    )
    if selection.tree is None:
        relative = relative_of(opened.arrays, {})
        return replace(opened, problems=(relative,), advice="") if relative else opened
    if ours and drop_head:
        whole = _compared(opened, selection.tree, metadata, expected, None, None, stated)
        return _without_head(whole, variant, config)
    return _compared(opened, selection.tree, metadata, expected, variant, config, stated)


def _compared(
    opened: Inspection,
    tree: Subtree,
    metadata: Mapping[str, str],
    expected: ResNetConfig | None,
    variant: str | None,
    config: ResNetConfig | None,
    stated: Judgement,
) -> Inspection:
    """Complete an inspection by the network that the arrays of a subtree belong to, and all that is wrong with them."""
    ours = metadata if is_ours(metadata) else {}
    dialect, spelled = tree.dialect, tree.spelled()
    sources, notes, problems = without_copies(opened.arrays, tree)
    arrays = {spelled[source]: sources[source] for source in tree.readings}
    readings = {spelled[source]: reading for source, reading in tree.readings.items()}
    problems += problems_of_names(tree.canonical, sources)
    shapes, weights = {}, {}
    for name, (canonical, rule) in readings.items():
        if rule.leaf(dialect.framework).fits(arrays[name].shape):
            weights[name] = arrays[name]
            shapes[canonical] = reorder(arrays[name], rule, dialect.framework, "torch").shape
    networks: tuple[ResNetConfig, ...] = ()
    recognised_by = ""
    try:
        networks, recognised_by = fitting_networks(ours, metadata, dialect, shapes, expected, stated)
        problems += mismatches(networks[0], recognised_by, variant, config) if networks else []
        problems += stated.contradictions(networks[0]) if networks else []
    except ValueError as error:
        problems.append(str(error))
    network = next(iter(networks), None) if ours or config is None else config
    if network is not None:
        problems += wrong_arrays(dialect, {name: array.shape for name, array in arrays.items()}, network)
    advice, choices = opened.advice, ""
    if not ours and (relative := relative_of(tree.names.values(), shapes)) and (problems or opened.problems):
        opened, problems, advice = replace(opened, problems=()), [relative], ""
    elif not ours and (family := family_of(tree, opened.arrays)):
        # What lies beside a network outweighs its configuration; names alone do not.
        is_read = bool(stated.known_by or stated.problems) and not family.entry
        if (refusal := family.refusal(config)) and not is_read:
            statements = family.statements(networks[0]) if networks else ""
            opened, networks, problems, advice = replace(opened, problems=()), (), [refusal], statements
        elif len(networks) > 1:
            choices = family.choices
    inspection = replace(
        opened,
        dialect=dialect,
        weights=weights,
        networks=networks,
        recognised_by=recognised_by,
        problems=(*opened.problems, *problems),
        advice=advice,
        choices=choices,
        notes=(*opened.notes, *notes),
    )
    return inspection if not ours or inspection.problems else _checked_against_hash(inspection, ours)


def _checked_against_hash(inspection: Inspection, ours: Mapping[str, str]) -> Inspection:
    """Add a problem if the weights are not those that our metadata describes."""
    # A model of ours that Keras itself saved states its network, but no hash.
    default = inspection.content_hash if inspection.container == "Keras archive" else None
    if ours.get("content_hash", default) == inspection.content_hash:
        return inspection
    return replace(inspection, problems=("its arrays have changed since it was written (the content hash differs)",))


def _without_head(inspection: Inspection, variant: str | None, config: ResNetConfig | None) -> Inspection:
    """Return an inspection of a file of ours without its classifier, compared with a variant or a model."""
    if inspection.problems:
        return inspection
    checkpoint = inspection.checkpoint().without_head()
    return replace(
        inspection,
        weights=checkpoint.arrays,
        networks=(checkpoint.config,),
        dropped=checkpoint.dropped,
        problems=tuple(mismatches(checkpoint.config, checkpoint.recognised_by, variant, config)),
    )
