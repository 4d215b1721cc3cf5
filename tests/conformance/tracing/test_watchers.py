"""Recordings of one network in every framework are compared, by a map of names and in one layout."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from flax import linen, nnx
from jax import enable_x64, jit, random

import conformance
from conformance.trace import TraceError
from conformance.tracing.modules import ModuleRecording

RANDOM = np.random.default_rng(0)
KERNEL, DENSE = RANDOM.normal(size=(3, 3, 3, 8)), RANDOM.normal(size=(8, 5))
IMAGES = RANDOM.normal(size=(2, 6, 7, 3))


class TorchNetwork(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.Linear(8, 5, bias=False)
        self.double()
        with torch.no_grad():
            self.conv.weight.copy_(torch.from_numpy(KERNEL.transpose(3, 2, 0, 1)))
            self.fc.weight.copy_(torch.from_numpy(DENSE.T))

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class Scaled(nnx.Conv):
    """A layer whose call is that of its class, which is a layer of the network, too."""

    def __call__(self, x):
        return super().__call__(x)


class NnxNetwork(nnx.Module):
    def __init__(self, layer=nnx.Conv):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([layer(3, 8, (3, 3), padding="VALID", use_bias=False, rngs=rngs)])
        self.unused = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.head = nnx.Linear(8, 5, use_bias=False, rngs=rngs)
        self.layers[0].kernel.set_value(KERNEL)
        self.head.kernel.set_value(DENSE)

    def __call__(self, x, train=False):
        return self.head(nnx.relu(self.layers[0](x)).mean((1, 2)))


class LinenNetwork(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        x = linen.relu(linen.Conv(8, (3, 3), padding="VALID", use_bias=False, name="entry")(x))
        return linen.Dense(5, use_bias=False, name="head")(x.mean((1, 2)))


def keras_network():
    images = keras.Input(IMAGES.shape[1:], dtype="float64")
    entry = keras.layers.Conv2D(8, 3, use_bias=False, activation="linear", name="entry", dtype="float64")
    head = keras.layers.Dense(5, use_bias=False, name="head", dtype="float64")
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float64")(keras.ops.relu(entry(images)))
    model = keras.Model(images, head(pooled))
    model.set_weights([KERNEL, DENSE])
    return model


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64(True):
        yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    file = tmp_path_factory.mktemp("reference") / "torch.trace"
    model = TorchNetwork()
    with conformance.recording(model, file):
        model(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy()))
    return file


def run_nnx(file, images=IMAGES, layer=nnx.Conv):
    model = NnxNetwork(layer)
    with conformance.recording(model, file):
        model(images, train=False)
    return "layers.0"


def run_linen(file, images=IMAGES):
    model, variables = LinenNetwork(), {"params": {"entry": {"kernel": KERNEL}, "head": {"kernel": DENSE}}}
    with conformance.recording(model, file):
        model.init(random.key(0), images)
        model.apply(variables, images, train=False)
        linen.Dense(2).apply({"params": {"kernel": np.ones((5, 2)), "bias": np.ones(2)}}, np.ones((1, 5)))
    return "entry"


def run_keras(file, images=IMAGES):
    model = keras_network()
    with conformance.recording(model, file):
        model(images, training=False)
    return "entry"


@pytest.mark.parametrize("run", [run_nnx, run_linen, run_keras])
def test_recordings_of_two_frameworks_are_compared_by_a_map_of_names(reference, tmp_path, run):
    file, names = tmp_path / "other.trace", tmp_path / "map.toml"
    entry = run(file)
    names.write_text(f'[names]\nconv = "{entry}"\nfc = "head"\noutput = "output"\n')
    report = conformance.compare_traces(reference, file, names=names)
    assert report.conforms, report
    assert list(report.verdicts) == ["conv", "fc", "output"]
    recorded = ModuleRecording.load(file)
    assert recorded.shapes["input"] == (2, 3, 6, 7)
    assert not [name for name in recorded.shapes if "#" in name or "unused" in name]
    run(file, IMAGES * (1 + 1e-9))
    with pytest.raises(TraceError, match="they were given different inputs"):
        conformance.compare_traces(reference, file, names=names)


def test_a_wrong_layer_is_the_first_that_diverges(reference, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "KERNEL", np.flip(KERNEL, (0, 1)).copy())
    (tmp_path / "map.toml").write_text(f'[names]\nconv = "{run_nnx(tmp_path / "nnx.trace")}"\noutput = "output"\n')
    report = conformance.compare_traces(reference, tmp_path / "nnx.trace", names=tmp_path / "map.toml")
    assert (report.verdict, report.first_divergence) == ("diverges", "conv")


def test_nnx_classes_call_as_before_afterwards_and_a_call_of_super_is_no_second_call(tmp_path):
    before = [vars(each).get("__call__") for each in (nnx.Conv, Scaled, NnxNetwork, nnx.Linear)]
    run_nnx(tmp_path / "scaled.trace", layer=Scaled)
    assert [vars(each).get("__call__") for each in (nnx.Conv, Scaled, NnxNetwork, nnx.Linear)] == before
    assert [*ModuleRecording.load(tmp_path / "scaled.trace").shapes] == ["input", "layers.0", "head", "output"]


def test_a_network_that_is_compiled_shows_no_numbers(tmp_path):
    model, file = NnxNetwork(), tmp_path / "none.trace"
    with pytest.raises(TraceError, match="has no numbers while"), conformance.recording(model, file):
        jit(lambda x: model(x))(IMAGES)
    other = keras_network()
    with pytest.raises(Exception, match="has no numbers while"), conformance.recording(other, file):
        other.predict(IMAGES, verbose=0)
    with pytest.raises(TraceError, match="nothing was recorded"), conformance.recording(model, file):
        nnx.jit(lambda m, x: m(x))(model, IMAGES)
    assert "call" not in vars(other)
    assert list(tmp_path.iterdir()) == []
