"""The facts of the network, in no framework's dialect.

"ResNet-50" names at least five functions that differ in a stride, a padding, a ReLU or an epsilon, and whose weights
have the same shapes. `ResNetConfig` says every one of those facts; `VARIANTS` names the combinations that exist in the
world.

Example:
    >>> from impls.config import VARIANTS
    >>> VARIANTS["v1.5"].strided_layer, VARIANTS["v1"].strided_layer
    ('conv2', 'conv1')
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any, Literal

EXPANSION = 4
"""Channels that leave a bottleneck, as a multiple of the channels in its middle (He et al. 2015, table 1)."""

STAGE_STRIDES = (1, 2, 2, 2)
"""Stride of the first block of each stage; the stem has already divided the size by four."""

TOTAL_STRIDE = 32
"""Input pixels per pixel of the last feature map. Every layer rounds up, so a map has ceil(size / 32) pixels a side."""


class Blank(Enum):
    """In place of a source of random numbers: kernels are not drawn, since the weights of a file follow."""

    BLANK = "no initial weights"


BLANK = Blank.BLANK
"""Drawing 25 million numbers takes longer than reading them."""

LARGEST = 2**31
"""No size of a network comes near; a damaged file's may be so large that its product cannot even be printed."""

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""The names that all three frameworks have for floating-point dtypes."""


@dataclass(frozen=True)
class ResNetConfig:
    """Everything that decides what function the network computes, and how it starts.

    Attributes:
        depths: Blocks in each of the four stages; (3, 4, 6, 3) is ResNet-50.
        width: Channels of the stem, and of the middle of a stage-1 block; each later stage doubles it.
        num_classes: Length of the logits. 0 leaves the classifier out: the network returns the pooled features.
        in_channels: Channels of the input image.
        strided_layer: The convolution that carries a strided block's stride: the first 1x1 ("conv1", He et al. 2015) or
            the 3x3 ("conv2", known as ResNet v1.5).
        relu_before_addition: Whether a ReLU follows bn3, before the shortcut is added (the tutorial's habit).
        same_padding: Whether the strided 3x3 convolutions and the max pool pad as TensorFlow's SAME does: on the right
            and bottom only, where the size is even. False pads both sides alike.
        conv_bias: Whether convolutions have a bias of their own, though a norm follows each.
        norm_eps: Added to the variance before the square root.
        norm_decay: Share of the old running statistic kept at a training step (0.9 here is PyTorch's momentum=0.1).
        norm_variance: The batch variance that enters the running one: "unbiased", divided by n - 1 (PyTorch's), or
            "biased", by n (Flax's and Keras's own). The batch itself is normalised by the biased one either way.
        head_pool: Side of the average-pooling window at the end, moved by its own size; None averages over the map.
        zero_init_last_scale: Whether bn3 scales start at zero, so that each block starts as the identity (Goyal et al.
            2017).
        dtype: Name of the parameters' dtype ("float32", "float64", "bfloat16"); None is the framework's own default.
        compute_dtype: Name of the dtype to compute in, where it is not that of the parameters ("bfloat16"). Flax and
            Keras take it; PyTorch has `torch.autocast` for the same.

    Raises:
        ValueError: If a field has a value that no network can have.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    num_classes: int = 1000
    in_channels: int = 3
    strided_layer: Literal["conv1", "conv2"] = "conv2"
    relu_before_addition: bool = False
    same_padding: bool = False
    conv_bias: bool = False
    norm_eps: float = 1e-5
    norm_decay: float = 0.9
    norm_variance: Literal["unbiased", "biased"] = "unbiased"
    head_pool: int | None = None
    zero_init_last_scale: bool = False
    dtype: str | None = None
    compute_dtype: str | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {wanted}, not {getattr(self, name)!r}"
            for name, wanted, holds in (
                ("depths", "four positive integers", len(self.depths) == 4 and min(self.depths) > 0),
                ("width", f"a positive integer below {LARGEST}", 0 < self.width < LARGEST),
                ("num_classes", f"0 (no classifier) or more, below {LARGEST}", 0 <= self.num_classes < LARGEST),
                ("in_channels", f"a positive integer below {LARGEST}", 0 < self.in_channels < LARGEST),
                ("strided_layer", "'conv1' or 'conv2'", self.strided_layer in ("conv1", "conv2")),
                ("norm_eps", "positive", self.norm_eps > 0),
                ("norm_decay", "between 0 and 1", 0 <= self.norm_decay <= 1),
                ("norm_variance", "'unbiased' or 'biased'", self.norm_variance in ("unbiased", "biased")),
                ("head_pool", "a positive integer or None", self.head_pool is None or self.head_pool > 0),
                ("dtype", f"one of {', '.join(DTYPES)} or None", self.dtype in (None, *DTYPES)),
                ("compute_dtype", f"one of {', '.join(DTYPES)} or None", self.compute_dtype in (None, *DTYPES)),
            )
            if not holds
        ]
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def variant(self) -> str:
        """Name of the variant that this network is, whatever its size, or "custom"."""
        return next((name for name, known in VARIANTS.items() if _function(known) == _function(self)), "custom")

    def blocks(self) -> Iterator[Block]:
        """The bottleneck blocks, in the order they run."""
        in_channels = self.width
        for stage, (depth, stage_stride) in enumerate(zip(self.depths, STAGE_STRIDES, strict=True)):
            channels = self.width * 2**stage
            for index in range(depth):
                yield Block(f"stage{stage + 1}.{index}", in_channels, channels, stage_stride if index == 0 else 1)
                in_channels = channels * EXPANSION

    def check_images(self, shape: Sequence[int | None], axes: Literal["NCHW", "NHWC"]) -> None:
        """Refuse a batch of images that this network cannot take.

        A size of None is not known yet (a symbolic shape) and passes.

        Raises:
            ValueError: If the axes are not four, or as `check_input` says.

        Example:
            >>> VARIANTS["v1"].check_images((224, 224, 3), "NHWC")
            Traceback (most recent call last):
            ...
            ValueError: a batch of images has the axes NHWC; this input has the shape (224, 224, 3)
        """
        if len(shape) != len(axes):
            raise ValueError(f"a batch of images has the axes {axes}; this input has the shape {tuple(shape)}")
        sizes = dict(zip(axes, shape, strict=True))
        self.check_input(sizes["H"], sizes["W"], sizes["C"])

    def check_input(self, height: int | None, width: int | None, channels: int | None) -> None:
        """Refuse an image that this network cannot take.

        A side of None is not known yet (a symbolic shape) and passes.

        Raises:
            ValueError: If the channels differ from `in_channels`, or the feature map does not suit the head's pooling.

        Example:
            >>> VARIANTS["tutorial"].check_input(64, 64, 3)
            Traceback (most recent call last):
            ...
            ValueError: a 64x64 image reaches the 7x7 head pool as a 2x2 map; this network takes sides from 193 to 416
        """
        if channels is not None and channels != self.in_channels:
            hint = (
                "; this looks like the other layout (NCHW for NHWC): transpose it" if height == self.in_channels else ""
            )
            hint = hint or ("; this looks like NHWC for NCHW: transpose it" if width == self.in_channels else "")
            raise ValueError(f"the input has {channels} channels where {self.in_channels} are expected{hint}")
        if self.head_pool is None or height is None or width is None:
            return
        if not all(self.head_pool <= feature_size(side) < 2 * self.head_pool for side in (height, width)):
            window, smallest = self.head_pool, (self.head_pool - 1) * TOTAL_STRIDE + 1
            raise ValueError(
                f"a {height}x{width} image reaches the {window}x{window} head pool as a {feature_size(height)}x"
                f"{feature_size(width)} map; this network takes sides from {smallest} to "
                f"{(2 * window - 1) * TOTAL_STRIDE}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        return asdict(self) | {"depths": list(self.depths)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ResNetConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: If a field is missing, unknown, of another type or impossible.
        """
        known = {field.name: field for field in fields(cls)}
        values = ADDED | values if isinstance(values, dict) else values
        if set(values) != set(known):
            raise ValueError(f"expected the fields {sorted(known)}, got {sorted(values)}")
        kinds = {name: type(value) for name, value in TYPICAL.to_dict().items()}
        odd = [
            f"{name} is of type {type(value).__name__}, where {kinds[name].__name__} is expected"
            for name, value in values.items()
            if type(value) is not kinds[name] and not (value is None and known[name].default is None)
        ]
        if odd or not all(type(depth) is int for depth in values["depths"]):
            raise ValueError("; ".join(odd) or "depths are integers")
        return cls(**(values | {"depths": tuple(values["depths"])}))


ADDED: dict[str, Any] = {"norm_variance": "unbiased"}
"""Fields that the first files do not have, and what they are in those."""

TYPICAL = ResNetConfig(head_pool=7, dtype="float32", compute_dtype="float32")
"""Has a value of the right type in every field."""


@dataclass(frozen=True)
class Block:
    """Where a bottleneck stands, and its size: `channels` in the middle, `stride` at the one strided layer."""

    name: str
    in_channels: int
    channels: int
    stride: int

    @property
    def out_channels(self) -> int:
        """Channels that leave the block."""
        return self.channels * EXPANSION

    @property
    def projects(self) -> bool:
        """Whether the shortcut needs a convolution (a Conv Block) or is passed on (an Identity Block)."""
        return self.stride != 1 or self.in_channels != self.out_channels


def feature_size(side: int) -> int:
    """Pixels that `side` input pixels become at the last feature map."""
    return -(-side // TOTAL_STRIDE)


VARIANTS: dict[str, ResNetConfig] = {
    "tutorial": ResNetConfig(strided_layer="conv1", relu_before_addition=True, head_pool=7),
    "v1": ResNetConfig(strided_layer="conv1"),
    "v1.5": ResNetConfig(),
    "keras": ResNetConfig(strided_layer="conv1", conv_bias=True, norm_eps=1.001e-5),
    "flax": ResNetConfig(same_padding=True),
}
"""The networks that published weights belong to, and the tutorial's.

`tutorial`: a widely copied PyTorch tutorial. `v1`: He et al. 2015, Caffe. `v1.5`: torchvision, timm, transformers.
`keras`: keras.applications. `flax`: the ImageNet example of the Flax repository.
"""


def named_config(
    variant: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    dtype: str | None = None,
    compute_dtype: str | None = None,
) -> ResNetConfig:
    """The configuration of a named variant.

    Raises:
        ValueError: If there is no variant of that name.

    Example:
        >>> named_config("v1", num_classes=10).num_classes
        10
    """
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}; the variants are {', '.join(VARIANTS)}")
    return replace(
        VARIANTS[variant], num_classes=num_classes, in_channels=in_channels, dtype=dtype, compute_dtype=compute_dtype
    )


def _function(config: ResNetConfig) -> ResNetConfig:
    """The config with everything that may vary within one variant set alike."""
    free = ResNetConfig()
    return replace(
        config,
        depths=free.depths,
        width=free.width,
        num_classes=free.num_classes,
        in_channels=free.in_channels,
        norm_decay=free.norm_decay,
        norm_variance=free.norm_variance,
        zero_init_last_scale=free.zero_init_last_scale,
        dtype=free.dtype,
        compute_dtype=free.compute_dtype,
    )
