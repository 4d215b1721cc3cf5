"""A `.keras` file is checked with the weights that are in it, in both precisions; code of its own is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import keras
import pytest

from conformance.cases.inputs import noise
from conformance.cases.synthetic import synthetic_weights
from conformance.run.candidates.files.keras import in_precision
from conformance.run.candidates.kinds import open_candidate, open_file
from conformance.run.candidates.survey import Unfit
from conformance.run.candidates.targets import TargetError
from conformance.run.candidates.variants import find_variant
from conformance.run.implementations import PARTS_IN_FLOAT32
from impls.config import VARIANTS
from impls.keras import resnet
from tests.conformance.candidates.agreement import assert_equal_to_rounding, assert_every_activation_is_shown
from tests.conformance.candidates.files.opened import first_difference, opened
from tests.conformance.handwritten.keras_networks import network

CONFIG = replace(VARIANTS["keras"], depths=(1, 1, 1, 1), num_classes=10)
SMALL = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=4, num_classes=10)
IMAGES = noise(64, 96, 2, 0).images


@pytest.fixture(scope="module", autouse=True)
def _dtype_of_the_process():
    yield
    keras.config.set_floatx("float32")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Another library's graph with a wrong epsilon in a layer; and one of our own models."""
    folder = tmp_path_factory.mktemp("files")
    keras.config.set_floatx("float32")
    model = network(CONFIG)
    model.get_layer("conv3_block1_2_bn").epsilon = 1e-3
    model.save(folder / "wrong.keras")
    weights = folder / "small.safetensors"
    synthetic_weights(SMALL, seed=0).save(weights)
    resnet(SMALL, weights=weights).save(folder / "ours.keras")
    return folder


def test_every_activation_is_shown_in_float64_with_the_weights_of_the_file(files, tmp_path):
    adapter, oracle, survey = opened(files / "ours.keras", "float64", tmp_path)
    assert adapter.config.variant == "v1.5"
    assert survey.cannot["weights"] == "a .keras file keeps its weights"
    assert_every_activation_is_shown(adapter, oracle, IMAGES)
    synthetic = synthetic_weights(SMALL, seed=0).arrays
    assert_equal_to_rounding(adapter.canonical_state(), synthetic, 1e-15)


def test_a_wrong_layer_is_seen_and_the_configuration_in_the_file_tells_the_variant(files, tmp_path):
    with pytest.raises(ValueError, match=r"BatchNormalization.epsilon is 0.001.* --variant .* holds it against one"):
        find_variant(None, None, open_candidate(str(files / "wrong.keras"), {}, "float32").survey())
    adapter, oracle, survey = opened(files / "wrong.keras", "float64", tmp_path, variant="keras")
    assert (survey.sides, survey.decay, adapter.config.norm_decay) == ((64, 96), 0.99, 0.99)
    assert first_difference(adapter, oracle, IMAGES, 1e-12) == "stage2.0.bn2"


def test_it_is_not_given_other_weights(files, tmp_path):
    other = synthetic_weights(SMALL, seed=1)
    other.save(tmp_path / "other.safetensors")
    adapter, oracle, _ = opened(files / "ours.keras", "float32", tmp_path, weights=tmp_path / "other.safetensors")
    assert first_difference(adapter, oracle, IMAGES, 1e-3) == "conv1"


def test_only_what_was_float32_is_computed_in_another_precision():
    mixed = {"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}
    plain = {"class_name": "DTypePolicy", "config": {"name": "float32"}}
    config = {"name": "float32", "layers": [{"dtype": "float32"}, {"dtype": mixed}, {"dtype": plain}]}
    layers = [{"dtype": "float64"}, {"dtype": mixed}, {"dtype": {**plain, "config": {"name": "float64"}}}]
    assert in_precision(config, "float64") == {"name": "float32", "layers": layers}


@keras.saving.register_keras_serializable("tests")
class Unknown(keras.layers.Layer):
    def call(self, x):
        return x


def test_what_cannot_be_loaded_says_why(files, tmp_path):
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / "code.keras")
    keras.Model(inputs, Unknown()(inputs)).save(tmp_path / "own.keras")
    whole = (files / "ours.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(files / "ours.keras") as source, zipfile.ZipFile(tmp_path / "half.keras", "w") as target:
        target.writestr("config.json", source.read("config.json"))
    registered = keras.saving.get_custom_objects().pop("tests>Unknown")
    messages = {
        "code": "in safe mode: Requested the deserialization of a `Lambda` layer .* FILE.py:FACTORY",
        "own": "in safe mode: Could not locate class 'Unknown'; if it needs classes .* FILE.py:FACTORY",
        "cut": "cut.keras is no whole .keras file: File is not a zip file",
        "half": "half.keras in safe mode",
    }
    try:
        for name, message in messages.items():
            with pytest.raises(Unfit, match=message):
                open_file(str(tmp_path / f"{name}.keras"), "float32")
    finally:
        keras.saving.get_custom_objects()["tests>Unknown"] = registered
    with pytest.raises(TargetError, match=r"there is no file .*none\.keras"):
        open_file(str(tmp_path / "none.keras"), "float32")


def test_its_arrays_are_those_of_the_network_or_refused(tmp_path):
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs)).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="keeps its weights, and its arrays are not those of a whole network"):
        opened(tmp_path / "other.keras", "float32", tmp_path, variant="v1.5")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_file_and_a_live_model_run_on_other_backends(files, backend):
    """The file was written on TensorFlow."""
    command = [
        sys.executable,
        "-m",
        f"{__package__}.keras_on_backend",
        files / "ours.keras",
        files / "small.safetensors",
    ]
    environment = os.environ | {"KERAS_BACKEND": backend}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["file"]["kind"], seen["live"]["kind"]) == ("Keras model in a file (`.keras`)", "Keras model")
    for each in seen.values():
        assert each["not_shown"] == {}
        assert each["cannot"]["float64"] == PARTS_IN_FLOAT32
        assert not each["fed"]
        for mode, errors in each["errors"].items():
            assert {"stem", "stage4.0.bn3", "logits"} <= set(errors) or mode == "gradients"
            assert max(errors.values()) < {"gradients": 1e-3}.get(mode, 1e-4)
