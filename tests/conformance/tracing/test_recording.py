"""A recording is read as it was written; a file that is damaged, of another version or none is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from conformance.cases.case import Case
from conformance.cases.inputs import content_hash, noise
from conformance.compare.measure import measure
from conformance.trace import Origin, Trace, TraceError
from conformance.tracing.recording import Key, Recording, hash_of, sketched
from impls.config import VARIANTS

INPUT = noise(32, 32, 1, seed=0)
CASE = Case("v1.5", INPUT.name, "inference", layers=True)


def trace(precision="float64", candidate="mine", weights="0123", **arrays):
    origin = Origin(CASE, candidate, precision, weights, content_hash(INPUT.images), {"fc.bias": (10,)})
    return Trace(arrays or {"logits": np.arange(10.0).reshape(1, 10)}, origin)


def recording(*traces, config=VARIANTS["v1.5"], weights="0123"):
    traces = {Key(each.origin.precision, each.origin.case): each for each in traces or (trace(),)}
    environment = {"processors": "2"}
    return Recording("mine", config, traces, [INPUT], weights, "synthetic weights (seed 0)", 0, environment, ["a note"])


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "run.trace"
    recording(trace(), trace("float32", logits=np.ones((1, 10), np.float32))).save(file)
    return file


def test_a_recording_is_read_as_it_was_written(file):
    loaded = Recording.load(file)
    assert loaded.name == "run.trace (mine)"
    assert (loaded.config, loaded.weights, loaded.seed) == (VARIANTS["v1.5"], "0123", 0)
    assert (loaded.environment, loaded.notes, loaded.precisions) == (
        {"processors": "2"},
        ["a note"],
        ["float64", "float32"],
    )
    np.testing.assert_array_equal(loaded.images(INPUT.name), INPUT.images, strict=True)
    for precision in loaded.precisions:
        read = loaded.traces[Key(precision, CASE)]
        assert read.origin == trace(precision).origin
        assert list(read.arrays) == ["logits"]
    expected = trace().arrays["logits"]
    np.testing.assert_array_equal(loaded.traces[Key("float64", CASE)].arrays["logits"], expected, strict=True)
    assert [path.name for path in file.parent.iterdir()] == ["run.trace"]


def test_every_damaged_byte_is_noticed(file):
    whole = file.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(bytes(damaged))
        with pytest.raises(TraceError, match=r"run\.trace: "):
            Recording.load(file)
    file.write_bytes(whole[:-1])
    with pytest.raises(TraceError, match=r"run\.trace: it cannot be read as a recording"):
        Recording.load(file)


def rewrite(file, change):
    """Change the metadata of a recording, and hash it anew."""
    with safe_open(file, framework="numpy") as opened:
        metadata, arrays = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    facts = json.loads(metadata["recording"])
    change(facts)
    text = json.dumps(facts)
    save_file(arrays, file, {"recording": text, "sha256": hash_of(text, sorted(arrays.items()))})


CHANGES = {
    "version": (lambda facts: facts.update(format_version=2), "format version 2, and this release reads version 1"),
    "candidate": (lambda facts: facts.update(candidate="other"), "is a trace of another candidate or of other weights"),
    "weights": (lambda facts: facts["weights"].update(sha256="45"), "of another candidate or of other weights"),
    "inputs": (lambda facts: facts["inputs"][0].update(name="other"), "of other images than the file holds"),
    "traces": (lambda facts: facts.update(traces=[]), "it holds no trace"),
    "no config": (lambda facts: facts.pop("config"), "its metadata cannot be read"),
    "config": (lambda facts: facts["config"].update(width="wide"), "its metadata cannot be read: .*width is of type"),
}
"""A change of the metadata, and the message about it."""


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_file_says_of_itself_must_fit(file, name):
    change, message = CHANGES[name]
    rewrite(file, lambda facts: None)
    assert Recording.load(file).candidate == "mine"
    rewrite(file, change)
    with pytest.raises(TraceError, match=rf"run\.trace: .*{message}"):
        Recording.load(file)


def test_a_file_that_is_no_recording_is_refused_by_name(tmp_path):
    save_file({"weight": np.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(TraceError, match=r"weights\.safetensors: it is no recording"):
        Recording.load(tmp_path / "weights.safetensors")
    with pytest.raises(TraceError, match=r"none\.trace: it cannot be read as a recording"):
        Recording.load(tmp_path / "none.trace")


def test_a_recording_that_cannot_be_written_leaves_the_old_one(file, monkeypatch):
    def run_out_of_space(arrays, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    before = file.read_bytes()
    monkeypatch.setattr("conformance.tracing.recording.save_file", run_out_of_space)
    with pytest.raises(OSError, match="no space left"):
        recording().save(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["run.trace"]


def test_sketches_are_small_and_keep_shapes_and_distances():
    random = np.random.default_rng(0)
    block, layer = random.normal(size=(1, 64, 56, 56)), random.normal(size=(1, 64, 56, 56))
    whole = trace(**{"stage1.0": block, "stage1.0.conv1": layer, "logits": random.normal(size=(1, 10))})
    usual, small = sketched(whole, small=False), sketched(whole, small=True)
    assert {name for name, array in usual.arrays.items() if array.size == 4096} == {"stage1.0.conv1"}
    assert {name for name, array in small.arrays.items() if array.size == 4096} == {"stage1.0", "stage1.0.conv1"}
    assert small.shape("stage1.0") == block.shape
    assert sketched(usual, small=True).origin == small.origin
    error = 1e-6 * random.normal(size=block.shape)
    moved = sketched(trace(**{"stage1.0": block + error}), small=True)
    measured = measure(small.arrays["stage1.0"], moved.arrays["stage1.0"]).relative_l2
    assert measured == pytest.approx(1e-6, rel=0.1)
