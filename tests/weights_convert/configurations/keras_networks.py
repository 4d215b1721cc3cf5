"""ResNets written with Keras's own layers, of any variant, with one layer or call changed on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from impls.config import ResNetConfig

Change = Mapping[str, Any]


@dataclass
class Builder:
    """Builds a network in Keras's functional API, its layers named as in keras.applications.

    Attributes:
        config: The network.
        changes: For the name of a layer, arguments that it is built with instead.
        wraps: For the name of a layer, a function that is applied to its output.
        include_top: Whether the model ends in a classifier.
    """

    config: ResNetConfig
    changes: Mapping[str, Change] = field(default_factory=dict)
    wraps: Mapping[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    dtype: str = "float64"
    data_format: str = "channels_last"

    def build(self) -> Any:
        """Return the model."""
        import keras

        config = self.config
        side = 200 if config.head_pool else None  # Keras flattens and multiplies only what has a fixed size
        size = (side, side, config.in_channels)
        x = image = keras.Input(size if self.data_format == "channels_last" else size[::-1], dtype=self.dtype)
        x = self.wrapped("input", x)
        x = self.unit(x, "conv1", config.width, 7, 2)
        if not config.same_padding:
            x = self.layer("ZeroPadding2D", "pool1_pad", padding=1, **self.axis)(x)
        padding = "same" if config.same_padding else "valid"
        x = self.apply("MaxPooling2D", "pool1_pool", x, pool_size=3, strides=2, padding=padding, **self.axis)
        for block in config.blocks():
            stage, index = int(block.name[5]) + 1, int(block.name[7:]) + 1
            x = self.block(x, f"conv{stage}_block{index}", block)
        if config.head_pool:
            x = self.apply("AveragePooling2D", "avg_pool", x, pool_size=config.head_pool, **self.axis)
            x = self.layer("Flatten", "flatten")(x)
        else:
            x = self.apply("GlobalAveragePooling2D", "avg_pool", x, **self.axis)
        if config.num_classes:
            x = self.apply("Dense", "predictions", x, units=config.num_classes)
        return keras.Model(image, x, name="resnet")

    @property
    def axis(self) -> dict[str, str]:
        return {"data_format": self.data_format}

    def block(self, x: Any, name: str, block: Any) -> Any:
        first = self.config.strided_layer == "conv1"
        shortcut = x
        if block.projects:
            shortcut = self.unit(x, f"{name}_0", block.out_channels, 1, block.stride, activated=False)
        y = self.unit(x, f"{name}_1", block.channels, 1, block.stride if first else 1)
        y = self.unit(y, f"{name}_2", block.channels, 3, 1 if first else block.stride)
        y = self.unit(y, f"{name}_3", block.out_channels, 1, 1, activated=self.config.relu_before_addition)
        y = self.apply("Add", f"{name}_add", [shortcut, y])
        return self.apply("Activation", f"{name}_out", y, activation="relu")

    def unit(self, x: Any, name: str, filters: int, kernel: int, stride: int, activated: bool = True) -> Any:
        """Apply a convolution, its norm and its activation; pad as the variant does."""
        padding = "same" if stride == 1 or (self.config.same_padding and kernel == 3) else "valid"
        if padding == "valid" and kernel > 1:
            x = self.layer("ZeroPadding2D", f"{name}_pad", padding=kernel // 2, **self.axis)(x)
        options = {"filters": filters, "kernel_size": kernel, "strides": stride, "padding": padding, **self.axis}
        x = self.apply("Conv2D", f"{name}_conv", x, use_bias=self.config.conv_bias, **options)
        axis = 3 if self.data_format == "channels_last" else 1
        x = self.apply("BatchNormalization", f"{name}_bn", x, epsilon=self.config.norm_eps, axis=axis)
        return self.apply("Activation", f"{name}_relu", x, activation="relu") if activated else x

    def apply(self, kind: str, name: str, x: Any, **options: Any) -> Any:
        return self.wrapped(name, self.layer(kind, name, **options)(x, **self.changes.get(name, {}).get("call", {})))

    def wrapped(self, name: str, x: Any) -> Any:
        import keras

        return self.wraps[name](keras, x) if name in self.wraps else x

    def layer(self, kind: str, name: str, **options: Any) -> Any:
        import keras

        changes = {option: value for option, value in self.changes.get(name, {}).items() if option != "call"}
        kind = changes.pop("kind", kind)
        options = changes.pop("only", options)
        return getattr(keras.layers, kind)(name=name, dtype=self.dtype, **options | changes)


def randomize(model: Any, seed: int = 0) -> None:
    """Give every array of a model random numbers: positive variances, and scales away from 1."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if hasattr(layer, "moving_variance"):
            layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape) * (0.4 if "_3_bn" in layer.name else 1.0))
            layer.beta.assign(random.normal(0.0, 0.2, layer.beta.shape))
            layer.moving_mean.assign(random.normal(0.0, 0.2, layer.moving_mean.shape))
            layer.moving_variance.assign(random.uniform(0.5, 1.5, layer.moving_variance.shape))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(random.normal(0.0, 0.1, layer.bias.shape))
