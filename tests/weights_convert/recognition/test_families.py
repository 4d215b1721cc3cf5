"""Names tell the spelling, never the function: what libraries build under the names of this network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.weights_convert.conftest import TINY
from weights_convert import Checkpoint, ConversionError, load
from weights_convert.dialects import DIALECTS
from weights_convert.shapes import expected_shapes

MakeCheckpoint = Callable[..., Checkpoint]


def body(prefix: str, dialect: str = "torchvision") -> dict[str, np.ndarray]:
    """Return a tiny network without a classifier behind a prefix."""
    shapes = {name: shape for name, shape in expected_shapes(TINY).items() if not name.startswith("fc.")}
    written = DIALECTS[dialect].write_names(shapes)
    return {prefix + written[name][0]: np.ones(shape, np.float32) for name, shape in shapes.items()}


def beside(*names: str) -> dict[str, np.ndarray]:
    return {name: np.ones((2, 2), np.float32) for name in names}


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (("classifier.0.weight", "aux_classifier.0.weight"), "torchvision's FCN and DeepLab"),
        (("classifier.0.convs.0.0.weight", "classifier.4.weight"), "torchvision's FCN and DeepLab"),
        (("decode_head.conv_seg.weight",), "mmsegmentation's networks"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"variant": "v1.5"}, {"variant": "v1.5", "entry": "backbone"}])
@pytest.mark.parametrize("prefix", ["", "state_dict."])
def test_a_function_that_no_variant_has_is_refused_by_name(
    names: tuple[str, ...], name: str, options: dict[str, str], prefix: str
):
    arrays = body(f"{prefix}backbone.") | beside(*(prefix + name for name in names))
    with pytest.raises(ConversionError) as refusal:
        load(arrays, **options)
    assert refusal.value.problems[0].startswith(f"it is of {name}, in which stages 3 and 4 are dilated")
    assert refusal.value.advice == ""


@pytest.mark.parametrize("make", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_segmentation_networks_of_torchvision_are_refused(make: str):
    import torch
    from torchvision.models import segmentation

    with torch.device("meta"):
        state = getattr(segmentation, make)(weights=None, weights_backbone=None).state_dict()
    arrays = {name: np.zeros(tensor.shape, np.float32) for name, tensor in state.items()}
    with pytest.raises(ConversionError, match="it is of torchvision's FCN and DeepLab, in which stages 3 and 4 are"):
        load(arrays, variant="v1.5", entry="backbone")


def test_a_detector_of_torchvision_asks_for_the_variant():
    import torch
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    with torch.device("meta"):
        state = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    arrays = {name: np.zeros(tensor.shape, np.float32) for name, tensor in state.items()}
    with pytest.raises(ConversionError, match=r"COCO_V1 weights.* have norms of eps 0, which no variant has"):
        load(arrays, entry="backbone.body")
    found = load(arrays, entry="backbone.body", variant="v1.5")
    assert (found.config.depths, found.config.num_classes) == ((3, 4, 6, 3), 0)
    assert set(found.dropped) >= {"backbone.fpn", "rpn.head", "roi_heads"}


def test_mmpretrain_says_which_style_is_which_variant():
    head = {"head.fc.weight": np.ones((5, 128), np.float32), "head.fc.bias": np.ones(5, np.float32)}
    with pytest.raises(ConversionError, match=r"build v1\.5 \(style='pytorch', the default\); v1 \(style='caffe'\)"):
        load(body("backbone.") | head)
    assert load(body("backbone.") | head, variant="v1").config.num_classes == 5


def test_detectron2_says_which_stride_is_which_variant():
    arrays = body("backbone.bottom_up.", "detectron2") | beside("proposal_generator.rpn_head.conv.weight")
    with pytest.raises(ConversionError, match=r"build v1 \(MODEL\.RESNETS\.STRIDE_IN_1X1 is True"):
        load(arrays, entry="backbone.bottom_up")
    assert load(arrays, entry="bottom_up", variant="v1").dialect is DIALECTS["detectron2"]


def test_a_network_at_the_top_is_of_no_family(checkpoint_of: MakeCheckpoint):
    arrays = checkpoint_of(dialect="torchvision").arrays
    with pytest.raises(ConversionError) as refusal:
        load(arrays)
    assert "Under these names" not in refusal.value.advice
