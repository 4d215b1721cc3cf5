"""Readers that the campaign must detect, each wrong in one way."""

from __future__ import annotations

import os
import signal
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.weights_convert.fuzz_originals import TINY, make_checkpoint
from weights_convert import Checkpoint, ConversionError, load


def accepts_anything(path: str, **_: Any) -> Checkpoint:
    return _any_checkpoint()


@cache
def _any_checkpoint() -> Checkpoint:
    return make_checkpoint("canonical", "float32", 77)


def flips_a_bit(path: str, **options: Any) -> Checkpoint:
    checkpoint = load(path, **options)
    name, array = next(iter(checkpoint.arrays.items()))
    changed = np.array(array)
    changed.view(np.uint8).flat[0] ^= 1
    return Checkpoint({**checkpoint.arrays, name: changed}, checkpoint.dialect, TINY)


def refuses_everything(path: str, **_: Any) -> Checkpoint:
    raise ConversionError(path, ["it is refused"])


def refuses_without_a_problem(path: str, **_: Any) -> Checkpoint:
    raise ConversionError(path, [])


def raises_a_key_error(path: str, **_: Any) -> Checkpoint:
    raise KeyError(path)


def prints(path: str, **options: Any) -> Checkpoint:
    os.write(2, b"Traceback (most recent call last):\n")
    return load(path, **options)


def ends_the_process(path: str, **options: Any) -> Checkpoint:
    if _is_damaged(path):
        os.kill(os.getpid(), signal.SIGSEGV)
    return load(path, **options)


def sleeps(path: str, **options: Any) -> Checkpoint:
    if _is_damaged(path):
        time.sleep(60)
    return load(path, **options)


def takes_memory(path: str, **options: Any) -> Checkpoint:
    np.ones(50 * 2**20).sum()
    return load(path, **options)


def _is_damaged(path: str) -> bool:
    """Return whether this is a damaged file, not one that the worker reads to warm up."""
    return Path(path).parent.name == "damaged"
