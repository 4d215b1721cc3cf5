"""The functions that libraries build under the names of this network.

Names decide the spelling, never the function: each row lists what a library builds under the same names, so that a
message can say when which variant is right. A library that only builds functions that no variant has is refused, unless
the caller states one of them in full, by a configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

from impls.config import FREE_FIELDS, VARIANTS, ResNetConfig
from weights_convert.recognition.subtrees import Subtree
from weights_convert.shapes import has_conv_bias


@dataclass(frozen=True)
class Family:
    """The networks that one library builds under certain names.

    Attributes:
        name: The library, and which of its networks.
        dialect: The dialect of the names.
        source: Where the library builds them.
        entry: A regular expression of the end of the network's path.
        beside: A regular expression of a name beside the network, seen from the level above it; empty if nothing needs
            to stand there.
        functions: For each variant that the library builds, when.
        others: The functions that it builds and no variant has, in a sentence; empty if there are none.
        custom: Those of them that a configuration can state, each with the programs that build it.
        conv_bias: Whether its convolutions have biases; None if that does not tell it.
    """

    name: str
    dialect: str
    source: str
    entry: str = ""
    beside: str = ""
    functions: Mapping[str, str] = field(default_factory=dict)
    others: str = ""
    custom: Mapping[str, ResNetConfig] = field(default_factory=dict)
    conv_bias: bool | None = None

    def refusal(self, stated: ResNetConfig | None) -> str:
        """Return the problem with a family none of whose networks is a variant; empty if some are.

        Args:
            stated: The configuration that the caller states; there is no problem if it is one of this family's.
        """
        if self.functions or (stated is not None and any(_same_function(stated, c) for c in self.custom.values())):
            return ""
        return f"it is of {self.name}, in which {self.others}"

    def statements(self, sizes: ResNetConfig) -> str:
        """Return the configurations that would read a network of these sizes, one line each; empty if there are none.

        Example:
            >>> print(FAMILIES[-1].statements(ResNetConfig(num_classes=0)))
            For a network of keras-resnet: load(..., config=ResNetConfig(num_classes=0, strided_layer='conv1', same_padding=True)).
            ResNetConfig is in impls.config.
        """  # noqa: E501 (a message is one line)
        shown = {name: getattr(sizes, name) for name in FREE_FIELDS}
        configs = {programs: replace(config, **shown) for programs, config in self.custom.items()}
        lines = [f"For a network of {who}: load(..., {statement(config)})." for who, config in configs.items()]
        return "\n".join([*lines, *["ResNetConfig is in impls.config."] * bool(lines)])

    @property
    def choices(self) -> str:
        """The conditions under which each variant is right, behind a colon; empty if none is."""
        if not self.functions:
            return ""
        choices = "; or ".join(f"{variant} ({when})" for variant, when in self.functions.items())
        return f"networks of {self.name} are {choices}." + (f" But {self.others}." if self.others else "")

    def matches(self, tree: Subtree, names: Iterable[str]) -> bool:
        """Return whether a network, with all names of its source, is of this family."""
        if tree.dialect.name != self.dialect or (self.entry and not re.search(rf"(^|\.)({self.entry})$", tree.entry)):
            return False
        if self.conv_bias is not None and self.conv_bias != has_conv_bias(tree.canonical.values()):
            return False
        above = re.sub(rf"({self.entry})\.$", "", tree.outer) if self.entry else tree.outer
        return not self.beside or any(
            re.match(self.beside, name.removeprefix(above)) for name in names if name.startswith(above)
        )


def statement(config: ResNetConfig) -> str:
    """Return the argument of `load` that states a configuration.

    Example:
        >>> statement(ResNetConfig(strided_layer="conv1"))
        "config=ResNetConfig(strided_layer='conv1')"
    """
    values = {each.name: getattr(config, each.name) for each in fields(config)}
    changed = {name: value for name, value in values.items() if value != getattr(ResNetConfig, name)}
    return f"config=ResNetConfig({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


def _same_function(stated: ResNetConfig, config: ResNetConfig) -> bool:
    return replace(config, **{name: getattr(stated, name) for name in FREE_FIELDS}) == stated


SAME_POOL = "the max pool pads as SAME does, at even sizes on the right and bottom alone, where v1 pads both sides"
DILATED = "stages 3 and 4 are dilated: a stride of 1 and dilations of 2 and 4, where every variant has a stride of 2"

FAMILIES = (
    Family(
        "torchvision's FCN and DeepLab",
        "torchvision",
        "torchvision/models/segmentation/fcn.py: replace_stride_with_dilation=[False, True, True]",
        entry="backbone",
        beside=r"classifier\.[04]\.",
        others=DILATED,
    ),
    Family(
        "mmsegmentation's networks",
        "torchvision",
        "mmsegmentation, configs/_base_/models: dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)",
        entry="backbone",
        beside=r"decode_head\.",
        others=DILATED,
    ),
    Family(
        "torchvision's detectors (Faster R-CNN and others)",
        "torchvision",
        "torchvision/models/detection/faster_rcnn.py: FrozenBatchNorm2d, and overwrite_eps(model, 0.0) for COCO_V1",
        entry=r"backbone\.body",
        functions={"v1.5": "trained with norms of eps 1e-5, as since pytorch/vision#2933"},
        others="the published COCO_V1 weights, and all from before that, have norms of eps 0, which no variant has",
    ),
    Family(
        "mmpretrain and mmdetection",
        "torchvision",
        "mmpretrain/models/backbones/resnet.py: style",
        entry="backbone",
        beside=r"(head\.fc|neck|rpn_head|bbox_head|roi_head)\.",
        functions={"v1.5": "style='pytorch', the default", "v1": "style='caffe'"},
    ),
    Family(
        "detectron2",
        "detectron2",
        "detectron2/modeling/backbone/resnet.py: stride_in_1x1, dilation",
        functions={
            "v1": "MODEL.RESNETS.STRIDE_IN_1X1 is True, the default",
            "v1.5": "MODEL.RESNETS.STRIDE_IN_1X1 is False",
        },
        others="with MODEL.RESNETS.RES5_DILATION 2 stage 4 is dilated, which no variant has",
    ),
    Family(
        "TF-Slim's resnet_v1",
        "tf-slim",
        "tensorflow/models, research/slim/nets/resnet_v1.py and resnet_utils.py",
        others="stages 1 to 3 stride in their last unit, which in inference equals v1's stride in the first 1x1 "
        f"convolution behind it, and {SAME_POOL}",
        custom={"TF-Slim, in inference": replace(VARIANTS["v1"], same_padding=True)},
    ),
    Family(
        "the ResNet50 of keras-applications until 1.0.6 and of programs that copied it",
        "keras-2",
        "keras-applications, resnet50.py; matterport/Mask_RCNN, mrcnn/model.py",
        others="all norms have an eps of 1e-3, where variant keras has 1.001e-5, and the padding of the max pool "
        "depends on the program",
        custom={
            "keras-applications 1.0.5 and 1.0.6": replace(VARIANTS["keras"], norm_eps=1e-3),
            "Mask R-CNN of matterport": replace(VARIANTS["keras"], norm_eps=1e-3, same_padding=True),
        },
        conv_bias=True,
    ),
    Family(
        "keras-resnet",
        "keras-2",
        "broadinstitute/keras-resnet, keras_resnet/models/_2d.py and blocks/_2d.py",
        others=f"the convolutions stride as in v1, and {SAME_POOL}",
        custom={"keras-resnet": replace(VARIANTS["v1"], same_padding=True)},
        conv_bias=False,
    ),
)
"""Every family; the first that matches counts."""


def family_of(tree: Subtree, names: Iterable[str]) -> Family | None:
    """Return the family that builds a network under such names; None if no row knows one.

    Args:
        tree: The network.
        names: All names of its source.
    """
    names = list(names)
    return next((family for family in FAMILIES if family.matches(tree, names)), None)
