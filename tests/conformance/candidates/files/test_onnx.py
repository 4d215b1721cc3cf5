"""An ONNX file is held against the weights that it was exported from, or against its own where they are whole."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from conformance.cli import main
from conformance.run.candidates.files.onnx import as_written
from conformance.run.candidates.kinds import open_file
from conformance.run.candidates.survey import Unfit
from tests.conformance.candidates import small_ports


def test_without_its_packages_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(Unfit, match=r"needs the packages onnx and onnxruntime \(onnx is missing\): pip install"):
        open_file(str(file), "float32")


def test_an_epsilon_that_was_rounded_to_float32_is_the_one_that_was_written():
    assert [as_written(float(np.float32(eps))) for eps in (1e-5, 1.001e-5, 1e-3)] == [1e-5, 1.001e-5, 1e-3]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A port with statistics of its own, exported with its norms folded and whole; its weights beside it."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is an extra, which this environment does not have")
    pytest.importorskip("onnxscript", reason="PyTorch exports by onnxscript, which this environment does not have")
    folder = tmp_path_factory.mktemp("onnx")
    generator = torch.Generator().manual_seed(0)
    model = small_ports.port()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("weight", "running_var")) and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(0.0, 0.2, generator=generator)
    torch.save(model.state_dict(), folder / "port.pth")
    sizes = {
        0: torch.export.Dim("n"),
        2: torch.export.Dim("h", min=33, max=512),
        3: torch.export.Dim("w", min=33, max=512),
    }
    torch.onnx.export(model.eval(), (torch.randn(2, 3, 64, 96),), folder / "port.onnx", dynamic_shapes={"x": sizes})
    torch.onnx.export(
        model, (torch.randn(2, 3, 64, 96),), folder / "whole.onnx", dynamic_shapes={"x": sizes}, optimize=False
    )
    model.layer3[0].bn2.eps = 1e-3
    torch.onnx.export(model, (torch.randn(1, 3, 64, 96),), folder / "wrong_whole.onnx", optimize=False)
    torch.onnx.export(model, (torch.randn(1, 3, 224, 224),), folder / "wrong.onnx")
    return folder


def check(*arguments):
    done = CliRunner().invoke(main, ["check", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.filterwarnings("ignore")  # the exporter warns of its own deprecations
def test_a_right_file_conforms_in_inference_mode_in_float32(exported):
    weights = ("--weights", exported / "port.pth", "--variant=v1.5")
    code, text = check(exported / "port.onnx", *weights, "--inference")
    assert code == 0, text
    assert "left out: port is not compared in float64: the norms of 29 of its 29 conv" in text
    assert check(exported / "port.onnx", *weights, "--inference", "--precision=float64")[0] == 3
    code, text = check(exported / "wrong.onnx", *weights, "--inference")
    assert code == 1, text
    assert "wrong takes images of 224x224 alone" in text
    assert "its layers are not shown, so that the first wrong one cannot be told" in text


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_whole_norms_is_compared_in_float64_with_its_own_weights(exported):
    code, text = check(exported / "whole.onnx", exported / "wrong_whole.onnx", "--variant=v1.5", "--inference")
    assert code == 1, text
    assert "ONNX file (`.onnx`), its arrays named as in torchvision; v1.5 as given" in text
    assert "wrong_whole diverges (v1.5, float64, inference" in text
    assert "whole diverges" not in text.replace("wrong_whole", "")
    assert "is not compared in float64" not in text


@pytest.mark.filterwarnings("ignore")
def test_folded_norms_are_told(exported):
    code, text = check(exported / "port.onnx", "--variant=v1.5", "--inference")
    assert code == 2
    assert "(an exporter may fold norms into convolutions): give those that it was made from by --weights" in text
    port = open_file(str(exported / "port.onnx"), "float32")
    assert np.isfinite(port(np.zeros((1, 3, 64, 64), np.float32))["linear"]).all()
