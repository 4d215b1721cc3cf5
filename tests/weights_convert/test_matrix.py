"""Every dialect in every container that can hold it: written and read back bit for bit, in every dtype and depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from impls.config import ResNetConfig
from weights_convert import Checkpoint, load
from weights_convert.comparison import FLOATS
from weights_convert.containers import CONTAINERS
from weights_convert.dialects import DIALECTS, WRITTEN

MATRIX = [
    (dialect, ending)
    for container in CONTAINERS
    for ending in container.endings[:1]
    for dialect in (container.dialects or WRITTEN)
    if dialect not in container.library_only  # those are tested with their libraries
]
EVERY_DTYPE = [
    (dialect, ending, dtype)
    for number, (dialect, ending) in enumerate(MATRIX)
    for dtype in FLOATS
    if dtype == "float32" or (number == 0 or MATRIX[number - 1][1] != ending)
]
"""Every pair in float32, and every container in every dtype with its first dialect, since dialects ignore numbers."""

each_pair = pytest.mark.parametrize(("dialect", "ending"), MATRIX)
CheckpointOf = Callable[..., Checkpoint]
BitsOf = Callable[..., object]


def config_for(dialect: str, tiny: ResNetConfig) -> ResNetConfig:
    return replace(tiny, conv_bias=dialect == "keras.applications")


def variant_of(config: ResNetConfig) -> str | None:
    """Return the variant to give for a file that cannot state it."""
    return None if config.conv_bias else config.variant


@pytest.mark.parametrize(("dialect", "ending", "dtype"), EVERY_DTYPE)
def test_every_bit_is_kept(
    dialect: str,
    ending: str,
    dtype: str,
    tiny: ResNetConfig,
    checkpoint_of: CheckpointOf,
    bits_of: BitsOf,
    tmp_path: Path,
):
    config = config_for(dialect, tiny)
    checkpoint = checkpoint_of(config, dtype)
    checkpoint.to(dialect).save(tmp_path / f"a{ending}")
    read = load(tmp_path / f"a{ending}", variant=variant_of(config))
    assert read.dialect.framework == DIALECTS[dialect].framework
    assert bits_of(read.to("canonical").arrays) == bits_of(checkpoint.arrays)


@each_pair
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"num_classes": 0}, id="headless"),
        pytest.param({"depths": (3, 8, 36, 3), "in_channels": 1}, id="152", marks=pytest.mark.slow),
    ],
)
def test_every_size_is_kept(
    dialect: str,
    ending: str,
    sizes: dict[str, int],
    tiny: ResNetConfig,
    checkpoint_of: CheckpointOf,
    bits_of: BitsOf,
    tmp_path: Path,
):
    config = replace(config_for(dialect, tiny), **sizes)
    checkpoint = checkpoint_of(config)
    checkpoint.to(dialect).save(tmp_path / f"a{ending}")
    read = load(tmp_path / f"a{ending}", variant=variant_of(config))
    sizes_of = ("depths", "width", "num_classes", "in_channels")
    assert [getattr(read.config, size) for size in sizes_of] == [getattr(config, size) for size in sizes_of]
    assert bits_of(read.to("canonical").arrays) == bits_of(checkpoint.arrays)
