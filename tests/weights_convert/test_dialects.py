"""The dialects: every name of every network is written and read back, and no two names coincide."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impls.config import ResNetConfig
from weights_convert.dialects import ALIASES, DIALECTS, find_dialect
from weights_convert.naming import CANONICAL_LAYERS, Topology
from weights_convert.shapes import expected_shapes

DEEPEST = (3, 8, 36, 3)

networks = st.builds(
    ResNetConfig,
    depths=st.tuples(*(st.integers(1, depth) for depth in DEEPEST)),
    width=st.integers(1, 4096),
    num_classes=st.integers(0, 30_000),
    in_channels=st.integers(1, 16),
    conv_bias=st.booleans(),
)
each_dialect = pytest.mark.parametrize("name", DIALECTS)


@each_dialect
@given(network=networks)
@settings(max_examples=25, deadline=None)
def test_every_name_is_written_once_and_read_back(name: str, network: ResNetConfig):
    dialect, canonical = DIALECTS[name], list(expected_shapes(network))
    written = dialect.write_names(canonical)
    names = [name for name, _ in written.values()]
    assert len(set(names)) == len(canonical)
    assert dialect.read_names(names) == {name: (plain, rule) for plain, (name, rule) in written.items()}


@each_dialect
def test_every_layer_has_a_row(name: str):
    assert set(DIALECTS[name].layers) == set(CANONICAL_LAYERS)


@pytest.mark.parametrize(
    ("dialect", "name", "canonical"),
    [
        ("torchvision", "layer4.2.bn3.running_var", "stage4.2.bn3.running_var"),
        ("torchvision", "layer1.0.downsample.0.weight", "stage1.0.downsample_conv.weight"),
        ("torchvision", "layer1.0.downsample.1.bias", "stage1.0.downsample_bn.bias"),
        ("flax", "stage2.3.conv2.kernel", "stage2.3.conv2.weight"),
        ("flax", "bn1.scale", "bn1.weight"),
        ("flax", "bn1.mean", "bn1.running_mean"),
        ("keras", "bn1.moving_variance", "bn1.running_var"),
        ("keras", "fc.kernel", "fc.weight"),
        ("keras.applications", "conv1_conv.bias", "conv1.bias"),
        ("keras.applications", "conv2_block1_0_conv.kernel", "stage1.0.downsample_conv.weight"),
        ("keras.applications", "conv5_block3_2_bn.beta", "stage4.2.bn2.bias"),
        ("keras.applications", "predictions.kernel", "fc.weight"),
        ("keras-hub", "stack0_block0_0_conv.kernel", "stage1.0.downsample_conv.weight"),
        ("keras-hub", "stack3_block2_3_bn.moving_mean", "stage4.2.bn3.running_mean"),
        ("transformers", "resnet.embedder.embedder.convolution.weight", "conv1.weight"),
        ("transformers", "resnet.encoder.stages.0.layers.0.shortcut.normalization.bias", "stage1.0.downsample_bn.bias"),
        ("transformers", "resnet.encoder.stages.3.layers.2.layer.0.convolution.weight", "stage4.2.conv1.weight"),
        ("transformers", "classifier.1.weight", "fc.weight"),
        ("transformers-flax", "params.classifier.1.kernel", "fc.weight"),
        (
            "transformers-flax",
            "batch_stats.resnet.encoder.stages.1.layers.3.layer.2.normalization.var",
            "stage2.3.bn3.running_var",
        ),
        ("transformers-tf", "tf_res_net_for_image_classification.classifier.1.kernel", "fc.weight"),
        (
            "transformers-tf",
            "tf_res_net_for_image_classification.resnet.encoder.stages.0.layers.1.layer.0.normalization.gamma",
            "stage1.1.bn1.weight",
        ),
        ("flax-linen", "params.conv_init.kernel", "conv1.weight"),
        ("flax-linen", "batch_stats.bn_init.mean", "bn1.running_mean"),
        ("flax-linen", "params.BottleneckResNetBlock_3.Conv_1.kernel", "stage2.0.conv2.weight"),
        ("flax-linen", "params.BottleneckResNetBlock_15.BatchNorm_2.scale", "stage4.2.bn3.weight"),
        ("flax-linen", "params.BottleneckResNetBlock_7.norm_proj.bias", "stage3.0.downsample_bn.bias"),
        ("tf-slim", "block1.unit_1.bottleneck_v1.shortcut.weights", "stage1.0.downsample_conv.weight"),
        ("tf-slim", "block4.unit_3.bottleneck_v1.conv2.BatchNorm.moving_variance", "stage4.2.bn2.running_var"),
        ("tf-slim", "logits.biases", "fc.bias"),
        ("keras-2", "res2a_branch1.kernel", "stage1.0.downsample_conv.weight"),
        ("keras-2", "bn4f_branch2c.moving_mean", "stage3.5.bn3.running_mean"),
        ("keras-2", "bn_conv1.gamma", "bn1.weight"),
        ("keras-2", "fc1000.kernel", "fc.weight"),
    ],
)
def test_names_are_those_of_the_libraries(dialect: str, name: str, canonical: str):
    reading = DIALECTS[dialect].read_name(name)
    assert reading is not None
    assert reading[0] == canonical
    assert DIALECTS[dialect].write_name(canonical) == (name, reading[1])


@pytest.mark.parametrize(
    ("dialect", "name"),
    [
        ("torchvision", "layer0.0.conv1.weight"),
        ("torchvision", "layer5.0.conv1.weight"),
        ("torchvision", "layer1.01.conv1.weight"),
        ("torchvision", "layer1.0.conv4.weight"),
        ("torchvision", "layer1.0.conv1.kernel"),
        ("torchvision", "layer1x0.conv1.weight"),
        ("torchvision", "module.conv1.weight"),
        ("torchvision", "conv1.weight.old"),
        ("torchvision", "conv1"),
        ("torchvision", ""),
        ("keras.applications", "conv1_block1_1_conv.kernel"),
        ("keras.applications", "conv2_block0_1_conv.kernel"),
        ("keras.applications", "conv2_block1_1_bn.scale"),
        ("canonical", "stage1.٣.conv1.weight"),
        ("transformers", "encoder.encoder.stages.0.layers.0.layer.0.convolution.weight"),
        ("transformers", "resnet.encoder.stages.4.layers.0.layer.0.convolution.weight"),
        ("flax-linen", "params.bn_init.mean"),
        ("flax-linen", "batch_stats.bn_init.scale"),
        ("flax-linen", "bn_init.scale"),
        ("flax-linen", "params.ResNetBlock_0.Conv_0.kernel"),
        ("tf-slim", "block1.unit_0.bottleneck_v1.conv1.weights"),
        ("tf-slim", "block1.unit_1.bottleneck_v2.conv1.weights"),
        ("keras-2", "res2a_branch2d.kernel"),
        ("keras-2", "res4b1_branch2a.kernel"),
        ("keras-2", "res6a_branch2a.kernel"),
    ],
)
def test_other_names_are_not_read(dialect: str, name: str):
    assert DIALECTS[dialect].read_name(name) is None


@each_dialect
@pytest.mark.parametrize("canonical", ["stage5.0.conv1.weight", "conv1.kernel", "fc", "stage1.0.conv1.running_mean"])
def test_a_name_that_is_not_canonical_is_not_written(name: str, canonical: str):
    with pytest.raises(KeyError, match=canonical):
        DIALECTS[name].write_name(canonical)


@pytest.mark.parametrize("dialect", ["transformers", "transformers-flax", "transformers-tf"])
def test_transformers_names_a_network_without_classifier_otherwise(dialect: str):
    with_head, headless = (names_of(dialect, expected_shapes(ResNetConfig(num_classes=classes))) for classes in (10, 0))
    assert not set(with_head) & set(headless)
    assert DIALECTS[dialect].read_names(headless).keys() == set(headless)
    body = [name for name in with_head if "classifier.1" not in name]
    assert DIALECTS[dialect].read_names(body).keys() == set(body)  # ResNetModel reads its weights from such a file, too


def names_of(dialect: str, canonical: Iterable[str]) -> list[str]:
    """Return the names of a dialect for canonical names."""
    return [name for name, _ in DIALECTS[dialect].write_names(canonical).values()]


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_blocks_counted_through_all_stages_are_placed_by_their_projections(data: st.DataObject):
    network = ResNetConfig(depths=data.draw(st.tuples(*(st.integers(1, depth) for depth in DEEPEST))))
    names = names_of("flax-linen", expected_shapes(network))
    shuffled = data.draw(st.permutations(names[:40])) + names[40:]
    readings = DIALECTS["flax-linen"].read_names(shuffled).values()
    assert Topology.from_names(canonical for canonical, _ in readings) == Topology(network.depths)


def test_a_block_without_a_projection_before_it_is_not_read():
    assert DIALECTS["flax-linen"].read_names(["params.BottleneckResNetBlock_0.Conv_0.kernel"]) == {}


def test_only_pytorchs_count_of_batches_is_dropped():
    counter = "layer1.0.bn1.num_batches_tracked"
    assert "count of training batches" in (DIALECTS["torchvision"].why_dropped(counter) or "")
    assert DIALECTS["torchvision"].why_dropped("layer1.0.bn1.weight") is None
    assert DIALECTS["keras"].why_dropped(counter) is None


def test_dialects_are_found_by_name_and_alias():
    assert [find_dialect(name) for name in DIALECTS] == list(DIALECTS.values())
    assert find_dialect("torch") is DIALECTS["canonical"]
    assert not set(ALIASES) & set(DIALECTS)
    with pytest.raises(ValueError, match=r"no dialect 'caffe'; the dialects are canonical, .*torch"):
        find_dialect("caffe")
