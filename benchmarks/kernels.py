"""Kernels that a card runs for ResNet-50 v1.5 as the suite runs it, by kind and by name.

    python -m benchmarks.kernels --candidate torch|flax|keras@torch|keras@jax [--device gpu|cpu] [--small]

Prints one JSON object: the launches of each kernel during one inference and one run in train mode, on the photograph,
and the launches of each kind (`KINDS`). The names are those that NVIDIA's profiling interface reports, which PyTorch's
profiler writes down, also for JAX in the same process. A second run is looked at: the first tries kernels out. Without
a card there is nothing to see.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.networks import chosen_network
from conformance.cases.pictures import photograph
from conformance.cases.synthetic import synthetic_weights
from conformance.run.capabilities import load_adapter
from conformance.run.implementations import NAMED

KINDS = {
    "Winograd": ("winograd",),
    "Fourier transform": ("fft",),
    "tensor cores": ("884", "1688", "16816", "hmma", "tensorop", "wgmma", "gmma"),
    "convolution": ("conv", "fprop", "dgrad", "wgrad", "xmma", "implicit", "cudnn"),
    "matrix product": ("gemm", "gemv", "cutlass"),
}
"""Kind of kernel to parts of names; the first that fits counts."""


def kind(name: str) -> str:
    """Name the kind of a kernel.

    Example:
        >>> kind("void cudnn::winograd_nonfused::winogradForwardData4x4<float, float>")
        'Winograd'
    """
    lower = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), "other")


def launches(work: Callable[[], Any], folder: Path) -> Counter[str]:
    """Count the launches of each kernel while `work` runs."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities) as profiler:
        work()
    file = folder / "trace.json"
    profiler.export_chrome_trace(str(file))
    events = json.loads(file.read_text())["traceEvents"]
    return Counter(event["name"] for event in events if event.get("cat") == "kernel")


def facts(counted: Counter[str]) -> dict[str, Any]:
    """Condense the launches of a run: how many of each kind, and the kernels of every kind but the last."""
    kinds: Counter[str] = Counter()
    for name, number in counted.items():
        kinds[kind(name)] += number
    names = {name[:200]: number for name, number in counted.most_common() if kind(name) != "other"}
    return {"kinds": dict(kinds), "kernels": names}


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the kernels of one candidate as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate", choices=NAMED, required=True)
    parser.add_argument("--precision", choices=("float32", "float64"), default="float32")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="a small network of the variant")
    options = parser.parse_args(None if arguments is None else list(arguments))
    config, side = chosen_network(options.small)
    weights, images = synthetic_weights(config, seed=0), photograph(side).images
    adapter = load_adapter(NAMED[options.candidate].adapter, {})
    device = adapter.prepare(options.device, options.precision)
    rows: dict[str, Any] = {"candidate": options.candidate, "precision": options.precision, "device": device}
    with tempfile.TemporaryDirectory(prefix="resnet-parity-kernels-") as folder:
        file = Path(folder) / "weights.safetensors"
        weights.save(file)
        adapter.build(config, file)
        for mode in ("inference", "train"):
            run = lambda mode=mode: adapter.record(images, mode == "train", False)  # noqa: E731
            run()
            rows[mode] = facts(launches(run, Path(folder)))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
