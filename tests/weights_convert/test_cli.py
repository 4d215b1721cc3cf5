"""The command: the files it writes, its reports and refusals, and the packages that it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from impls.config import VARIANTS, ResNetConfig
from weights_convert import Checkpoint, load
from weights_convert.cli import main
from weights_convert.containers import safetensors_file
from weights_convert.dialects import ALIASES, DIALECTS, WRITTEN

MakeCheckpoint = Callable[..., Checkpoint]
BitsOf = Callable[..., object]
AT_ROOT = os.environ | {"PYTHONPATH": os.fspath(Path(__file__).parents[2])}
"""The environment of a command that runs in another directory."""

FRAMEWORKS = ("torch", "jax", "flax", "keras", "tensorflow", "torchvision", "orbax", "requests", "huggingface_hub")


NO_FRAMEWORK_NEEDED = (
    *("keras.safetensors", "keras.weights.h5", "keras.keras", "keras-hub.weights.h5"),
    *("transformers-tf.h5", "flax.msgpack", "flax-linen.msgpack"),
)
"""Endings of targets that are written without the library that reads them."""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """Run a command that must be refused, with a message on standard error only; return the message."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    return result.stderr


@pytest.fixture
def torchvision_file(tmp_path: Path, checkpoint_of: MakeCheckpoint) -> Path:
    """A file as a user has it: torchvision's names, a count of batches, no variant."""
    arrays = dict(checkpoint_of(dialect="torchvision").arrays) | {"bn1.num_batches_tracked": np.array(3)}
    save_file(arrays, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.fixture
def flax_file(tmp_path: Path, checkpoint_of: MakeCheckpoint) -> Path:
    """A file that states its network."""
    checkpoint_of(dialect="flax").save(tmp_path / "b.flax.safetensors")
    return tmp_path / "b.flax.safetensors"


class TestConvert:
    @pytest.mark.parametrize(
        ("name", "dialect"),
        [
            ("x.flax.safetensors", "flax"),
            ("x.keras.safetensors", "keras"),
            ("x.keras.applications.safetensors", "keras.applications"),
            ("x.torchvision.pth", "torchvision"),
            ("x.canonical.safetensors", "canonical"),
            ("x.torch.pt", "canonical"),
            ("v1.5.flax.safetensors", "flax"),
            ("flax.safetensors", "flax"),
        ],
    )
    def test_the_name_states_the_dialect(
        self, name: str, dialect: str, torchvision_file: Path, checkpoint_of: MakeCheckpoint, bits_of: BitsOf
    ):
        target = torchvision_file.with_name(name)
        assert run("convert", torchvision_file, target, "--variant", "v1.5").exit_code == 0
        written = load(target, variant="v1.5")
        assert written.dialect is DIALECTS[dialect]
        assert bits_of(written.to("canonical").arrays) == bits_of(checkpoint_of().arrays)

    @pytest.mark.parametrize("name", ["x.safetensors", "x.caffe.safetensors", "xflax.safetensors"])
    def test_a_name_without_a_dialect_is_refused(self, name: str, flax_file: Path):
        message = refused("convert", flax_file, flax_file.with_name(name))
        assert "its name states no dialect; give --to" in message
        assert f"The dialects are {', '.join([*WRITTEN, *ALIASES])}." in message
        assert not flax_file.with_name(name).exists()

    def test_the_option_overrides_the_name(self, flax_file: Path):
        target = flax_file.with_name("x.flax.safetensors")
        assert run("convert", flax_file, target, "--to", "keras").exit_code == 0
        assert load(target).dialect.name == "keras"

    def test_prints_a_report(self, torchvision_file: Path):
        target = torchvision_file.with_name("x.torchvision.pth")
        result = run("convert", torchvision_file, target, "--variant", "v1")
        lines = result.stdout.splitlines()
        assert [line for line in lines if not line.startswith("unlikely numbers")] == [
            f"source              {torchvision_file}",
            f"target              {target}",
            "from                torchvision",
            "to                  torchvision",
            "variant             v1",
            "recognised by       as given",
            "network             ResNet-17, width 4",
            "arrays              102",
            "dtypes              float32",
            f"content hash        {load(target, variant='v1').content_hash()}",
            "dropped             bn1.num_batches_tracked "
            "(PyTorch's count of training batches, which no other framework has)",
            "changes             none",
            "accepted            none",
            "notes               torchvision's own ResNet is variant v1.5; with these weights, of variant v1, it "
            "computes another function",
            "notes               a PyTorch file cannot state its variant; give --variant v1 to read it",
        ]

    def test_prints_a_report_as_json(self, torchvision_file: Path):
        target = torchvision_file.with_name("x.flax.safetensors")
        facts = json.loads(run("convert", torchvision_file, target, "--variant", "v1.5", "--json").stdout)
        assert facts.pop("unlikely_numbers")  # of random bits
        assert facts == {
            "source": str(torchvision_file),
            "target": str(target),
            "from": "torchvision",
            "to": "flax",
            "variant": "v1.5",
            "recognised_by": "as given",
            "network": "ResNet-17, width 4",
            "arrays": 102,
            "dtypes": ["float32"],
            "content_hash": load(target).content_hash(),
            "dropped": {"bn1.num_batches_tracked": "PyTorch's count of training batches, which no other framework has"},
            "changes": [],
            "accepted": [],
            "notes": [],
        }

    def test_a_variant_is_not_guessed(self, torchvision_file: Path):
        target = torchvision_file.with_name("x.flax.safetensors")
        message = refused("convert", torchvision_file, target)
        assert "fit several: tutorial, v1, v1.5, flax\nGive the variant (--variant or variant=...)" in message
        assert not target.exists()

    def test_a_file_is_never_written_over_itself(self, flax_file: Path):
        before = flax_file.read_bytes()
        other = flax_file.with_name("link.keras.safetensors")
        other.symlink_to(flax_file)
        for target in (flax_file, other):
            assert "it is the source as well" in refused("convert", flax_file, target)
        assert flax_file.read_bytes() == before

    def test_a_failure_leaves_the_old_target(self, flax_file: Path, monkeypatch: pytest.MonkeyPatch):
        target = flax_file.with_name("x.keras.safetensors")
        target.write_bytes(b"old")

        def write(path: Path, *_: object) -> None:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(safetensors_file, "write", write)
        assert (
            refused("convert", flax_file, target) == f"Error: {target}: it cannot be written: No space left on device\n"
        )
        assert target.read_bytes() == b"old"
        assert set(flax_file.parent.iterdir()) == {flax_file, target}

    def test_a_damaged_source_leaves_the_old_target(self, flax_file: Path):
        target = flax_file.with_name("x.keras.safetensors")
        target.write_bytes(b"old")
        flax_file.write_bytes(flax_file.read_bytes()[:-1])
        assert "it is not a complete safetensors file" in refused("convert", flax_file, target)
        assert target.read_bytes() == b"old"

    @pytest.mark.parametrize(
        ("source", "target", "message"),
        [
            ("none.safetensors", "x.flax.safetensors", "none.safetensors: it cannot be opened: No such file"),
            ("b.flax.safetensors", "x.flax.onnx", "x.flax.onnx: its ending selects no kind of file"),
            ("b.flax.safetensors", "none/x.flax.safetensors", "the directory '{}/none' does not exist"),
        ],
    )
    def test_impossible_sources_and_targets_are_refused(self, source: str, target: str, message: str, flax_file: Path):
        folder = flax_file.parent
        assert message.format(folder) in refused("convert", folder / source, folder / target)

    def test_another_dialect_than_the_sources_is_refused(self, flax_file: Path):
        message = refused("convert", flax_file, flax_file.with_name("x.keras.safetensors"), "--from", "keras")
        assert "keras has no rule for 'bn1.scale'" in message
        assert "'bn1.gamma' is missing" not in message.splitlines()[-1]
        assert message.splitlines()[-1].endswith("more problems")


class TestInspect:
    def test_reports_everything_of_a_file_of_ours(self, flax_file: Path, checkpoint_of: MakeCheckpoint):
        result = run("inspect", flax_file)
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        assert [line for line in lines if not line.startswith("unlikely numbers")] == [
            f"file                {flax_file}",
            "container           safetensors",
            "dialect             flax",
            "used by             impls.flax: attribute paths, joined by dots",
            "variant             v1.5",
            "recognised by       from its metadata: made for it",
            "possible variants   v1.5",
            "network             ResNet-17, width 4",
            "depths              2, 1, 1, 1",
            "num classes         5",
            "in channels         3",
            "dtypes              float32",
            "arrays              102",
            "parameters          33,961",
            "running statistics  1,256",
            f"content hash        {checkpoint_of().content_hash()}",
            "dropped             none",
            "changes             none",
            "accepted            none",
            "problems            none",
            f"converts to         {', '.join(WRITTEN)}",
        ]

    def test_lists_the_possible_variants_of_a_file_that_states_none(self, torchvision_file: Path):
        result = run("inspect", torchvision_file)
        assert result.exit_code == 0
        assert "variant             unknown\n" in result.stdout
        assert "possible variants   tutorial, v1, v1.5, flax\n" in result.stdout
        assert "advice              give --variant; the weights that torchvision publishes are v1.5\n" in result.stdout

    def test_prints_a_report_as_json(self, torchvision_file: Path, checkpoint_of: MakeCheckpoint):
        facts = json.loads(run("inspect", torchvision_file, "--json").stdout)
        assert facts.pop("unlikely_numbers")  # of random bits
        assert facts == {
            "file": str(torchvision_file),
            "container": "safetensors",
            "dialect": "torchvision",
            "used_by": "torchvision.models.resnet50, and timm's resnet50",
            "variant": None,
            "recognised_by": None,
            "possible_variants": ["tutorial", "v1", "v1.5", "flax"],
            "network": "ResNet-17, width 4",
            "depths": [2, 1, 1, 1],
            "num_classes": 5,
            "in_channels": 3,
            "dtypes": ["float32", "int64"],
            "arrays": 103,
            "parameters": 33961,
            "running_statistics": 1256,
            "content_hash": checkpoint_of().content_hash(),
            "dropped": {"bn1.num_batches_tracked": "PyTorch's count of training batches, which no other framework has"},
            "changes": [],
            "accepted": [],
            "problems": [],
            "converts_to": list(WRITTEN),
            "advice": "give --variant; the weights that torchvision publishes are v1.5",
        }

    def test_takes_the_given_variant(self, torchvision_file: Path):
        facts = json.loads(run("inspect", torchvision_file, "--variant", "v1", "--json").stdout)
        assert (facts["variant"], facts["recognised_by"]) == ("v1", "as given")

    def test_recognises_biases_of_convolutions(self, tmp_path: Path, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig):
        checkpoint = checkpoint_of(replace(tiny, conv_bias=True), dialect="keras.applications")
        save_file(dict(checkpoint.arrays), tmp_path / "a.safetensors")
        stdout = run("inspect", tmp_path / "a.safetensors").stdout
        assert "variant             keras\nrecognised by       no other variant has such arrays\n" in stdout

    def test_asks_what_biases_of_convolutions_belong_to(
        self, tmp_path: Path, checkpoint_of: MakeCheckpoint, tiny: ResNetConfig
    ):
        save_file(dict(checkpoint_of(replace(tiny, conv_bias=True)).arrays), tmp_path / "a.safetensors")
        facts = json.loads(run("inspect", tmp_path / "a.safetensors", "--json").stdout)
        assert (facts["variant"], facts["recognised_by"], facts["possible_variants"]) == (None, None, ["keras"])
        assert facts["advice"] == "give --variant"

    def test_reports_missing_and_extra_arrays(self, tmp_path: Path, checkpoint_of: MakeCheckpoint):
        arrays = {name: array for name, array in checkpoint_of().arrays.items() if not name.startswith("stage4.0.bn")}
        save_file(arrays | {"ema.weight": np.zeros(1)}, tmp_path / "a.safetensors")
        result = run("inspect", tmp_path / "a.safetensors")
        assert result.exit_code == 0
        problems = [line for line in result.stdout.splitlines() if line.startswith("problems ")]
        assert problems[0] == "problems            canonical has no rule for 'ema.weight'"
        assert problems[1] == "problems            'stage4.0.bn1.weight' is missing"
        assert problems[-1] == "problems            and 1 more"
        assert "converts to         none" in result.stdout

    def test_reports_arrays_of_another_model(self, tmp_path: Path):
        save_file({"weight": np.zeros((2, 3))}, tmp_path / "a.safetensors")
        result = run("inspect", tmp_path / "a.safetensors")
        assert result.exit_code == 0
        assert "dialect             unknown" in result.stdout
        assert "variant             unknown" in result.stdout
        assert "arrays              1\n" in result.stdout
        assert "problems            its names belong to no known dialect ('weight')\n" in result.stdout

    def test_a_file_that_cannot_be_read_is_refused(self, tmp_path: Path):
        (tmp_path / "a.pth").touch()
        assert refused("inspect", tmp_path / "a.pth") == f"Error: {tmp_path / 'a.pth'}: it is empty\n"


class TestChanges:
    """Changes of numbers: made only on request, and reported."""

    def test_biases_are_folded_on_request_and_never_lost(
        self, checkpoint_of: Callable[..., Checkpoint], tmp_path: Path
    ):
        source, target = tmp_path / "a.keras.safetensors", tmp_path / "b.torchvision.safetensors"
        config = replace(VARIANTS["keras"], depths=(1, 1, 1, 1), width=2, num_classes=3)
        normal = {
            name: np.random.default_rng(0).uniform(0.1, 1, array.shape).astype(np.float32)
            for name, array in checkpoint_of(config).arrays.items()
        }
        Checkpoint(normal, DIALECTS["canonical"], config).to("keras").save(source)
        message = refused("convert", source, target)
        assert "its convolutions have biases, and those of torchvision have none" in message
        assert "--fold-conv-bias" in message
        assert not target.exists()
        result = run("convert", source, target, "--fold-conv-bias")
        assert result.exit_code == 0
        assert "changes             biases of convolutions folded into running means" in result.stdout
        assert load(target).config.variant == "v1"
        assert "changes             biases of convolutions folded" in run("inspect", target).stdout

    def test_rounding_reports_what_is_lost(self, flax_file: Path):
        target = flax_file.with_name("x.keras.safetensors")
        result = run("convert", flax_file, target, "--dtype", "float16", "--json")
        (line,) = json.loads(result.stdout)["changes"]
        assert line.startswith("float32 to float16: ")
        assert "numbers changed, by at most" in line
        assert load(target).dtypes() == ["float16"]

    def test_a_background_is_dropped(
        self, checkpoint_of: Callable[..., Checkpoint], tiny: ResNetConfig, tmp_path: Path
    ):
        source, target = tmp_path / "a.flax.safetensors", tmp_path / "b.keras.safetensors"
        checkpoint = checkpoint_of(replace(tiny, num_classes=1001))
        checkpoint.to("flax").save(source)
        assert run("convert", source, target, "--drop-background").exit_code == 0
        kept = load(target).to("canonical").arrays["fc.bias"]
        assert kept.tobytes() == checkpoint.arrays["fc.bias"][1:].tobytes()
        message = refused("convert", target, tmp_path / "c.flax.safetensors", "--drop-background")
        assert "it has 1000 classes; a background class can only be dropped from 1001" in message


class TestAverages:
    """Training checkpoints that hold the last weights and an average of them, as timm and torchvision write them."""

    @pytest.fixture
    def training_file(self, tmp_path: Path, checkpoint_of: MakeCheckpoint) -> Path:
        import torch

        states = [
            {
                name: torch.from_numpy(array.copy())
                for name, array in checkpoint_of(dialect="timm", seed=seed).arrays.items()
            }
            for seed in (0, 1)
        ]
        torch.save({"epoch": 3, "state_dict": states[0], "state_dict_ema": states[1]}, tmp_path / "a.pth")
        return tmp_path / "a.pth"

    @pytest.mark.parametrize("averaged", [False, True])
    def test_the_user_chooses(self, averaged: bool, training_file: Path, checkpoint_of: MakeCheckpoint):
        target = training_file.with_name("b.flax.safetensors")
        options = ["--averaged"] * averaged
        assert run("convert", training_file, target, "--variant", "v1.5", *options).exit_code == 0
        assert load(target).content_hash() == checkpoint_of(seed=int(averaged)).content_hash()

    def test_the_other_weights_are_reported(self, training_file: Path):
        stdout = run("inspect", training_file).stdout
        reason = "(averaged weights; --averaged (averaged=True) reads them)"
        assert f"dropped             state_dict_ema {reason}" in stdout
        stdout = run("inspect", training_file, "--averaged").stdout
        assert "dropped             state_dict (the last weights)" in stdout

    def test_a_file_without_averaged_weights_is_refused(self, flax_file: Path):
        target = flax_file.with_name("b.keras.safetensors")
        message = refused("convert", flax_file, target, "--averaged")
        assert "it holds no averaged weights (state_dict_ema or model_ema)" in message
        assert not target.exists()


class TestDiff:
    def test_another_dialect_of_the_same_weights_is_equal(self, flax_file: Path):
        other = flax_file.with_name("x.torchvision.pth")
        run("convert", flax_file, other)
        result = run("diff", flax_file, other)
        assert result.exit_code == 0
        assert result.stdout.endswith(" arrays are equal bit for bit, 0 are not\n")

    def test_names_the_arrays_that_differ(self, checkpoint_of: Callable[..., Checkpoint], flax_file: Path):
        arrays = dict(checkpoint_of().arrays)
        arrays["conv1.weight"] = np.zeros_like(arrays["conv1.weight"])
        arrays["fc.bias"] = arrays["fc.bias"][:2]
        del arrays["bn1.bias"]
        save_file(arrays, flax_file.with_name("b.safetensors"))
        result = run("diff", flax_file, flax_file.with_name("b.safetensors"), "--json")
        assert result.exit_code == 1
        differences = {
            difference["name"]: difference["what"] for difference in json.loads(result.stdout)["differences"]
        }
        assert set(differences) == {"conv1.weight", "fc.bias", "bn1.bias"}
        assert differences["fc.bias"] == "shape (5,) and (2,)"
        assert differences["bn1.bias"] == "only in the first"

    def test_equal_arrays_of_another_variant_differ(self, checkpoint_of: Callable[..., Checkpoint], flax_file: Path):
        v1 = flax_file.with_name("v1.flax.safetensors")
        other = replace(VARIANTS["v1"], depths=(2, 1, 1, 1), width=4, num_classes=5)
        replace(checkpoint_of(), config=other).to("flax").save(v1)
        result = run("diff", flax_file, v1)
        assert result.exit_code == 1
        assert "they compute different functions" in result.stdout

    def test_the_networks_of_a_file_of_several_are_compared_by_their_paths(
        self, checkpoint_of: Callable[..., Checkpoint], tmp_path: Path
    ):
        path, plain = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
        arrays = checkpoint_of(dialect="torchvision").arrays
        trees = {f"teacher.{name}": array for name, array in arrays.items()}
        trees |= {f"student.module.{name}": array for name, array in arrays.items()}
        trees["student.module.bn1.bias"] = np.zeros_like(arrays["bn1.bias"])
        save_file(trees, path)
        save_file(dict(arrays), plain)
        unsaid = run("diff", path, plain)
        assert unsaid.exit_code == 2
        assert "--entry teacher or --entry student.module" in " ".join(unsaid.stderr.split())
        assert run("diff", path, plain, "--entry", "teacher").exit_code == 0
        assert run("diff", path, path, "--entry", "teacher", "--entry", "teacher").exit_code == 0
        result = run("diff", path, path, "--entry", "teacher", "--entry", "student")
        assert result.exit_code == 1
        assert "bn1.bias: " in result.stdout
        assert run("diff", path, path, *["--entry", "teacher"] * 3).exit_code == 2

    def test_the_given_variant_is_that_of_a_file_that_states_none(
        self, checkpoint_of: Callable[..., Checkpoint], torchvision_file: Path, tiny: ResNetConfig
    ):
        v1 = torchvision_file.with_name("v1.flax.safetensors")
        checkpoint_of(replace(tiny, strided_layer="conv1"), dialect="flax").save(v1)
        assert run("diff", torchvision_file, v1).exit_code == 0
        assert run("diff", torchvision_file, v1, "--variant", "v1").exit_code == 0
        assert run("diff", torchvision_file, v1, "--variant", "v1.5").exit_code == 1


class TestVerify:
    def test_refuses_another_checkpoint(self, checkpoint_of: Callable[..., Checkpoint], flax_file: Path):
        checkpoint_of(seed=1).save(flax_file.with_name("b.safetensors"))
        message = refused("verify", flax_file, flax_file.with_name("b.safetensors"))
        assert "is not a conversion of it" in message

    def test_changes_must_be_requested_again(self, flax_file: Path):
        half = flax_file.with_name("half.keras.safetensors")
        run("convert", flax_file, half, "--dtype", "float16")
        message = refused("verify", flax_file, half)
        assert "It records these changes: float32 to float16: " in message
        assert "Give the options it was converted with." in message
        assert "It records these changes: float32 to float16: " in refused(
            "verify", flax_file, half, "--dtype", "bfloat16"
        )

    @pytest.mark.parametrize("dtype", [[], ["--dtype", "float16"]])
    def test_makes_the_changes_again(self, dtype: list[str], tmp_path: Path):
        from conformance.cases.synthetic import synthetic_weights

        config = replace(VARIANTS["keras"], depths=(1, 1, 1, 1), width=4, num_classes=5)
        synthetic_weights(config, seed=0).save(tmp_path / "a.safetensors")
        options = ["--fold-conv-bias", *dtype]
        run("convert", tmp_path / "a.safetensors", tmp_path / "b.torchvision.safetensors", *options)
        command = [sys.executable, "-m", "weights_convert", "verify", "a.safetensors", "b.torchvision.safetensors"]
        done = subprocess.run(
            [*command, *options, "--impl", "torch"], cwd=tmp_path, capture_output=True, text=True, env=AT_ROOT
        )
        assert done.returncode == 0, done.stderr
        assert "made again: biases of convolutions folded into running means" in done.stdout
        assert "conforms:" in done.stdout

    @pytest.mark.slow
    def test_runs_the_suite_with_the_weights(self, tmp_path: Path):
        from conformance.cases.synthetic import synthetic_weights

        config = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=4, num_classes=5)
        synthetic_weights(config, seed=0).save(tmp_path / "a.safetensors")
        run("convert", tmp_path / "a.safetensors", tmp_path / "b.keras.weights.h5")
        command = [sys.executable, "-m", "weights_convert", "verify", "a.safetensors", "b.keras.weights.h5"]
        done = subprocess.run([*command, "--impl", "torch"], cwd=tmp_path, capture_output=True, text=True, env=AT_ROOT)
        assert done.returncode == 0, done.stderr
        assert "arrays are equal bit for bit under canonical names" in done.stdout
        assert "conforms:" in done.stdout
        done = subprocess.run(
            [*command, "--impl", "torch", "--json"], cwd=tmp_path, capture_output=True, text=True, env=AT_ROOT
        )
        facts = json.loads(done.stdout)
        assert (facts["variant"], facts["arrays"], facts["suite"]["verdict"]) == ("v1.5", 87, "conforms")


def test_the_published_checkpoints_are_listed():
    result = run("list")
    assert result.exit_code == 0
    assert "hf://timm/resnet50.a1_in1k " in result.stdout
    assert "torchvision://resnet50.IMAGENET1K_V2 " in result.stdout
    assert "keras://resnet50 " in result.stdout
    assert len(json.loads(run("list", "--json").stdout)) == len(result.stdout.splitlines())


def test_an_address_is_a_source(flax_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The variant of a published checkpoint is known."""
    from weights_convert import remote

    run("convert", flax_file, tmp_path / "resnet50.torchvision.pth")
    monkeypatch.setattr(remote, "fetch", lambda address: tmp_path / "resnet50.torchvision.pth")
    result = run("inspect", "torchvision://resnet50.IMAGENET1K_V1")
    assert "recognised by       published by torchvision as v1.5\n" in result.stdout
    message = refused("convert", "https://example.org/a.pth", tmp_path / "b.flax.safetensors")
    assert "it does not state its variant" in message


@pytest.mark.parametrize("command", [[], ["convert"], ["inspect"], ["diff"], ["verify"], ["list"]])
def test_help_shows_examples(command: list[str]):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Examples:\n    weights-convert " in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        ["inspect", "{file}"],
        ["diff", "{file}", "{file}"],
        *(["convert", "{file}", f"{{file}}.{ending}"] for ending in NO_FRAMEWORK_NEEDED),
    ],
    ids=" ".join,
)
def test_no_framework_is_imported(arguments: list[str], flax_file: Path):
    arguments = [argument.format(file=flax_file) for argument in arguments]
    program = f"""
import sys
from weights_convert.cli import main
main({arguments!r}, standalone_mode=False)
sys.exit(sorted(set({FRAMEWORKS!r}) & set(sys.modules)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_brackets_in_advice_are_printed(flax_file: Path, monkeypatch: pytest.MonkeyPatch):
    """A console that reads markup would swallow the extra in "resnet-parity[torch]"."""
    monkeypatch.setitem(sys.modules, "torch", None)
    message = refused("convert", flax_file, flax_file.with_name("x.torch.pth"))
    assert message.splitlines()[-1] == "Install it with: pip install 'resnet-parity[torch]'"


def test_a_file_name_that_is_not_utf_8_is_printed(flax_file: Path):
    target = flax_file.with_name("\udcff.keras.safetensors")
    result = run("convert", flax_file, target)
    assert result.exit_code == 0
    assert f"target              {flax_file.parent}/\N{REPLACEMENT CHARACTER}.keras.safetensors\n" in result.stdout


def test_the_package_is_a_program():
    done = subprocess.run([sys.executable, "-m", "weights_convert", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: weights-convert ")
