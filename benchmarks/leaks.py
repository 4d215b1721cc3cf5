"""Candidates that compute in TF32 where float32 is asked for: the suite must refuse the first and accuse the second.

    python -m benchmarks.leaks [--device gpu|cpu]

Runs both on v1.5 and the photograph, in float32, and prints as JSON what the suite says of them. On a machine without
tensor cores there is no TF32, and both are right.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.pop("NVIDIA_TF32_OVERRIDE", None)  # a worker's environment switches TF32 off; libraries read it when loaded

import torch

from benchmarks.networks import chosen_network
from conformance.cases.pictures import photograph
from conformance.cases.synthetic import synthetic_weights
from conformance.plan import NetworkPlan, Plan, write_files
from conformance.run.adapters.torch import TorchAdapter
from conformance.run.implementations import find_implementation
from conformance.suite import run_cases
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


def main() -> None:
    """Print what the suite says of both candidates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="a small network of the variant")
    options = parser.parse_args()
    names = {"from the start": TorchFromTheStart, "after the probe": TorchAfterTheProbe}
    candidates = [find_implementation(f"leak={__spec__.name}:{leak.__name__}") for leak in names.values()]
    config, side = chosen_network(options.small)
    network = NetworkPlan(config, synthetic_weights(config, seed=0), [photograph(side)])
    rows = {}
    for name, candidate in zip(names, candidates, strict=True):
        with tempfile.TemporaryDirectory(prefix="conformance-leaks-") as folder:
            plan = Plan({"v1.5": network}, [candidate], ["float32"], Path(folder), options.device)
            cases = {"float32": plan.cases("float32")}
            outcome = run_cases(plan, write_files(plan), cases, lambda event: None)
        failed = [comparison for comparison in outcome.comparisons if not comparison.passed]
        rows[name] = {
            "refused": [failure.reason for failure in outcome.failures],
            "accused": f"{len(failed)} of {len(outcome.comparisons)} comparisons",
            "first": f"{failed[0].name}: {failed[0].reason}" if failed else "",
        }
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
