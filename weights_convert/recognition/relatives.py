"""Networks that are related to this one and are not it, each told in one line instead of 200 wrong arrays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from impls.config import EXPANSION
from weights_convert.shapes import Shape

FEWEST = 4
"""The number of names that a pattern must match; every relative has its mark in each of the four stages."""


@dataclass(frozen=True)
class Relative:
    """A network that is told by its names, or by the shapes of its convolutions.

    Attributes:
        name: What it is, and how it differs.
        names: A regular expression that some of its names contain; empty if its shapes tell.
        shapes: Tells from the shapes by canonical name; None if its names do.
        source: Who builds it so.
    """

    name: str
    names: str = ""
    shapes: Callable[[Mapping[str, Shape]], bool] | None = None
    source: str = ""

    def matches(self, names: Iterable[str], shapes: Mapping[str, Shape]) -> bool:
        """Return whether names, and shapes by canonical name, are those of this network."""
        if self.shapes is not None:
            return self.shapes(shapes)
        return sum(bool(re.search(self.names, name)) for name in names) >= FEWEST


def _all_of(shapes: Mapping[str, Shape], layer: str, holds: Callable[[Shape, str], bool]) -> bool:
    """Return whether something holds for a convolution in every block; False if no block has it."""
    pattern = rf"(stage\d\.\d+)\.{layer}\.weight"
    found = [(shape, match[1]) for name, shape in shapes.items() if (match := re.fullmatch(pattern, name))]
    return bool(found) and all(len(shape) == 4 and holds(shape, block) for shape, block in found)


def _has_basic_blocks(shapes: Mapping[str, Shape]) -> bool:
    return not any(".conv3." in name for name in shapes) and _all_of(
        shapes, "conv1", lambda shape, block: shape[2:] == (3, 3)
    )


def _is_grouped(shapes: Mapping[str, Shape]) -> bool:
    return _all_of(shapes, "conv2", lambda shape, block: shape[1] < shape[0])


def _is_wide(shapes: Mapping[str, Shape]) -> bool:
    """Return whether the middle of each block has more than a quarter of the channels that leave it."""

    def holds(shape: Shape, block: str) -> bool:
        wide = shapes.get(f"{block}.conv3.weight", (0,))[0] < shape[0] * EXPANSION
        return wide and shape[0] == shape[1]

    return _all_of(shapes, "conv2", holds)


def _has_no_statistics(shapes: Mapping[str, Shape]) -> bool:
    norms = [name for name in shapes if re.search(r"bn\d\.weight$", name)]
    return len(norms) >= FEWEST and not any("running" in name for name in shapes)


RELATIVES = (
    Relative(
        "a ResNet-101 or -152 with Caffe's numbered names (res4b1_branch2a)",
        r"res[2-5]b\d+_branch2[abc]",
        source="broadinstitute/keras-resnet, keras_resnet/blocks/_2d.py: numerical_name",
    ),
    Relative(
        "a pre-activation ResNet (v2), whose norms stand before the convolutions",
        r"preact_bn|stages\.\d\.blocks\.\d+\.norm[123]\.|block\d+[./]unit_?\d+[./](bottleneck_v2|a[./]standardized)|preact",
        source="timm resnetv2_50, keras.applications.ResNet50V2, TF-Slim resnet_v2, Big Transfer",
    ),
    Relative(
        "a quantized network",
        r"\.(zero_point|_packed_params.*)$|activation_post_process|fake_quant",
        source="torchvision.models.quantization.resnet50",
    ),
    Relative("a ResNet with efficient channel attention (ECA)", r"layer\d\.\d+\.(se|eca)\.conv\.weight", source="timm"),
    Relative("a ResNet with squeeze-and-excitation (SE)", r"\.se(_module)?\.(fc|conv|excitation)", source="timm"),
    Relative("a ResNeSt (split attention)", r"layer\d\.\d+\.conv2\.(conv|radix|fc1)\b", source="timm resnest50d"),
    Relative("a Res2Net", r"layer\d\.\d+\.convs\.\d+\.", source="timm res2net50_26w_4s"),
    Relative(
        "CLIP's ResNet, with a deep stem and an attention pool",
        r"attnpool\.|stages\.\d\.\d+\.conv2_kxk\.",
        source="openai/CLIP, timm resnet50_clip",
    ),
    Relative(
        "a ResNet-D or -C, with a deep stem of three 3x3 convolutions",
        r"^(conv1|stem)\.[0-7]\.(weight|bias|running_mean|running_var)$",
        source="timm resnet50d, mmpretrain ResNetV1d",
    ),
    Relative("a ResNet of basic blocks, such as ResNet-18 or ResNet-34", shapes=_has_basic_blocks),
    Relative("a ResNeXt, with grouped convolutions", shapes=_is_grouped),
    Relative("a wide ResNet, whose blocks are wider in the middle", shapes=_is_wide),
    Relative("a ResNet whose norms keep no running statistics, such as group norms", shapes=_has_no_statistics),
)
"""Every relative; the first that matches is named."""


def relative_of(names: Iterable[str], shapes: Mapping[str, Shape]) -> str | None:
    """Return the problem that arrays belong to a related network; None if they belong to none.

    Args:
        names: The names behind the prefix at which a network begins.
        shapes: The shapes, in PyTorch's order of axes, by canonical name, as far as the names are known.

    Example:
        >>> relative_of([], {f"stage{stage}.0.conv2.weight": (128, 4, 3, 3) for stage in (1, 2, 3, 4)})
        'it is a ResNeXt, with grouped convolutions, which is none of the networks of this project'
    """
    names = list(names)
    relative = next((row for row in RELATIVES if row.matches(names, shapes)), None)
    return None if relative is None else f"it is {relative.name}, which is none of the networks of this project"
