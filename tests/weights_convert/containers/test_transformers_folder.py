"""transformers' folders and indexes of shards: an index and its shards must agree, and folders state their network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from impls.config import VARIANTS, ResNetConfig
from weights_convert import Checkpoint, ConversionError, containers, load

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture
def index(checkpoint_of: MakeCheckpoint, tmp_path: Path) -> Path:
    """The path of an index of two shards."""
    arrays = {name: np.ascontiguousarray(a) for name, a in checkpoint_of(dialect="transformers").arrays.items()}
    names = list(arrays)
    shards = {"1.safetensors": names[:50], "2.safetensors": names[50:]}
    for shard, shard_names in shards.items():
        save_file({name: arrays[name] for name in shard_names}, tmp_path / shard)
    weight_map = {name: shard for shard, shard_names in shards.items() for name in shard_names}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def change(index: Path, name: str, shard: str | None) -> None:
    """Let the index say that an array is in another shard, or in none."""
    content = json.loads(index.read_text())
    content["weight_map"][name] = shard
    if shard is None:
        del content["weight_map"][name]
    index.write_text(json.dumps(content))


def test_shards_are_read_as_one_network(index: Path, checkpoint_of: MakeCheckpoint):
    for source in (index, index.parent):
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
def test_an_index_that_disagrees_with_its_shards_is_refused(name: str, shard: str | None, problem: str, index: Path):
    change(index, name, shard)
    with pytest.raises(ConversionError, match=problem):
        containers.read(index)


@pytest.mark.parametrize(("in_bottleneck", "variant"), [(True, "v1"), (False, "v1.5"), (None, "v1.5")])
def test_a_config_of_transformers_tells_the_variant(in_bottleneck: bool | None, variant: str, index: Path):
    config = {"model_type": "resnet", "downsample_in_bottleneck": in_bottleneck}
    (index.parent / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )
    assert load(index.parent).config.variant == variant


def test_a_config_of_another_model_is_refused(index: Path):
    (index.parent / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 768}))
    with pytest.raises(ConversionError, match='model_type is "vit"') as error:
        load(index.parent, variant="v1.5")
    assert len(error.value.problems) == 1  # the fields of another model are not judged


@pytest.mark.parametrize("config", [[], {}, {"learning_rate": 0.1}])
def test_a_config_of_no_library_tells_nothing(config: object, index: Path):
    (index.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match="does not state its variant"):
        load(index.parent)


class TestATransformersFolder:
    @pytest.mark.parametrize(("variant", "in_bottleneck"), [("v1.5", False), ("v1", True)])
    @pytest.mark.parametrize(("classes", "architecture"), [(5, "ResNetForImageClassification"), (0, "ResNetModel")])
    def test_states_its_network(
        self,
        variant: str,
        in_bottleneck: bool,
        classes: int,
        architecture: str,
        checkpoint_of: MakeCheckpoint,
        tiny: ResNetConfig,
        tmp_path: Path,
    ):
        config = replace(VARIANTS[variant], depths=tiny.depths, width=tiny.width, num_classes=classes, in_channels=1)
        checkpoint_of(config, "float16").to("transformers").save(tmp_path / "a.transformers")
        config_json = json.loads((tmp_path / "a.transformers" / "config.json").read_text())
        assert config_json["architectures"] == [architecture]
        assert config_json["downsample_in_bottleneck"] is in_bottleneck
        assert (config_json["embedding_size"], config_json["hidden_sizes"]) == (4, [16, 32, 64, 128])
        assert (config_json["depths"], config_json["num_channels"], config_json["dtype"]) == (
            [2, 1, 1, 1],
            1,
            "float16",
        )
        assert (
            len(config_json.get("id2label", {}))
            == len(config_json.get("label2id", {}))
            == config_json.get("num_labels", 0)
            == classes
        )
        assert load(tmp_path / "a.transformers").config.variant == variant

    @pytest.mark.parametrize("variant", ["tutorial", "flax"])
    def test_cannot_be_another_variant(
        self, variant: str, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig, tmp_path: Path
    ):
        config = replace(VARIANTS[variant], depths=tiny.depths, width=tiny.width)
        with pytest.raises(ConversionError, match=f"ResNet is variant v1.5 or v1; it cannot be {variant}") as error:
            checkpoint_of(config).to("transformers").save(tmp_path / "a.transformers")
        assert str(tmp_path / "a.transformers") in str(error.value)
        assert list(tmp_path.iterdir()) == []

    def test_is_as_readable_as_any_new_file(self, checkpoint_of: MakeCheckpoint, tmp_path: Path):
        (tmp_path / "plain").touch()
        checkpoint_of(dialect="transformers").save(tmp_path / "a.transformers", max_shard_size="50kB")
        modes = {file.stat().st_mode for file in (tmp_path / "a.transformers").iterdir()}
        assert modes == {(tmp_path / "plain").stat().st_mode}

    @pytest.mark.parametrize("limit", [1, 40_000, "40KB", "1GB"])
    def test_is_split_if_a_limit_is_given(
        self, limit: int | str, checkpoint_of: MakeCheckpoint, bits_of: Callable[..., object], tmp_path: Path
    ):
        checkpoint = checkpoint_of(dialect="transformers")
        folder = tmp_path / "a.transformers"
        checkpoint.save(folder, max_shard_size=limit)
        shards = [containers.read(file)[0] for file in sorted(folder.glob("*.safetensors"))]
        limit_bytes = containers.byte_count(limit) if isinstance(limit, str) else limit
        assert all(len(shard) == 1 or sum(array.nbytes for array in shard.values()) <= limit_bytes for shard in shards)
        assert len(shards) == {1: len(checkpoint.arrays), 40_000: 5, "40KB": 5, "1GB": 1}[limit]
        assert (folder / "model.safetensors").exists() is (len(shards) == 1)
        read = load(folder)
        assert (read.recognised_by, bits_of(read.arrays)) == (
            "from its metadata: made for it",
            bits_of(checkpoint.arrays),
        )
        if len(shards) > 1:
            index = json.loads((folder / "model.safetensors.index.json").read_text())
            assert index["metadata"]["total_size"] == sum(array.nbytes for array in checkpoint.arrays.values())

    def test_with_changed_arrays_is_refused(self, checkpoint_of: MakeCheckpoint, tmp_path: Path):
        folder = tmp_path / "a.transformers"
        checkpoint_of(dialect="transformers").save(folder, max_shard_size=40_000)
        other = checkpoint_of(dialect="transformers", seed=1).arrays
        first = folder / "model-00001-of-00005.safetensors"
        save_file({name: np.ascontiguousarray(other[name]) for name in containers.read(first)[0]}, first)
        with pytest.raises(ConversionError, match="the content hash differs"):
            load(folder)

    @pytest.mark.parametrize("limit", ["", "MB", "0MB", "-5MB", "50", "5 TB", "1e3KB"])
    def test_a_limit_that_is_not_a_size_is_refused(self, limit: str, checkpoint_of: MakeCheckpoint, tmp_path: Path):
        with pytest.raises(ValueError, match="is not a size, such as"):
            checkpoint_of(dialect="transformers").save(tmp_path / "a.transformers", max_shard_size=limit)

    def test_a_file_cannot_be_split(self, checkpoint_of: MakeCheckpoint, tmp_path: Path):
        with pytest.raises(ConversionError, match=r"a PyTorch target cannot be split; only \.transf"):
            checkpoint_of(dialect="transformers").save(tmp_path / "a.pth", max_shard_size=1)
        assert list(tmp_path.iterdir()) == []


def test_an_index_alone_is_not_written(checkpoint_of: MakeCheckpoint, tmp_path: Path):
    with pytest.raises(ConversionError, match="its ending selects no kind of file that can be written"):
        checkpoint_of(dialect="transformers").save(tmp_path / "model.safetensors.index.json")
