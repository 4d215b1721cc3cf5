"""Switches that an adapter sets in its worker are put back here, where adapters run in the process of the tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def _switches_of_the_process():
    import torch

    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    precisions = [switch.fp32_precision for switch in switches]
    deterministic, gradients = torch.get_deterministic_debug_mode(), torch.is_grad_enabled()
    yield
    for switch, precision in zip(switches, precisions, strict=True):
        switch.fp32_precision = precision
    torch.set_deterministic_debug_mode(deterministic)
    torch.set_grad_enabled(gradients)
