"""A program of `torch.export` shows its layers, as an object or from a file; it is fixed to inference mode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conformance.cases.inputs import noise
from conformance.cases.synthetic import synthetic_weights
from conformance.run.candidates.kinds import adapt
from conformance.run.candidates.options import Options
from conformance.run.candidates.survey import Unfit
from impls.config import VARIANTS
from impls.torch import resnet
from tests.conformance.candidates.files.opened import first_difference, opened

pytestmark = pytest.mark.slow  # exporting takes seconds
CONFIG = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=4, num_classes=10)
IMAGES = noise(64, 96, 2, 0).images


def export(model, batch=2, train=False, **arguments):
    return torch.export.export(model.train(train), (torch.randn(batch, 3, 64, 96),), **arguments)


class Converting(torch.nn.Module):
    """Returns logits in the dtype of the images, which an exported program fixes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).to(images.dtype)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Exported programs of our own model: any size, a fixed size, a wrong epsilon; and files that are no program."""
    folder = tmp_path_factory.mktemp("files")
    weights = folder / "weights.safetensors"
    synthetic_weights(CONFIG, seed=0).save(weights)
    model = resnet(CONFIG, weights=weights)
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    torch.export.save(export(model, dynamic_shapes=[sizes]), folder / "right.pt2")
    model.stage2[0].bn2.eps = 1e-3
    torch.export.save(export(model, batch=4), folder / "wrong.pt2")
    torch.export.save(export(Converting(model)), folder / "converting.pt2")
    torch.export.save(export(model, train=True), folder / "train.pt2")
    torch.export.save(export(torch.nn.Conv2d(3, 4, 7)), folder / "other.pt2")
    pair = (torch.randn(3, 2), torch.randn(3, 2))
    torch.export.save(torch.export.export(torch.nn.Bilinear(2, 2, 2), pair), folder / "pair.pt2")
    whole = (folder / "right.pt2").read_bytes()
    (folder / "cut.pt2").write_bytes(whole[: len(whole) // 2])
    return folder


def test_every_layer_of_a_file_is_shown_and_fed(files, tmp_path):
    adapter, oracle, survey = opened(files / "right.pt2", "float64", tmp_path, variant="v1.5")
    assert (survey.sides, survey.batch) == (None, None)
    adapter.examine(IMAGES)
    assert adapter.not_shown == {}
    assert first_difference(adapter, oracle, IMAGES, 1e-12) is None
    assert first_difference(adapter, oracle, noise(65, 97, 1, 0).images, 1e-12) is None
    seen = {}
    adapter.run_tapped(IMAGES, False, lambda name, value: seen.update({name: value}) or np.zeros_like(value))
    assert np.all(seen["stage1.0.conv1"] == 0)
    assert np.array_equal(seen["logits"][0], adapter.canonical_state()["fc.bias"])


def test_a_wrong_layer_is_seen_and_fixed_sizes_are_told(files, tmp_path):
    adapter, oracle, survey = opened(files / "wrong.pt2", "float64", tmp_path, variant="v1.5")
    assert (survey.sides, survey.batch) == ((64, 96), 4)
    assert first_difference(adapter, oracle, noise(64, 96, 4, 0).images, 1e-12) == "stage2.0.bn2"


def test_an_object_is_given_weights_and_a_file_keeps_its_own(files, tmp_path):
    other = synthetic_weights(CONFIG, seed=1)
    other.save(tmp_path / "other.safetensors")
    weights = {"weights": tmp_path / "other.safetensors"}
    adapter, oracle, _ = opened(files / "right.pt2", "float64", tmp_path, variant="v1.5", **weights)
    assert first_difference(adapter, oracle, IMAGES, 1e-12) == "conv1"
    program = adapt(torch.export.load(files / "right.pt2"), Options())
    program.prepare("cpu", "float64")
    program.build(CONFIG, tmp_path / "other.safetensors")
    assert first_difference(program, oracle, IMAGES, 1e-12) is None
    assert program.cannot.keys() == {"train", "steps"}


def test_a_program_that_converts_to_float32_is_not_compared_in_float64(files, tmp_path):
    adapter, _, _ = opened(files / "converting.pt2", "float64", tmp_path, variant="v1.5")
    with pytest.raises(Unfit, match="its logits is float32 where float64 goes in") as error:
        adapter.examine(IMAGES)
    assert error.value.lacks == "float64"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train", r"17 of the 17 norms .* are fixed to train mode: call the module's eval\(\)"),
        ("cut", r"cut.pt2 cannot be read as a program of torch.export"),
        ("pair", "a program of one batch of images is expected; this one takes 2 inputs"),
        ("other", "keeps its weights, and its arrays are not those of a whole network"),
    ],
)
def test_what_cannot_be_compared_says_why(files, tmp_path, name, message):
    with pytest.raises((Unfit, ValueError), match=message):
        opened(files / f"{name}.pt2", "float32", tmp_path, variant="v1.5")
