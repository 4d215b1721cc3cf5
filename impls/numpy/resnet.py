"""ResNet-50 in plain NumPy and float64: the specification that the other three models are held to.

Layout: images are (batch, channels, height, width), kernels (out, in, height, width), as in PyTorch.

Sources: He et al. 2015 (arXiv:1512.03385); batch norm: Ioffe and Szegedy 2015 (arXiv:1502.03167), with the
running variance corrected by n / (n - 1) as in PyTorch; initialisation: He et al. 2015 (arXiv:1502.01852) and Goyal et
al. 2017 (arXiv:1706.02677, section 5.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from impls.config import BLANK, EXPANSION, STAGE_STRIDES, VARIANTS, Blank, ResNetConfig, named_config
from impls.numpy.state import write_weights
from impls.taps import Tap, recording, untapped, within
from weights_convert import Source
from weights_convert.fine_tuning import Head, Stem

Array = np.ndarray


def relu(x: Array) -> Array:
    """Compute max(x, 0) element by element."""
    return np.maximum(x, 0)


def pad(x: Array, kernel: int, stride: int, same: bool, value: float = 0.0) -> Array:
    """Pad height and width of `x` for a window of side `kernel`.

    Symmetric padding puts kernel // 2 pixels on every side. SAME padding puts as many as make the output
    ceil(size / stride), and an odd pixel to the right and the bottom: (0, 1) for a strided 3x3 at even sizes, (1, 1) at
    odd ones.
    """
    missing = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:]]
    sides = [(m // 2, m - m // 2) for m in missing] if same else [(kernel // 2, kernel // 2)] * 2
    return np.pad(x, [(0, 0), (0, 0), *sides], constant_values=value) if np.any(sides) else x


def windows(x: Array, kernel: int, stride: int) -> Array:
    """View all windows of `x`, without a copy: (batch, channels, out height, out width, kernel, kernel)."""
    return sliding_window_view(x, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]


def convolve(x: Array, weight: Array, stride: int) -> Array:
    """Cross-correlate `x` (batch, in, height, width) with `weight` (out, in, kernel, kernel), without padding.

    All windows are multiplied by all kernels in one matrix product.
    """
    patches = windows(x, weight.shape[2], stride).transpose(0, 2, 3, 1, 4, 5)
    batch, height, width = patches.shape[:3]
    product = patches.reshape(batch * height * width, -1) @ weight.reshape(len(weight), -1).T
    return product.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)


def normalise(x: Array, mean: Array, variance: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Compute (x - mean) / sqrt(variance + eps) * weight + bias; each statistic has one number per channel."""
    mean, deviation, weight, bias = (s[:, None, None] for s in (mean, np.sqrt(variance + eps), weight, bias))
    return (x - mean) / deviation * weight + bias


def moments(x: Array) -> tuple[Array, Array]:
    """Compute mean and biased variance of each channel of `x` (batch, channels, height, width)."""
    # One contiguous row per channel: NumPy sums such rows pairwise, but strided ones value by value.
    values = np.ascontiguousarray(x.swapaxes(0, 1)).reshape(x.shape[1], -1)
    return values.mean(1), values.var(1)


class Convolution:
    """Padded, strided convolution; its attribute `convolve` can be replaced, to sum in another order."""

    def __init__(self, weight: Array, bias: Array | None, stride: int, same: bool) -> None:
        self.weight, self.bias, self.stride, self.same = weight, bias, stride, same
        self.convolve: Callable[[Array, Array, int], Array] = convolve

    def __call__(self, x: Array) -> Array:
        y = self.convolve(pad(x, self.weight.shape[2], self.stride, self.same), self.weight, self.stride)
        return y if self.bias is None else y + self.bias[:, None, None]


class BatchNorm:
    """Batch normalisation over batch, height and width.

    The attributes `moments` and `normalise` can be replaced, to round differently.
    """

    def __init__(self, channels: int, scale: float, config: ResNetConfig) -> None:
        self.weight, self.bias = np.full(channels, scale), np.zeros(channels)
        self.running_mean, self.running_var = np.zeros(channels), np.ones(channels)
        self.eps, self.decay, self.training = config.norm_eps, config.norm_decay, False
        self.unbiased = config.norm_variance == "unbiased"
        self.moments: Callable[[Array], tuple[Array, Array]] = moments
        self.normalise: Callable[[Array, Array, Array, Array, Array, float], Array] = normalise

    def __call__(self, x: Array) -> Array:
        mean, variance = self.running_mean, self.running_var
        if self.training:
            (mean, variance), count = self.moments(x), x.size // x.shape[1]
            if count == 1:
                raise ValueError("train mode needs more than one value per channel: use a larger batch or image")
            correction = count / (count - 1) if self.unbiased else 1.0
            self.running_mean = self.decay * self.running_mean + (1 - self.decay) * mean
            self.running_var = self.decay * self.running_var + (1 - self.decay) * variance * correction
        return self.normalise(x, mean, variance, self.weight, self.bias, self.eps)


def multiply(x: Array, weight: Array) -> Array:
    """Multiply `x` (batch, in) by the transpose of `weight` (out, in), in one matrix product."""
    return x @ weight.T


class Linear:
    """Dense layer, x weight^T + bias, with `weight` (out, in).

    Its attribute `multiply` can be replaced, to sum in another order.
    """

    def __init__(self, weight: Array, bias: Array) -> None:
        self.weight, self.bias = weight, bias
        self.multiply: Callable[[Array, Array], Array] = multiply

    def __call__(self, x: Array) -> Array:
        return self.multiply(x, self.weight) + self.bias


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    config: ResNetConfig,
    rng: np.random.Generator | Blank,
) -> Convolution:
    """Build a convolution with the config's padding and bias; draw its weight from a normal distribution.

    The standard deviation is sqrt(2 / (out_channels * kernel**2)), that of He et al. 2015 (arXiv:1502.01852) for the
    backward pass ("fan-out").
    """
    shape = (out_channels, in_channels, kernel, kernel)
    weight = np.empty(shape) if rng is BLANK else rng.standard_normal(shape) * np.sqrt(2 / (out_channels * kernel**2))
    bias = np.zeros(out_channels) if config.conv_bias else None
    return Convolution(weight, bias, stride, same=config.same_padding and kernel == 3 and stride == 2)


def norm(channels: int, config: ResNetConfig, scale: float = 1.0) -> BatchNorm:
    """Build a batch norm with the config's eps and decay; its scale starts at `scale`."""
    return BatchNorm(channels, scale, config)


def linear(in_features: int, out_features: int, config: ResNetConfig, rng: np.random.Generator | Blank) -> Linear:
    """Build a dense layer; draw its weight from a normal distribution of standard deviation 0.01."""
    shape = (out_features, in_features)
    weight = np.empty(shape) if rng is BLANK else rng.standard_normal(shape) * 0.01
    return Linear(weight, np.zeros(out_features))


def max_pool(x: Array, config: ResNetConfig) -> Array:
    """Return the maximum of each 3x3 window, at stride 2; padding counts as minus infinity."""
    return windows(pad(x, 3, 2, config.same_padding, -np.inf), 3, 2).max((4, 5))


def average_pool(x: Array, config: ResNetConfig) -> Array:
    """Average each channel over the head's window, or over the whole feature map: (batch, channels)."""
    window = config.head_pool or max(x.shape[2:])
    return x[:, :, :window, :window].mean((2, 3))


class Bottleneck:
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
        rng: np.random.Generator | Blank,
    ) -> None:
        out_channels = channels * self.expansion
        stride1, stride2 = (stride, 1) if config.strided_layer == "conv1" else (1, stride)
        self.projects = stride != 1 or in_channels != out_channels
        self.relu_before_addition = config.relu_before_addition
        self.conv1 = conv(in_channels, channels, 1, stride1, config, rng)
        self.bn1 = norm(channels, config)
        self.conv2 = conv(channels, channels, 3, stride2, config, rng)
        self.bn2 = norm(channels, config)
        self.conv3 = conv(channels, out_channels, 1, 1, config, rng)
        self.bn3 = norm(out_channels, config, scale=0.0 if config.zero_init_last_scale else 1.0)
        if self.projects:
            self.downsample_conv = conv(in_channels, out_channels, 1, stride, config, rng)
            self.downsample_bn = norm(out_channels, config)

    def __call__(self, x: Array, tap: Tap[Array] = untapped) -> Array:
        """Apply the block to a feature map.

        (batch, in_channels, height, width) becomes (batch, 4 * channels, ceil(height / stride), ceil(width / stride)).
        """
        y = relu(tap("bn1", self.bn1(tap("conv1", self.conv1(x)))))
        y = relu(tap("bn2", self.bn2(tap("conv2", self.conv2(y)))))
        y = tap("bn3", self.bn3(tap("conv3", self.conv3(y))))
        if self.relu_before_addition:
            y = relu(y)
        if self.projects:
            x = tap("downsample_bn", self.downsample_bn(tap("downsample_conv", self.downsample_conv(x))))
        return relu(y + x)


class ResNet:
    """ResNet with bottleneck blocks, from images to logits.

    `ResNet(Bottleneck, [3, 4, 6, 3])` is the tutorial's network; `resnet50` builds the other variants.

    Args:
        block: Class of the blocks.
        layers: Number of blocks in each of the four stages.
        num_classes: Length of the logits; 0 leaves the classifier out.
        config: All other facts of the network; its own `depths` and `num_classes` are ignored.
        rng: Generator of the initial weights. None seeds one from the operating system; `BLANK` draws no weights.

    Raises:
        ValueError: If a size is impossible, such as a stage without blocks.

    Example:
        >>> model = ResNet(Bottleneck, [3, 4, 6, 3])
        >>> model(np.random.randn(1, 3, 224, 224)).shape
        (1, 1000)
    """

    def __init__(
        self,
        block: type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        *,
        config: ResNetConfig = VARIANTS["tutorial"],
        rng: np.random.Generator | Blank | None = None,
    ) -> None:
        rng = np.random.default_rng() if rng is None else rng
        self.config = config = replace(config, depths=tuple(layers), num_classes=num_classes)
        width, features = config.width, config.width * 8 * block.expansion
        self.conv1 = conv(config.in_channels, width, 7, 2, config, rng)
        self.bn1 = norm(width, config)
        self.stage1 = stage(block, width, width, layers[0], STAGE_STRIDES[0], config, rng)
        self.stage2 = stage(block, width * 1 * block.expansion, width * 2, layers[1], STAGE_STRIDES[1], config, rng)
        self.stage3 = stage(block, width * 2 * block.expansion, width * 4, layers[2], STAGE_STRIDES[2], config, rng)
        self.stage4 = stage(block, width * 4 * block.expansion, width * 8, layers[3], STAGE_STRIDES[3], config, rng)
        if num_classes:
            self.fc = linear(features, num_classes, config, rng)

    def __call__(self, x: Array, tap: Tap[Array] = untapped) -> Array:
        """Compute the logits of a batch of images.

        Args:
            x: Images (batch, channels, height, width), floating point.
            tap: Function that sees each activation by name, and may replace it (`impls.taps`).

        Returns:
            Logits (batch, num_classes); without a classifier, the pooled features (batch, 32 * config.width).

        Raises:
            ValueError: If the images do not suit the network (`ResNetConfig.check_images`).
        """
        self.config.check_images(x.shape, "NCHW")
        x = relu(tap("bn1", self.bn1(tap("conv1", self.conv1(x)))))
        x = tap("stem", max_pool(x, self.config))
        for name, block in self.blocks():
            x = tap(name, block(x, tap=within(name, tap)))
        x = tap("pool", average_pool(x, self.config))
        return tap("logits", self.fc(x)) if self.config.num_classes else x

    def activations(self, x: Array, layers: bool = False) -> dict[str, Array]:
        """Run the network, and return its activations by name in the order they are computed.

        Args:
            x: Images (batch, channels, height, width), floating point.
            layers: Whether to include the outputs of all convolutions and norms ("conv1", "stage1.0.bn2").

        Returns:
            The outputs of "stem", every block ("stage1.0"), "pool" and "logits", and with `layers` those of all layers.
            Feature maps are (batch, channels, height, width), pooled features and logits (batch, features).
        """
        activations: dict[str, Array] = {}
        self(x, tap=recording(activations, layers))
        return activations

    def blocks(self) -> Iterator[tuple[str, Bottleneck]]:
        """Yield every block with its name ("stage1.0"), in the order they run."""
        for name in ("stage1", "stage2", "stage3", "stage4"):
            for index, block in enumerate(getattr(self, name)):
                yield f"{name}.{index}", block

    def layers(self) -> Iterator[tuple[str, Convolution | BatchNorm | Linear]]:
        """Yield every layer that holds arrays, with its canonical name ("stage1.0.conv1")."""
        for path, owner in [("", self), *self.blocks()]:
            for name, layer in vars(owner).items():
                if isinstance(layer, Convolution | BatchNorm | Linear):
                    yield f"{path}.{name}".removeprefix("."), layer

    def astype(self, dtype: str) -> ResNet:
        """Convert every array to `dtype` in place, and return the model.

        In float64 the model is the oracle, in float32 a reference build.
        """
        for _, layer in self.layers():
            for name, value in vars(layer).items():
                if isinstance(value, Array):
                    setattr(layer, name, value.astype(dtype))
        return self

    def train(self, mode: bool = True) -> ResNet:
        """Switch to train mode, or to inference mode if `mode` is False, and return the model.

        In train mode, norms use the statistics of the batch, and update the running ones.
        """
        for _, layer in self.layers():
            if isinstance(layer, BatchNorm):
                layer.training = mode
        return self


def stage(
    block: type[Bottleneck],
    in_channels: int,
    channels: int,
    depth: int,
    stride: int,
    config: ResNetConfig,
    rng: np.random.Generator | Blank,
) -> list[Bottleneck]:
    """Build a stage: a Conv Block with the stage's stride, then `depth - 1` Identity Blocks."""
    blocks = [block(in_channels, channels, stride, config, rng)]
    for _ in range(depth - 1):
        blocks.append(block(channels * block.expansion, channels, 1, config, rng))
    return blocks


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
    rng = np.random.default_rng(seed) if weights is None or head == "new" else BLANK
    model = ResNet(Bottleneck, config.depths, config.num_classes, config=config, rng=rng)
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
        seed: Seed of the random weights.

    Returns:
        A model in inference mode and float64; `ResNet.train` and `ResNet.astype` switch mode and dtype.

    Raises:
        ValueError: If there is no such variant.
        ConversionError: If the weights do not fit this network.

    Example:
        >>> model = resnet50("v1", num_classes=10)
        >>> model(np.zeros((1, 3, 64, 64))).shape
        (1, 10)
    """
    config = named_config(variant, num_classes, in_channels)
    return resnet(config, weights, head=head, stem=stem, seed=seed)
