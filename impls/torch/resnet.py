"""ResNet-50 in PyTorch.

Layout: images are (batch, channels, height, width), kernels (out, in, height, width).

`impls/flax/resnet.py` and `impls/keras/resnet.py` have the same classes, functions and lines; read them side by side.

Sources: He et al. 2015 (arXiv:1512.03385); initialisation He et al. 2015 (arXiv:1502.01852) and Goyal et al. 2017
(arXiv:1706.02677, section 5.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from impls.config import BLANK, EXPANSION, STAGE_STRIDES, VARIANTS, Blank, ResNetConfig, named_config
from impls.taps import Tap, recording, untapped, within
from impls.torch.state import write_weights
from weights_convert import Source
from weights_convert.fine_tuning import Head, Stem


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that stores the unbiased or the biased batch variance; `nn.BatchNorm2d` stores the unbiased one.

    Over n = batch * height * width values, the biased variance is the unbiased one times (n - 1) / n.
    """

    def __init__(self, channels: int, config: ResNetConfig) -> None:
        super().__init__(channels, eps=config.norm_eps, momentum=1 - config.norm_decay, dtype=torch_dtype(config))
        self.unbiased, self.decay = config.norm_variance == "unbiased", config.norm_decay

    def forward(self, x: Tensor) -> Tensor:
        if self.unbiased or not self.training or self.running_var is None:
            return super().forward(x)
        kept, count = self.decay * self.running_var, x.numel() // x.shape[1]
        y = super().forward(x)
        self.running_var.copy_(kept + (self.running_var - kept) * ((count - 1) / count))
        return y


class Conv(nn.Conv2d):
    """Convolution that can also pad as TensorFlow's SAME does; PyTorch does not offer that for strided ones."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, config: ResNetConfig) -> None:
        same = config.same_padding and kernel == 3 and stride == 2
        padding, dtype = 0 if same else kernel // 2, torch_dtype(config)
        super().__init__(in_channels, out_channels, kernel, stride, padding, bias=config.conv_bias, dtype=dtype)
        self.same = same

    def reset_parameters(self) -> None:
        """Leave the weight undrawn: `conv` draws it, and drawing it twice would cost half a second."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, 3, 2, 0.0) if self.same else x)


def pad_same(x: Tensor, kernel: int, stride: int, value: float) -> Tensor:
    """Pad so that the output has ceil(size / stride) pixels; an odd pixel goes to the right and the bottom."""
    rows, columns = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:])
    sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)  # left, right, top, bottom
    return nn.functional.pad(x, sides, value=value)


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    config: ResNetConfig,
    rng: torch.Generator | Blank | None,
) -> Conv:
    """Build a convolution with the config's padding and bias; draw its weight from a normal distribution.

    The standard deviation is sqrt(2 / (out_channels * kernel**2)), that of He et al. 2015 (arXiv:1502.01852) for the
    backward pass ("fan-out").
    """
    layer = Conv(in_channels, out_channels, kernel, stride, config)
    if rng is not BLANK:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=rng)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def norm(channels: int, config: ResNetConfig, scale: float = 1.0) -> BatchNorm:
    """Build a batch norm with the config's eps and decay; its scale starts at `scale`.

    PyTorch's momentum is the share of the *new* statistic: 1 - decay.
    """
    layer = BatchNorm(channels, config)
    nn.init.constant_(layer.weight, scale)
    return layer


def linear(in_features: int, out_features: int, config: ResNetConfig, rng: torch.Generator | Blank | None) -> nn.Linear:
    """Build a dense layer; draw its weight from a normal distribution of standard deviation 0.01."""
    layer = nn.Linear(in_features, out_features, dtype=torch_dtype(config))
    if rng is not BLANK:
        nn.init.normal_(layer.weight, std=0.01, generator=rng)
    nn.init.zeros_(layer.bias)
    return layer


def torch_dtype(config: ResNetConfig) -> torch.dtype | None:
    """Return the dtype of the parameters; None is PyTorch's default.

    Raises:
        ValueError: If the configuration has a `compute_dtype`.
    """
    if config.compute_dtype is not None:
        raise ValueError(
            f"run the model under torch.autocast(dtype=torch.{config.compute_dtype}) to compute in that dtype"
        )
    return getattr(torch, config.dtype) if config.dtype else None


def max_pool(x: Tensor, config: ResNetConfig) -> Tensor:
    """Return the maximum of each 3x3 window, at stride 2; padding counts as minus infinity."""
    if config.same_padding:
        return max_pool2d(pad_same(x, 3, 2, float("-inf")), 3, 2)
    return max_pool2d(x, 3, 2, padding=1)


def average_pool(x: Tensor, config: ResNetConfig) -> Tensor:
    """Average each channel over the head's window, or over the whole feature map: (batch, channels)."""
    if config.head_pool:
        return avg_pool2d(x, config.head_pool).flatten(1)
    return x.mean((2, 3))


class Bottleneck(nn.Module):
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
        rng: torch.Generator | Blank | None,
    ) -> None:
        super().__init__()
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

    def forward(self, x: Tensor, tap: Tap[Tensor] = untapped) -> Tensor:
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


class ResNet(nn.Module):
    """ResNet with bottleneck blocks, from images to logits.

    `ResNet(Bottleneck, [3, 4, 6, 3])` is the tutorial's network; `resnet50` builds the other variants.

    Args:
        block: Class of the blocks.
        layers: Number of blocks in each of the four stages.
        num_classes: Length of the logits; 0 leaves the classifier out.
        config: All other facts of the network; its own `depths` and `num_classes` are ignored.
        rng: Generator of the initial weights. None is PyTorch's global one (`torch.manual_seed`); `BLANK` leaves
            the weights to be set afterwards.

    Raises:
        ValueError: If a size is impossible, such as a stage without blocks.

    Example:
        >>> model = ResNet(Bottleneck, [3, 4, 6, 3])
        >>> model(torch.randn(1, 3, 224, 224)).shape
        torch.Size([1, 1000])
    """

    def __init__(
        self,
        block: type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        *,
        config: ResNetConfig = VARIANTS["tutorial"],
        rng: torch.Generator | Blank | None = None,
    ) -> None:
        super().__init__()
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

    def forward(self, x: Tensor, tap: Tap[Tensor] = untapped) -> Tensor:
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

    def activations(self, x: Tensor, layers: bool = False) -> dict[str, Tensor]:
        """Run the network, and return its activations by name in the order they are computed.

        Args:
            x: Images (batch, channels, height, width), floating point.
            layers: Whether to include the outputs of all convolutions and norms ("conv1", "stage1.0.bn2").

        Returns:
            The outputs of "stem", every block ("stage1.0"), "pool" and "logits", and with `layers` those of all layers.
            Feature maps are (batch, channels, height, width), pooled features and logits (batch, features).
        """
        activations: dict[str, Tensor] = {}
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
    rng: torch.Generator | Blank | None,
) -> nn.Sequential:
    """Build a stage: a Conv Block with the stage's stride, then `depth - 1` Identity Blocks."""
    blocks = [block(in_channels, channels, stride, config, rng)]
    for _ in range(depth - 1):
        blocks.append(block(channels * block.expansion, channels, 1, config, rng))
    return nn.Sequential(*blocks)


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
        seed: Seed of the random weights; None draws from PyTorch's global generator.

    Raises:
        ValueError: If the configuration has a `compute_dtype`; PyTorch has `torch.autocast` for that.
        ConversionError: If the weights do not fit this network.
    """
    seeded = None if seed is None else torch.Generator(torch.get_default_device()).manual_seed(seed)
    rng = seeded if weights is None or head == "new" else BLANK
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
    dtype: str | None = None,
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
        dtype: Name of the parameters' dtype ("float64"); None is PyTorch's default.
        seed: Seed of the random weights; None draws from PyTorch's global generator.

    Returns:
        A `torch.nn.Module` in train mode, as PyTorch builds them; `model.eval()` switches to inference mode.

    Raises:
        ValueError: If there is no such variant.
        ConversionError: If the weights do not fit this network.

    Example:
        >>> model = resnet50("v1", num_classes=10, seed=0).eval()
        >>> model(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 10])
    """
    config = named_config(variant, num_classes, in_channels, dtype)
    return resnet(config, weights, head=head, stem=stem, seed=seed)
