"""Names tell the spelling, never the function: what libraries build under the names of this network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from impls.config import VARIANTS, ResNetConfig
from tests.weights_convert.conftest import TINY
from weights_convert import Checkpoint, ConversionError, load
from weights_convert.dialects import DIALECTS, WRITTEN
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


def test_a_configuration_beside_a_dilated_network_does_not_make_it_a_variant(tmp_path: Path):
    save_file(body("backbone.") | beside("classifier.0.weight"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50"}))
    with pytest.raises(ConversionError, match="it is of torchvision's FCN and DeepLab"):
        load(tmp_path, entry="backbone")


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
    with pytest.raises(ConversionError, match=r"are v1\.5 \(style='pytorch', the default\); or v1 \(style='caffe'\)"):
        load(body("backbone.") | head)
    assert load(body("backbone.") | head, variant="v1").config.num_classes == 5


def test_detectron2_says_which_stride_is_which_variant():
    arrays = body("backbone.bottom_up.", "detectron2") | beside("proposal_generator.rpn_head.conv.weight")
    with pytest.raises(ConversionError, match=r"are v1 \(MODEL\.RESNETS\.STRIDE_IN_1X1 is True"):
        load(arrays, entry="backbone.bottom_up")
    assert load(arrays, entry="bottom_up", variant="v1").dialect is DIALECTS["detectron2"]


OTHER_FUNCTIONS = {
    "TF-Slim": ("tf-slim", "resnet_v1_50.", replace(VARIANTS["v1"], same_padding=True)),
    "keras-applications 1.0.5": ("keras-2", "", replace(VARIANTS["keras"], norm_eps=1e-3)),
    "keras-applications as Mask R-CNN copied it": (
        "keras-2",
        "mask.",
        replace(VARIANTS["keras"], norm_eps=1e-3, same_padding=True),
    ),
    "keras-resnet": ("keras-2", "", replace(VARIANTS["v1"], same_padding=True)),
}
"""Libraries that build no variant under their names: dialect, a prefix, and the function that they build."""


def written_by(library: str) -> tuple[dict[str, np.ndarray], ResNetConfig]:
    """Return a tiny network under the names of a library, and the configuration of its function."""
    dialect, prefix, function = OTHER_FUNCTIONS[library]
    config = replace(function, **{name: getattr(TINY, name) for name in ("depths", "width", "num_classes")})
    shapes = expected_shapes(config)
    canonical = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    arrays = Checkpoint(canonical, DIALECTS["canonical"], config).to(dialect).arrays
    return {prefix + name: array for name, array in arrays.items()}, config


@pytest.mark.parametrize("library", OTHER_FUNCTIONS)
@pytest.mark.parametrize("options", [{}, *({"variant": variant} for variant in VARIANTS)], ids=str)
def test_a_library_that_builds_no_variant_is_refused_whatever_the_variant(library: str, options: dict[str, str]):
    arrays, config = written_by(library)
    with pytest.raises(ConversionError) as refusal:
        load(arrays, **options)
    (problem,) = refusal.value.problems
    assert library.split()[0] in problem
    stated = re.findall(r"load\(\.\.\., config=(ResNetConfig\(.*\))\)\.", refusal.value.advice)
    assert config in [eval(call, {"ResNetConfig": ResNetConfig}) for call in stated]


@pytest.mark.parametrize("library", OTHER_FUNCTIONS)
def test_a_configuration_that_states_the_function_of_a_library_reads_its_network(library: str):
    arrays, config = written_by(library)
    checkpoint = load(arrays, config=config)
    assert (checkpoint.config, checkpoint.dialect.name) == (config, OTHER_FUNCTIONS[library][0])
    assert checkpoint.to("canonical").arrays.keys() == expected_shapes(config).keys()
    for changed in ({"norm_eps": 2e-3}, {"strided_layer": "conv2"}, {"relu_before_addition": True}):
        with pytest.raises(ConversionError, match="it is of "):
            load(arrays, config=replace(config, **changed))


@pytest.mark.parametrize("dialect", sorted(DIALECTS.keys() - WRITTEN.keys()))
def test_names_of_a_library_that_builds_no_variant_are_not_written(
    dialect: str, checkpoint_of: MakeCheckpoint, tmp_path: Path
):
    with pytest.raises(ConversionError, match=f"{dialect} is read only: its library builds no variant"):
        checkpoint_of(dialect=dialect).save(tmp_path / "a.safetensors")


def test_averages_of_tf_slim_lie_beside_the_last_weights():
    arrays, config = written_by("TF-Slim")
    averages = {f"{name}.ExponentialMovingAverage": array + 1 for name, array in arrays.items()}
    slots = {"resnet_v1_50.conv1.weights.Momentum": np.ones(3, np.float32), "global_step": np.ones((), np.int64)}
    checkpoint = load(arrays | averages | slots, config=config)
    assert set(np.concatenate([array.ravel() for array in checkpoint.arrays.values()])) == {1.0}
    assert set(checkpoint.dropped.values()) == {
        "averaged weights, beside the last ones",
        "the state of the optimizer",
        "a count of the training loop",
    }


def test_a_network_at_the_top_is_of_no_family(checkpoint_of: MakeCheckpoint):
    arrays = checkpoint_of(dialect="torchvision").arrays
    with pytest.raises(ConversionError) as refusal:
        load(arrays)
    assert "networks of" not in refusal.value.advice
