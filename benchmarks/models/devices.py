"""A framework's device, in a worker: its precision, waiting for it, and its memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class TorchDevice:
    """The processor or the card, as PyTorch sees it.

    Raises:
        RuntimeError: If a card is asked for and there is none.
    """

    def __init__(self, name: str) -> None:
        import torch

        if name == "gpu" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no GPU")
        self.torch, self.card = torch, name == "gpu"
        self.type = "cuda" if self.card else "cpu"
        torch.zeros(1, device=self.type)

    def set_precision(self, precision: str) -> None:
        """Allow TF32 in convolutions and matrix products, or forbid it; PyTorch's defaults allow it in the former."""
        self.torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
        self.torch.backends.cudnn.allow_tf32 = precision != "float32"

    def wait(self, output: Any) -> Any:
        """Return the output once it is computed."""
        if self.card:
            self.torch.cuda.synchronize()
        return output

    def to_numpy(self, output: Any) -> Any:
        """The output on the processor, in float32."""
        return output.detach().float().cpu().numpy() if isinstance(output, self.torch.Tensor) else output

    def forget_peak(self) -> None:
        """Let the peak of the card's allocator begin anew."""
        if self.card:
            self.torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """The peak of the card's allocator, in bytes."""
        return self.torch.cuda.max_memory_allocated() if self.card else None

    def release(self) -> None:
        """Give memory that is not in use back to the card, where the next contender needs it."""
        if self.card:
            self.torch.cuda.empty_cache()


class JaxDevice:
    """The processor or the card, as JAX sees it.

    Raises:
        RuntimeError: If a card is asked for and JAX runs on something else.
    """

    MATMUL_PRECISION: Mapping[str, str | None] = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": None}

    def __init__(self, name: str) -> None:
        import jax

        if name == "gpu" and jax.default_backend() != "gpu":
            raise RuntimeError("JAX sees no GPU")
        self.jax = jax
        jax.numpy.zeros(1).block_until_ready()

    def set_precision(self, precision: str) -> None:
        """Allow TF32 in convolutions and matrix products, or forbid it; JAX's default allows it on a card."""
        self.jax.config.update("jax_default_matmul_precision", self.MATMUL_PRECISION[precision])

    def wait(self, output: Any) -> Any:
        """Return the output once it is computed."""
        return self.jax.block_until_ready(output)

    def to_numpy(self, output: Any) -> Any:
        """The output on the processor, in float32."""
        import numpy as np

        return np.asarray(output, "float32")

    def forget_peak(self) -> None:
        """Do nothing: JAX's allocator knows only the peak since its start, which holds that of compiling."""

    def peak(self) -> int | None:
        """The peak of the card's allocator, in bytes."""
        return (self.jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    def release(self) -> None:
        """Do nothing: JAX's allocator keeps what it has."""


class TensorFlowDevice:
    """The processor or the card, as TensorFlow sees it.

    Raises:
        RuntimeError: If a card is asked for and there is none.
    """

    def __init__(self, name: str) -> None:
        import tensorflow

        self.tensorflow, self.card = tensorflow, name == "gpu"
        if self.card and not tensorflow.config.list_physical_devices("GPU"):
            raise RuntimeError("TensorFlow sees no GPU")

    def set_precision(self, precision: str) -> None:
        """Allow TF32 in convolutions and matrix products, or forbid it; TensorFlow's default allows it."""
        self.tensorflow.config.experimental.enable_tensor_float_32_execution(precision != "float32")

    def wait(self, output: Any) -> Any:
        """Return the output once it is computed."""
        if self.card:
            self.tensorflow.test.experimental.sync_devices()
        return output

    def to_numpy(self, output: Any) -> Any:
        """The output on the processor, in float32."""
        import numpy as np

        return np.asarray(output).astype("float32")

    def forget_peak(self) -> None:
        """Let the peak of the card's allocator begin anew."""
        if self.card:
            self.tensorflow.config.experimental.reset_memory_stats("GPU:0")

    def peak(self) -> int | None:
        """The peak of the card's allocator, in bytes."""
        return self.tensorflow.config.experimental.get_memory_info("GPU:0")["peak"] if self.card else None

    def release(self) -> None:
        """Do nothing: TensorFlow's allocator keeps what it has."""


KERAS_DEVICES: Mapping[str, Callable[[str], Any]] = {
    "tensorflow": TensorFlowDevice,
    "jax": JaxDevice,
    "torch": TorchDevice,
}
"""The device of each of Keras's backends."""
