"""Every row that decides the function refuses the values by which its library builds another function.

The values are those that the libraries know. A row that takes one of them, or that turns into a neutral one, would
certify a network that nobody checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from weights_convert.configurations import keras_hub, keras_layers, timm, transformers
from weights_convert.configurations.fields import Field, as_json, fact

POOLINGS = ["max", "avgmax", "catavgmax", "fast"]
QUANTIZED: list[Any] = ["int8_from_float32", "float8_from_float32", {"class_name": "QuantizedDTypePolicy"}]
FLAGS: list[Any] = [None, 0, 1]

OTHER_FUNCTIONS: dict[str, tuple[Mapping[str, Field], dict[str, list[Any]]]] = {
    "transformers": (
        transformers.FIELDS,
        {
            "model_type": ["regnet", "resnetv2", "ResNet", None],
            "architectures": [["RegNetModel"], ["ResNetForImageClassification", "ResNetModel"], [], "ResNetModel"],
            "auto_map": [{"AutoModel": "modeling.Mine"}],
            "quantization_config": [{"load_in_8bit": True}, {}],
            "layer_type": ["basic", None],
            "hidden_act": ["gelu", "silu", "leaky_relu", "relu6", None],
            "downsample_in_first_stage": [True, *FLAGS],
            "downsample_in_bottleneck": FLAGS,
        },
    ),
    "timm": (
        timm.FIELDS,
        {
            "architecture": ["resnet50d", "resnetblur50", "resnet50c", "resnet50_gn", "wide_resnet50_2", "resnet18"],
            "global_pool": POOLINGS,
            "model_args.output_stride": [8, 16, None],
            "model_args.act_layer": ["silu", "leaky_relu", "gelu", "relu6", None],
            "model_args.norm_layer": ["groupnorm", "frozenbatchnorm2d", "batchnormact2d", None],
            "model_args.aa_layer": ["blurpool", "avg", "blur"],
            "model_args.global_pool": POOLINGS,
            "model_args.cardinality": [2, 32],
            "model_args.base_width": [4, 128],
            "model_args.stem_width": [24, 32],
            "model_args.stem_type": ["deep", "deep_tiered"],
            "model_args.replace_stem_pool": [True, *FLAGS],
            "model_args.block_reduce_first": [2],
            "model_args.down_kernel_size": [3],
            "model_args.avg_down": [True, *FLAGS],
            "model_args.block_args": [{"attn_layer": "se"}, {"attn_layer": None}],
            "model_args.pruned": [True, *FLAGS],
            "pretrained_cfg.architecture": ["resnet50d", "resnetblur50", "resnet18"],
            "pretrained_cfg.label_offset": [1],
            "pretrained_cfg.custom_load": [True, "hf", *FLAGS],
            "pretrained_cfg.global_pool": POOLINGS,
        },
    ),
    "Keras Hub, backbone": (
        keras_hub.BACKBONE_FIELDS,
        {
            "block_type": ["basic_block", "basic_block_vd", "bottleneck_block_vd"],
            "use_pre_activation": [True, *FLAGS],
            "stackwise_num_strides": [[1, 2, 2, 1], [2, 2, 2, 2], [1, 1, 1, 1]],
            "input_conv_kernel_sizes": [[3, 3, 3], [5], [3]],
            "data_format": ["channels"],
            "dtype": QUANTIZED,
        },
    ),
    "Keras Hub, classifier": (
        keras_hub.CLASSIFIER_FIELDS,
        {"pooling": ["max", None], "activation": ["relu", "tanh"], "dtype": QUANTIZED, "head_dtype": QUANTIZED},
    ),
    "InputLayer": (keras_layers.LAYERS["InputLayer"], {"sparse": [True, None], "ragged": [True, None]}),
    "Conv2D": (
        keras_layers.LAYERS["Conv2D"],
        {
            "dtype": QUANTIZED,
            "quantization_config": [{"mode": "int8"}],
            "dilation_rate": [[2, 2], [1, 2], [4, 4]],
            "groups": [2, 32],
            "activation": ["relu", "tanh", "selu"],
            "use_bias": FLAGS,
        },
    ),
    "BatchNormalization": (
        keras_layers.LAYERS["BatchNormalization"],
        {"dtype": QUANTIZED, "epsilon": [1e-3, 2e-5, 1e-6, 0.0], "center": [False, None], "scale": [False, None]},
    ),
    "Activation": (
        keras_layers.LAYERS["Activation"],
        {"dtype": QUANTIZED, "activation": ["relu6", "gelu", "silu", "leaky_relu", {"config": "relu"}]},
    ),
    "ReLU": (
        keras_layers.LAYERS["ReLU"],
        {"dtype": QUANTIZED, "max_value": [6.0, 6], "negative_slope": [0.1, 0.3], "threshold": [1.0, 0.1]},
    ),
    "GlobalAveragePooling2D": (
        keras_layers.LAYERS["GlobalAveragePooling2D"],
        {"dtype": QUANTIZED, "keepdims": [True, None]},
    ),
    "Dense": (
        keras_layers.LAYERS["Dense"],
        {
            "dtype": QUANTIZED,
            "quantization_config": [{"mode": "int8"}],
            "activation": ["relu", "tanh"],
            "use_bias": [False, None],
        },
    ),
    **{
        kind: (keras_layers.LAYERS[kind], {"dtype": QUANTIZED})
        for kind in ("ZeroPadding2D", "MaxPooling2D", "Add", "AveragePooling2D", "Flatten")
    },
}
"""Values of other functions for each table, by the name of the field that decides the function."""


@pytest.mark.parametrize("library", OTHER_FUNCTIONS)
def test_every_row_that_decides_the_function_has_values_here(library: str):
    table, values = OTHER_FUNCTIONS[library]
    assert values.keys() == {name for name, row in table.items() if row.variants is not None}


def test_every_table_is_here():
    tables = (transformers.FIELDS, timm.FIELDS, *keras_hub.TABLES.values(), *keras_layers.LAYERS.values())
    assert {*map(id, tables)} == {id(table) for table, _ in OTHER_FUNCTIONS.values()}


@pytest.mark.parametrize(
    ("library", "name", "value"),
    [
        pytest.param(library, name, value, id=f"{library}-{name}-{as_json(value)}")
        for library, (_, values) in OTHER_FUNCTIONS.items()
        for name, others in values.items()
        for value in others
    ],
)
def test_a_value_of_another_function_belongs_to_no_variant(library: str, name: str, value: Any):
    table, _ = OTHER_FUNCTIONS[library]
    assert fact("config.json", name, value, table[name]).variants == ()
