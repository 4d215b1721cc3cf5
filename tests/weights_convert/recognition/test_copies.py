"""Replicated trees of Flax: copies are compared before one is read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from weights_convert import Checkpoint, ConversionError, load

MakeCheckpoint = Callable[..., Checkpoint]
DIALECTS = ("flax", "flax-linen", "transformers-flax")


def replicated(checkpoint: Checkpoint, count: int = 3) -> dict[str, np.ndarray]:
    return {name: np.stack([array] * count) for name, array in checkpoint.arrays.items()}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_equal_copies_are_read_once_and_said(dialect: str, checkpoint_of: MakeCheckpoint):
    checkpoint = checkpoint_of(dialect=dialect)
    found = load(replicated(checkpoint), variant="v1.5")
    assert found.content_hash() == checkpoint.content_hash()
    assert found.notes == ("each array held 3 equal copies, of which one is read",)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_copies_that_differ_in_a_bit_are_refused(dialect: str, checkpoint_of: MakeCheckpoint):
    arrays = replicated(checkpoint_of(dialect=dialect))
    name = next(name for name in arrays if arrays[name].ndim == 2)
    arrays[name].view(np.uint32)[2, 0] ^= 1
    with pytest.raises(ConversionError, match=f"each array holds 3 copies, and those of '{name}' differ"):
        load(arrays, variant="v1.5")


def test_arrays_of_different_numbers_of_copies_are_refused(checkpoint_of: MakeCheckpoint):
    arrays = replicated(checkpoint_of(dialect="flax"))
    arrays["bn1.mean"] = arrays["bn1.mean"][:2]
    with pytest.raises(ConversionError, match="not a bottleneck ResNet"):
        load(arrays, variant="v1.5", dialect="flax")


def test_other_frameworks_do_not_replicate(checkpoint_of: MakeCheckpoint):
    with pytest.raises(ConversionError, match="not a bottleneck ResNet"):
        load(replicated(checkpoint_of(dialect="torchvision")), variant="v1.5")
