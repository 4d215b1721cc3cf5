"""ResNet-50 in Keras 3, on any backend.

Layout: images are (batch, height, width, channels), kernels (height, width, in, out).

The same classes, functions and lines stand in `impls/torch/resnet.py` and `impls/flax/resnet.py`; read them
side by side.

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

registered = keras.saving.register_keras_serializable(package="resnet_parity")


@registered
class BatchNorm(keras.layers.BatchNormalization):
    """Batch norm that can also keep the unbiased variance, as PyTorch does: Keras keeps the biased one.

    The batch variance over n = batch * height * width values then enters the running one multiplied by n / (n - 1).
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
                raise ValueError(
                    "train-mode normalisation needs more than one value per channel; enlarge the batch or image"
                )
            if self.unbiased:
                count = ops.cast(count, self.moving_variance.dtype)
                self.moving_variance.assign(kept + (self.moving_variance - kept) * (count / (count - 1)))
        return y


@registered
class Conv(keras.layers.Conv2D):
    """A convolution that pads both sides alike, which Keras knows no name for: its "same" is TensorFlow's SAME."""

    def call(self, x: Tensor) -> Tensor:
        return super().call(pad(x, self.kernel_size[0], 0.0))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, *sides, channels = input_shape
        padded = (None if side is None else side + self.kernel_size[0] // 2 * 2 for side in sides)
        return super().compute_output_shape((batch, *padded, channels))


def pad(x: Tensor, kernel: int, value: float) -> Tensor:
    """Put kernel // 2 pixels of `value` on every side."""
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
    """A convolution with the config's padding and bias, its kernel fan-out normal."""
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
    """A batch norm with the config's eps and decay, its scale starting at `scale`.

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
    """A dense layer, its kernel normal with deviation 0.01, its bias zero."""
    layer = keras.layers.Dense(
        out_features,
        kernel_initializer="zeros" if seeds is BLANK else keras.initializers.RandomNormal(stddev=0.01, seed=seeds),
        dtype=dtype_policy(config),
    )
    layer.build((None, in_features))
    return layer


def dtype_policy(config: ResNetConfig) -> str | None:
    """Keras's name for the dtypes of parameters and computation; None is the global policy."""
    if config.compute_dtype in (None, config.dtype):
        return config.dtype
    if config.dtype not in (None, "float32"):
        raise ValueError(
            f"Keras computes in {config.compute_dtype} with float32 parameters only, not with {config.dtype}"
        )
    return f"mixed_{config.compute_dtype}"


def max_pool(x: Tensor, config: ResNetConfig) -> Tensor:
    """The largest value of each 3x3 window, every second pixel; nothing around the image can win."""
    if config.same_padding:
        return ops.max_pool(x, 3, 2, "same", "channels_last")
    return ops.max_pool(pad(x, 3, -float("inf")), 3, 2, "valid", "channels_last")


def average_pool(x: Tensor, config: ResNetConfig) -> Tensor:
    """The mean of each channel, over the head's window or the whole map: (batch, channels)."""
    if config.head_pool:
        x = ops.average_pool(x, config.head_pool, config.head_pool, "valid", "channels_last")
        return ops.reshape(x, (ops.shape(x)[0], x.shape[-1]))
    return ops.mean(x, (1, 2))


@registered
class Bottleneck(keras.layers.Layer):
    """1x1, 3x3, 1x1, and a shortcut: a Conv Block where the shortcut needs a projection, else an Identity Block."""

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
        self.build((None, None, None, in_channels))  # its layers are; so Keras may count, show and save it

    def call(self, x: Tensor, training: bool | None = None, tap: Tap[Tensor] = untapped) -> Tensor:
        """(batch, height, width, in_channels) to (batch, height / stride, width / stride, 4 * channels)."""
        y = relu(tap("bn1", self.bn1(tap("conv1", self.conv1(x)))))
        y = relu(tap("bn2", self.bn2(tap("conv2", self.conv2(y)))))
        y = tap("bn3", self.bn3(tap("conv3", self.conv3(y))))
        if self.relu_before_addition:
            y = relu(y)
        if self.projects:
            x = tap("downsample_bn", self.downsample_bn(tap("downsample_conv", self.downsample_conv(x))))
        return relu(y + x)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        """For `summary()`."""
        for layer in (self.conv1, self.conv2, self.conv3):
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape


@registered
class ResNet(keras.Model):
    """The network. `ResNet(Bottleneck, [3, 4, 6, 3])` is the tutorial's; `resnet50` builds the other variants.

    Args:
        block: The block to stack.
        layers: Blocks in each of the four stages.
        num_classes: Length of the logits; 0 for none.
        config: Every other fact of the network; its own depths and classes are ignored.
        seeds: Source of the initial weights; None draws a random seed, `BLANK` leaves kernels zero.
        name: Of the Keras model.

    Example:
        >>> model = ResNet(Bottleneck, [3, 4, 6, 3])
        >>> model(keras.random.normal((1, 224, 224, 3))).shape
        TensorShape([1, 1000])
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
        """Images (batch, height, width, channels) to logits (batch, num_classes)."""
        self.config.check_images(x.shape, "NHWC")
        x = relu(tap("bn1", self.bn1(tap("conv1", self.conv1(x)))))
        x = tap("stem", max_pool(x, self.config))
        for name, block in self.blocks():
            x = tap(name, block(x, tap=within(name, tap)))
        x = tap("pool", average_pool(x, self.config))
        return tap("logits", self.fc(x)) if self.config.num_classes else x

    def activations(self, x: Tensor, layers: bool = False, training: bool | None = None) -> dict[str, Tensor]:
        """The output of stem, every block, pool and classifier; with `layers`, of every convolution and norm, too."""
        activations: dict[str, Tensor] = {}
        self(x, training=training, tap=recording(activations, layers))
        return activations

    def blocks(self) -> Iterator[tuple[str, Bottleneck]]:
        """Every block with its name ("stage1.0"), in the order they run."""
        for name in ("stage1", "stage2", "stage3", "stage4"):
            for index, block in enumerate(getattr(self, name)):
                yield f"{name}.{index}", block

    def get_config(self) -> dict[str, Any]:
        """What a `.keras` file needs to build the network again."""
        dtypes = {"dtype": self.variable_dtype, "compute_dtype": self.compute_dtype}  # a global policy is not saved
        return {"name": self.name, "config": self.config.to_dict() | dtypes}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ResNet:
        """The inverse of `get_config`."""
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
    """A Conv Block with the stage's stride, then `depth - 1` Identity Blocks."""
    blocks = [block(in_channels, channels, stride, config, seeds)]
    for _ in range(depth - 1):
        blocks.append(block(channels * block.expansion, channels, 1, config, seeds))
    return blocks


def resnet(config: ResNetConfig, weights: Source | None = None, *, seed: int | None = None) -> ResNet:
    """The network that `config` describes, with the weights of a file, or random ones from `seed`."""
    seeds = keras.random.SeedGenerator(seed) if weights is None else BLANK
    model = ResNet(Bottleneck, config.depths, config.num_classes, config=config, seeds=seeds)
    if weights is not None:
        write_weights(model, weights)
    return model


def resnet50(
    variant: str = "v1.5",
    num_classes: int = 1000,
    weights: Source | None = None,
    *,
    in_channels: int = 3,
    dtype: str | None = None,
    compute_dtype: str | None = None,
    seed: int | None = None,
) -> ResNet:
    """ResNet-50 of a named variant.

    Args:
        variant: One of `impls.config.VARIANTS`.
        num_classes: Length of the logits; 0 for none, the network then returns the pooled features.
        weights: A checkpoint that `weights_convert.load` takes; None for random weights.
        in_channels: Channels of the input image.
        dtype: Name of the parameters' dtype ("float64"); None is Keras's global dtype policy.
        compute_dtype: Name of the dtype to compute in with float32 parameters ("bfloat16"); None is `dtype`.
        seed: Of the random weights; None draws from Keras's global generator (`keras.utils.set_random_seed`).

    Raises:
        ValueError: If there is no such variant.
        ConversionError: If the weights do not fit this network.

    Example:
        >>> model = resnet50("v1", num_classes=10, seed=0)
        >>> model.predict(np.zeros((1, 224, 224, 3))).shape
        (1, 10)
    """
    return resnet(named_config(variant, num_classes, in_channels, dtype, compute_dtype), weights, seed=seed)
