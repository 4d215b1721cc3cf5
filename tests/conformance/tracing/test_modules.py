"""Any network is recorded and held against another one by a map of names: the first wrong layer, noise or bug."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import conformance as package
from conformance.cli import main
from conformance.trace import TraceError
from conformance.tracing.modules import ModuleRecording


class Network(nn.Module):
    """A network that is no ResNet: an activation in place, a module that is called twice, and several outputs."""

    def __init__(self, first="first", kernel=3, slope=0.1):
        super().__init__()
        self.entry = first
        self.add_module(first, nn.Conv2d(3, 16, 3))
        self.act = nn.LeakyReLU(slope, inplace=True)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 32, kernel, padding=kernel // 2)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.act(self.norm(getattr(self, self.entry)(x)))
        x = self.act(self.second(x))
        pooled = x.mean((2, 3))
        return {"logits": self.head(pooled), "pooled": pooled}


def network(seed=0, **options):
    torch.manual_seed(seed)
    return Network(**options).eval()


IMAGES = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 24, 24)).astype(np.float32))


def record(model, path, dtype=torch.float64, **options):
    with package.recording(model.to(dtype), path, **options):
        model(IMAGES.to(dtype))
    return path


@pytest.fixture
def reference(tmp_path):
    return record(network(), tmp_path / "reference.trace")


def test_every_module_is_recorded_as_it_was_before_anything_in_place(reference):
    loaded = ModuleRecording.load(reference)
    assert list(loaded.shapes) == [
        *("input", "first", "norm", "act", "second", "act#2", "head"),
        *("output.logits", "output.pooled"),
    ]
    assert loaded.arrays["act"].min() == pytest.approx(0.1 * loaded.arrays["norm"].min())
    np.testing.assert_array_equal(loaded.arrays["input"], IMAGES.double().numpy())


def test_the_same_network_conforms_and_leaves_no_hook(reference, tmp_path):
    model = network()
    other = record(model, tmp_path / "other.trace", small=True)
    report = package.compare_traces(reference, other)
    assert report.conforms, report
    assert "float64: the same mathematics" in str(report)
    assert len(report.verdicts) == 8
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert other.stat().st_size < reference.stat().st_size / 3


def test_a_bug_is_placed_and_noise_is_told_from_it_in_float32(reference, tmp_path):
    noise = record(network(), tmp_path / "noise.trace", torch.float32)
    summed = record(network().to(memory_format=torch.channels_last), tmp_path / "summed.trace", torch.float32)
    wrong = network()
    wrong.norm.eps = 1e-3
    for dtype, name in ((torch.float64, "wrong64.trace"), (torch.float32, "wrong32.trace")):
        report = package.compare_traces(reference, record(wrong, tmp_path / name, dtype), noise=noise)
        assert report.first_divergence == "norm"
        assert "first diverging layer: norm: " in str(report)
    assert "in float32: a bug" in str(report)
    report = package.compare_traces(reference, summed, noise=noise)
    assert report.conforms, report
    assert "float32: noise" in str(report)
    report = package.compare_traces(reference, summed)
    assert report.verdict == "incomplete"
    assert "not judged: summed.trace is float32: a run of the reference in that precision shows its noise" in str(
        report
    )


def test_names_are_mapped_by_a_file(reference, tmp_path):
    other = record(network(first="stem"), tmp_path / "other.trace")
    (tmp_path / "map.toml").write_text('[names]\nfirst = "stem"\nhead = "head"\n"output.logits" = "output.logits"\n')
    done = CliRunner().invoke(main, ["compare", str(reference), str(other), "--names", str(tmp_path / "map.toml")])
    assert done.exit_code == 0, done.output
    assert "3 arrays are compared; 5 of the reference have no counterpart" in done.output
    (tmp_path / "map.toml").write_text('[names]\nfirst = "stem"\nhead = "second"\n')
    done = CliRunner().invoke(main, ["compare", str(reference), str(other), "--names", str(tmp_path / "map.toml")])
    assert done.exit_code == 1
    assert "first diverging layer: head: shape (2, 32, 22, 22) where (2, 5) is expected" in done.output


def test_inputs_are_recorded_however_they_are_passed(reference, tmp_path):
    model = network().double()
    for name, images in (("right.trace", IMAGES.double()), ("other.trace", IMAGES.double() + 1e-3)):
        with package.recording(model, tmp_path / name):
            model(x=images)
    assert package.compare_traces(reference, tmp_path / "right.trace").conforms
    with pytest.raises(TraceError, match="they were given different inputs"):
        package.compare_traces(reference, tmp_path / "other.trace")


def test_networks_whose_outputs_are_not_compared_do_not_conform(reference, tmp_path):
    class Plain(Network):
        def forward(self, x):
            return super().forward(x)["logits"]

    torch.manual_seed(0)
    report = package.compare_traces(reference, record(Plain().eval(), tmp_path / "plain.trace"))
    assert all(verdict.passed for verdict in report.verdicts.values())
    assert (report.verdict, report.exit_code) == ("incomplete", 3)
    assert "not judged: what the networks return: no output of the reference has a counterpart" in str(report)
    (tmp_path / "map.toml").write_text('[names]\nhead = "head"\n"output.logits" = "output"\n')
    named = package.compare_traces(reference, tmp_path / "plain.trace", names=tmp_path / "map.toml")
    assert named.conforms, named


def test_axes_of_a_network_with_channels_last_are_turned(tmp_path):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Identity()

        def forward(self, x):
            return self.conv(x).mean((1, 2))

    model = Last()
    with package.recording(model, tmp_path / "last.trace", layout="NHWC"):
        model(IMAGES.permute(0, 2, 3, 1))
    loaded = ModuleRecording.load(tmp_path / "last.trace")
    np.testing.assert_array_equal(loaded.arrays["conv"], IMAGES.numpy())
    np.testing.assert_array_equal(loaded.arrays["input"], IMAGES.numpy())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ('[names]\nno_such = "first"', "no array has the name no_such, which the map gives"),
        ('[names]\nfirst = "no_such"', "no array has the name no_such, which the map gives"),
        ("[names]\n", "it holds no map of names"),
        ("names = 3", "it holds no map of names"),
        ("no TOML", "it holds no map of names"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(reference, tmp_path, names, message):
    (tmp_path / "map.toml").write_text(names)
    with pytest.raises(TraceError, match=message):
        package.compare_traces(reference, reference, names=tmp_path / "map.toml")


def test_what_cannot_be_compared_is_refused(reference, tmp_path, small_weights):
    single = record(network(), tmp_path / "single.trace", torch.float32)
    with pytest.raises(TraceError, match=r"single\.trace is float32: the reference is a run in float64"):
        package.compare_traces(single, single)
    model = network().double()
    with package.recording(model, tmp_path / "other.trace"):
        model(IMAGES.double() + 1e-3)
    with pytest.raises(TraceError, match="they were given different inputs"):
        package.compare_traces(reference, tmp_path / "other.trace")
    with package.recording(model, tmp_path / "fewer.trace"):
        model(IMAGES[:1].double())
    with package.recording(model, tmp_path / "twice.trace"):
        model(IMAGES.double())
        model(IMAGES.double())
    for other in ("fewer.trace", "twice.trace"):
        for pair in ((reference, tmp_path / other), (tmp_path / other, reference)):
            with pytest.raises(TraceError, match="they were given different inputs"):
                package.compare_traces(*pair)
    with pytest.raises(TraceError, match="weights are for recordings of a ResNet-50"):
        package.compare_traces(reference, reference, weights=small_weights["v1.5"])
    with pytest.raises(TraceError, match=r"v1\.5\.safetensors: it is no recording of modules"):
        package.compare_traces(reference, small_weights["v1.5"])


def test_nothing_is_written_where_nothing_was_run(tmp_path):
    file = tmp_path / "none.trace"
    with pytest.raises(TraceError, match="the network was not called"), package.recording(network(), file):
        pass
    with pytest.raises(RuntimeError, match="stop"), package.recording(network(), file):
        raise RuntimeError("stop")
    with (
        pytest.raises(TypeError, match=r"a function is not recorded; what can be is one of keras\.Layer, torch"),
        package.recording(record, file),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_refused(reference):
    whole = reference.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        reference.write_bytes(bytes(damaged))
        with pytest.raises(TraceError, match=r"reference\.trace: "):
            package.compare_traces(reference, reference)
