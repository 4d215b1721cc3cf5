"""Identification: asks a candidate's wrong layers the right questions, and makes facts of the answers.

Layers are asked by probes, through a function that runs them. What is measured at one layer is then tried at all others
of its kind that are wrong, so that a bug of a whole class of layers is said once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conformance.cases.case import MODES, Mode
from conformance.cases.probe import Probe, Probed
from conformance.compare.limits import REPRODUCED
from conformance.identify import convolution, norm, pool, total
from conformance.identify.convolution import TooFewSamples
from conformance.identify.fact import Difference, Exam, Fact, NotIdentified, Unidentified, fact_of, group_words
from conformance.identify.geometry import Geometry
from conformance.identify.link import Array, Arrays, Kind, Link, links
from conformance.identify.questions import REPEATED, Asked, ask_layer, layer_probes
from conformance.identify.screen import Screening, oracle_run, screened, screening_probes
from conformance.identify.statistics import identify_statistics
from conformance.identify.structure import (
    early_shortcut_fact,
    first_of,
    instead_facts,
    merge_owners,
    missing_facts,
    missing_links,
    owner_fact,
    repeated_fact,
)
from impls.config import ResNetConfig

MOST_MEASURED = 6
"""Largest number of layers that are measured in one round of probes."""

ROUNDS = 3
"""Largest number of rounds of probes, each of which starts a worker: for the first wrong layers, for those that the
screening shows beside them, and for kernels whose geometry had to be known first."""

Ask = Callable[[Sequence[Probe]], Mapping[str, Probed]]
"""Runs probes by the candidate; returns the result of each by its name."""


VAGUE = ("as initialised", "unknown", "other")
"""Measured values that do not say where a wrong array comes from."""


@dataclass(frozen=True)
class Identification:
    """The facts that were measured of a candidate's wrong layers.

    Attributes:
        facts: What was measured, in the order of the network.
        unidentified: Layers that could not be measured, each with the reason.
        others: Layers that are wrong, too, and were not measured.
        reproduced: Largest relative L2 error of activations and logits with which the oracle, all measured layers in
            place, reproduces the candidate's own run; of training, of losses, changes and what an optimizer keeps.
            None where that was not tried.
        task: The task that the facts are about.
    """

    facts: Sequence[Fact] = ()
    unidentified: Sequence[Unidentified] = ()
    others: Sequence[str] = ()
    reproduced: float | None = None
    task: str = "forward"

    @property
    def is_reproduced(self) -> bool:
        """Tell whether the oracle with the facts reproduces the candidate's own run."""
        return self.reproduced is not None and self.reproduced <= REPRODUCED

    @property
    def is_settled(self) -> bool:
        """Tell whether the search for known faults need not go on beside these facts.

        That is so where they explain the whole run, and each is a single property of a value that says what it is: two
        properties of a layer, or of training steps, or an unknown kernel, may be two faults of the catalogue at once.
        What is random or rounded, no fault explains.
        """
        values = [list(fact.measured.values()) for fact in self.facts]
        if self.facts and all(fact.measured.keys() <= {"random", "format"} for fact in self.facts):
            return True
        if self.task == "steps" and len({name for fact in self.facts for name in fact.measured}) != 1:
            return False
        return self.is_reproduced and all(len(each) == 1 and each[0] not in VAGUE for each in values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "facts": [fact.to_dict() for fact in self.facts],
            "unidentified": [each.to_dict() for each in self.unidentified],
            "others": list(self.others),
            "task": self.task,
            "reproduced_to": self.reproduced if self.reproduced is not None and np.isfinite(self.reproduced) else None,
        }


def identify(config: ResNetConfig, arrays: Arrays, suspects: Mapping[str, Sequence[Mode]], ask: Ask) -> Identification:
    """Measure what a candidate's wrong layers compute.

    Args:
        config: The network.
        arrays: Its canonical arrays, of any dtype.
        suspects: Layers that are known to be wrong, with the modes: they are measured in the first round.
        ask: Runs probes by the candidate.
    """
    wide = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    table = {link.name: link for link in links(config)}
    search = Search(config, wide, table, {name: modes for name, modes in suspects.items() if name in table})
    screening: Screening | None = None
    probes, fed = screening_probes(config, wide)
    for _ in range(ROUNDS):
        left = search.left()
        chosen = [table[name] for name in representatives(left, table)]
        if not chosen and screening is not None:
            break
        asked = {link.name: ask_layer(link, config, search.geometries.get(link.name)) for link in chosen}
        questions = [each for link in chosen for each in layer_probes(link, asked[link.name], left[link.name], config)]
        answers = ask([*([] if screening else probes), *questions])
        if screening is None:
            screening = screened(config, wide, fed, answers)
            if not screening.candidate:
                return Identification((), tuple(not_probed(search.wrong, probes, answers)))
            search.take_screening(screening)
        for link in chosen:
            if link.name not in layers_of(search.facts):
                search.take_answers(link, asked[link.name], answers, left[link.name], screening)
    assert screening is not None
    return search.result(screening)


@dataclass(eq=False)
class Search:
    """The facts of one candidate, gathered round by round.

    Attributes:
        config: The network.
        arrays: Its canonical arrays, in float64.
        table: Every link by name.
        wrong: The layers that are wrong, with the modes.
        facts: What was found.
        unidentified: Layers that were measured in vain.
        geometries: Convolutions whose geometry is known, and whose kernel needs further probes.
    """

    config: ResNetConfig
    arrays: Arrays
    table: Mapping[str, Link]
    wrong: Mapping[str, Sequence[Mode]]
    facts: list[Fact] = field(default_factory=list)
    unidentified: dict[str, Unidentified] = field(default_factory=dict)
    geometries: dict[str, Geometry] = field(default_factory=dict)

    def left(self) -> dict[str, Sequence[Mode]]:
        """Return the wrong layers of which nothing is known yet."""
        known = {*layers_of(self.facts), *self.unidentified}
        return {name: modes for name, modes in self.wrong.items() if name not in known}

    def take_screening(self, screening: Screening) -> None:
        """Take what a screening tells: which layers are wrong, missing, random, rounded or given another's arrays."""
        self.wrong = screening.wrong or self.wrong
        activations = next(iter(screening.candidate.values()))
        self.facts += missing_facts(missing_links(activations, self.config), self.config)
        self.facts += random_facts(self.wrong, self.table, screening, layers_of(self.facts))
        self.facts += rounding_facts(self.left(), self.table, screening)
        for name, modes in self.left().items():
            if owner := screening.owner(self.table[name], modes):
                fact = owner_fact(self.table[name], owner)
                self.facts.append(replace(fact, layers=(name,), mode="" if len(modes) == len(MODES) else modes[0]))
        for block in (link for link in self.table.values() if link.kind == "sum"):
            fact, left = early_shortcut_fact(block), self.left()
            if all(name in left and screening.holds(fact, self.table[name], left[name]) for name in fact.layers):
                self.facts.append(replace(fact, subject=block.name))
        self.facts += repeated_facts(self.left(), self.table, screening)
        for name, modes in self.left().items():
            facts = instead_facts(self.table[name], self.config)
            self.facts += [fact for fact in facts if screening.holds(fact, self.table[name], modes)][:1]

    def take_answers(
        self, link: Link, asked: Asked, answers: Mapping[str, Probed], modes: Sequence[Mode], screening: Screening
    ) -> None:
        """Make facts of a layer's answers, and try them at all other layers that are wrong."""
        try:
            found = measure(link, asked, answers, self.arrays, self.config, modes)
        except TooFewSamples as reason:
            if link.name in self.geometries:
                self.unidentified[link.name] = Unidentified(link.name, str(reason))
            self.geometries[link.name] = reason.geometry
        except NotIdentified as reason:
            self.unidentified[link.name] = Unidentified(link.name, str(reason))
        except (ValueError, IndexError, np.linalg.LinAlgError) as error:  # a verdict must not fail for its reason
            words = f"could not be measured ({type(error).__name__}: {error})"
            self.unidentified[link.name] = Unidentified(link.name, words)
        else:
            others = {name: modes for name, modes in self.wrong.items() if name not in layers_of(self.facts)}
            for fact in found:
                self.facts.append(spread(fact, link, others, self.table, screening))
                if not self.facts[-1].mode:
                    break  # it says all of what is found in each mode
            known = layers_of(self.facts)
            self.unidentified = {name: each for name, each in self.unidentified.items() if name not in known}

    def result(self, screening: Screening) -> Identification:
        """Return all facts in the order of the network, with those about running statistics."""
        if "train" in screening.candidate:
            fed, shown = screening.fed["train"], screening.candidate["train"]
            updates = identify_statistics(fed, shown, self.arrays, self.config)
            self.facts += [update for update in updates if not is_implied(update, self.facts)]
        order = list(self.table)
        facts = sorted(merge_owners(self.facts, self.config), key=lambda fact: first_of(fact, order))
        return Identification(tuple(facts), tuple(self.unidentified.values()), tuple(self.left()))


def not_probed(
    wrong: Mapping[str, Sequence[Mode]], probes: Sequence[Probe], answers: Mapping[str, Probed]
) -> Iterator[Unidentified]:
    """Say of the first wrong layer why the candidate cannot be probed."""
    reasons = [answers[probe.name].failure for probe in probes if probe.name in answers]
    for name in list(wrong)[:1]:
        reason = reasons[0][:REASON] if reasons else "its worker ended before"
        yield Unidentified(name, f"could not be probed ({reason})")


def spread(
    fact: Fact, link: Link, wrong: Mapping[str, Sequence[Mode]], table: Mapping[str, Link], screening: Screening
) -> Fact:
    """Return a fact with all the wrong layers that it explains, too, and of both modes where it holds in both."""
    both = replace(fact, mode="")
    if len(wrong.get(link.name, ())) == len(MODES) and screening.holds(both, link, MODES):
        fact = both
    alike = [
        name
        for name, modes in wrong.items()
        if (table[name].kind, table[name].kernel) == (link.kind, link.kernel)
        and (name == link.name or screening.holds(fact, table[name], modes_of(fact, modes)))
    ]
    layers = tuple(alike or [link.name])
    return replace(fact, layers=layers, subject=group_words(layers, screening.config))


def layers_of(facts: Sequence[Fact]) -> set[str]:
    """Return the layers of all facts."""
    return {name for fact in facts for name in fact.layers}


def is_implied(update: Fact, facts: Sequence[Fact]) -> bool:
    """Tell whether statistics are not updated because their norms do not use the batch's, which is said already."""
    others = {name for fact in facts if {"statistics", "missing"} & fact.measured.keys() for name in fact.layers}
    norms = {name.partition(".running_")[0] for name in update.layers}
    return "not updated" in update.measured.values() and norms <= others


def modes_of(fact: Fact, modes: Sequence[Mode]) -> tuple[Mode, ...]:
    """Return those of some modes that a fact is about."""
    return tuple(mode for mode in modes if fact.mode in ("", mode))


def representatives(names: Mapping[str, Sequence[Mode]], table: Mapping[str, Link]) -> list[str]:
    """Choose the layers to measure: the first of each role, as far as there is room."""
    by_role: dict[tuple[str, str], str] = {}
    for name in table:
        if name in names:
            by_role.setdefault((table[name].kind, table[name].role), name)
    return [*by_role.values()][:MOST_MEASURED]


def measure(
    link: Link, asked: Asked, answers: Mapping[str, Probed], arrays: Arrays, config: ResNetConfig, modes: Sequence[Mode]
) -> list[Fact]:
    """Make facts of a link's answers.

    Raises:
        NotIdentified: If the probes could not run, or tell nothing.
    """
    single = asked if link.kind == "sum" else {part: inputs[link.inputs[0]] for part, inputs in asked.items()}
    exams = [
        Exam(link, single, _outputs(link, asked, answers, mode), arrays, config, mode)
        for mode in (MODES if link.kind == "norm" else modes[:1])
    ]
    facts = [fact for fact in map(identify_randomness, exams) if fact][:1]
    if link.kind == "norm" and not facts:
        return norm.identify(exams)
    fact = facts[0] if facts else IDENTIFY[link.kind](exams[0])
    return [replace(fact, mode="" if len(modes) == len(MODES) else fact.mode)]


IDENTIFY: dict[Kind, Callable[[Exam], Fact]] = {
    "convolution": convolution.identify,
    "classifier": convolution.identify,
    "sum": total.identify,
    "stem pool": pool.identify_stem,
    "head pool": pool.identify_head,
}
"""The function that makes a fact of the answers of a link in one mode, by kind."""


def rounding_facts(
    wrong: Mapping[str, Sequence[Mode]], table: Mapping[str, Link], screening: Screening
) -> Iterator[Fact]:
    """Say which layers compute what they should in fewer digits, once for each kind, its modes and its format."""
    groups: dict[tuple[Kind, Sequence[Mode], str], list[str]] = {}
    for name, modes in wrong.items():
        if format := screening.format(table[name], modes):
            groups.setdefault((table[name].kind, tuple(modes), format), []).append(name)
    for (kind, modes, format), names in groups.items():
        words = f"computes in {format}: all of its outputs are numbers of that format; float64 is expected here"
        fact = fact_of(names[0], kind, [Difference("format", format, "float64", words)], np.inf)
        mode = "" if len(modes) == len(MODES) else modes[0]
        yield replace(fact, layers=tuple(names), subject=group_words(names, screening.config), mode=mode)


def random_facts(
    wrong: Mapping[str, Sequence[Mode]], table: Mapping[str, Link], screening: Screening, known: set[str]
) -> list[Fact]:
    """Say which layers give another output each time, once for each kind and its modes."""
    groups: dict[tuple[str, Sequence[Mode]], list[str]] = {}
    for name, modes in wrong.items():
        if name not in known and screening.is_random(name, modes):
            groups.setdefault((table[name].kind, tuple(modes)), []).append(name)
    facts = []
    for (kind, modes), names in groups.items():
        outputs = {"held-out": screening.candidate[modes[0]][names[0]], REPEATED: screening.again[modes[0]][names[0]]}
        exam = Exam(table[names[0]], {}, outputs, screening.arrays, screening.config)
        fact = identify_randomness(exam)
        if fact is not None:
            mode = "" if len(modes) == len(MODES) else modes[0]
            subject = group_words(names, screening.config)
            facts.append(replace(fact, layers=tuple(names), subject=subject, mode=mode, kind=kind))
    return facts


def repeated_facts(
    wrong: Mapping[str, Sequence[Mode]], table: Mapping[str, Link], screening: Screening
) -> Iterator[Fact]:
    """Say where a block too many stands: what takes the output before it is right if the output passes such a block."""
    config = screening.config
    blocks = [block for block in config.blocks() if block.in_channels == block.out_channels]
    for source in ["stem", *(block.name for block in config.blocks())]:
        takers = [link for link in table.values() if source in link.inputs]
        if not takers or any(link.name not in wrong or link.kind == "head pool" for link in takers):
            continue
        channels = takers[0].channels[takers[0].inputs.index(source)]
        for block in (block.name for block in blocks if block.in_channels == channels):
            fact = repeated_fact(takers, block, config)
            if all(screening.holds(fact, link, wrong[link.name]) for link in takers):
                yield fact
                break


def identify_randomness(exam: Exam) -> Fact | None:
    """Recognise a layer that answers the same question in two ways; None if it does not."""
    first, again = exam.answers["held-out"], exam.answers[REPEATED]
    if first.shape != again.shape or np.array_equal(first, again):
        return None
    images = [np.array_equal(one, other) for one, other in zip(first, again, strict=True)]
    words = "is random: the same input gives another output each time, as with dropout"
    if any(images):
        words = f"is random: the same input gives another output in {images.count(False)} of {len(images)} images"
        words += ", as with stochastic depth"
    return exam.fact([Difference("random", True, False, words)])


def _outputs(link: Link, asked: Asked, answers: Mapping[str, Probed], mode: str) -> dict[str, Array]:
    """Return a link's outputs by part of the measurement.

    Raises:
        NotIdentified: If a probe could not run.
    """
    outputs = {}
    for part in asked:
        answer = answers.get(f"{link.name}--{part}--{mode}")
        if answer is None or answer.failure:
            reason = answer.failure if answer else "its worker ended before"
            raise NotIdentified(f"could not be probed ({reason[:REASON]})")
        outputs[part] = np.asarray(answer.arrays[link.name], np.float64)
        fed = next(iter(asked[part].values()))
        if len(outputs[part]) != len(fed):
            sources = " and ".join(link.inputs)
            raise NotIdentified(f"does not take what passes as {sources}: feeding that does not reach it")
    return outputs


REASON = 160
"""Characters of a failure that are repeated."""


def reproduce(
    config: ResNetConfig, arrays: Arrays, facts: Sequence[Fact], images: Array, train: bool
) -> dict[str, Array]:
    """Run the oracle with measured layers in place of its own; return every activation.

    Args:
        config: The network.
        arrays: Its canonical arrays, of any dtype.
        facts: Facts; those of the other mode, and those that cannot be executed, change nothing.
        images: (batch, channels, height, width).
        train: Whether norms use the batch's statistics.
    """
    wide = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    mode = "train" if train else "inference"
    laws = {name: fact.law for fact in facts if fact.law and fact.mode in ("", mode) for name in fact.layers}
    table = {link.name: link for link in links(config)}

    def change(name: str, value: Array, seen: Mapping[str, Array]) -> Array:
        law = laws.get(name)
        return value if law is None else law(table[name], seen, wide, config, train)

    return oracle_run(config, wide, images, train, change)
