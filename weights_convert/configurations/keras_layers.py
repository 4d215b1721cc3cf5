"""The fields of Keras's layers: a row for every field of every layer that a ResNet is made of, of Keras 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from impls.config import VARIANTS
from weights_convert.configurations.fields import ALL, Field, decides, neutral

FLOAT_POLICIES = ("float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16")


def dtype_name(policy: Any) -> Any:
    """Return the name of a dtype policy, which Keras 3 writes as an object and Keras 2 as a text.

    Example:
        >>> dtype_name({"class_name": "DTypePolicy", "config": {"name": "float32"}}), dtype_name("float32")
        ('float32', 'float32')
    """
    if isinstance(policy, Mapping) and policy.get("class_name") in ("DTypePolicy", "FloatDTypePolicy", "Policy"):
        inner = policy.get("config")
        return inner.get("name") if isinstance(inner, Mapping) and not inner.keys() - {"name"} else policy
    return policy


def by_place(what: str, *names: str) -> dict[str, Field]:
    """Return rows of fields that decide the function, whose value depends on the place of the layer in the network."""
    return dict.fromkeys(names, Field(what, by_place=True))


def variants_by(fact: str) -> list[tuple[Any, tuple[str, ...]]]:
    """Return each value of a fact of `ResNetConfig`, with the variants that have it.

    Example:
        >>> variants_by("conv_bias")
        [(False, ('tutorial', 'v1', 'v1.5', 'flax')), (True, ('keras',))]
    """
    values = dict.fromkeys(getattr(config, fact) for config in VARIANTS.values())
    return [(value, tuple(n for n, config in VARIANTS.items() if getattr(config, fact) == value)) for value in values]


DTYPE = decides(
    "the precision; a quantised layer computes something else",
    *((name, ALL) for name in (*FLOAT_POLICIES, None)),
    default=None,
    measure=dtype_name,
)
"""Keras computes in this precision; the arrays of the file keep their own."""

HEAD_ACTIVATION = decides(
    "the activation after the logits, which are what our networks return",
    *((name, ALL) for name in (None, "linear", "softmax", "sigmoid")),
    default=None,
)
LINEAR = decides("an activation within the layer", ("linear", ALL), (None, ALL), default=None)

EVERY_LAYER: dict[str, Field] = {
    "dtype": DTYPE,
    **neutral("a name", "name"),
    **neutral("training alone", "trainable", "activity_regularizer"),
    **neutral("the size of the image; the arrays have its channels themselves", "batch_input_shape", "batch_shape"),
}
SPATIAL: dict[str, Field] = by_place("the axis of the channels, the same in all layers", "data_format")
WEIGHTED: dict[str, Field] = {
    **neutral("initial weights", *(f"{name}_initializer" for name in ("kernel", "bias"))),
    **neutral(
        "training alone", *(f"{name}_{kind}" for name in ("kernel", "bias") for kind in ("regularizer", "constraint"))
    ),
    "quantization_config": decides("how its numbers are stored and multiplied", (None, ALL), default=None),
}

LAYERS: dict[str, dict[str, Field]] = {
    "InputLayer": {
        **EVERY_LAYER,
        "sparse": decides("images that are sparse", (False, ALL), default=False),
        "ragged": decides("images of several sizes", (False, ALL), default=False),
        **neutral("the type of the image, which Keras casts", "dtype"),
        **neutral("what a call may leave out", "optional"),
    },
    "ZeroPadding2D": EVERY_LAYER | SPATIAL | by_place("the padding", "padding"),
    "Conv2D": {
        **EVERY_LAYER,
        **SPATIAL,
        **WEIGHTED,
        **by_place("the convolution", "kernel_size", "strides", "padding"),
        "dilation_rate": decides("the distance of the kernel's pixels", ([1, 1], ALL), default=[1, 1]),
        "groups": decides("the groups of channels", (1, ALL), default=1),
        "activation": LINEAR,
        "use_bias": decides("the biases of the convolutions", *variants_by("conv_bias"), default=True),
        **neutral("a size, which the arrays have themselves", "filters"),
    },
    "BatchNormalization": {
        **EVERY_LAYER,
        **by_place("the axis of the channels", "axis"),
        "epsilon": decides("what is added to the variance", *variants_by("norm_eps"), default=1e-3),
        "center": decides("the offset", (True, ALL), default=True),
        "scale": decides("the scale", (True, ALL), default=True),
        **neutral("training alone", "momentum", "synchronized", "renorm", "renorm_clipping", "renorm_momentum"),
        **neutral("training alone", "fused", "virtual_batch_size", "adjustment"),
        **neutral("initial weights", *(f"{name}_initializer" for name in ("beta", "gamma", "moving_mean"))),
        **neutral("initial weights", "moving_variance_initializer"),
        **neutral(
            "training alone",
            *(f"{name}_{kind}" for name in ("beta", "gamma") for kind in ("regularizer", "constraint")),
        ),
    },
    "Activation": {**EVERY_LAYER, "activation": decides("an activation between layers", ("relu", ALL))},
    "ReLU": {
        **EVERY_LAYER,
        "max_value": decides("an upper bound of activations", (None, ALL), default=None),
        "negative_slope": decides("the slope below zero", (0.0, ALL), (0, ALL), default=0.0),
        "threshold": decides("the point where the ReLU begins", (0.0, ALL), (0, ALL), default=0.0),
    },
    "MaxPooling2D": EVERY_LAYER | SPATIAL | by_place("the pooling of the stem", "pool_size", "strides", "padding"),
    "Add": EVERY_LAYER,
    "GlobalAveragePooling2D": {
        **EVERY_LAYER,
        **SPATIAL,
        "keepdims": decides("further axes of the features", (False, ALL), default=False),
    },
    "AveragePooling2D": EVERY_LAYER | SPATIAL | by_place("the pooling at the end", "pool_size", "strides", "padding"),
    "Flatten": EVERY_LAYER | SPATIAL,
    "Dense": {
        **EVERY_LAYER,
        **WEIGHTED,
        "activation": HEAD_ACTIVATION,
        "use_bias": decides("the bias of the classifier", (True, ALL), default=True),
        **neutral("a size, which the arrays have themselves", "units"),
    },
}
"""Every field of each layer that the network is made of, by the class of the layer."""

WITHOUT_EFFECT = (
    *("Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise", "ActivityRegularization"),
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast"),
)
"""Layers that return their input unchanged, except in training. They are passed over, whatever their fields."""

CONTAINERS = ("Functional", "Model", "Sequential")
"""The classes of models that are made of layers."""

LAYER_PARTS = ("class_name", "module", "registered_name", "name", "config", "inbound_nodes")
BUILT_PARTS = ("build_config", "compile_config", "shared_object_id", "keras_version", "backend")
MODEL_PARTS = ("name", "trainable", "dtype", "layers", "input_layers", "output_layers", "build_input_shape")
"""The parts of a serialised layer or model, those that tell how it was built and trained, and those of its config."""
