"""Whether each operation gives the same bits twice, with deterministic algorithms asked for and without.

    python -m benchmarks.determinism --framework torch|flax [--device gpu|cpu] [--small]

Prints one JSON object: a row per operation with `equal` (the bits of two runs in this process) and `sha256` (of the
result, to be compared between processes), or `refused` with the library's own words. Whether deterministic algorithms
were asked for is read back from the framework and told in `switches`; `--free` asks for none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from impls.recipe import Recipe

Operation = Callable[[], "list[np.ndarray]"]

CONVOLUTIONS = {
    "conv 7x7/2, stem": (3, 64, 7, 2, 224),
    "conv 1x1, stage1": (64, 64, 1, 1, 56),
    "conv 3x3, stage1": (64, 64, 3, 1, 56),
    "conv 3x3/2, stage2": (128, 128, 3, 2, 56),
    "conv 3x3, stage4": (512, 512, 3, 1, 7),
}
"""Name to input channels, output channels, kernel, stride and side of the input; padded by half the kernel."""


def numbers(*shape: int) -> np.ndarray:
    """Return standard-normal float32 numbers, the same for the same shape."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def torch_operations(device: str, side: int, batch: int, free: bool) -> tuple[dict[str, str], Mapping[str, Operation]]:
    """Return PyTorch's switches, and the operations of the network and the network itself as functions."""
    import torch
    from torch.nn import functional

    from impls.torch import resnet50, training

    torch.set_deterministic_debug_mode("default" if free else "error")
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    place = "cuda" if device == "gpu" else "cpu"

    def tensor(*shape: int) -> Any:
        return torch.from_numpy(numbers(*shape)).to(place).requires_grad_()

    def gradients(function: Callable[..., Any], *inputs: Any) -> list[np.ndarray]:
        result = function(*inputs)
        found = torch.autograd.grad((result * weights_like(result)).sum(), inputs)
        return [array.detach().cpu().numpy() for array in (result, *found)]

    def weights_like(result: Any) -> Any:
        return torch.from_numpy(numbers(*result.shape)).to(place)

    operations: dict[str, Operation] = {}
    for name, (inputs, outputs, kernel, stride, length) in CONVOLUTIONS.items():
        images, weight = tensor(batch, inputs, length, length), tensor(outputs, inputs, kernel, kernel)
        operations[f"{name} and its gradients"] = lambda i=images, w=weight, s=stride, k=kernel: gradients(
            lambda i, w: functional.conv2d(i, w, stride=s, padding=k // 2), i, w
        )
    maps, scale, offset = tensor(batch, 64, side // 2, side // 2), tensor(64), tensor(64)
    operations["batch norm and its gradients"] = lambda: gradients(
        lambda x, w, b: functional.batch_norm(x, None, None, w, b, True), maps, scale, offset
    )
    operations["max pool and its gradient"] = lambda: gradients(
        lambda x: functional.max_pool2d(functional.relu(x), 3, 2, padding=1), maps
    )
    operations["7x7 average pool and its gradient"] = lambda: gradients(
        lambda x: functional.avg_pool2d(x, 7), tensor(batch, 2048, 7, 7)
    )
    labels = torch.arange(batch, device=place)
    model = resnet50("v1.5").to(place)
    images = tensor(batch, 3, side, side)

    def network() -> list[np.ndarray]:
        logits = model.train()(images)
        value = training.loss(logits, labels, Recipe(label_smoothing=0.1))
        found = torch.autograd.grad(value, list(model.parameters()))
        return [array.detach().cpu().numpy() for array in (logits, *found)]

    operations["ResNet-50, train mode, logits and all gradients"] = network
    return {"deterministic algorithms": str(torch.are_deterministic_algorithms_enabled())}, operations


def flax_operations(device: str, side: int, batch: int, free: bool) -> tuple[dict[str, str], Mapping[str, Operation]]:
    """Return XLA's flags, and the operations of the network and the network itself as compiled functions."""
    flag = "--xla_gpu_deterministic_ops=true"
    os.environ["XLA_FLAGS"] = "" if free else flag
    import jax
    from flax import nnx
    from jax import lax

    from impls.flax import resnet50, training

    assert (jax.devices()[0].platform == "gpu") == (device == "gpu"), jax.devices()

    def gradients(function: Callable[..., Any], *inputs: Any) -> Operation:
        @jax.jit
        def compiled(*inputs: Any) -> Any:
            result, pull = jax.vjp(function, *inputs)
            return result, pull(jax.numpy.asarray(numbers(*result.shape)))

        return lambda: [np.asarray(array) for array in jax.tree.leaves(compiled(*inputs))]

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
    model = resnet50("v1.5")
    model.train()
    images, labels = jax.numpy.asarray(numbers(batch, side, side, 3)), jax.numpy.arange(batch)

    @nnx.jit
    def network(model: Any) -> Any:
        def loss(model: Any) -> Any:
            logits = model(images)
            return training.loss(logits, labels, Recipe(label_smoothing=0.1)), logits

        (_, logits), found = nnx.value_and_grad(loss, has_aux=True)(model)
        return logits, found

    operations["ResNet-50, train mode, logits and all gradients"] = lambda: [
        np.asarray(array) for array in jax.tree.leaves(network(model))
    ]
    return {"XLA_FLAGS": os.environ["XLA_FLAGS"]}, operations


FRAMEWORKS = {"torch": torch_operations, "flax": flax_operations}


def twice(operation: Operation) -> dict[str, Any]:
    """Run an operation two times and compare the bits."""
    try:
        first, second = operation(), operation()
    except Exception as error:  # the library's refusal is the result
        return {"refused": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    equal = all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
    digest = hashlib.sha256(b"".join(array.tobytes() for array in first)).hexdigest()
    return {"equal": equal, "sha256": digest[:16]}


def main() -> None:
    """Print the rows of one framework as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=FRAMEWORKS, required=True)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--free", action="store_true", help="ask for no deterministic algorithms")
    parser.add_argument("--small", action="store_true", help="images of 64x64, a batch of 2")
    options = parser.parse_args()
    side, batch = (64, 2) if options.small else (224, 8)
    switches, operations = FRAMEWORKS[options.framework](options.device, side, batch, options.free)
    rows = {name: twice(operation) for name, operation in operations.items()}
    print(json.dumps({"framework": options.framework, "switches": switches, "operations": rows}))


if __name__ == "__main__":
    main()
