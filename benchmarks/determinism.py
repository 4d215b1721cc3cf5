"""Whether each operation gives the same bits each time, with deterministic algorithms asked for and without.

    python -m benchmarks.determinism --framework torch|flax [--device gpu|cpu] [--small]

Prints one JSON object: a row per operation with `equal` (the bits of three runs in this process), the arrays that
differ between the first and the second run and between the second and the third, the number of programs that XLA
compiled in each run, and `sha256` (of the first result, to be compared between processes); or `refused` with the
library's own words. Whether deterministic algorithms were asked for is read back from the framework and told in
`switches`; `--free` asks for none. `--untuned` asks for them and lets XLA choose kernels without trying them out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.networks import chosen_network
from conformance.run.switches import DETERMINISTIC
from impls.config import ResNetConfig
from impls.recipe import Recipe

Operation = Callable[[], "dict[str, np.ndarray]"]
RUNS = 3
"""Number of runs of an operation in a process: the second may be compiled anew, the third is as those that follow."""

CONVOLUTIONS = {
    "conv 7x7/2, stem": (3, 64, 7, 2, 224),
    "conv 1x1, stage1": (64, 64, 1, 1, 56),
    "conv 3x3, stage1": (64, 64, 3, 1, 56),
    "conv 3x3/2, stage2": (128, 128, 3, 2, 56),
    "conv 1x1/2, shortcut of stage2": (256, 512, 1, 2, 56),
    "conv 3x3, stage3": (256, 256, 3, 1, 14),
    "conv 3x3, stage4": (512, 512, 3, 1, 7),
    "conv 1x1, stage4": (2048, 512, 1, 1, 7),
}
"""Name to input channels, output channels, kernel, stride and side of the input; padded by half the kernel."""

LARGE = {f"{name} and its gradients" for name in list(CONVOLUTIONS)[1:]}
"""Operations that a rehearsal leaves out."""


def numbers(*shape: int) -> np.ndarray:
    """Return standard-normal float32 numbers, the same for the same shape."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def torch_operations(
    device: str, config: ResNetConfig, side: int, batch: int, free: bool
) -> tuple[dict[str, str], Mapping[str, Operation]]:
    """Return PyTorch's switches, and the operations of the network and the network itself as functions."""
    import torch
    from torch.nn import functional

    from impls.torch import resnet, training

    torch.set_deterministic_debug_mode("default" if free else "error")
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    place = "cuda" if device == "gpu" else "cpu"

    def tensor(*shape: int) -> Any:
        return torch.from_numpy(numbers(*shape)).to(place).requires_grad_()

    def gradients(function: Callable[..., Any], *inputs: Any) -> dict[str, np.ndarray]:
        result = function(*inputs)
        found = torch.autograd.grad((result * weights_like(result)).sum(), inputs)
        return to_numpy(numbered((result, *found)))

    def to_numpy(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}

    def weights_like(result: Any) -> Any:
        return torch.from_numpy(numbers(*result.shape)).to(place)

    operations: dict[str, Operation] = {}
    for name, (inputs, outputs, kernel, stride, length) in CONVOLUTIONS.items():
        images, weight = tensor(batch, inputs, length, length), tensor(outputs, inputs, kernel, kernel)
        operations[f"{name} and its gradients"] = lambda i=images, w=weight, s=stride, k=kernel: gradients(
            lambda i, w: functional.conv2d(i, w, stride=s, padding=k // 2), i, w
        )
    maps, scale, offset = tensor(batch, 64, side // 2, side // 2), tensor(64), tensor(64)
    features, matrix, offsets = tensor(batch, 2048), tensor(1000, 2048), tensor(1000)
    operations["batch norm and its gradients"] = lambda: gradients(
        lambda x, w, b: functional.batch_norm(x, None, None, w, b, True), maps, scale, offset
    )
    operations["max pool and its gradient"] = lambda: gradients(
        lambda x: functional.max_pool2d(functional.relu(x), 3, 2, padding=1), maps
    )
    operations["7x7 average pool and its gradient"] = lambda: gradients(
        lambda x: functional.avg_pool2d(x, 7), tensor(batch, 2048, 7, 7)
    )
    operations["classifier and its gradients"] = lambda: gradients(functional.linear, features, matrix, offsets)
    labels = torch.arange(batch, device=place)
    model = resnet(config, seed=0).to(place)
    images = tensor(batch, 3, side, side)

    def network() -> dict[str, np.ndarray]:
        logits = model.train()(images)
        value = training.loss(logits, labels, Recipe(label_smoothing=0.1))
        parameters = dict(model.named_parameters())
        found = torch.autograd.grad(value, list(parameters.values()))
        return to_numpy({"logits": logits, **dict(zip(parameters, found, strict=True))})

    operations["ResNet-50, train mode, logits and all gradients"] = network
    return {"deterministic algorithms": str(torch.are_deterministic_algorithms_enabled())}, operations


def flax_operations(
    device: str, config: ResNetConfig, side: int, batch: int, free: bool
) -> tuple[dict[str, str], Mapping[str, Operation]]:
    """Return XLA's flags, and the operations of the network and the network itself as compiled functions."""
    os.environ["XLA_FLAGS"] += "" if free else f" {DETERMINISTIC}"
    import jax
    from flax import nnx
    from jax import lax

    from impls.flax import resnet, training

    assert (jax.devices()[0].platform == "gpu") == (device == "gpu"), jax.devices()

    def gradients(function: Callable[..., Any], *inputs: Any) -> Operation:
        @jax.jit
        def compiled(*inputs: Any) -> Any:
            result, pull = jax.vjp(function, *inputs)
            return result, pull(jax.numpy.asarray(numbers(*result.shape)))

        return lambda: numbered([np.asarray(array) for array in jax.tree.leaves(compiled(*inputs))])

    operations: dict[str, Operation] = {}
    for name, (inputs, outputs, kernel, stride, length) in CONVOLUTIONS.items():
        images, weight = numbers(batch, length, length, inputs), numbers(kernel, kernel, inputs, outputs)

        def convolve(i: Any, w: Any, s: int = stride, k: int = kernel) -> Any:
            around = [(k // 2, k // 2)] * 2
            return lax.conv_general_dilated(i, w, (s, s), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))

        operations[f"{name} and its gradients"] = gradients(convolve, images, weight)

    def normalise(x: Any, w: Any, b: Any) -> Any:
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) * lax.rsqrt(variance + 1e-5) * w + b

    maps = numbers(batch, side // 2, side // 2, 64)
    operations["batch norm and its gradients"] = gradients(normalise, maps, numbers(64), numbers(64))
    operations["max pool and its gradient"] = gradients(
        lambda x: nnx.max_pool(nnx.relu(x), (3, 3), (2, 2), ((1, 1), (1, 1))), maps
    )
    operations["7x7 average pool and its gradient"] = gradients(
        lambda x: nnx.avg_pool(x, (7, 7), (7, 7)), numbers(batch, 7, 7, 2048)
    )
    operations["classifier and its gradients"] = gradients(
        lambda x, w, b: x @ w + b, numbers(batch, 2048), numbers(2048, 1000), numbers(1000)
    )
    model = resnet(config, seed=0)
    model.train()
    images, labels = jax.numpy.asarray(numbers(batch, side, side, 3)), jax.numpy.arange(batch)

    @nnx.jit
    def network(model: Any) -> Any:
        def loss(model: Any) -> Any:
            logits = model(images)
            return training.loss(logits, labels, Recipe(label_smoothing=0.1)), logits

        (_, logits), found = nnx.value_and_grad(loss, has_aux=True)(model)
        return logits, found

    def run() -> dict[str, np.ndarray]:
        logits, found = network(model)
        flat = {".".join(map(str, path)): variable[...] for path, variable in nnx.to_flat_state(found)}
        return {name: np.asarray(array) for name, array in {"logits": logits, **flat}.items()}

    operations["ResNet-50, train mode, logits and all gradients"] = run
    return {"XLA_FLAGS": os.environ["XLA_FLAGS"]}, operations


FRAMEWORKS = {"torch": torch_operations, "flax": flax_operations}


def numbered(arrays: Sequence[Any]) -> dict[str, Any]:
    """Name the results of an operation: its output, and its gradients one after the other.

    Example:
        >>> numbered([1.5, 0.5, 2.0])
        {'output': 1.5, 'gradient 1': 0.5, 'gradient 2': 2.0}
    """
    return {f"gradient {number}" if number else "output": array for number, array in enumerate(arrays)}


def repeat(operation: Operation, compilations: Callable[[], int]) -> dict[str, Any]:
    """Run an operation `RUNS` times and compare the bits of each run with those of the one before."""
    runs, compiled = [], [compilations()]
    try:
        for _ in range(RUNS):
            runs.append(operation())
            compiled.append(compilations())
    except Exception as error:  # the library's refusal is the result
        return {"refused": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    differ = [
        [name for name in first if first[name].tobytes() != second[name].tobytes()] for first, second in pairwise(runs)
    ]
    digest = hashlib.sha256(b"".join(array.tobytes() for array in runs[0].values())).hexdigest()
    return {
        "equal": not any(differ),
        "arrays": len(runs[0]),
        "differ": [{"arrays": len(names), "first": names[:3]} for names in differ],
        "compiled": [after - before for before, after in pairwise(compiled)],
        "sha256": digest[:16],
    }


def count_compilations() -> Callable[[], int]:
    """Return a function that tells how many programs XLA has compiled so far in this process; 0 without JAX."""
    compiled: list[float] = []
    if "jax" in sys.modules:
        from jax import monitoring

        def listen(event: str, seconds: float, **_: Any) -> None:
            if event == "/jax/core/compile/backend_compile_duration":
                compiled.append(seconds)

        monitoring.register_event_duration_secs_listener(listen)
    return lambda: len(compiled)


def main() -> None:
    """Print the rows of one framework as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=FRAMEWORKS, required=True)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--free", action="store_true", help="ask for no deterministic algorithms")
    parser.add_argument("--untuned", action="store_true", help="XLA tries no kernels out")
    parser.add_argument("--small", action="store_true", help="a small network, two small images")
    options = parser.parse_args()
    config, side = chosen_network(options.small)
    os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0" if options.untuned else ""
    switches, operations = FRAMEWORKS[options.framework](
        options.device, config, side, 2 if options.small else 8, options.free
    )
    compilations = count_compilations()
    if options.small:
        operations = {name: operations[name] for name in operations if name not in LARGE}
    rows = {name: repeat(operation, compilations) for name, operation in operations.items()}
    print(json.dumps({"framework": options.framework, "switches": switches, "operations": rows}))


if __name__ == "__main__":
    main()
