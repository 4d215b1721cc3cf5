"""The ResNet-50 of Flax's ImageNet example, in Linen, with the same variables and the same function.

Source: `examples/imagenet/models.py` of Flax, whose names of layers are those in its checkpoints.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

RESIDUAL_SCALE = 0.4


class BottleneckResNetBlock(nn.Module):
    filters: int
    conv: Any
    norm: Any
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm()(self.conv(self.filters, (1, 1))(x)))
        y = nn.relu(self.norm()(self.conv(self.filters, (3, 3), self.strides)(y)))
        y = self.norm(scale_init=nn.initializers.zeros_init())(self.conv(self.filters * 4, (1, 1))(y))
        if x.shape != y.shape:
            x = self.norm(name="norm_proj")(self.conv(self.filters * 4, (1, 1), self.strides, name="conv_proj")(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    num_classes: int = 1000
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=self.momentum, epsilon=1e-5)
        x = conv(64, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], name="conv_init")(x)
        x = nn.relu(norm(name="bn_init")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, blocks in enumerate(self.stage_sizes):
            for block in range(blocks):
                strides = (2, 2) if stage > 0 and block == 0 else (1, 1)
                x = BottleneckResNetBlock(64 * 2**stage, conv, norm, strides)(x)
        return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))


def calibrated_variables(images: np.ndarray) -> dict[str, Any]:
    """Return variables as the example initialises them, with random scales, offsets and statistics in every norm."""
    random = np.random.default_rng(0)
    model = ResNet50(momentum=0.0)  # the running statistics become those of the batch
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def randomised(path: Any, array: jax.Array) -> np.ndarray:
        names = [step.key for step in path]
        if names[-1] == "scale":
            factor = RESIDUAL_SCALE if names[-2] == "BatchNorm_2" else 1.0
            return (random.uniform(0.5, 1.5, array.shape) * factor).astype(np.float32)
        if names[-1] == "bias":
            return random.normal(0.0, 0.2, array.shape).astype(np.float32)
        return np.asarray(array)

    params = jax.tree_util.tree_map_with_path(randomised, variables["params"])
    _, updated = jax.jit(partial(model.apply, mutable=["batch_stats"]))({**variables, "params": params}, images)
    return {"params": params, "batch_stats": jax.tree.map(np.asarray, updated["batch_stats"])}
