"""`conformance map` proposes path patterns that read every array once, and leaves to the person what is ambiguous."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from conformance.cli import main
from conformance.proposing import Mapped, write_proposal
from conformance.run.candidates.kinds import adapt
from conformance.run.candidates.mapping import propose
from conformance.run.candidates.naming import NamingError, collections_of, parse_patterns, read_as, read_names
from conformance.run.candidates.options import Options
from impls.config import VARIANTS
from weights_convert.dialects import DIALECTS
from weights_convert.shapes import expected_shapes
from weights_convert.table import permutation

HERE = Path(__file__).parent
SMALL = replace(VARIANTS["v1.5"], depths=(1, 2, 1, 1), width=4, num_classes=10)


def shapes_in(dialect, config=SMALL):
    """Shapes of the arrays of a network as a dialect names and orders them, and their canonical names."""
    spoken, shapes = DIALECTS[dialect], expected_shapes(config)
    written = spoken.write_names(shapes)
    orders = {
        name: permutation(rule.leaf("torch").axes, rule.leaf(spoken.framework).axes) for name, rule in written.values()
    }
    names = {name: canonical for canonical, (name, _) in written.items()}
    return {name: tuple(shapes[names[name]][axis] for axis in orders[name]) for name in names}, names


def renamed(rename, framework="torch", config=SMALL):
    """Shapes under names that a function makes of those of torchvision, and their canonical names."""
    shapes, names = shapes_in("torchvision" if framework == "torch" else "flax", config)
    return {rename(name): shape for name, shape in shapes.items()}, {rename(n): known for n, known in names.items()}


def read(proposal, shapes, framework):
    """The canonical name of every array by the proposed file."""
    dialect = parse_patterns(proposal.to_toml(), "names.toml", framework, collections_of(shapes))
    return read_as(shapes, dialect, "").canonical_names()


@pytest.mark.parametrize("order", [list, sorted], ids=["as defined", "sorted"])
@pytest.mark.parametrize(
    "dialect", ["torchvision", "transformers", "detectron2", "keras.applications", "keras-hub", "flax-linen", "keras-2"]
)
def test_a_proposal_reads_what_the_dialect_reads(dialect, order):
    config = replace(SMALL, conv_bias=dialect == "keras.applications")
    shapes, names = shapes_in(dialect, config)
    shapes = {name: shapes[name] for name in order(shapes)}
    framework = DIALECTS[dialect].framework
    assert read(propose(shapes, framework), shapes, framework) == names


def sequential(name):
    """A block is one sequence: convolutions are its layers 0, 3 and 6, and norms 1, 4 and 7."""
    name = re.sub(r"\.conv([123])\.", lambda m: f".residual.{3 * int(m[1]) - 3}.", name)
    name = re.sub(r"\.bn([123])\.", lambda m: f".residual.{3 * int(m[1]) - 2}.", name)
    return re.sub(r"layer(\d)", lambda m: f"conv{int(m[1]) + 1}_x", name)


def lettered(name):
    """The norms of a block are told apart by letters."""
    return re.sub(r"\.bn([123])\.", lambda m: f".norm_{'xyz'[int(m[1]) - 1]}.", name)


def test_norms_of_one_shape_are_told_apart_by_the_order_of_definition_or_left_to_the_person():
    shapes, names = renamed(lettered)
    assert read(propose(shapes, "torch"), shapes, "torch") == names
    shapes, _ = renamed(lettered, "flax")
    proposal = propose(dict(sorted(shapes.items())), "flax")
    assert not proposal.whole
    norms = ["stage{stage}.{block}.norm_x", "stage{stage}.{block}.norm_y"]
    assert {name: sorted(patterns) for name, patterns in proposal.ambiguous.items()} == {
        "stage{stage}.{block}.bn1": norms,
        "stage{stage}.{block}.bn2": norms,
    }
    text = proposal.to_toml()
    assert '# "stage{stage}.{block}.bn1" = "stage{stage}.{block}.norm_y"' in text
    with pytest.raises(NamingError, match=r"'stage\{stage\}.\{block\}.bn\{k\}' has no path"):
        parse_patterns(text, "names.toml", "flax", ("", ""))


def caffe_like(name):
    """Blocks and their convolutions are told by letters."""
    name = re.sub(
        r"layer(\d)\.(\d)\.conv(\d)", lambda m: f"res{int(m[1]) + 1}{'abc'[int(m[2])]}.{'abc'[int(m[3]) - 1]}", name
    )
    return re.sub(r"layer(\d)\.(\d)\.", lambda m: f"res{int(m[1]) + 1}{'abc'[int(m[2])]}.", name)


@pytest.mark.parametrize(
    ("spelling", "convolution", "norm"),
    [
        (
            sequential,  # no number tells a block's layers apart: each has a line of its own
            ("stage{stage}.{block}.conv2", "conv{stage1}_x.{block}.residual.3"),
            ("stage{stage}.{block}.bn2", "conv{stage1}_x.{block}.residual.4"),
        ),
        (
            caffe_like,
            ("stage{stage}.{block}.conv{k}", "res{stage1}{block_letter}.{k_letter}"),
            ("stage{stage}.{block}.bn{k}", "res{stage1}{block_letter}.bn{k}"),
        ),
    ],
)
def test_blocks_and_layers_are_told_by_numbers_and_letters(spelling, convolution, norm):
    shapes, names = renamed(spelling)
    proposal = propose(shapes, "torch")
    assert {convolution, norm} <= {*proposal.layers.items()}
    assert read(proposal, shapes, "torch") == names


def test_what_no_pattern_describes_is_listed_with_layers_of_its_shapes():
    shapes, _ = renamed(lambda name: re.sub(r"layer(\d)\.\d\.conv2", lambda m: f"middle_{'abcd'[int(m[1]) - 1]}", name))
    one_block = {name: shape for name, shape in shapes.items() if ".1.conv" not in name}
    proposal = propose(one_block | {"middle_b2.weight": (8, 8, 3, 3)}, "torch")
    assert "middle_a" in proposal.missing["stage{stage}.{block}.conv2"]


def test_arrays_of_another_network_are_refused():
    with pytest.raises(NamingError, match="not those of a bottleneck ResNet: 0 kernels of 7x7, 1 linear layers"):
        propose({"a.weight": (3, 4)}, "torch")
    with pytest.raises(
        NamingError, match=r"1 arrays are none of a convolution, norm or linear layer of torch: a.kernel"
    ):
        propose({"a.kernel": (3, 4)}, "torch")


def nnx_port():
    from tests.conformance.candidates.nnx_port import Port

    return Port(width=4), Options()


def linen_example():
    from tests.weights_convert.linen_example import ResNet50

    return ResNet50(num_classes=10), Options()


def keras_model():
    from impls.keras import resnet

    return resnet(replace(SMALL, dtype="float32"), seed=0), Options()


@pytest.mark.slow
@pytest.mark.parametrize("make", [nnx_port, linen_example, keras_model])
def test_the_arrays_of_other_frameworks_are_mapped_as_they_list_them(make):
    survey = adapt(*make()).survey()
    proposal = propose(survey.shapes, survey.framework)
    expected = read_names(survey.shapes, survey.framework).canonical_names()
    assert read(proposal, survey.shapes, survey.framework) == expected


def test_the_command_writes_the_file(tmp_path):
    out = tmp_path / "names.toml"
    done = CliRunner().invoke(main, ["map", f"{HERE / 'small_ports.py'}:renamed", "--out", str(out)])
    assert (done.exit_code, f"{out}: 7 patterns" in done.output) == (0, True), done.output
    files = (out, HERE / "renamed.toml")
    written, by_hand = (parse_patterns(file.read_text(), "", "torch", ("", "")) for file in files)
    assert written.layers == by_hand.layers
    shapes, _ = shapes_in("torchvision")
    mapped = Mapped("mine", "PyTorch module", proposal=propose(shapes, "torch"))
    assert write_proposal(mapped, mapped.proposal, None).startswith("# Paths of the layers of mine, a PyTorch module,")
    with pytest.raises(ValueError, match=r"names.toml: it cannot be written: File exists"):
        write_proposal(mapped, mapped.proposal, out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("small_ports.py:port", 0, "port: its arrays are named as in torchvision; no file is needed"),
        ("small_ports.py:failing", 3, "could not be loaded: failing raised ValueError: no such size"),
        ("small_ports.py:predict", 2, "it shows no weights, so there is nothing to map"),
    ],
)
def test_a_target_that_cannot_be_mapped_says_why(target, code, message):
    done = CliRunner().invoke(main, ["map", f"{HERE}/{target}"])
    assert done.exit_code == code
    assert message in " ".join(done.output.split())
