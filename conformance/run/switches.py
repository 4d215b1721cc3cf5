"""Switches: environment variables that a worker needs before it starts, so that a precision is what it is called.

Strict float32 means no TF32 and no reduced accumulation; every run is deterministic. A switch that is an environment
variable is set here by the parent; one that is a function of the framework is set by the adapter. Switches have been
ignored before, so each worker also measures what is in force (`conformance.run.precision`).

Sources: the numerical accuracy page of PyTorch, the configuration options of JAX, `tf.config.experimental`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ALWAYS = {
    "NVIDIA_TF32_OVERRIDE": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "PYTHONHASHSEED": "0",
    "OMP_WAIT_POLICY": "passive",  # threads that wait in a loop took three times the processor time on a busy machine
}
BY_PRECISION = {"float64": {"JAX_ENABLE_X64": "1"}, "float32": {"JAX_ENABLE_X64": "0"}}
BY_DEVICE: dict[str, dict[str, str]] = {"cpu": {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}}

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""Older releases of XLA refuse to compile the max pool's gradient with it (flax#4233); jax 0.11.2 compiles it, and its
bits are the same in two runs."""

FLOAT64_SCALES = "--xla_disable_hlo_passes=cudnn-fused-convolution-rewriter"
"""Unless it is set, XLA adds a convolution and a scaled array by one call of cuDNN that rounds the scale to float32:
the decay of a kernel whose gradient is computed so, as in stage4 at 2x3 pixels, is then off by 2.5e-8."""

XLA_FLAGS = {"float64": f"{DETERMINISTIC} {FLOAT64_SCALES}", "float32": DETERMINISTIC}
"""Precision to flags of XLA on a GPU."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


def switches(precision: str, device: str, threads: int) -> dict[str, str]:
    """Environment variables of a worker, by name.

    Args:
        precision: "float64" or "float32".
        device: "cpu", "gpu" or "auto".
        threads: The number of threads that the worker's libraries may use.

    Example:
        >>> switches("float32", "gpu", threads=1)["XLA_FLAGS"]
        '--xla_gpu_deterministic_ops=true'
    """
    return (
        ALWAYS
        | compilation_cache()
        | BY_PRECISION[precision]
        | BY_DEVICE.get(device, {"XLA_FLAGS": XLA_FLAGS[precision]})
        | dict.fromkeys(THREADS, str(threads))
    )


def compilation_cache() -> dict[str, str]:
    """Where JAX keeps what it compiled, so that a second run need not compile it again: the user's cache folder."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnet-parity" / "xla"
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def worker_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with the switches in place; flags of the user's own are kept."""
    merged = os.environ | variables
    if "XLA_FLAGS" in variables and os.environ.get("XLA_FLAGS"):
        merged["XLA_FLAGS"] = f"{os.environ['XLA_FLAGS']} {variables['XLA_FLAGS']}"
    return dict(merged)
