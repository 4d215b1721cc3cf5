"""Shards and folders: an index and its shards must agree, and nothing is looked for elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from weights_convert import Checkpoint, ConversionError, containers, load

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture
def sharded(checkpoint_of: MakeCheckpoint, tmp_path: Path) -> Path:
    """An index of two shards."""
    arrays = {name: np.ascontiguousarray(a) for name, a in checkpoint_of(dialect="transformers").arrays.items()}
    names = list(arrays)
    shards = {"1.safetensors": names[:50], "2.safetensors": names[50:]}
    for shard, held in shards.items():
        save_file({name: arrays[name] for name in held}, tmp_path / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def change(index: Path, name: str, shard: str | None) -> None:
    held = json.loads(index.read_text())
    held["weight_map"][name] = shard
    if shard is None:
        del held["weight_map"][name]
    index.write_text(json.dumps(held))


def test_shards_are_one_network(sharded: Path, checkpoint_of: MakeCheckpoint):
    for source in (sharded, sharded.parent):
        assert load(source, variant="v1.5").content_hash() == checkpoint_of().content_hash()


@pytest.mark.parametrize(
    ("name", "shard", "problem"),
    [
        ("classifier.1.bias", "1.safetensors", "'classifier.1.bias' is not in 1.safetensors, where the index says"),
        ("more.weight", "2.safetensors", "'more.weight' is not in 2.safetensors"),
        ("classifier.1.bias", None, "'classifier.1.bias' is in 2.safetensors, and the index does not say so"),
        ("more.weight", "../2.safetensors", "its shard '../2.safetensors' is not beside it"),
        ("more.weight", "/etc/passwd", "its shard '/etc/passwd' is not beside it"),
        ("more.weight", "3.safetensors", "cannot be opened: No such file"),
    ],
)
def test_an_index_that_lies_is_refused(name: str, shard: str | None, problem: str, sharded: Path):
    change(sharded, name, shard)
    with pytest.raises(ConversionError, match=problem):
        containers.read(sharded)


@pytest.mark.parametrize(("in_bottleneck", "variant"), [(True, "v1"), (False, "v1.5"), (None, "v1.5")])
def test_a_config_of_transformers_tells_the_variant(in_bottleneck: bool | None, variant: str, sharded: Path):
    config = {"model_type": "resnet", "downsample_in_bottleneck": in_bottleneck}
    (sharded.parent / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )
    assert load(sharded.parent).config.variant == variant


def test_a_config_of_another_model_tells_nothing(sharded: Path):
    (sharded.parent / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ConversionError, match="does not say which network"):
        load(sharded.parent)
