"""A trace on disk is what it was in memory, and a file that is none is refused with a clear message."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from conformance.cases.case import Case
from conformance.trace import FORMAT_VERSION, ArrayFolder, Origin, Trace, TraceError

ORIGIN = Origin(
    Case("v1.5", "noise-64x96", "train", task="steps", recipe="sgd"),
    "torch",
    "float32",
    weights="0123",
    input="4567",
    parameters={"conv1.weight": (64, 3, 7, 7)},
    device="cpu",
    versions={"torch": "2.9"},
    in_force={"convolution": "float32"},
    fed=True,
    sketched={"losses": (100, 10)},
)


def test_a_trace_is_read_as_it_was_written(tmp_path):
    arrays = {"logits": np.arange(6.0).reshape(2, 3), "losses": np.zeros(0, np.float32)}
    Trace(arrays, ORIGIN).save(tmp_path / "a.safetensors")
    loaded = Trace.load(tmp_path / "a.safetensors")
    assert loaded.origin == ORIGIN
    assert loaded.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array, strict=True)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_arrays_of_bfloat16_are_widened(tmp_path):
    array = np.float32([1.5, -3e38]).astype(ml_dtypes.bfloat16)
    Trace({"a": array}, ORIGIN).save(tmp_path / "a.safetensors")
    folder = ArrayFolder(tmp_path)
    folder.store("a", array)
    for read in (Trace.load(tmp_path / "a.safetensors").arrays["a"], folder["a"]):
        np.testing.assert_array_equal(read, array.astype(np.float32), strict=True)


def origin_text(**changes):
    fields = json.loads(ORIGIN.to_json()) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "has format version None, and this release reads version 3"),
        ({"origin": origin_text(format_version=FORMAT_VERSION + 1)}, "has format version 4"),
        ({"origin": origin_text(candidate=None)}, "nothing readable about the origin .*candidate"),
        ({"origin": origin_text(case="inference")}, "nothing readable about the origin"),
        ({"origin": origin_text(another="field")}, "nothing readable about the origin .*another"),
        ({"origin": "[]"}, "nothing readable about the origin"),
        ({"origin": "no JSON"}, "nothing readable about the origin"),
    ],
)
def test_a_file_without_a_readable_origin_is_refused_by_name(tmp_path, metadata, message):
    save_file({"logits": np.zeros(3)}, tmp_path / "b.safetensors", metadata)
    with pytest.raises(TraceError, match=rf"b\.safetensors: .*{message}"):
        Trace.load(tmp_path / "b.safetensors")
