"""safetensors files: we read the files of the library, and the library reads ours."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from weights_convert import ConversionError, containers
from weights_convert.containers import safetensors_file


def test_a_file_written_from_tensors_is_read(tmp_path: Path):
    tensor = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    save_file({"a": tensor}, tmp_path / "a.safetensors")
    arrays, metadata = safetensors_file.read(tmp_path / "a.safetensors")
    assert arrays["a"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(arrays["a"].astype(np.float32), tensor.float().numpy())
    assert metadata == {}


def test_a_file_of_ours_is_read_into_tensors(tmp_path: Path, random_bits: Callable[..., np.ndarray]):
    array = random_bits((4, 5), "bfloat16", 0)
    safetensors_file.write(tmp_path / "a.safetensors", {"a": array.T}, {})
    tensor = load_file(tmp_path / "a.safetensors")["a"]
    assert tensor.dtype is torch.bfloat16
    np.testing.assert_array_equal(tensor.view(torch.int16).numpy(), array.T.view(np.int16))


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":',
    ],
    ids=["duplicate-name", "more-numbers-than-bytes", "unknown-dtype", "not-json"],
)
def test_a_damaged_header_is_refused(header: bytes, tmp_path: Path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    with pytest.raises(ConversionError, match="it is not a complete safetensors file"):
        containers.read(path)
