"""The functions that libraries build under the names of this network.

Names decide the spelling, never the function: each row lists what a library builds under the same names, so that a
message can say when which variant is right. A library that only builds a function that no variant has is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from weights_convert.recognition.subtrees import Subtree


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
    """

    name: str
    dialect: str
    source: str
    entry: str = ""
    beside: str = ""
    functions: Mapping[str, str] = field(default_factory=dict)
    others: str = ""

    @property
    def refusal(self) -> str:
        """The problem with a family none of whose networks is a variant; empty if some are."""
        return "" if self.functions else f"it is of {self.name}, in which {self.others}"

    @property
    def advice(self) -> str:
        """The conditions under which each variant is right, in a sentence; empty if none is."""
        if not self.functions:
            return ""
        choices = "; ".join(f"{variant} ({when})" for variant, when in self.functions.items())
        return f"Under these names, {self.name} build {choices}." + (f" But {self.others}." if self.others else "")

    def matches(self, tree: Subtree, names: Iterable[str]) -> bool:
        """Return whether a network, with all names of its source, is of this family."""
        if tree.dialect.name != self.dialect or (self.entry and not re.search(rf"(^|\.)({self.entry})$", tree.entry)):
            return False
        above = re.sub(rf"({self.entry})\.$", "", tree.outer) if self.entry else tree.outer
        return not self.beside or any(
            re.match(self.beside, name.removeprefix(above)) for name in names if name.startswith(above)
        )


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
