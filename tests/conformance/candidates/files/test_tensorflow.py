"""A SavedModel and a TFLite file are held against the weights that they were exported from, or their own."""

from __future__ import annotations

from dataclasses import replace

import keras
import pytest
import tensorflow as tf

from conformance.cases.inputs import noise
from conformance.cases.synthetic import synthetic_weights
from conformance.run.candidates.files.tensorflow import LiteFile
from conformance.run.candidates.kinds import open_file
from conformance.run.candidates.survey import Unfit
from conformance.run.candidates.targets import TargetError, parse_target
from impls.config import VARIANTS
from impls.keras import resnet
from tests.conformance.candidates.files.opened import first_difference, opened

pytestmark = pytest.mark.slow  # exporting takes seconds
SMALL = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=4, num_classes=10)
IMAGES = noise(64, 96, 2, 0).images


def save(model, folder, shape):
    """Save a model for images of one shape, with a signature of its own."""
    run = tf.function(lambda images: {"logits": model(images, training=False)})
    concrete = run.get_concrete_function(tf.TensorSpec(shape))
    tf.saved_model.save(model, folder, signatures={"serving_default": concrete})


def export(model, folder, shape):
    """Save a model by Keras, which keeps its variables in lists."""
    model.export(folder, verbose=False, input_signature=[keras.InputSpec("float32", shape)])


def convert(folder, quantised=False):
    """Convert a SavedModel to a TFLite file beside it."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantised else []
    folder.with_name(folder.name + "-quantised" * quantised + ".tflite").write_bytes(converter.convert())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write our own Keras model as SavedModel folders and TFLite files: any size, fixed sizes, right and wrong."""
    folder = tmp_path_factory.mktemp("files")
    keras.config.set_floatx("float32")
    weights = folder / "weights.safetensors"
    synthetic_weights(SMALL, seed=0).save(weights)
    model = resnet(SMALL, weights=weights)
    export(model, folder / "exported", (None, None, None, 3))
    convert(folder / "exported")
    convert(folder / "exported", quantised=True)
    save(model, folder / "right", (None, None, None, 3))
    model.stage2[0].bn2.epsilon = 1e-2
    save(model, folder / "wrong", (1, 64, 96, 3))
    export(model, folder / "fixed", (1, 64, 96, 3))
    convert(folder / "fixed")
    return folder


def test_a_saved_model_computes_as_the_oracle_with_its_own_weights(files, tmp_path):
    adapter, oracle, survey = opened(files / "right", "float32", tmp_path, variant="v1.5")
    assert (survey.sides, survey.batch, survey.kind) == (None, None, "TensorFlow SavedModel (a folder)")
    assert survey.cannot["float64"] == "its graph was saved in float32"
    adapter.examine(IMAGES)
    assert adapter.record(IMAGES, False, True).keys() == {"logits"}
    assert first_difference(adapter, oracle, IMAGES, 1e-5) is None
    with pytest.raises(ValueError, match=r"arrays are not those of a whole network .* by --weights \(the names of its"):
        opened(files / "exported", "float32", tmp_path, variant="v1.5")
    weights = files / "weights.safetensors"
    adapter, oracle, _ = opened(files / "exported", "float32", tmp_path, weights=weights)
    assert first_difference(adapter, oracle, IMAGES, 1e-5) is None
    adapter, oracle, survey = opened(files / "wrong", "float32", tmp_path, variant="v1.5")
    assert (survey.sides, survey.batch) == ((64, 96), 1)
    assert first_difference(adapter, oracle, IMAGES[:1], 1e-5) == "logits"


def test_a_tflite_file_computes_as_the_oracle_with_the_weights_that_it_was_made_from(files, tmp_path):
    weights = files / "weights.safetensors"
    adapter, oracle, survey = opened(files / "exported.tflite", "float32", tmp_path, weights=weights)
    assert (survey.sides, survey.batch) == (None, None)
    adapter.examine(IMAGES)
    assert first_difference(adapter, oracle, IMAGES, 1e-5) is None
    assert first_difference(adapter, oracle, noise(65, 97, 1, 0).images, 1e-5) is None
    adapter, oracle, survey = opened(files / "fixed.tflite", "float32", tmp_path, weights=weights)
    assert (survey.sides, survey.batch) == ((64, 96), 1)
    assert first_difference(adapter, oracle, IMAGES[:1], 1e-5) == "logits"
    with pytest.raises(ValueError, match="a TFLite file keeps its weights: give those that it was made from by --weig"):
        opened(files / "exported.tflite", "float32", tmp_path, variant="v1.5")


class Plain(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 4))])
    def __call__(self, features):
        return 2.0 * features


def test_what_cannot_be_compared_says_why(files, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(Unfit, match=r"folder is no TensorFlow SavedModel: it has no file saved_model.pb"):
        open_file(str(folder), "float32")
    (folder / "saved_model.pb").write_bytes(b"no such message")
    with pytest.raises(Unfit, match="folder cannot be loaded as a TensorFlow SavedModel: Cannot parse file"):
        open_file(str(folder), "float32")
    tf.saved_model.save(Plain(), tmp_path / "unsigned", signatures={"other": Plain().__call__})
    with pytest.raises(Unfit, match=r"has no signature serving_default \(it has other\): save it with signatures="):
        open_file(str(tmp_path / "unsigned"), "float32")
    tf.saved_model.save(Plain(), tmp_path / "features", signatures=Plain().__call__)
    with pytest.raises(Unfit, match="one batch of images is expected"):
        open_file(str(tmp_path / "features"), "float32")
    (tmp_path / "text.tflite").write_text("no model")
    with pytest.raises(Unfit, match=r"text.tflite cannot be read as a TFLite file"):
        LiteFile(tmp_path / "text.tflite", "float32")
    with pytest.raises(Unfit, match=r"exported-quantised.tflite is quantised \(it holds arrays of int8\)"):
        LiteFile(files / "exported-quantised.tflite", "float32")
    with pytest.raises(TargetError, match="there is no folder"):
        open_file(str(tmp_path / "none"), "float32")
    assert parse_target(str(folder)).is_file
