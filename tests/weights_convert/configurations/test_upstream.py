"""Every field of each library's own configuration has a row: a release that adds one fails here.

The classes of the libraries are asked for their fields, so that a new field is classified before it is met in a file.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import warnings
from typing import Any

import pytest

from weights_convert.configurations import keras_graph, keras_hub, keras_layers, timm, transformers
from weights_convert.configurations.fields import ABSENT


def default_mismatches(defaults: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of a library that differ from those that the table states."""
    return {
        name: value
        for name, value in defaults.items()
        if name in table and table[name].default is not ABSENT
        if json.dumps(table[name].measure(value)) != json.dumps(table[name].default)
    }


@pytest.mark.slow
class TestTransformers:
    @pytest.fixture(scope="class")
    @classmethod
    def library(cls) -> Any:
        return pytest.importorskip("transformers")

    def test_every_field_has_a_row(self, library: Any):
        config = library.ResNetConfig()
        written = json.loads(config.to_json_string(use_diff=False))
        fields = {field.name for field in dataclasses.fields(library.ResNetConfig)}
        assert {*written, *fields} - transformers.FIELDS.keys() == set()
        assert len(fields) > 10

    def test_every_default_is_that_of_the_library(self, library: Any):
        written = json.loads(library.ResNetConfig().to_json_string(use_diff=False))
        decided = {name: row for name, row in transformers.FIELDS.items() if row.variants is not None}
        assert default_mismatches(written, decided) == {}
        assert {"hidden_act", "layer_type", "downsample_in_first_stage", "downsample_in_bottleneck"} <= {*written} & {
            *decided
        }

    def test_every_class_exists(self, library: Any):
        names = [name for name in transformers.CLASSES if not name.startswith(("Flax", "TF"))]  # version 4 had these
        assert all(hasattr(library, name) for name in names)


class TestTimm:
    @pytest.fixture(scope="class")
    @classmethod
    def library(cls) -> Any:
        return pytest.importorskip("timm")

    def test_every_argument_has_a_row(self, library: Any):
        from timm.models import build_model_with_cfg

        arguments = {*inspect.signature(library.models.resnet.ResNet.__init__).parameters}
        factory = {
            *inspect.signature(build_model_with_cfg).parameters,
            *inspect.signature(library.create_model).parameters,
        }
        internal = {  # arguments that a model's own factory gives, or that are no part of `model_args`
            *("self", "block", "kwargs", "model_cls", "variant", "model_cfg", "feature_cfg", "pretrained_filter_fn"),
            *("kwargs_filter", "pretrained_model_args", "model_name"),
        }
        assert (arguments | factory) - internal - timm.MODEL_ARGS.keys() == set()

    def test_every_default_is_that_of_the_library(self, library: Any):
        parameters = inspect.signature(library.models.resnet.ResNet.__init__).parameters
        spelled = {"ReLU": "relu", "BatchNorm2d": "batchnorm2d"}
        defaults = {
            name: spelled.get(getattr(parameter.default, "__name__", ""), parameter.default)
            for name, parameter in parameters.items()
            if parameter.default is not parameter.empty
        }
        assert default_mismatches(defaults, timm.MODEL_ARGS) == {}
        assert len(defaults) > 15

    def test_every_field_of_its_pretrained_cfg_has_a_row(self, library: Any):
        fields = {field.name for field in dataclasses.fields(library.models.PretrainedCfg)}
        assert fields - timm.PRETRAINED_CFG.keys() == set()

    def test_every_field_at_the_top_has_a_row(self, library: Any, tmp_path: Any):
        from timm.models import save_for_hf

        model = library.create_model("resnet50", num_classes=7, drop_rate=0.1, output_stride=16)
        labels = {"label_names": list("abcdefg"), "label_descriptions": {"a": "b"}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_for_hf(model, tmp_path, model_config=labels, safe_serialization=True)
        config = json.loads((tmp_path / "config.json").read_text())
        assert config.keys() - timm.TOP.keys() == {"pretrained_cfg", "model_args"}

    def test_every_architecture_is_built_of_the_same_blocks(self, library: Any):
        """Names of older releases are names of weights that timm has under other names now."""
        from timm.models import _registry

        renamed = _registry._deprecated_models
        for name, depths in timm.ARCHITECTURES.items():
            name = renamed[name].partition(".")[0] if name in renamed else name
            model = library.create_model(name, device="meta")
            assert [len(getattr(model, f"layer{stage}")) for stage in (1, 2, 3, 4)] == list(depths)
            plain = library.models.resnet.ResNet(library.models.resnet.Bottleneck, depths, device="meta")
            assert str(model) == str(plain), name


class TestKeras:
    @pytest.mark.parametrize("kind", keras_layers.LAYERS)
    def test_every_field_of_a_layer_has_a_row(self, kind: str):
        import keras

        arguments: dict[str, dict[str, Any]] = {
            "InputLayer": {"shape": (8, 8, 3)},
            "Conv2D": {"filters": 1, "kernel_size": 1},
            "Dense": {"units": 1},
            "Activation": {"activation": "relu"},
            "AveragePooling2D": {"pool_size": 7},
        }
        config = getattr(keras.layers, kind)(**arguments.get(kind, {})).get_config()
        assert config.keys() - keras_layers.LAYERS[kind].keys() == set()
        assert len(config) > 2
        stated = {name for name, row in keras_layers.LAYERS[kind].items() if row.variants is not None}
        defaults = {name: list(v) if isinstance(v, tuple) else v for name, v in config.items() if name in stated}
        same = {None: "linear"}  # Keras writes an activation that is not given as linear
        wrong = default_mismatches(defaults, keras_layers.LAYERS[kind])
        assert {name: value for name, value in wrong.items() if name != "dtype" and value not in same.values()} == {}

    def test_every_part_of_a_model_has_a_row(self):
        import keras

        image = keras.Input((8, 8, 3))
        chain = keras.Sequential([image, keras.layers.Dense(1)])
        graph = keras.Model(image, keras.layers.Dense(1)(image))
        for model in (chain, graph):
            model.compile("sgd", "mse")
            config = keras.saving.serialize_keras_object(model)
            parts = (*keras_layers.LAYER_PARTS, *keras_layers.BUILT_PARTS)
            assert config.keys() - {*parts} == set()
            assert config["config"].keys() - {*keras_layers.MODEL_PARTS} == set()
            for layer in config["config"]["layers"]:
                assert layer.keys() - {*parts} == set()
            assert keras_graph.class_of(config) in keras_layers.CONTAINERS


@pytest.mark.slow
class TestKerasHub:
    def test_every_field_has_a_row(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the libraries it imports
            library = pytest.importorskip("keras_hub")
        ignored = {"self", "kwargs", "backbone"}
        for model, table in (
            (library.models.ResNetBackbone, keras_hub.BACKBONE_FIELDS),
            (library.models.ResNetImageClassifier, keras_hub.CLASSIFIER_FIELDS),
        ):
            arguments = {*inspect.signature(model.__init__).parameters}
            assert arguments - ignored - table.keys() == set()
            assert len(arguments) > 5
        backbone = library.models.ResNetBackbone([64], [7], [64, 64], [1, 1], [1, 2], "bottleneck_block")
        classifier = library.models.ResNetImageClassifier(backbone, 3)
        assert backbone.get_config().keys() - keras_hub.BACKBONE_FIELDS.keys() == set()
        assert classifier.get_config().keys() - keras_hub.CLASSIFIER_FIELDS.keys() == {"backbone"}
