"""A plain functional ResNet-50 v1.5 in JAX: the peer of the Flax model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.models.inputs import LEARNING_RATE, MOMENTUM


def plain_resnet50(arrays: Mapping[str, Any], x: Any, train: bool, dtype: str) -> tuple[Any, dict[str, Any]]:
    """ResNet-50 v1.5 as a function of its arrays: logits, and the new running statistics.

    Args:
        arrays: By name in the "flax" dialect of `weights_convert`.
        x: Images (batch, height, width, channels).
        train: Whether to normalise with the statistics of the batch.
        dtype: Of convolutions; norms compute in float32.
    """
    import jax.numpy as jnp
    from jax import lax
    from jax.nn import relu

    statistics_now: dict[str, Any] = {}

    def conv(name: str, x: Any, stride: int = 1) -> Any:
        kernel = arrays[f"{name}.kernel"].astype(dtype)
        pad = (kernel.shape[0] // 2,) * 2
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def norm(name: str, x: Any) -> Any:
        values = x.astype(jnp.float32)
        mean, variance = arrays[f"{name}.mean"], arrays[f"{name}.var"]
        if train:
            old_mean, old_variance, count = mean, variance, x.size // x.shape[-1]
            mean, variance = values.mean((0, 1, 2)), values.var((0, 1, 2))
            statistics_now[f"{name}.mean"] = 0.9 * old_mean + 0.1 * mean
            statistics_now[f"{name}.var"] = 0.9 * old_variance + 0.1 * variance * (count / (count - 1))
        factor = arrays[f"{name}.scale"] * lax.rsqrt(variance + 1e-5)
        return ((values - mean) * factor + arrays[f"{name}.bias"]).astype(dtype)

    def block(name: str, x: Any, stride: int) -> Any:
        y = relu(norm(f"{name}.bn1", conv(f"{name}.conv1", x)))
        y = relu(norm(f"{name}.bn2", conv(f"{name}.conv2", y, stride)))
        y = norm(f"{name}.bn3", conv(f"{name}.conv3", y))
        if f"{name}.downsample_conv.kernel" in arrays:
            x = norm(f"{name}.downsample_bn", conv(f"{name}.downsample_conv", x, stride))
        return relu(x + y)

    x = relu(norm("bn1", conv("conv1", x.astype(dtype), 2)))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for stage, depth in enumerate((3, 4, 6, 3), start=1):
        for index in range(depth):
            x = block(f"stage{stage}.{index}", x, 2 if stage > 1 and index == 0 else 1)
    x = x.mean((1, 2))
    return x @ arrays["fc.kernel"].astype(dtype) + arrays["fc.bias"].astype(dtype), statistics_now


def plain_step(trained: Any, running: Any, velocity: Any, x: Any, labels: Any, dtype: str) -> tuple[Any, ...]:
    """One step of SGD with momentum on the plain network: new arrays, statistics and velocity, and the loss."""
    import jax
    import jax.numpy as jnp

    def loss(trained: Any) -> tuple[Any, Any]:
        logits, statistics_now = plain_resnet50(trained | running, x, train=True, dtype=dtype)
        chances = jax.nn.log_softmax(logits.astype(jnp.float32))
        return -jnp.take_along_axis(chances, labels[:, None], axis=1).mean(), statistics_now

    (value, running), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
    velocity = jax.tree.map(lambda old, gradient: MOMENTUM * old + gradient, velocity, gradients)
    trained = jax.tree.map(lambda array, update: array - LEARNING_RATE * update, trained, velocity)
    return trained, running, velocity, value
