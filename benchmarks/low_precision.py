"""Errors that TF32, bfloat16 and float16 make in ResNet-50 v1.5, and the precision that is in force, measured.

    python -m benchmarks.low_precision --framework torch|flax|keras [--device gpu|cpu] [--small]

Prints one JSON object: for each way to compute, the precision that a probe measures for matrix products and for
convolutions (`in_force`), and the relative L2 errors, against the float64 oracle, of the logits and of the worst block,
in inference mode, on the photograph; and the errors of single convolutions by their size (`by_size`), since a library
may choose a lower precision for large ones alone. Keras runs on the backend that KERAS_BACKEND names.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.networks import chosen_network
from conformance.cases.pictures import photograph
from conformance.cases.synthetic import synthetic_weights
from conformance.run.precision import measure_precision, multiply_as_convolution
from impls import numpy as oracle
from impls.config import ResNetConfig
from weights_convert import Checkpoint

Array = np.ndarray
Forward = Callable[[Array], Mapping[str, Array]]


@dataclass(frozen=True)
class Way:
    """One way to compute in a framework.

    Attributes:
        name: The precision that is asked for.
        multiply: The matrix product of two float32 arrays, computed that way.
        convolve: The unpadded convolution of NCHW images with an OIHW kernel, computed that way.
        forward: NCHW images to activations by canonical name, NCHW, computed that way.
    """

    name: str
    multiply: Callable[[Array, Array], Array]
    convolve: Callable[[Array, Array], Array]
    forward: Forward


def torch_ways(config: ResNetConfig, weights: Checkpoint, device: str) -> Iterator[Way]:
    """Yield strict float32, TF32, and autocast to bfloat16 and float16, in PyTorch."""
    import torch

    from impls.torch import resnet

    place = "cuda" if device == "gpu" else "cpu"
    model = resnet(config, weights).to(place).eval()

    def products(precision: str) -> None:
        torch.backends.cudnn.conv.fp32_precision = precision
        torch.backends.cuda.matmul.fp32_precision = precision

    def computed(precision: str, dtype: Any, function: Callable[..., Any], *arrays: Array) -> Any:
        products(precision)
        cast = contextlib.nullcontext() if dtype is None else torch.autocast(place, dtype)
        with torch.no_grad(), cast:
            return function(*(torch.from_numpy(np.ascontiguousarray(array)).to(place) for array in arrays))

    def to_numpy(tensor: Any) -> Array:
        return tensor.float().cpu().numpy()

    rows = [("float32", "ieee", None), ("tf32", "tf32", None)]
    rows += [("bfloat16", "ieee", torch.bfloat16), ("float16", "ieee", torch.float16)]
    for name, precision, dtype in rows:
        run = partial(computed, precision, dtype)
        yield Way(
            name,
            lambda left, right, run=run: to_numpy(run(torch.matmul, left, right)),
            lambda images, kernel, run=run: to_numpy(run(torch.nn.functional.conv2d, images, kernel)),
            lambda images, run=run: {k: to_numpy(v) for k, v in run(model.activations, images).items()},
        )


def flax_ways(config: ResNetConfig, weights: Checkpoint, device: str) -> Iterator[Way]:
    """Yield strict float32 and TF32 products, and computing in bfloat16 and float16, in Flax."""
    import jax
    from flax import nnx
    from jax import lax

    from impls.flax import resnet

    assert (jax.devices()[0].platform == "gpu") == (device == "gpu"), jax.devices()

    def nchw(array: Any) -> Array:
        array = np.asarray(array.astype(np.float32))
        return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array

    rows = [("float32", "highest", None), ("tf32", "tensorfloat32", None)]
    rows += [("bfloat16", "highest", "bfloat16"), ("float16", "highest", "float16")]
    for name, precision, dtype in rows:
        model = resnet(replace(config, compute_dtype=dtype), weights)
        model.eval()
        compiled = nnx.jit(lambda model, images: model.activations(images))

        def product(function: Any, *arrays: Array, precision: str = precision, dtype: Any = dtype) -> Array:
            with jax.default_matmul_precision(precision):
                return np.asarray(function(*(jax.numpy.asarray(array, dtype) for array in arrays)).astype(np.float32))

        def forward(images: Array, model: Any = model, compiled: Any = compiled, precision: str = precision) -> Any:
            with jax.default_matmul_precision(precision):
                found = compiled(model, jax.numpy.asarray(images.transpose(0, 2, 3, 1)))
            return {name: nchw(array) for name, array in found.items()}

        convolve = partial(lax.conv, window_strides=(1, 1), padding="VALID")
        yield Way(name, partial(product, jax.numpy.matmul), partial(product, convolve), forward)


def keras_ways(config: ResNetConfig, weights: Checkpoint, device: str) -> Iterator[Way]:
    """Yield strict float32, and mixed bfloat16 and float16, in Keras; TF32 is a switch of its backend."""
    import keras

    from impls.keras import resnet

    if keras.backend.backend() == "torch":
        import torch

        torch.backends.cudnn.conv.fp32_precision = "ieee"
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        assert torch.cuda.is_available() == (device == "gpu")

    def to_numpy(tensor: Any) -> Array:
        array = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))
        return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array

    for name, dtype in (("float32", None), ("bfloat16", "bfloat16"), ("float16", "float16")):
        model = resnet(replace(config, compute_dtype=dtype), weights)

        def tensors(*arrays: Array, dtype: str = dtype or "float32") -> Any:
            return [keras.ops.cast(keras.ops.convert_to_tensor(array), dtype) for array in arrays]

        def convolve(images: Array, kernel: Array, tensors: Any = tensors) -> Array:
            nhwc, hwio = tensors(images.transpose(0, 2, 3, 1).copy(), kernel.transpose(2, 3, 1, 0).copy())
            return to_numpy(keras.ops.conv(nhwc, hwio, 1, "valid", "channels_last"))

        def forward(images: Array, model: Any = model) -> Mapping[str, Array]:
            found = model.activations(images.transpose(0, 2, 3, 1).copy(), training=False)
            return {name: to_numpy(value) for name, value in found.items()}

        multiply = lambda left, right, tensors=tensors: to_numpy(keras.ops.matmul(*tensors(left, right)))  # noqa: E731
        yield Way(name, multiply, convolve, forward)


WAYS = {"torch": torch_ways, "flax": flax_ways, "keras": keras_ways}


def measure(truth: Mapping[str, Array], activations: Mapping[str, Array]) -> dict[str, Any]:
    """Relative L2 errors of the logits and of the worst block, and whether the most probable class is the oracle's."""
    errors = {
        name: float(np.linalg.norm(activations[name].astype(np.float64) - array) / np.linalg.norm(array))
        for name, array in truth.items()
    }
    worst = max(errors, key=errors.__getitem__)
    return {
        "logits": errors["logits"],
        "worst": errors[worst],
        "worst at": worst,
        "same class": bool(truth["logits"].argmax() == activations["logits"].argmax()),
    }


SIZES = {
    "32 to 32 channels, 3x3, 16x16 pixels": (1, 32, 32, 3, 16),
    "32 to 32 channels, 3x3, 16x16 pixels, 8 images": (8, 32, 32, 3, 16),
    "64 to 64 channels, 3x3, 16x16 pixels": (1, 64, 64, 3, 16),
    "64 to 64 channels, 3x3, 56x56 pixels": (1, 64, 64, 3, 56),
    "64 to 256 channels, 1x1, 56x56 pixels": (1, 64, 256, 1, 56),
    "128 to 128 channels, 3x3, 28x28 pixels": (1, 128, 128, 3, 28),
    "512 to 512 channels, 3x3, 7x7 pixels": (1, 512, 512, 3, 7),
    "3 to 64 channels, 7x7, 224x224 pixels": (1, 3, 64, 7, 224),
}
"""Name to images, input and output channels, side of the kernel and of the images; the first is that of the probe."""


def errors_by_size(way: Way) -> dict[str, float]:
    """Measure the relative L2 errors of unpadded convolutions of several sizes."""
    errors = {}
    for name, (count, inputs, outputs, kernel, side) in SIZES.items():
        random = np.random.default_rng(0)
        images, weights = (
            random.standard_normal(shape).astype(np.float32)
            for shape in ((count, inputs, side, side), (outputs, inputs, kernel, kernel))
        )
        exact = multiply_as_convolution(images.astype(np.float64), weights.astype(np.float64))
        errors[name] = float(np.linalg.norm(way.convolve(images, weights) - exact) / np.linalg.norm(exact))
    return errors


def main() -> None:
    """Print the rows of one framework as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=WAYS, required=True)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="a small network of the variant")
    options = parser.parse_args()
    os.environ.pop("NVIDIA_TF32_OVERRIDE", None)  # it would switch TF32 off where it is asked for
    config, side = chosen_network(options.small)
    weights, images = synthetic_weights(config, seed=0), photograph(side).images
    model = oracle.resnet(config, weights)
    truth = model.activations(images.astype(np.float64))
    rows = {}
    with np.errstate(over="ignore", invalid="ignore"):  # float16 overflows on purpose
        for way in WAYS[options.framework](config, weights, options.device):
            rows[way.name] = {
                "in_force": measure_precision(way, "float32"),
                **measure(truth, way.forward(images)),
                "by_size": errors_by_size(way),
            }
    print(json.dumps({"framework": options.framework, "ways": rows}))


if __name__ == "__main__":
    main()
