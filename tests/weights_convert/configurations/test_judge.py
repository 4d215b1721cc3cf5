"""The judgement of a library's configuration: read whole, or not believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from impls.config import VARIANTS
from weights_convert import Checkpoint, ConversionError, inspect, load
from weights_convert.cli import main
from weights_convert.configurations import found, judge, timm, transformers
from weights_convert.configurations.fields import Field, Findings, decides, neutral, read_fields, states

MakeCheckpoint = Callable[..., Checkpoint]
TRANSFORMERS = {"model_type": "resnet", "downsample_in_bottleneck": False}
TIMM = {"architecture": "resnet50", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}


@pytest.fixture
def folder(checkpoint_of: MakeCheckpoint, tmp_path: Path) -> Path:
    """A folder of transformers, without its configuration."""
    arrays = checkpoint_of(dialect="transformers").arrays
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, tmp_path / "model.safetensors")
    return tmp_path


def configure(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def other(value: Any) -> Any:
    """Return a value of the same type that no variant has."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return {"x": 1} if isinstance(value, dict) or value is None else "x" if isinstance(value, str) else [*value, 3]


class TestEveryRow:
    @pytest.mark.parametrize(
        ("base", "field", "row"),
        [
            (base, field, row)
            for base, fields in ((TRANSFORMERS, transformers.FIELDS), (TIMM, timm.FIELDS))
            for field, row in fields.items()
            if row.variants is not None
        ],
    )
    def test_that_decides_the_function_refuses_another_value(self, base: dict[str, Any], field: str, row: Field):
        assert row.variants
        value = other(json.loads(next(iter(row.variants))))
        while json.dumps(value, sort_keys=True) in row.variants:  # a boolean of which both values are known
            value = "x"
        *outer, name = field.split(".")
        inner = {name: value} if not outer else {outer[0]: base.get(outer[0], {}) | {name: value}}
        judgement = judge(found("config.json", base | inner))
        assert judgement.variants == ()
        problem = next(problem for problem in judgement.problems if field in problem)
        assert f"{field} is {json.dumps(value)}" in problem
        assert row.what in problem
        assert "it would have to be" in problem

    @pytest.mark.parametrize("base", [TRANSFORMERS, TIMM])
    def test_has_a_default_that_a_variant_has(self, base: dict[str, Any]):
        assert judge(found("config.json", base)).problems == ()
        assert judge(found("config.json", base)).variants == ("v1.5",)


class TestAField:
    """Fields of an invented library."""

    TABLE: ClassVar[dict[str, Field]] = {
        "order": decides("the order", (1, ["v1"]), (2, ["v1.5"])),
        "eps": decides("the eps", (0.5, ["v1", "v1.5"]), default=0.5),
        "count": states("the classes", lambda network: [network.num_classes]),
        **neutral("a name", "name"),
    }

    def read(self, **values: Any) -> Findings:
        findings = Findings()
        read_fields(values, self.TABLE, "here", findings)
        return findings

    def test_that_is_absent_has_its_default(self):
        facts = self.read(order=1).facts
        assert [str(fact) for fact in facts] == ["order is 1", "eps is 0.5 by default"]

    def test_that_is_absent_and_has_no_default_is_a_problem(self):
        assert self.read().problems == ["here: order is absent, the order; its library always states it"]

    @pytest.mark.parametrize("value", [1.0, True, "1", [1], None])
    def test_of_another_type_is_another_value(self, value: Any):
        assert self.read(order=value).facts[0].variants == ()

    def test_without_a_row_is_unclassified(self):
        assert self.read(order=1, more={"a": 1}).unclassified == [("here", "more", {"a": 1})]

    def test_that_states_a_size_is_compared_with_the_arrays(self):
        (size,) = self.read(order=1, count=7).sizes
        assert size.problem(VARIANTS["v1"]) == "here states 7 for the classes (count), and the arrays have 1000"
        assert self.read(order=1, count=1000).sizes[0].problem(VARIANTS["v1"]) is None


class TestAFolder:
    @pytest.mark.parametrize(
        ("config", "problem"),
        [
            ({"downsample_in_first_stage": True}, "(the stride of stage 1: 2 in its first block if true)"),
            ({"hidden_act": "gelu"}, "(the activation of the stem and after each addition)"),
            ({"downsample_in_bottleneck": 1}, "true (v1)"),
            ({"auto_map": {"AutoModel": "modeling.Mine"}}, "(code of its own, which computes anything)"),
            ({"architectures": ["MyResNet"]}, "(the class of the model)"),
            ({"depths": [3, 4, 6, 3]}, "states [3, 4, 6, 3] for the blocks of the stages (depths)"),
            ({"num_channels": 1}, "states 1 for the channels of the image (num_channels), and the arrays have 3"),
            ({"id2label": {"0": "cat"}}, "states 1 for the classes (id2label), and the arrays have 5"),
            ({"use_dropblock": False}, "the field use_dropblock has no row in the table of its library"),
        ],
    )
    @pytest.mark.parametrize("variant", [None, "v1.5"])
    def test_is_refused_whatever_the_user_says(
        self, config: dict[str, Any], problem: str, variant: str | None, folder: Path
    ):
        with pytest.raises(ConversionError) as error:
            load(configure(folder, **TRANSFORMERS | config), variant=variant)
        assert next(iter(config)) in str(error.value)
        assert problem in str(error.value)
        assert len(error.value.problems) == 1

    def test_of_ours_is_refused_if_its_config_was_changed(self, checkpoint_of: MakeCheckpoint, tmp_path: Path):
        """The folder's metadata are as before, and transformers computes what the config says."""
        folder = tmp_path / "a.transformers"
        checkpoint_of(dialect="transformers").save(folder)
        config = json.loads((folder / "config.json").read_text())
        configure(folder, **config | {"hidden_act": "gelu"})
        with pytest.raises(ConversionError, match='hidden_act is "gelu"'):
            load(folder)
        configure(folder, **config | {"downsample_in_bottleneck": True})
        with pytest.raises(ConversionError, match=r"it holds variant v1\.5, and its configuration says otherwise"):
            load(folder)

    @pytest.mark.parametrize("content", ["[" * 100_000, '{"model_type": NaN', "\x00", '{"depths": 3}'])
    def test_with_a_damaged_config_is_refused(self, content: str, folder: Path):
        (folder / "config.json").write_text(content)
        with pytest.raises(ConversionError):
            load(folder)

    def test_with_a_nonsensical_value_raises_no_other_error(self):
        for field in {*transformers.FIELDS, *timm.FIELDS, "registered_name", "class_name"}:
            outer, _, inner = field.partition(".")
            for value in (3, "x", None, [], {}, True, [[[]]], {"config": 3}, 1e400):
                for base in (TRANSFORMERS, TIMM, {}):
                    judge(found("config.json", base | {outer: {inner: value} if inner else value}))


class TestAccepting:
    def test_a_field_that_no_table_knows(self, folder: Path, tmp_path: Path):
        configure(folder, **TRANSFORMERS, use_dropblock=False)
        read = load(folder, accept={"use_dropblock": False})
        assert (read.config.variant, read.accepted) == ("v1.5", ("use_dropblock=false",))
        target = tmp_path / "x.flax.safetensors"
        read.to("flax").save(target)
        again = load(target)
        assert again.accepted == read.accepted
        assert again.recognised_by == f"from its metadata: {read.recognised_by}"
        again.to("keras").save(tmp_path / "y.keras.safetensors")  # what the metadata says does not grow
        assert load(tmp_path / "y.keras.safetensors").recognised_by == again.recognised_by
        assert load(tmp_path / "y.keras.safetensors").accepted == read.accepted

    @pytest.mark.parametrize(
        ("accept", "problem"),
        [
            ({}, "give --accept 'use_dropblock=false'"),
            ({"use_dropblock": True}, "give --accept 'use_dropblock=false'"),
            ({"use_dropblock": 0}, "give --accept 'use_dropblock=false'"),
            ({"use_dropblock": False, "hidden_act": "gelu"}, "this field is classified, and cannot be accepted"),
            ({"use_dropblock": False, "dropblock": 1}, "there is no unclassified field of this name"),
        ],
    )
    def test_anything_else_is_refused(self, accept: dict[str, Any], problem: str, folder: Path):
        configure(folder, **TRANSFORMERS, use_dropblock=False, hidden_act="relu")
        with pytest.raises(ConversionError) as error:
            load(folder, accept=accept)
        assert problem in str(error.value)
        assert len(error.value.problems) == 1

    def test_a_field_of_a_file_without_a_configuration_is_refused(self, folder: Path):
        with pytest.raises(ConversionError, match="no unclassified field"):
            load(folder, variant="v1.5", accept={"x": 1})

    def test_on_the_command_line(self, folder: Path, tmp_path: Path):
        configure(folder, **TRANSFORMERS, use_dropblock=False, mode="a=b")
        target = tmp_path / "x.flax.safetensors"
        command = ["convert", str(folder), str(target)]
        refused = CliRunner().invoke(main, command)
        assert refused.exit_code == 2
        assert "--accept 'use_dropblock=false'" in refused.output
        assert not target.exists()
        result = CliRunner().invoke(main, [*command, "--accept", "use_dropblock=false", "--accept", "mode=a=b"])
        assert result.exit_code == 0
        assert 'accepted            use_dropblock=false\naccepted            mode="a=b"\n' in result.output
        assert inspect(target).accepted == ("use_dropblock=false", 'mode="a=b"')

    @pytest.mark.parametrize("words", [["x"], ["=1"], [""], ["x=1", "x=2"]])
    def test_what_is_no_field_with_a_value_is_a_usage_error(self, words: list[str], folder: Path):
        options = [option for word in words for option in ("--accept", word)]
        result = CliRunner().invoke(main, ["inspect", str(folder), *options])
        assert result.exit_code == 2
        assert "is not FIELD=VALUE, or gives a field a second time" in result.output


def test_a_file_cannot_speak_for_its_reader(checkpoint_of: MakeCheckpoint, tmp_path: Path):
    """Whoever writes a safetensors file writes its metadata as well."""
    forged = {"variant": "v1", "known_by": "its word"} | found("config.json", TRANSFORMERS)
    save_file(dict(checkpoint_of().arrays), tmp_path / "a.safetensors", forged)
    assert len(inspect(tmp_path / "a.safetensors").networks) == 4


def test_a_configuration_with_problems_states_no_variant():
    configuration = {"registered_name": "keras_hub>ResNetImageClassifier", "config": {"num_classes": 5}}
    judgement = judge(found("config.json", configuration))
    assert judgement.problems == ("Keras Hub's config.json: it names no backbone",)
    assert judgement.variants == ()
