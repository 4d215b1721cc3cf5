"""Models of keras.applications and Keras Hub: refused without importing the library, and loaded by it as written."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conformance.cases.synthetic import synthetic_weights
from impls.config import VARIANTS, ResNetConfig
from impls.numpy import resnet as numpy_resnet
from tests.weights_convert.conftest import distance
from weights_convert import Checkpoint, ConversionError, cast, containers, load
from weights_convert.cli import dialect_of_name

MakeCheckpoint = Callable[..., Checkpoint]
LIMIT = 1e-12
"""Largest relative L2 error in float64, as in test_peers.py."""

KERAS = replace(VARIANTS["keras"], num_classes=7)
WIDE = replace(VARIANTS["v1.5"], depths=(2, 1, 1, 1), num_classes=7)


class TestRefusals:
    @pytest.mark.parametrize(
        ("ending", "config", "problem"),
        [
            (
                ".keras",
                replace(KERAS, depths=(2, 1, 1, 1)),
                "can only have depths (3, 4, 6, 3) or (3, 4, 23, 3) or (3, 8, 36, 3); these weights have (2, 1, 1, 1)",
            ),
            (
                ".keras",
                replace(KERAS, width=4),
                "keras.applications' ResNet can only have width 64; these weights have 4",
            ),
            (
                ".model.h5",
                VARIANTS["v1.5"],
                "keras.applications' ResNet can only have variant keras; these weights have v1.5",
            ),
            (
                ".keras-hub",
                VARIANTS["v1"],
                "Keras Hub's ResNetBackbone can only have variant v1.5; these weights have v1",
            ),
            (
                ".keras-hub",
                replace(WIDE, width=4),
                "Keras Hub's ResNetBackbone can only have width 64; these weights have 4",
            ),
        ],
    )
    def test_a_network_that_the_library_lacks(
        self,
        ending: str,
        config: ResNetConfig,
        problem: str,
        checkpoint_of: MakeCheckpoint,
        tiny: ResNetConfig,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        dialect = "keras-hub" if ending == ".keras-hub" else "keras.applications"
        checkpoint = replace(checkpoint_of(replace(tiny, conv_bias=config.conv_bias)), config=config).to(dialect)
        without(monkeypatch, "keras", "keras_hub")
        with pytest.raises(ConversionError) as error:
            checkpoint.save(tmp_path / f"a{ending}")
        assert problem in str(error.value)
        assert str(tmp_path / f"a{ending}") in str(error.value)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("ending", "dialect", "config", "package", "extra"),
        [
            (".keras", "keras.applications", KERAS, "keras", "keras"),
            (".model.h5", "keras.applications", KERAS, "keras", "keras"),
            (".keras-hub", "keras-hub", WIDE, "keras_hub", "keras-hub"),
        ],
    )
    @pytest.mark.parametrize("mixed", [False, True])
    def test_a_missing_library_and_mixed_dtypes(
        self,
        ending: str,
        dialect: str,
        config: ResNetConfig,
        package: str,
        extra: str,
        mixed: bool,
        checkpoint_of: MakeCheckpoint,
        tiny: ResNetConfig,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        arrays = dict(checkpoint_of(replace(tiny, conv_bias=config.conv_bias)).arrays)
        arrays["fc.bias"] = arrays["fc.bias"].astype(np.float64) if mixed else arrays["fc.bias"]
        checkpoint = replace(checkpoint_of(tiny), arrays=arrays, config=config).to(dialect)
        without(monkeypatch, package)
        with pytest.raises(ConversionError) as error:
            checkpoint.save(tmp_path / f"a{ending}")
        expected = f"it needs {package}, which is not installed\nInstall it with: pip install 'resnet-parity[{extra}]'"
        expected = "the arrays are float32 and float64, and Keras builds a model in one dtype" if mixed else expected
        assert expected in str(error.value)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("a.keras", "keras"),
        ("a.keras.applications.keras", "keras.applications"),
        ("a.model.h5", "keras.applications"),
        ("a.keras-hub", "keras-hub"),
        ("a.transformers", "transformers"),
    ],
)
def test_the_name_states_the_dialect(name: str, dialect: str):
    assert dialect_of_name(Path(name)).name == dialect


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Pretend that some packages are not installed."""
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def logits_of(weights: Checkpoint, image: np.ndarray) -> np.ndarray:
    return numpy_resnet(weights.config, weights=weights)(image)


@pytest.mark.slow
class TestKerasApplications:
    @pytest.mark.parametrize(  # each network that the library has; the ending decides the file alone
        ("ending", "depths", "classes"),
        [
            (".keras", (3, 4, 6, 3), 1000),
            (".model.h5", (3, 4, 6, 3), 0),
            (".model.h5", (3, 4, 23, 3), 7),
            (".keras", (3, 8, 36, 3), 7),
        ],
    )
    def test_loads_our_model(
        self, ending: str, depths: tuple[int, ...], classes: int, image: np.ndarray, tmp_path: Path
    ):
        import keras

        weights = cast(synthetic_weights(replace(KERAS, depths=depths, num_classes=classes), seed=3), "float64")
        path = tmp_path / f"a{ending}"
        weights.to("keras.applications").save(path)
        assert list(tmp_path.iterdir()) == [path]
        assert keras.config.dtype_policy().name == "float32"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            named = path if ending == ".keras" else path.rename(tmp_path / "b.h5")
            model = keras.saving.load_model(named, compile=False)
        got = keras.ops.convert_to_numpy(model(image.transpose(0, 2, 3, 1), training=False))
        expected = logits_of(weights, image)
        if classes:  # the model of keras.applications ends in a softmax
            powers = np.exp(expected - expected.max(axis=1, keepdims=True))
            expected = powers / powers.sum(axis=1, keepdims=True)
        assert distance(got, expected) < LIMIT
        read = load(named)
        assert read.content_hash() == weights.content_hash()
        assert (read.recognised_by, read.changes) == ("from its metadata: made for it", weights.changes)

    @pytest.mark.parametrize("ending", [".keras", ".model.h5"])
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_keeps_every_dtype(self, ending: str, dtype: str, tmp_path: Path):
        weights = cast(synthetic_weights(KERAS, seed=3), dtype)
        weights.to("keras.applications").save(tmp_path / f"a{ending}")
        assert load(tmp_path / f"a{ending}").content_hash() == weights.content_hash()


@pytest.mark.slow
class TestKerasHub:
    @pytest.mark.parametrize(
        ("depths", "classes"), [((3, 4, 6, 3), 1000), ((2, 1, 1, 1), 0), ((3, 4, 23, 3), 7), ((2, 1, 1, 1), 7)]
    )
    def test_loads_our_preset(self, depths: tuple[int, ...], classes: int, image: np.ndarray, tmp_path: Path):
        weights = cast(synthetic_weights(replace(WIDE, depths=depths, num_classes=classes), seed=3), "float64")
        weights.to("keras-hub").save(tmp_path / "a.keras-hub")
        assert [path.name for path in tmp_path.iterdir()] == ["a.keras-hub"]
        import keras

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import keras_hub

            library = keras_hub.models.ImageClassifier if classes else keras_hub.models.ResNetBackbone
            model = library.from_preset(str(tmp_path / "a.keras-hub"), dtype="float64")  # the default is float32
        output = model(image.transpose(0, 2, 3, 1), training=False)
        got = keras.ops.convert_to_numpy(output if classes else keras.ops.mean(output, axis=(1, 2)))
        assert distance(got, logits_of(weights, image)) < LIMIT
        read = load(tmp_path / "a.keras-hub")
        assert (read.recognised_by, read.content_hash()) == ("from its metadata: made for it", weights.content_hash())

    def test_the_backbone_file_is_read_alone(self, tmp_path: Path):
        for seed in (4, 3):  # the second preset replaces the first
            weights = synthetic_weights(WIDE, seed=seed)
            weights.to("keras-hub").save(tmp_path / "a.keras-hub")
        assert [path.name for path in tmp_path.iterdir()] == ["a.keras-hub"]
        assert load(tmp_path / "a.keras-hub").content_hash() == weights.content_hash()
        backbone = load(tmp_path / "a.keras-hub" / "model.weights.h5", variant="v1.5")
        assert backbone.config == replace(WIDE, num_classes=0)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_keeps_every_dtype(self, dtype: str, tmp_path: Path):
        weights = cast(synthetic_weights(WIDE, seed=3), dtype)
        weights.to("keras-hub").save(tmp_path / "a.keras-hub")
        assert containers.recognise(tmp_path / "a.keras-hub").name == "Keras Hub preset"
        assert load(tmp_path / "a.keras-hub").content_hash() == weights.content_hash()
