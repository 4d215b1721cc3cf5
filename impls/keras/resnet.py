"""ResNet-50 in Keras 3, on any backend.

Layout: images are (batch, height, width, channels), kernels (height, width, in, out).

`impls/torch/resnet.py` and `impls/flax/resnet.py` have the same classes, functions and lines; read them side by side.

Sources: He et al. 2015 (arXiv:1512.03385); initialisation He et al. 2015 (arXiv:1502.01852) and Goyal et al. 2017
(arXiv:1706.02677, section 5.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import KerasTensor as Tensor
from keras import ops
from keras.ops import relu

from impls.config import BLANK, EXPANSION, STAGE_STRIDES, VARIANTS, Blank, ResNetConfig, named_config
from impls.keras.state import write_weights
from impls.taps import Tap, recording, untapped, within
from weights_convert import Source
from weights_convert.fine_tuning import Head, Stem

registered = keras.saving.register_keras_serializable(package="resnet_parity")


@registered
class BatchNorm(keras.layers.BatchNormalization):
    """Batch norm that stores the unbiased or the biased batch variance; Keras's own stores the biased one.

    Over n = batch * height * width values, the unbiased variance is the biased one times n / (n - 1).
    """

    def __init__(self, *, unbiased: bool, **options: Any) -> None:
        super().__init__(**options)
        self.unbiased = unbiased

    def call(self, x: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        kept = self.momentum * ops.convert_to_tensor(self.moving_variance)
        y = super().call(x, training=training, mask=mask)
        if training and self.trainable:
            shape = ops.shape(x)
            count = shape[0] * shape[1] * shape[2]
            if isinstance(count, int) and count == 1:
                raise ValueError("train mode needs more than one value per channel: use a larger batch or image")
            if self.unbiased:
                count = ops.cast(count, self.moving_variance.dtype)
                self.moving_variance.assign(kept + (self.moving_variance - kept) * (count / (count - 1)))
        return y


@registered
class Conv(keras.layers.Conv2D):
    """Convolution that pads both sides alike, which Keras does not offer: its "same" is TensorFlow's SAME."""

    def call(self, x: Tensor) -> Tensor:
        return super().call(pad(x, self.kernel_size[0], 0.0))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, *sides, channels = input_shape
        padded = (None if side is None else side + self.kernel_size[0] // 2 * 2 for side in sides)
        return super().compute_output_shape((batch, *padded, channels))


def pad(x: Tensor, kernel: int, value: float) -> Tensor:
    """Pad height and width by kernel // 2 pixels of `value` on every side."""
    sides = (kernel // 2, kernel // 2)
    return ops.pad(x, ((0, 0), sides, sides, (0, 0)), constant_values=value) if kernel > 1 else x


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    config: ResNetConfig,
    seeds: keras.random.SeedGenerator | Blank,
) -> keras.layers.Conv2D:
    """Build a convolution with the config's padding and bias; draw its kernel from a normal distribution.

    The standard deviation is sqrt(2 / (out_channels * kernel**2)), that of He et al. 2015 (arXiv:1502.01852) for the
    backward pass ("fan-out").
    """
    same = config.same_padding and kernel == 3 and stride == 2
    layer = (keras.layers.Conv2D if same else Conv)(
        out_channels,
        kernel,
        stride,
        padding="same" if same else "valid",
        data_format="channels_last",
        use_bias=config.conv_bias,
        kernel_initializer="zeros"
        if seeds is BLANK
        else keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=seeds),
        dtype=dtype_policy(config),
    )
    layer.build((None, None, None, in_channels))
    return layer


def norm(channels: int, config: ResNetConfig, scale: float = 1.0) -> BatchNorm:
    """Build a batch norm with the config's eps and decay; its scale starts at `scale`.

    Keras's momentum is the share of the *old* statistic: the decay itself.
    """
    layer = BatchNorm(
        unbiased=config.norm_variance == "unbiased",
        epsilon=config.norm_eps,
        momentum=config.norm_decay,
        gamma_initializer=keras.initializers.Constant(scale),
        dtype=dtype_policy(config),
    )
    layer.build((None, None, None, channels))
    return layer


def linear(
    in_features: int, out_features: int, config: ResNetConfig, seeds: keras.random.SeedGenerator | Blank
) -> keras.layers.Dense:
    """Build a dense layer; draw its kernel from a normal distribution of standard deviation 0.01."""
    layer = keras.layers.Dense(
        out_features,
        kernel_initializer="zeros" if seeds is BLANK else keras.initializers.RandomNormal(stddev=0.01, seed=seeds),
        dtype=dtype_policy(config),
    )
    layer.build((None, in_features))
    return layer


def dtype_policy(config: ResNetConfig) -> str | None:
    """Name Keras's dtype policy for parameters and computation; None is the global policy.

    Raises:
        ValueError: If parameters are not float32 where the configuration has a `compute_dtype`.
    """
    if config.compute_dtype in (None, config.dtype):
        return config.dtype
    if config.dtype not in (None, "float32"):
        raise ValueError(
            f"Keras computes in {config.compute_dtype} with float32 parameters only, not with {config.dtype}"
        )
    return f"mixed_{config.compute_dtype}"


def max_pool(x: Tensor, config: ResNetConfig) -> Tensor:
    """Return the maximum of each 3x3 window, at stride 2; padding counts as minus infinity."""
    if config.same_padding:
        return ops.max_pool(x, 3, 2, "same", "channels_last")
    return ops.max_pool(pad(x, 3, -float("inf")), 3, 2, "valid", "channels_last")


def average_pool(x: Tensor, config: ResNetConfig) -> Tensor:
    """Average each channel over the head's window, or over the whole feature map: (batch, channels)."""
    if config.head_pool:
        x = ops.average_pool(x, config.head_pool, config.head_pool, "valid", "channels_last")
        return ops.reshape(x, (ops.shape(x)[0], x.shape[-1]))
    return ops.mean(x, (1, 2))


@registered
class Bottleneck(keras.layers.Layer):
    """Bottleneck block: 1x1, 3x3 and 1x1 convolutions, each with a norm, and a shortcut around them.

    A Conv Block, whose output differs in shape from its input, projects the shortcut by a 1x1 convolution and a norm.
    An Identity Block adds its input unchanged.
    """

    expansion = EXPANSION

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        config: ResNetConfig,
        seeds: keras.random.SeedGenerator | Blank,
    ) -> None:
        super().__init__(dtype=dtype_policy(config))
        out_channels = channels * self.expansion
        stride1, stride2 = (stride, 1) if config.strided_layer == "conv1" else (1, stride)
        self.projects = stride != 1 or in_channels != out_channels
        self.relu_before_addition = config.relu_before_addition
        self.conv1 = conv(in_channels, channels, 1, stride1, config, seeds)
        self.bn1 = norm(channels, config)
        self.conv2 = conv(channels, channels, 3, stride2, config, seeds)
        self.bn2 = norm(channels, config)
        self.conv3 = conv(channels, out_channels, 1, 1, config, seeds)
        self.bn3 = norm(out_channels, config, scale=0.0 if config.zero_init_last_scale else 1.0)
        if self.projects:
            self.downsample_conv = conv(in_channels, out_channels, 1, stride, config, seeds)
            self.downsample_bn = norm(out_channels, config)
        self.build((None, None, None, in_channels))  # as its layers are, so that Keras can count and save them

    def call(self, x: Tensor, training: bool | None = None, tap: Tap[Tensor] = untapped) -> Tensor:
        """Apply the block to a feature map.

        (batch, height, width, in_channels) becomes (batch, ceil(height / stride), ceil(width / stride), 4 * channels).
        """
        y = relu(tap("bn1", self.bn1(tap("conv1", self.conv1(x)))))
        y = relu(tap("bn2", self.bn2(tap("conv2", self.conv2(y)))))
        y = tap("bn3", self.bn3(tap("conv3", self.conv3(y))))
        if self.relu_before_addition:
            y = relu(y)
        if self.projects:
            x = tap("downsample_bn", self.downsample_bn(tap("downsample_conv", self.downsample_conv(x))))
        return relu(y + x)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        """Compute the output's shape from the input's; `summary()` shows it."""
        for layer in (self.conv1, self.conv2, self.conv3):
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape


@registered
class ResNet(keras.Model):
    """ResNet with bottleneck blocks, from images to logits.

    `ResNet(Bottleneck, [3, 4, 6, 3])` is the tutorial's network; `resnet50` builds the other variants.

    Args:
        block: Class of the blocks.
        layers: Number of blocks in each of the four stages.
        num_classes: Length of the logits; 0 leaves the classifier out.
        config: All other facts of the network; its own `depths` and `num_classes` are ignored.
        seeds: Generator of the initial weights. None seeds one from Keras's global generator; `BLANK` sets kernels to
            zero.
        name: Name of the Keras model.

    Raises:
        ValueError: If a size is impossible, such as a stage without blocks.

    Example:
        >>> model = ResNet(Bottleneck, [3, 4, 6, 3])
        >>> tuple(model(keras.random.normal((1, 224, 224, 3))).shape)
        (1, 1000)
    """

    def __init__(
        self,
        block: type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        *,
        config: ResNetConfig = VARIANTS["tutorial"],
        seeds: keras.random.SeedGenerator | Blank | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype_policy(config))
        seeds = keras.random.SeedGenerator() if seeds is None else seeds
        self.config = config = replace(config, depths=tuple(layers), num_classes=num_classes)
        width, features = config.width, config.width * 8 * block.expansion
        self.conv1 = conv(config.in_channels, width, 7, 2, config, seeds)
        self.bn1 = norm(width, config)
        self.stage1 = stage(block, width, width, layers[0], STAGE_STRIDES[0], config, seeds)
        self.stage2 = stage(block, width * 1 * block.expansion, width * 2, layers[1], STAGE_STRIDES[1], config, seeds)
        self.stage3 = stage(block, width * 2 * block.expansion, width * 4, layers[2], STAGE_STRIDES[2], config, seeds)
        self.stage4 = stage(block, width * 4 * block.expansion, width * 8, layers[3], STAGE_STRIDES[3], config, seeds)
        if num_classes:
            self.fc = linear(features, num_classes, config, seeds)
        self.build((None, None, None, config.in_channels))

    def call(self, x: Tensor, training: bool | None = None, tap: Tap[Tensor] = untapped) -> Tensor:
        """Compute the logits of a batch of images.

        Args:
            x: Images (batch, height, width, channels), floating point.
            training: Whether to run in train mode; None takes it from the caller: train mode in `fit`, else inference.
            tap: Function that sees each activation by name, and may replace it (`impls.taps`).

        Returns:
            Logits (batch, num_classes); without a classifier, the pooled features (batch, 32 * config.width).

        Raises:
            ValueError: If the images do not suit the network (`ResNetConfig.check_images`).
        """
        self.config.check_images(x.shape, "NHWC")
        x = relu(tap("bn1", self.bn1(tap("conv1", self.conv1(x)))))
        x = tap("stem", max_pool(x, self.config))
        for name, block in self.blocks():
            x = tap(name, block(x, tap=within(name, tap)))
        x = tap("pool", average_pool(x, self.config))
        return tap("logits", self.fc(x)) if self.config.num_classes else x

    def activations(self, x: Tensor, layers: bool = False, training: bool | None = None) -> dict[str, Tensor]:
        """Run the network, and return its activations by name in the order they are computed.

        Args:
            x: Images (batch, height, width, channels), floating point.
            layers: Whether to include the outputs of all convolutions and norms ("conv1", "stage1.0.bn2").
            training: Whether to run in train mode; None takes it from the caller: train mode in `fit`, else inference.

        Returns:
            The outputs of "stem", every block ("stage1.0"), "pool" and "logits", and with `layers` those of all layers.
            Feature maps are (batch, height, width, channels), pooled features and logits (batch, features).
        """
        activations: dict[str, Tensor] = {}
        self(x, training=training, tap=recording(activations, layers))
        return activations

    def blocks(self) -> Iterator[tuple[str, Bottleneck]]:
        """Yield every block with its name ("stage1.0"), in the order they run."""
        for name in ("stage1", "stage2", "stage3", "stage4"):
            for index, block in enumerate(getattr(self, name)):
                yield f"{name}.{index}", block

    def get_config(self) -> dict[str, Any]:
        """Return what a `.keras` file needs to build the network again."""
        dtypes = {
            "dtype": self.variable_dtype,
            "compute_dtype": self.compute_dtype,
        }  # a file does not hold the global dtype policy
        return {"name": self.name, "config": self.config.to_dict() | dtypes}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ResNet:
        """Build the network from the values that `get_config` returned."""
        network = ResNetConfig.from_dict(config["config"])
        return cls(Bottleneck, network.depths, network.num_classes, config=network, name=config["name"])


def stage(
    block: type[Bottleneck],
    in_channels: int,
    channels: int,
    depth: int,
    stride: int,
    config: ResNetConfig,
    seeds: keras.random.SeedGenerator | Blank,
) -> list[Bottleneck]:
    """Build a stage: a Conv Block with the stage's stride, then `depth - 1` Identity Blocks."""
    blocks = [block(in_channels, channels, stride, config, seeds)]
    for _ in range(depth - 1):
        blocks.append(block(channels * block.expansion, channels, 1, config, seeds))
    return blocks


def resnet(
    config: ResNetConfig,
    weights: Source | None = None,
    *,
    head: Head = "kept",
    stem: Stem = "kept",
    seed: int | None = None,
) -> ResNet:
    """Build the network that a configuration describes, with random weights or those of a checkpoint.

    Args:
        config: The configuration.
        weights: A checkpoint or file that `weights_convert.load` takes; None for random weights.
        head: "kept" takes the classifier of the weights; "new" leaves this model a random one, for other classes.
        stem: "sum" adds up the input channels of the weights' first convolution, for images of one channel.
        seed: Seed of the random weights; None draws from Keras's global generator (`keras.utils.set_random_seed`).

    Raises:
        ValueError: If parameters are not float32 where the configuration has a `compute_dtype`.
        ConversionError: If the weights do not fit this network.
    """
    seeds = keras.random.SeedGenerator(seed) if weights is None or head == "new" else BLANK
    model = ResNet(Bottleneck, config.depths, config.num_classes, config=config, seeds=seeds)
    if weights is not None:
        write_weights(model, weights, head, stem)
    return model


def resnet50(
    variant: str = "v1.5",
    num_classes: int = 1000,
    weights: Source | None = None,
    *,
    head: Head = "kept",
    stem: Stem = "kept",
    in_channels: int = 3,
    dtype: str | None = None,
    compute_dtype: str | None = None,
    seed: int | None = None,
) -> ResNet:
    """Build ResNet-50 of a named variant, with random weights or those of a checkpoint.

    Args:
        variant: Name of a variant, one of `impls.config.VARIANTS`.
        num_classes: Length of the logits; 0 leaves the classifier out, and the model returns the pooled features.
        weights: A checkpoint or file that `weights_convert.load` takes; None for random weights.
        head: "kept" takes the classifier of the weights; "new" leaves this model a random one, for other classes.
        stem: "sum" adds up the input channels of the weights' first convolution, for images of one channel.
        in_channels: Channels of the input image.
        dtype: Name of the parameters' dtype ("float64"); None is Keras's global dtype policy.
        compute_dtype: Name of the dtype to compute in with float32 parameters ("bfloat16"); None is `dtype`.
        seed: Seed of the random weights; None draws from Keras's global generator (`keras.utils.set_random_seed`).

    Returns:
        A `keras.Model`, built; it runs in inference mode unless it is called with `training=True` or by `fit`.

    Raises:
        ValueError: If there is no such variant, or if `compute_dtype` is set and parameters are not float32.
        ConversionError: If the weights do not fit this network.

    Example:
        >>> model = resnet50("v1", num_classes=10, seed=0)
        >>> tuple(model(keras.ops.zeros((1, 64, 64, 3))).shape)
        (1, 10)
    """
    return resnet(
        named_config(variant, num_classes, in_channels, dtype, compute_dtype), weights, head=head, stem=stem, seed=seed
    )
