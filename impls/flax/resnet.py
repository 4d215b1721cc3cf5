"""ResNet-50 in Flax (NNX).

Layout: images are (batch, height, width, channels), kernels (height, width, in, out).

`impls/torch/resnet.py` and `impls/keras/resnet.py` have the same classes, functions and lines; read them side by side.

Sources: He et al. 2015 (arXiv:1512.03385); initialisation He et al. 2015 (arXiv:1502.01852) and Goyal et al. 2017
(arXiv:1706.02677, section 5.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import avg_pool, relu
from jax import Array

from impls.config import EXPANSION, STAGE_STRIDES, VARIANTS, ResNetConfig, named_config
from impls.flax.state import write_weights
from impls.taps import Tap, recording, untapped, within
from weights_convert import Source
from weights_convert.fine_tuning import Head, Stem


class BatchNorm(nnx.BatchNorm):
    """Batch norm that stores the unbiased or the biased batch variance; `nnx.BatchNorm` stores the biased one.

    Over n = batch * height * width values, the unbiased variance is the biased one times n / (n - 1). The running
    statistics have the dtype of the parameters, but at least float32; `nnx.BatchNorm` always keeps them in float32.
    """

    def __init__(self, channels: int, *, unbiased: bool, param_dtype: Any, **options: Any) -> None:
        super().__init__(channels, param_dtype=param_dtype, use_fast_variance=False, **options)
        self.unbiased = unbiased
        statistics_dtype = jnp.promote_types(param_dtype, jnp.float32)
        self.mean = nnx.BatchStat(jnp.zeros(channels, statistics_dtype))
        self.var = nnx.BatchStat(jnp.ones(channels, statistics_dtype))

    @nnx.jit  # a model that runs eagerly would compile and dispatch each operation separately
    def __call__(self, x: Array) -> Array:
        kept = self.momentum * self.var[...]
        y = super().__call__(x)
        if not self.use_running_average:
            count = x.size // x.shape[-1]
            if count == 1:
                raise ValueError("train mode needs more than one value per channel: use a larger batch or image")
            if self.unbiased:
                self.var[...] = kept + (self.var[...] - kept) * (count / (count - 1))
        return y


def conv(
    in_channels: int, out_channels: int, kernel: int, stride: int, config: ResNetConfig, rngs: nnx.Rngs
) -> nnx.Conv:
    """Build a convolution with the config's padding and bias; draw its kernel from a normal distribution.

    The standard deviation is sqrt(2 / (out_channels * kernel**2)), that of He et al. 2015 (arXiv:1502.01852) for the
    backward pass ("fan-out").
    """
    same = config.same_padding and kernel == 3 and stride == 2
    return nnx.Conv(
        in_channels,
        out_channels,
        (kernel, kernel),
        stride,
        padding="SAME" if same else kernel // 2,
        use_bias=config.conv_bias,
        kernel_init=normal(math.sqrt(2 / (out_channels * kernel**2))),
        dtype=config.compute_dtype,
        param_dtype=config.dtype or jnp.float32,
        rngs=rngs,
    )


def norm(channels: int, config: ResNetConfig, scale: float = 1.0) -> BatchNorm:
    """Build a batch norm with the config's eps and decay; its scale starts at `scale`.

    Flax's momentum is the share of the *old* statistic: the decay itself.
    """
    return BatchNorm(
        channels,
        unbiased=config.norm_variance == "unbiased",
        epsilon=config.norm_eps,
        momentum=config.norm_decay,
        scale_init=nnx.initializers.constant(scale),
        dtype=config.compute_dtype,
        param_dtype=config.dtype or jnp.float32,
        rngs=nnx.Rngs(0),  # required, but nothing is drawn: every initial value is a constant
    )


def linear(in_features: int, out_features: int, config: ResNetConfig, rngs: nnx.Rngs) -> nnx.Linear:
    """Build a dense layer; draw its kernel from a normal distribution of standard deviation 0.01."""
    return nnx.Linear(
        in_features,
        out_features,
        kernel_init=normal(0.01),
        dtype=config.compute_dtype,
        param_dtype=config.dtype or jnp.float32,
        rngs=rngs,
    )


def normal(deviation: float) -> Callable[..., Array]:
    """Return an initialiser that draws normal values, like `nnx.initializers.normal` but faster to compile.

    XLA compiles a generator for every shape, in half a second or more each. Here values are drawn in few lengths only,
    powers of two, and cut to size.
    """

    def initializer(key: Array, shape: Sequence[int], dtype: Any, out_sharding: Any = None) -> Array:
        length = max(2**16, 2 ** (math.prod(shape) - 1).bit_length())
        values = jax.random.normal(key, (length,), jnp.promote_types(dtype, jnp.float32))
        return scaled(values, deviation, tuple(shape), dtype)

    return initializer


@partial(jax.jit, static_argnums=(2, 3))
def scaled(values: Array, deviation: float, shape: tuple[int, ...], dtype: Any) -> Array:
    """Scale the first values of a vector, and give them a shape and a dtype."""
    return (deviation * values[: math.prod(shape)]).reshape(shape).astype(dtype)


def max_pool(x: Array, config: ResNetConfig) -> Array:
    """Return the maximum of each 3x3 window, at stride 2; padding counts as minus infinity."""
    return nnx.max_pool(x, (3, 3), (2, 2), "SAME" if config.same_padding else ((1, 1), (1, 1)))


def average_pool(x: Array, config: ResNetConfig) -> Array:
    """Average each channel over the head's window, or over the whole feature map: (batch, channels)."""
    if config.head_pool:
        window = (config.head_pool, config.head_pool)
        return avg_pool(x, window, window).reshape(len(x), -1)
    return x.mean((1, 2))


class Bottleneck(nnx.Module):
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
        rngs: nnx.Rngs,
    ) -> None:
        out_channels = channels * self.expansion
        stride1, stride2 = (stride, 1) if config.strided_layer == "conv1" else (1, stride)
        self.projects = stride != 1 or in_channels != out_channels
        self.relu_before_addition = config.relu_before_addition
        self.conv1 = conv(in_channels, channels, 1, stride1, config, rngs)
        self.bn1 = norm(channels, config)
        self.conv2 = conv(channels, channels, 3, stride2, config, rngs)
        self.bn2 = norm(channels, config)
        self.conv3 = conv(channels, out_channels, 1, 1, config, rngs)
        self.bn3 = norm(out_channels, config, scale=0.0 if config.zero_init_last_scale else 1.0)
        if self.projects:
            self.downsample_conv = conv(in_channels, out_channels, 1, stride, config, rngs)
            self.downsample_bn = norm(out_channels, config)

    def __call__(self, x: Array, tap: Tap[Array] = untapped) -> Array:
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


class ResNet(nnx.Module):
    """ResNet with bottleneck blocks, from images to logits.

    `ResNet(Bottleneck, [3, 4, 6, 3])` is the tutorial's network; `resnet50` builds the other variants.

    Args:
        block: Class of the blocks.
        layers: Number of blocks in each of the four stages.
        num_classes: Length of the logits; 0 leaves the classifier out.
        config: All other facts of the network; its own `depths` and `num_classes` are ignored.
        rngs: Generators of the initial weights. None is `nnx.Rngs(0)`.

    Raises:
        ValueError: If a size is impossible, such as a stage without blocks.

    Example:
        >>> model = ResNet(Bottleneck, [3, 4, 6, 3])
        >>> model(jax.random.normal(jax.random.key(0), (1, 224, 224, 3))).shape
        (1, 1000)
    """

    def __init__(
        self,
        block: type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        *,
        config: ResNetConfig = VARIANTS["tutorial"],
        rngs: nnx.Rngs | None = None,
    ) -> None:
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.config = config = replace(config, depths=tuple(layers), num_classes=num_classes)
        width, features = config.width, config.width * 8 * block.expansion
        self.conv1 = conv(config.in_channels, width, 7, 2, config, rngs)
        self.bn1 = norm(width, config)
        self.stage1 = stage(block, width, width, layers[0], STAGE_STRIDES[0], config, rngs)
        self.stage2 = stage(block, width * 1 * block.expansion, width * 2, layers[1], STAGE_STRIDES[1], config, rngs)
        self.stage3 = stage(block, width * 2 * block.expansion, width * 4, layers[2], STAGE_STRIDES[2], config, rngs)
        self.stage4 = stage(block, width * 4 * block.expansion, width * 8, layers[3], STAGE_STRIDES[3], config, rngs)
        if num_classes:
            self.fc = linear(features, num_classes, config, rngs)

    def __call__(self, x: Array, tap: Tap[Array] = untapped) -> Array:
        """Compute the logits of a batch of images.

        Args:
            x: Images (batch, height, width, channels), floating point.
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

    def activations(self, x: Array, layers: bool = False) -> dict[str, Array]:
        """Run the network, and return its activations by name in the order they are computed.

        Args:
            x: Images (batch, height, width, channels), floating point.
            layers: Whether to include the outputs of all convolutions and norms ("conv1", "stage1.0.bn2").

        Returns:
            The outputs of "stem", every block ("stage1.0"), "pool" and "logits", and with `layers` those of all layers.
            Feature maps are (batch, height, width, channels), pooled features and logits (batch, features).
        """
        activations: dict[str, Array] = {}
        self(x, tap=recording(activations, layers))
        return activations

    def blocks(self) -> Iterator[tuple[str, Bottleneck]]:
        """Yield every block with its name ("stage1.0"), in the order they run."""
        for name in ("stage1", "stage2", "stage3", "stage4"):
            for index, block in enumerate(getattr(self, name)):
                yield f"{name}.{index}", block


def stage(
    block: type[Bottleneck],
    in_channels: int,
    channels: int,
    depth: int,
    stride: int,
    config: ResNetConfig,
    rngs: nnx.Rngs,
) -> nnx.List[Bottleneck]:
    """Build a stage: a Conv Block with the stage's stride, then `depth - 1` Identity Blocks."""
    blocks = [block(in_channels, channels, stride, config, rngs)]
    for _ in range(depth - 1):
        blocks.append(block(channels * block.expansion, channels, 1, config, rngs))
    return nnx.List(blocks)


def resnet(
    config: ResNetConfig,
    weights: Source | None = None,
    *,
    head: Head = "kept",
    stem: Stem = "kept",
    seed: int = 0,
) -> ResNet:
    """Build the network that a configuration describes, with random weights or those of a checkpoint.

    Args:
        config: The configuration.
        weights: A checkpoint or file that `weights_convert.load` takes; None for random weights.
        head: "kept" takes the classifier of the weights; "new" leaves this model a random one, for other classes.
        stem: "sum" adds up the input channels of the weights' first convolution, for images of one channel.
        seed: Seed of the random weights.

    Raises:
        ConversionError: If the weights do not fit this network.
    """
    if weights is None or head == "new":
        model = ResNet(Bottleneck, config.depths, config.num_classes, config=config, rngs=nnx.Rngs(seed))
    else:
        model = nnx.eval_shape(  # shapes without values: compiling the generators of random values takes seconds
            lambda: ResNet(Bottleneck, config.depths, config.num_classes, config=config)
        )
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
    seed: int = 0,
) -> ResNet:
    """Build ResNet-50 of a named variant, with random weights or those of a checkpoint.

    Args:
        variant: Name of a variant, one of `impls.config.VARIANTS`.
        num_classes: Length of the logits; 0 leaves the classifier out, and the model returns the pooled features.
        weights: A checkpoint or file that `weights_convert.load` takes; None for random weights.
        head: "kept" takes the classifier of the weights; "new" leaves this model a random one, for other classes.
        stem: "sum" adds up the input channels of the weights' first convolution, for images of one channel.
        in_channels: Channels of the input image.
        dtype: Name of the parameters' dtype; None is float32. "float64" needs JAX's `jax_enable_x64`.
        compute_dtype: Name of the dtype to compute in ("bfloat16"); None is that of parameters and images together.
        seed: Seed of the random weights.

    Returns:
        An `nnx.Module` in train mode, as Flax builds them; `model.eval()` switches to inference mode.

    Raises:
        ValueError: If there is no such variant.
        ConversionError: If the weights do not fit this network.

    Example:
        >>> model = resnet50("v1", num_classes=10)
        >>> model.eval()
        >>> model(jnp.zeros((1, 64, 64, 3))).shape
        (1, 10)
    """
    return resnet(
        named_config(variant, num_classes, in_channels, dtype, compute_dtype), weights, head=head, stem=stem, seed=seed
    )
