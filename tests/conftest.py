"""What must happen before any test is imported."""

import contextlib

# TensorFlow 2.21, then the Triton that comes with PyTorch 2.14: importing them in this order, as PyTorch does
# on its own for the meta device and for torch.compile, ends the process. The other order works.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401
