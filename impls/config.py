"""The facts of the network, independent of any framework.

"ResNet-50" names at least five functions that differ in a stride, a padding, a ReLU or an epsilon, and whose weights
have the same shapes. `ResNetConfig` holds all facts of the network; `VARIANTS` names the five combinations that are in
use.

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
"""Output channels of a bottleneck block per channel of its middle layer (He et al. 2015, table 1)."""

STAGE_STRIDES = (1, 2, 2, 2)
"""Stride of the first block of each stage; the stem has already divided height and width by four."""

TOTAL_STRIDE = 32
"""Input pixels per pixel of the last feature map, in height and in width."""


class Blank(Enum):
    """Type of `BLANK`, which stands for a generator of random numbers where no weights are to be drawn."""

    BLANK = "no initial weights"


BLANK = Blank.BLANK
"""Pass it as `rng` to build a model whose weights are set afterwards: drawing 25 million numbers takes longer than
reading them from a file."""

SIZE_LIMIT = 2**31
"""Upper bound of widths, classes and channels, so that a damaged file cannot ask for an absurd network."""

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""Names of the floating-point dtypes that all three frameworks have."""


@dataclass(frozen=True)
class ResNetConfig:
    """Everything that decides which function the network computes, and how its weights start.

    Attributes:
        depths: Number of blocks in each of the four stages; (3, 4, 6, 3) is ResNet-50.
        width: Channels of the stem, and of the middle layer of a stage-1 block; each later stage doubles it.
        num_classes: Length of the logits. 0 leaves the classifier out: the network returns the pooled features.
        in_channels: Channels of the input image.
        strided_layer: The convolution that carries the stride of a strided block: the first 1x1 ("conv1", He et al.
            2015) or the 3x3 ("conv2", known as ResNet v1.5).
        relu_before_addition: Whether a ReLU follows bn3, before the shortcut is added, as in the tutorial.
        same_padding: Whether the strided 3x3 convolutions and the max pool pad as TensorFlow's SAME does: at even
            sizes, on the right and bottom only. False pads both sides alike.
        conv_bias: Whether convolutions have a bias, although a norm follows each.
        norm_eps: Added to the variance before the square root.
        norm_decay: Share of the running statistic that is kept at a training step: 0.9 is PyTorch's momentum=0.1, and
            Flax's and Keras's momentum=0.9.
        norm_variance: The batch variance that enters the running variance: "unbiased", divided by n - 1 (PyTorch), or
            "biased", divided by n (Flax and Keras). The batch itself is always normalised by the biased one.
        head_pool: Side of the average-pooling window at the end, whose stride equals its side; None averages over the
            whole feature map.
        zero_init_last_scale: Whether the scale of every bn3 starts at zero, so that each block starts as the identity
            (Goyal et al. 2017).
        dtype: Name of the parameters' dtype, one of `DTYPES`; None is the framework's default.
        compute_dtype: Name of the dtype to compute in, if it differs from that of the parameters ("bfloat16"). Flax and
            Keras take it; in PyTorch, `torch.autocast` serves the same purpose.

    Raises:
        ValueError: If fields have values that no network can have; the message lists all of them.

    Example:
        >>> config = ResNetConfig(depths=(3, 4, 23, 3), num_classes=10)
        >>> config.variant, len(list(config.blocks()))
        ('v1.5', 33)
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
        dtypes = f"one of {', '.join(DTYPES)} or None"
        problems = [
            f"{name} must be {requirement}, not {getattr(self, name)!r}"
            for name, requirement, fulfilled in (
                ("depths", "four positive integers", len(self.depths) == 4 and min(self.depths) > 0),
                ("width", f"a positive integer below {SIZE_LIMIT}", 0 < self.width < SIZE_LIMIT),
                ("num_classes", f"0 (no classifier) or more, below {SIZE_LIMIT}", 0 <= self.num_classes < SIZE_LIMIT),
                ("in_channels", f"a positive integer below {SIZE_LIMIT}", 0 < self.in_channels < SIZE_LIMIT),
                ("strided_layer", "'conv1' or 'conv2'", self.strided_layer in ("conv1", "conv2")),
                ("norm_eps", "positive", self.norm_eps > 0),
                ("norm_decay", "between 0 and 1", 0 <= self.norm_decay <= 1),
                ("norm_variance", "'unbiased' or 'biased'", self.norm_variance in ("unbiased", "biased")),
                ("head_pool", "a positive integer or None", self.head_pool is None or self.head_pool > 0),
                ("dtype", dtypes, self.dtype in (None, *DTYPES)),
                ("compute_dtype", dtypes, self.compute_dtype in (None, *DTYPES)),
            )
            if not fulfilled
        ]
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def variant(self) -> str:
        """Name of the variant that this network belongs to, whatever its size, or "custom"."""
        free = {name: getattr(self, name) for name in FREE_FIELDS}
        return next((name for name, config in VARIANTS.items() if replace(config, **free) == self), "custom")

    def blocks(self) -> Iterator[Block]:
        """Yield the bottleneck blocks in the order they run."""
        in_channels = self.width
        for stage, (depth, stage_stride) in enumerate(zip(self.depths, STAGE_STRIDES, strict=True)):
            channels = self.width * 2**stage
            for index in range(depth):
                yield Block(f"stage{stage + 1}.{index}", in_channels, channels, stage_stride if index == 0 else 1)
                in_channels = channels * EXPANSION

    def check_images(self, shape: Sequence[int | None], axes: Literal["NCHW", "NHWC"]) -> None:
        """Raise an error if the network cannot take a batch of images of this shape.

        Args:
            shape: Four sizes; None stands for a size that is not known yet (a symbolic shape), and passes.
            axes: The layout that the model takes.

        Raises:
            ValueError: If there are not four axes, and as `check_input`.

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
        """Raise an error if the network cannot take an image of this size; None passes, as in `check_images`.

        Raises:
            ValueError: If the channels differ from `in_channels`, or if the head's pooling window does not fit into the
                last feature map exactly once.

        Example:
            >>> VARIANTS["tutorial"].check_input(64, 64, 3)
            Traceback (most recent call last):
            ...
            ValueError: a 64x64 image reaches the 7x7 head pool as a 2x2 map; use height and width from 193 to 416
        """
        if channels is not None and channels != self.in_channels:
            hint = ""
            if height == self.in_channels:
                hint = "; the images seem to be NCHW, and this model takes NHWC: transpose them"
            elif width == self.in_channels:
                hint = "; the images seem to be NHWC, and this model takes NCHW: transpose them"
            raise ValueError(f"the input has {channels} channels where {self.in_channels} are expected{hint}")
        if self.head_pool is None or height is None or width is None:
            return
        window, feature_map = self.head_pool, (feature_size(height), feature_size(width))
        if not all(window <= side < 2 * window for side in feature_map):
            raise ValueError(
                f"a {height}x{width} image reaches the {window}x{window} head pool as a {feature_map[0]}x"
                f"{feature_map[1]} map; use height and width from {(window - 1) * TOTAL_STRIDE + 1} to "
                f"{(2 * window - 1) * TOTAL_STRIDE}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values that JSON can hold."""
        return asdict(self) | {"depths": list(self.depths)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ResNetConfig:
        """Build a configuration from the values that `to_dict` returned.

        Raises:
            ValueError: If a field is missing, unknown, of another type or impossible.

        Example:
            >>> ResNetConfig.from_dict(VARIANTS["keras"].to_dict()) == VARIANTS["keras"]
            True
        """
        known = {field.name: field for field in fields(cls)}
        values = ADDED_FIELDS | values if isinstance(values, dict) else values
        if set(values) != set(known):
            raise ValueError(f"expected the fields {sorted(known)}, got {sorted(values)}")
        types = {name: type(value) for name, value in FULLY_SET.to_dict().items()}
        problems = [
            f"{name} is of type {type(value).__name__}, where {types[name].__name__} is expected"
            for name, value in values.items()
            if type(value) is not types[name] and not (value is None and known[name].default is None)
        ]
        if problems or not all(type(depth) is int for depth in values["depths"]):
            raise ValueError("; ".join(problems) or "depths must be integers")
        return cls(**(values | {"depths": tuple(values["depths"])}))


FREE_FIELDS = (
    *("depths", "width", "num_classes", "in_channels"),
    *("norm_decay", "norm_variance", "zero_init_last_scale"),
    *("dtype", "compute_dtype"),
)
"""Fields in which networks of one variant may differ: size, training and precision."""

ADDED_FIELDS: dict[str, Any] = {"norm_variance": "unbiased"}
"""Fields that older files lack, with the value that holds for those files."""

FULLY_SET = ResNetConfig(head_pool=7, dtype="float32", compute_dtype="float32")
"""A configuration without None: `from_dict` takes the expected types from it."""


@dataclass(frozen=True)
class Block:
    """Name and size of one bottleneck block.

    Attributes:
        name: Attribute path of the block ("stage1.0").
        in_channels: Channels that enter the block.
        channels: Channels of its middle layer.
        stride: Stride of its strided layer and of the shortcut's projection.
    """

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
        """Whether the shortcut is a convolution and a norm (a Conv Block), not the input itself (an Identity Block)."""
        return self.stride != 1 or self.in_channels != self.out_channels


def feature_size(side: int) -> int:
    """Compute the side of the last feature map, in pixels, from that of the image; every layer rounds up."""
    return -(-side // TOTAL_STRIDE)


VARIANTS: dict[str, ResNetConfig] = {
    "tutorial": ResNetConfig(strided_layer="conv1", relu_before_addition=True, head_pool=7),
    "v1": ResNetConfig(strided_layer="conv1"),
    "v1.5": ResNetConfig(),
    "keras": ResNetConfig(strided_layer="conv1", conv_bias=True, norm_eps=1.001e-5),
    "flax": ResNetConfig(same_padding=True),
}
"""Variants by name.

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
    """Return the configuration of a named variant, with other sizes and dtypes on request.

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
