"""What must happen before any test is imported."""

import contextlib
import gc
import os

from conformance.run.switches import THREADS, compilation_cache

# Frameworks make a million objects and hardly a cycle: looking for cycles as often as Python does took a fifth of
# the time of collecting the tests.
gc.set_threshold(50_000, 20, 100)

# Tests run side by side, and NumPy's threads would fight for the processors: ten times as slow on small networks.
for variable in THREADS:
    os.environ.setdefault(variable, "1")

# TensorFlow 2.21, then the Triton that comes with PyTorch 2.14: importing them in this order, as PyTorch does
# on its own for the meta device and for torch.compile, ends the process. The other order works.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

# Compiling took most of the time of the tests of Flax. Each program is compiled once for all tests and, in the
# processes of the tests, hardly optimised, since it runs once or twice; workers compile as they do for a user.
os.environ.update(compilation_cache())
with contextlib.suppress(ImportError):
    import jax

    jax.config.update("jax_disable_most_optimizations", True)


def pytest_collection_finish() -> None:
    """Look for no cycles among what the tests' modules have imported."""
    gc.freeze()
