"""Tensors of PyTorch and arrays of NumPy, turned into each other bit for bit.

PyTorch itself cannot convert bfloat16 to NumPy, nor back; its bits are taken as 16-bit integers.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np


def to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    """Return a tensor, of any device, as an array that may share its memory.

    Args:
        torch: The module `torch`, which is imported where it is needed only.
        tensor: The tensor.

    Raises:
        TypeError, RuntimeError: If NumPy has no array like it: a sparse or quantized tensor, or an unknown dtype.
    """
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        bits: np.ndarray = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray = tensor.numpy()
    return array


def to_torch(torch: Any, array: np.ndarray) -> Any:
    """Return a copy of an array as a tensor."""
    array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
