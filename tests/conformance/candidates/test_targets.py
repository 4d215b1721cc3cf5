"""Targets: what they say, which variant it is held against, and how its arrays are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.run.candidates.naming import NamingError, read_names
from conformance.run.candidates.survey import Survey
from conformance.run.candidates.targets import TargetError, parse_target
from conformance.run.candidates.variants import VariantError, find_variant, follow_convention
from impls.config import VARIANTS
from weights_convert.dialects import DIALECTS
from weights_convert.shapes import expected_shapes

HERE = Path(__file__).parent
NOTHING = Survey("PyTorch module", "torch", {})


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("a.b:c", ("c", "a.b", "c", (), {})),
        ("mine=./dir/port.py:make.model()", ("mine", "./dir/port.py", "make.model", (), {})),
        ("a:f(1, x='y:z=(', depths=(3, 4))", ("f", "a", "f", (1,), {"x": "y:z=(", "depths": (3, 4)})),
        ("m.onnx", ("m", "m.onnx", "", (), {})),
        ("x=dir/m.onnx", ("x", "dir/m.onnx", "", (), {})),
    ],
)
def test_a_target_is_read(text, fields):
    target = parse_target(text)
    assert (target.name, target.module, target.factory, target.arguments, target.keywords) == fields


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a:",
        ":b",
        "a:b(",
        "a:b(**{})",
        "a:b(*(1,))",
        "a:b(__import__('os'))",
        "a:b(c)",
        "a:b(1)(2)",
        "a:b(f'{1}')",
    ],
)
def test_what_is_none_is_refused_and_nothing_is_evaluated(text):
    with pytest.raises(TargetError):
        parse_target(text)


@pytest.mark.parametrize(
    "text",
    [
        "torchvision.models:resnet50",
        "torchvision.models:resnet50(num_classes=10, zero_init_residual=True)",
        "timm:create_model('resnet50.a1_in1k', pretrained=False)",
        "timm.models:resnet50(in_chans=1)",
    ],
)
def test_v15_is_assumed_of_two_libraries_own_resnet50(text):
    config, known_by = find_variant(None, parse_target(text), NOTHING)
    assert config == VARIANTS["v1.5"]
    assert known_by.startswith("assumed: ")


@pytest.mark.parametrize(
    "text",
    [
        "torchvision.models:resnet50(replace_stride_with_dilation=[False, False, True])",
        "torchvision.models:resnet50(norm_layer=None)",
        "torchvision.models:resnet101",
        "torchvision.models:wide_resnet50_2",
        "timm:create_model('resnet50d')",
        "timm:create_model('resnet50', output_stride=16)",
        "timm:create_model('resnet50', drop_rate=0.1)",
        "mine:resnet50",
    ],
)
def test_of_anything_else_the_variant_is_asked_for(text):
    with pytest.raises(VariantError, match="give --variant"):
        find_variant(None, parse_target(text), NOTHING)
    assert find_variant("v1", parse_target(text), NOTHING)[0] == VARIANTS["v1"]


def test_a_models_own_configuration_tells_its_variant():
    ours = Survey("NNX module", "flax", {}, facts=VARIANTS["flax"].to_dict())
    assert find_variant(None, None, ours)[0] == VARIANTS["flax"]
    assert follow_convention(VARIANTS["flax"], ours) == (VARIANTS["flax"], "")


def test_a_library_is_followed_in_train_mode_within_what_its_models_do():
    config, words = follow_convention(VARIANTS["keras"], Survey("Keras model", "keras", {}, decay=0.99))
    assert (config.norm_decay, config.norm_variance) == (0.99, "biased")
    assert words == "Keras's own running statistics: decay 0.99, biased variance"
    odd, _ = follow_convention(VARIANTS["keras"], Survey("Keras model", "keras", {}, decay=0.5))
    assert odd.norm_decay == 0.99
    assert follow_convention(VARIANTS["v1.5"], NOTHING) == (VARIANTS["v1.5"], "")


@pytest.mark.parametrize("prefix", ["", "module.", "net.backbone."])
@pytest.mark.parametrize("dialect", ["torchvision", "canonical", "transformers", "flax", "keras.applications"])
def test_every_array_of_a_dialect_is_recognised_behind_a_prefix(dialect, prefix):
    spoken = DIALECTS[dialect]
    written = spoken.write_names(expected_shapes(VARIANTS["v1.5"]))
    names = {f"{prefix}{name}": canonical for canonical, (name, _) in written.items()}
    naming = read_names(names, spoken.framework)
    assert naming.canonical_names() == names
    assert naming.unread == ()


PATTERNS = (HERE / "renamed.toml").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have one table"),
        ("[layers]\nconv1 = 1\n", "no text"),
        ("[layers\n", "cannot be read"),
        (PATTERNS.replace('conv1 = "first"\n', ""), "'conv1' has no path"),
        (PATTERNS.replace("{stage0}.{block}.conv{k}", "{stage0}.conv{k}"), "must have a placeholder for each of block"),
        (PATTERNS.replace("{stage0}.{block}.bn{k}", "{floor}.{block}.bn{k}"), "unknown placeholder {floor}"),
        (PATTERNS + 'fc2 = "x"\n', "'fc2' is no layer of the network"),
        (PATTERNS.replace('fc = "head"\n', ""), "none of its paths leads to head"),
        (PATTERNS.replace('bn1 = "first_norm"', 'bn1 = "elsewhere"'), "none of its paths leads to first_norm"),
    ],
)
def test_a_file_of_patterns_must_be_total_and_one_to_one(text, message, tmp_path):
    from tests.conformance.candidates.small_ports import renamed

    file = tmp_path / "names.toml"
    names = list(renamed().state_dict())
    file.write_text(PATTERNS)
    counters = {name for name in names if name.endswith("num_batches_tracked")}
    assert set(read_names(names, "torch", file).arrays) == set(names) - counters
    file.write_text(text)
    with pytest.raises(NamingError, match=message):
        read_names(names, "torch", file)
