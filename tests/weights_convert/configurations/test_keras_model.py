"""Whole Keras models: their graph is walked, and what is not a variant of ours is refused with the layer's name."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.cases.inputs import noise
from impls.config import VARIANTS, ResNetConfig
from impls.numpy import resnet as numpy_resnet
from tests.weights_convert.configurations.keras_networks import Builder, randomize
from tests.weights_convert.conftest import distance
from weights_convert import ConversionError, load
from weights_convert.configurations import Judgement, found, judge

LIMIT = 1e-12
"""Largest relative L2 error in float64, as in test_peers.py."""

SMALL = {"depths": (2, 1, 1, 1), "width": 4, "num_classes": 5}
SIDES = {"tutorial": 200}
"""Images on which every fault shows: even sides, small ones where the head's pool allows."""


def of(variant: str) -> ResNetConfig:
    return replace(VARIANTS[variant], **SMALL)  # type: ignore[arg-type]


def save(model: Any, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that .h5 is a legacy format
        model.save(path)
    return path


def serialised(model: Any) -> dict[str, Any]:
    """Return the configuration that Keras writes into a `.keras` file."""
    import keras

    return json.loads(json.dumps(keras.saving.serialize_keras_object(model)))


def judged(model: Any) -> Judgement:
    return judge(found("config.json", serialised(model)))


class CaffeNamed(Builder):
    """Builds a network whose layers have Caffe's names, as in keras-applications until 1.0.6."""

    def layer(self, kind: str, name: str, **options: Any) -> Any:
        """Make a layer under Caffe's name."""
        return super().layer(kind, caffe_name(name), **options)


def caffe_name(name: str) -> str:
    """Return Caffe's name of a layer of keras.applications.

    Example:
        >>> caffe_name("conv3_block2_1_bn"), caffe_name("conv2_block1_0_conv"), caffe_name("conv1_bn")
        ('bn3b_branch2a', 'res2a_branch1', 'bn_conv1')
    """
    outside = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "predictions": "fc1000"}
    match = re.fullmatch(r"conv(\d)_block(\d)_(\d)_(conv|bn)", name)
    if match is None:
        return outside.get(name, name)
    kind, letter = {"conv": "res", "bn": "bn"}[match[4]], "abc"[int(match[2]) - 1]
    return f"{kind}{match[1]}{letter}_branch" + ("1" if match[3] == "0" else f"2{'abc'[int(match[3]) - 1]}")


class TestAVariant:
    @pytest.mark.parametrize("ending", [".keras", ".h5"])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_is_known_by_the_graph_and_computes_the_models_logits(self, variant: str, ending: str, tmp_path: Path):
        import keras

        model = Builder(of(variant)).build()
        randomize(model)
        read = load(save(model, tmp_path / f"a{ending}"))
        assert (read.config.variant, read.dialect.name) == (variant, "keras.applications")
        images = noise(SIDES.get(variant, 64), SIDES.get(variant, 64), 2, 0).images.astype(np.float64)
        expected = keras.ops.convert_to_numpy(model(images.transpose(0, 2, 3, 1), training=False))
        assert distance(numpy_resnet(read.config, weights=read)(images), expected) < LIMIT
        assert "BatchNormalization.epsilon is" in read.recognised_by
        assert "Conv2D.strides of conv2 in strided blocks is" in read.recognised_by

    @pytest.mark.parametrize("variant", ["keras", "v1.5"])
    def test_is_known_by_the_graph_also_under_names_that_libraries_give_to_other_functions(
        self, variant: str, tmp_path: Path
    ):
        """Under such names alone it is refused; here the graph says which function it is."""
        model = CaffeNamed(of(variant)).build()
        read = load(save(model, tmp_path / "a.keras"))
        assert (read.config.variant, read.dialect.name) == (variant, "keras-2")
        assert "Conv2D.strides of conv2 in strided blocks is" in read.recognised_by
        with pytest.raises(ConversionError, match="it is of "):
            load({f"{v.path.replace('/', '.')}": np.array(v) for v in model.variables}, variant=variant)

    def test_may_have_layers_that_do_nothing_in_inference(self):
        import keras

        wraps = {
            "input": lambda keras, x: keras.layers.RandomFlip()(x),
            "conv2_block1_out": lambda keras, x: keras.layers.SpatialDropout2D(0.5)(x),
            "conv3_block1_1_relu": lambda keras, x: keras.layers.Activation("linear")(x),
            "avg_pool": lambda keras, x: keras.layers.Dropout(0.5)(x),
        }
        model = Builder(of("v1.5"), wraps=wraps, dtype="float32").build()
        assert (judged(model).variants, judged(model).problems) == (("v1.5",), ())
        images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
        for name in ("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast"):
            layer = getattr(keras.layers, name)(*(() if name == "RandomFlip" else (0.3,) * (1 + (name[6] == "T"))))
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(images, training=False)), images)

    def test_may_have_its_channels_first(self):
        model = Builder(of("v1.5"), data_format="channels_first").build()
        assert (judged(model).variants, judged(model).problems) == (("v1.5",), ())

    @pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
    def test_may_end_in_probabilities(self, activation: str):
        within = Builder(of("v1"), {"predictions": {"activation": activation}}).build()
        beside = Builder(
            of("v1"), wraps={"predictions": lambda keras, x: keras.layers.Activation(activation)(x)}
        ).build()
        assert judged(within).variants == judged(beside).variants == ("v1",)

    def test_may_have_its_relu_as_a_layer_of_that_name(self):
        changes = {"conv4_block1_1_relu": {"kind": "ReLU", "only": {}}}
        assert judged(Builder(of("v1.5"), changes).build()).variants == ("v1.5",)

    def test_may_be_frozen_and_called_in_inference(self):
        changes = {"conv2_block1_1_bn": {"trainable": False, "call": {"training": False}}}
        assert judged(Builder(of("v1.5"), changes).build()).variants == ("v1.5",)

    def test_may_be_a_model_in_a_model(self):
        import keras

        body = Builder(replace(of("keras"), num_classes=0)).build()
        body = keras.Model(body.input, body.get_layer("conv5_block1_out").output)
        layers = [body, keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.2), keras.layers.Dense(7)]
        chain = keras.Sequential([keras.Input((64, 64, 3), dtype="float64"), *layers])
        image = keras.Input((64, 64, 3), dtype="float64")
        x = image
        for layer in layers:
            x = layer(x)
        for model in (chain, keras.Model(image, x)):
            assert (judged(model).variants, judged(model).problems) == (("keras",), ())


CHANGES: dict[str, tuple[str, dict[str, dict[str, Any]], str]] = {
    "eps": (
        "keras",
        {"conv2_block1_1_bn": {"epsilon": 1e-3}},
        "layer conv2_block1_1_bn: BatchNormalization.epsilon is 0.001",
    ),
    "eps-of-another-variant": (
        "keras",
        {"conv5_block1_3_bn": {"epsilon": 1e-5}},
        "all of these: BatchNormalization.epsilon is 1.001e-05 (keras); BatchNormalization.epsilon is 1e-05 (tut",
    ),
    "last-stride": (
        "keras",
        {"conv5_block1_0_conv": {"strides": 1}, "conv5_block1_1_conv": {"strides": 1}},
        "conv5_block1_0_conv: Conv2D.strides is [1, 1] (the stride), and no variant is such a network: it would have",
    ),
    "first-stride": (
        "v1.5",
        {"conv2_block1_0_conv": {"strides": 2}, "conv2_block1_2_conv": {"strides": 2}},
        "layer conv2_block1_0_conv: Conv2D.strides is [2, 2]",
    ),
    "strides-of-v1.5-with-biases": (
        "keras",
        {f"conv{stage}_block1_{k}_conv": {"strides": stride} for stage in (3, 4, 5) for k, stride in ((1, 1), (2, 2))},
        "no variant has all of these: ",
    ),
    "stride-of-the-stem": ("v1", {"conv1_conv": {"strides": 1}}, "layer conv1_conv: Conv2D.strides is [1, 1]"),
    "dilation": ("v1", {"conv5_block1_2_conv": {"dilation_rate": 2}}, "Conv2D.dilation_rate is [2, 2]"),
    "groups": ("v1", {"conv5_block1_2_conv": {"groups": 2}}, "layer conv5_block1_2_conv: Conv2D.groups is 2"),
    "padding": ("v1", {"conv1_pad": {"padding": ((2, 3), (2, 3))}}, "Conv2D.padding is [[2, 3], [2, 3]] (the padding)"),
    "padding-of-one-block": (
        "flax",
        {"pool1_pool": {"padding": "valid"}},
        "layer pool1_pool: MaxPooling2D.padding is [[0, 0], [0, 0]]",
    ),
    "pool-size": ("v1", {"pool1_pool": {"pool_size": 2}}, "layer pool1_pool: MaxPooling2D.pool_size is [2, 2]"),
    "average-pool-in-the-stem": (
        "v1",
        {"pool1_pool": {"kind": "AveragePooling2D"}},
        "its layer 'pool1_pool' is of class AveragePooling2D, where the ReLU at the end of a block, or the pooling of",
    ),
    "max-pool-at-the-end": (
        "v1",
        {"avg_pool": {"kind": "GlobalMaxPooling2D"}},
        "its layer 'avg_pool' is of class GlobalMaxPooling2D, where the pooling at the end is",
    ),
    "activation": ("v1", {"conv3_block1_2_relu": {"activation": "gelu"}}, 'Activation.activation is "gelu"'),
    "activation-of-another-class": (
        "v1",
        {"conv3_block1_2_relu": {"kind": "LeakyReLU", "only": {}}},
        "which begin after 'conv2_block2_out', a Activation and 'conv3_block1_2_relu', a LeakyReLU",
    ),
    "bounded-relu": (
        "v1",
        {"conv3_block1_2_relu": {"kind": "ReLU", "only": {"max_value": 6.0}}},
        "ReLU.max_value is 6.0 (an upper bound of activations)",
    ),
    "activation-in-a-convolution": (
        "v1",
        {"conv3_block1_2_conv": {"activation": "relu"}},
        'Conv2D.activation is "relu"',
    ),
    "activation-of-the-head": ("v1", {"predictions": {"activation": "relu"}}, 'Dense.activation is "relu"'),
    "no-activation": (
        "v1",
        {"conv3_block1_2_relu": {"activation": "linear"}},
        "no activation follows its layer 'conv3_block1_2_bn'",
    ),
    "no-scale": ("v1", {"conv3_block1_2_bn": {"scale": False}}, "BatchNormalization.scale is false"),
    "statistics-of-the-batch": (
        "v1",
        {"conv3_block1_2_bn": {"call": {"training": True}}},
        "its layer 'conv3_block1_2_bn' is called with training=true",
    ),
    "product": ("v1", {"conv3_block1_add": {"kind": "Multiply"}}, "is of class Multiply, where"),
}


EVERY_DAY = ("eps", "eps-of-another-variant", "last-stride", "strides-of-v1.5-with-biases", "activation", "padding")
"""The changes that every test run makes; Keras takes a second or two for each."""


class TestAnotherFunction:
    @pytest.mark.parametrize(
        ("variant", "changes", "problem"),
        [
            pytest.param(*change, id=name, marks=[] if name in EVERY_DAY else pytest.mark.slow)
            for name, change in CHANGES.items()
        ],
    )
    def test_is_refused_with_layer_field_and_value(self, variant: str, changes: Any, problem: str):
        judgement = judged(Builder(of(variant), changes).build())
        assert judgement.variants == ()
        assert any(problem in line for line in judgement.problems), judgement.problems

    @pytest.mark.parametrize(
        ("name", "wrap", "problem"),
        [
            (
                "input",
                lambda keras, x: keras.layers.Rescaling(1 / 255)(x),
                "is of class Rescaling, where the image; what comes before it must be left out, and done to the images",
            ),
            (
                "input",
                lambda keras, x: keras.layers.Normalization(mean=0.5, variance=0.25)(x),
                "is of class Normalization",
            ),
            (
                "conv3_block1_out",
                lambda keras, x: keras.layers.ReLU()(x),
                "its layer 'conv3_block1_out' is of class Activation, where the addition of a block is (Add)",
            ),
            ("conv1_relu", lambda keras, x: keras.layers.GaussianNoise(1.0)(x), ""),
            ("avg_pool", lambda keras, x: keras.layers.UnitNormalization()(x), "is of class UnitNormalization"),
            ("conv2_block1_add", lambda keras, x: x * 2.0, "its layer 'multiply"),
            ("predictions", lambda keras, x: keras.layers.Dense(5)(x), "is of class Dense, where the pooling"),
        ],
    )
    def test_with_a_further_layer_is_refused(self, name: str, wrap: Callable[[Any, Any], Any], problem: str):
        judgement = judged(Builder(of("v1.5"), wraps={name: wrap}).build())
        assert judgement.variants == (() if problem else ("v1.5",))
        assert any(problem in line for line in judgement.problems) or not problem, judgement.problems

    def test_is_refused_in_both_kinds_of_files_whatever_the_user_says(self, tmp_path: Path):
        model = Builder(of("keras"), {"conv2_block1_1_bn": {"epsilon": 1e-3}}).build()
        for ending in (".keras", ".h5"):
            for variant in (None, "keras"):
                with pytest.raises(
                    ConversionError, match=r"layer conv2_block1_1_bn: BatchNormalization\.epsilon is 0\.001"
                ):
                    load(save(model, tmp_path / f"a{ending}"), variant=variant)

    @pytest.mark.parametrize("axis", [1, 2, [1, 2], None, "3"])
    def test_of_norms_over_another_axis_is_refused(self, axis: Any):
        config = serialised(Builder(of("v1.5")).build())
        (norm,) = (layer for layer in config["config"]["layers"] if layer["config"]["name"] == "conv3_block1_2_bn")
        norm["config"]["axis"] = axis
        assert "its layers have channels on several axes" in judge(found("config.json", config)).problems[0]

    def test_of_layers_in_another_order_is_refused(self):
        """Their names say otherwise, and the arrays are read by name."""
        config = serialised(Builder(of("v1.5")).build())
        text = json.dumps(config)
        for one, other in (
            ("conv3_block1_1_conv", "x"),
            ("conv3_block1_3_conv", "conv3_block1_1_conv"),
            ("x", "conv3_block1_3_conv"),
        ):
            text = text.replace(f'"{one}"', f'"{other}"')
        problems = judge(found("config.json", json.loads(text))).problems
        assert any("it stands where stage2.0.conv1 is, and has the name of stage2.0.conv3" in line for line in problems)

    @pytest.mark.parametrize("variant", ["v1.5", "keras"])
    def test_of_several_outputs_or_inputs_is_refused(self, variant: str):
        import keras

        model = Builder(of(variant)).build()
        several = keras.Model(model.input, [model.output, model.get_layer("avg_pool").output])
        assert "it has other outputs than one" in judged(several).problems[0]
        second = keras.Input((5,), dtype="float64")
        added = keras.Model([model.input, second], model.output + second)
        assert judged(added).variants == ()

    def test_with_a_layer_that_is_used_twice_is_refused(self):
        import keras

        config = replace(of("v1.5"), num_classes=0)
        model = Builder(config).build()
        image = keras.Input((32, 32, 3), dtype="float64")
        twice = keras.Model(image, model(image) + model(image * 2.0))
        assert judged(twice).variants == ()

    def test_of_its_own_class_is_refused(self):
        import keras

        @keras.saving.register_keras_serializable("mine")
        class Conv2D(keras.layers.Conv2D):
            def call(self, inputs: Any) -> Any:
                return 2.0 * super().call(inputs)

        wraps = {"conv1_relu": lambda keras, x: Conv2D(4, 1, dtype="float64")(x)}
        judgement = judged(Builder(of("v1.5"), wraps=wraps).build())
        assert any("is of class mine>Conv2D" in line for line in judgement.problems)

        @keras.saving.register_keras_serializable("mine")
        class Network(keras.Model):
            pass

        model = Builder(of("v1.5")).build()
        judgement = judged(Network(model.input, model.output))
        assert any("its model is of class mine>Network" in line for line in judgement.problems)


class TestTheFile:
    def test_with_a_field_that_no_table_knows_is_refused_unless_it_is_accepted(self, tmp_path: Path):
        model = Builder(of("v1.5")).build()
        path = save(model, tmp_path / "a.keras")
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.keras", "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if name == "config.json":
                    content = content.replace(b'"dilation_rate":', b'"use_new_kernel": false, "dilation_rate":')
                new.writestr(name, content)
        with pytest.raises(ConversionError, match=r"--accept 'Conv2D.use_new_kernel=false'"):
            load(tmp_path / "b.keras")
        read = load(tmp_path / "b.keras", accept={"Conv2D.use_new_kernel": False})
        assert (read.config.variant, read.accepted) == ("v1.5", ("Conv2D.use_new_kernel=false",))

    def test_of_keras_applications_itself_is_read_whole(self):
        import keras

        model = keras.applications.ResNet50(weights=None)
        assert (judged(model).variants, judged(model).problems) == (("keras",), ())
        for options in ({"pooling": "avg"}, {"pooling": None}):
            model = keras.applications.ResNet50(weights=None, include_top=False, **options)
            assert judged(model).variants == ("keras",)
        model = keras.applications.ResNet50(weights=None, include_top=False, pooling="max")
        assert "its layer 'max_pool' is of class GlobalMaxPooling2D" in judged(model).problems[0]
        assert judged(keras.applications.ResNet50V2(weights=None)).variants == ()

    def test_damaged_in_any_way_raises_no_other_error(self):
        config = json.dumps(serialised(Builder(of("v1.5")).build()))
        random = np.random.default_rng(0)
        for _ in range(500):
            damaged = json.loads(config)
            place: Any = damaged
            while isinstance(place, dict | list) and place:
                key = random.choice([*place] if isinstance(place, dict) else range(len(place)))
                key = str(key) if isinstance(place, dict) else int(key)
                if random.random() < 0.3 or not (isinstance(place[key], dict | list) and place[key]):
                    place[key] = [None, 7, "x", [], {}, True, 1.5, place, [[[]]]][random.integers(7)]
                    break
                place = place[key]
            judge(found("config.json", damaged))
