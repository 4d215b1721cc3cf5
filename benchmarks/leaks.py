"""Candidates that compute in TF32 where float32 is asked for: the suite must refuse the first and accuse the second.

    conformance run --impl leak=benchmarks.leaks:TorchFromTheStart --device gpu --precision float32

They are planted by `benchmarks.gpu`, on a card with tensor cores; elsewhere TF32 does not exist and they are right.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.pop("NVIDIA_TF32_OVERRIDE", None)  # a worker's environment switches TF32 off; libraries read it when loaded

import torch

from conformance.run.adapters.torch import TorchAdapter
from impls.config import ResNetConfig


def switch_tf32_on() -> None:
    """Let PyTorch use TF32 in matrix products and convolutions."""
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.backends.cuda.matmul.fp32_precision = "tf32"


class TorchFromTheStart(TorchAdapter):
    """TF32 is on when the worker measures what is in force: it must refuse to call that float32."""

    def prepare(self, device: str, precision: str) -> str:
        """Prepare as usual, then switch TF32 on."""
        name = super().prepare(device, precision)
        switch_tf32_on()
        return name


class TorchAfterTheProbe(TorchAdapter):
    """TF32 is switched on after the worker has measured: the activations must give it away."""

    def build(self, config: ResNetConfig, weights: Path) -> None:
        """Build as usual, then switch TF32 on."""
        super().build(config, weights)
        switch_tf32_on()
