"""Running statistics: the share of the old value that a train-mode run keeps, and the correction of the variance.

A running mean becomes a * old + b * mean of the batch, in every channel with the same a and b; least squares over the
channels give both, and what they leave tells whether that is the rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from conformance.identify.curve import rounded
from conformance.identify.fact import Difference, Fact, NotIdentified, fact_of, group_words, number, relative_error
from conformance.identify.link import Array, Arrays, Link, links
from impls.config import ResNetConfig
from impls.numpy.resnet import moments

RULE = 1e-10
"""Largest relative L2 error that a rule leaves of new statistics; the difference to the batch's loses digits."""


@dataclass(frozen=True)
class Update:
    """The update of a running statistic.

    Attributes:
        kept: Share of the old value.
        added: Factor of the batch's statistic.
        of: What is added: "mean", "variance" or "deviation".
    """

    kept: float
    added: float
    of: str


def measure_update(old: Array, batch: Mapping[str, Array], new: Array) -> Update | None:
    """Find the rule by which a statistic was updated; None if there is none.

    Args:
        old: The statistic before, of each channel.
        batch: What may be added, by name.
        new: The statistic afterwards.
    """
    for name, statistic in batch.items():
        columns = np.stack([old, statistic], 1)
        (kept, added), *_ = np.linalg.lstsq(columns, new, rcond=None)
        if relative_error(columns @ np.array([kept, added]), new) <= RULE:
            return Update(_simple(kept), _simple(added), name)
    return None


def _simple(value: float) -> float:
    """Round a share, which is known to ten digits."""
    near = float(f"{value:.6g}")
    return 0.0 if abs(value) < 1e-11 else near if abs(near - value) < 1e-10 else rounded(value)


def identify_statistics(
    fed: Mapping[str, Array], candidate: Mapping[str, Array], arrays: Arrays, config: ResNetConfig
) -> list[Fact]:
    """Say how running statistics are updated, once for all norms that are alike.

    Args:
        fed: The activations in train mode that every layer of the candidate was fed.
        candidate: The candidate's activations, and its running statistics after the run.
        arrays: Canonical arrays, which hold the statistics before it.
        config: The network.
    """
    found: dict[tuple[str, Update], list[str]] = {}
    for link in links(config):
        if link.kind == "norm":
            for leaf, update in _updates(link, fed, candidate, arrays):
                count = fed[link.inputs[0]].size // fed[link.inputs[0]].shape[1]
                if not _is_right(leaf, update, count, config):
                    found.setdefault((leaf, _without_count(update, count)), []).append(link.name)
    return [_fact(leaves, update, names, config) for (leaves, update), names in _merged(found).items()]


Found = dict[tuple[str, Update], list[str]]
"""The norms with an update of a statistic: of "running_mean", of "running_var", or of both."""


def _merged(found: Found) -> Found:
    """Join the updates of mean and variance where they are wrong in the same way in the same norms."""
    merged: Found = {}
    for (leaf, update), names in found.items():
        mates = [u for (other, u), others in found.items() if other != leaf and others == names and _alike(u, update)]
        if not mates:
            merged[leaf, update] = names
        elif leaf == "running_mean":
            merged[BOTH, mates[0]] = names
    return merged


def _alike(one: Update, other: Update) -> bool:
    """Tell whether two updates keep the same share, and add what they should or nothing."""
    usual = {one.added, other.added} <= {1.0, np.inf, 0.0}
    return one.kept == other.kept and "deviation" not in (one.of, other.of) and usual


BOTH = "running_mean and running_var"
"""Stands for both statistics."""


def _updates(
    link: Link, fed: Mapping[str, Array], candidate: Mapping[str, Array], arrays: Arrays
) -> Iterator[tuple[str, Update]]:
    mean, variance = moments(fed[link.inputs[0]])
    batch = {"running_mean": {"mean": mean}, "running_var": {"variance": variance, "deviation": np.sqrt(variance)}}
    for leaf, statistics in batch.items():
        name = f"{link.layer}.{leaf}"
        if name in candidate:
            update = measure_update(arrays[name], statistics, candidate[name])
            if update:
                yield leaf, update


def _is_right(leaf: str, update: Update, count: int, config: ResNetConfig) -> bool:
    share = 1 - config.norm_decay
    factor = count / (count - 1) if leaf == "running_var" and config.norm_variance == "unbiased" else 1.0
    of = "mean" if leaf == "running_mean" else "variance"
    near = abs(update.added - share * factor) < 1e-9
    # Nothing kept, and yet the right share added: the statistic was zero before, as one that was not loaded.
    return near and update.of == of and (abs(update.kept - config.norm_decay) < 1e-9 or update.kept == 0)


def _without_count(update: Update, count: int) -> Update:
    """Return the update with the correction n / (n - 1), which differs from norm to norm, as a factor of one."""
    share = 1 - update.kept
    correction = count / (count - 1)
    if abs(update.added - share) < 1e-9:
        return Update(update.kept, 1.0, update.of)
    if share and abs(update.added / share - correction) < 1e-8:
        return Update(update.kept, np.inf, update.of)
    return Update(update.kept, update.added / share if share else update.added, update.of)


WORDS = {"running_mean": "running mean", "running_var": "running variance", BOTH: "running mean and variance"}


def _fact(leaf: str, update: Update, names: list[str], config: ResNetConfig) -> Fact:
    """Say how a statistic is updated; `added` is 1 for no correction, infinity for n / (n - 1), else a factor."""
    word, both = WORDS[leaf], leaf == BOTH
    differences = []
    if update.kept == 1.0 and update.added in (0.0, 1.0):
        words = f"its {word} {'are' if both else 'is'} not updated"
        differences.append(Difference(word, "not updated", "updated", words))
    elif abs(update.kept - config.norm_decay**2) < 1e-9:
        words = f"its {word} {'are' if both else 'is'} updated twice: a share of {number(update.kept)} is kept"
        words += f"; {number(config.norm_decay)} is expected"
        differences.append(Difference("share kept", update.kept, config.norm_decay, words))
    elif abs(update.kept - config.norm_decay) > 1e-9:
        words = f"its {word} keep{'s' * (not both)} a share of {number(update.kept)} at each step"
        words += f"; {number(config.norm_decay)} is expected"
        faults = {0.99: "momentum-099", 1 - config.norm_decay: "momentum-inverted"}
        fault = next((fault for share, fault in faults.items() if abs(update.kept - share) < 1e-9), "momentum-other")
        differences.append(Difference("share kept", update.kept, config.norm_decay, words, fault))
    expected = config.norm_variance == "unbiased" and leaf != "running_mean"
    if update.of == "deviation":
        words = f"the batch's standard deviation enters its {word}, not the variance"
        differences.append(Difference("statistic", "deviation", "variance", words))
    elif update.kept != 1.0 and (update.added == np.inf) != expected:
        if update.added == 1.0:
            words = "the batch's variance enters its running variance without the correction n / (n - 1)"
            differences.append(Difference("correction", "none", "n / (n - 1)", words, "var-biased"))
        elif update.added == np.inf:
            words = "the batch's variance enters its running variance with the correction n / (n - 1); none is expected"
            differences.append(Difference("correction", "n / (n - 1)", "none", words))
        else:
            words = f"the batch's {update.of} enters its {word} with a factor of {number(update.added)} of its share"
            differences.append(Difference("factor", update.added, 1.0, words))
    if not differences:
        raise NotIdentified("updates its statistics as expected")
    first, *_ = layers = tuple(f"{name}.{each}" for name in names for each in leaf.split(" and "))
    fact = fact_of(first, "running statistics", differences, RULE, mode="train")
    return replace(fact, layers=layers, subject=group_words(names, config))
