"""What must happen before any test is imported."""

import contextlib

# TensorFlow 2.21 and the Triton that comes with PyTorch 2.14 do not load in that order: importing Triton last, as PyTorch
# does on its own for the meta device and for torch.compile, ends the process. The other order works.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401
