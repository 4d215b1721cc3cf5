"""The ResNet of Flax's ImageNet example in Linen, of any size, as a candidate of the suite.

Source: `examples/imagenet/models.py` of Flax; its fields and the names of its layers are kept.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from conformance.run.adapters.canonical import canonical_arrays, channels_first, channels_last
from conformance.run.capabilities import Capability
from impls.taps import is_layer
from weights_convert import load
from weights_convert.dialects import find_dialect
from weights_convert.shapes import expected_shapes

DIALECT = find_dialect("flax-linen")


class BottleneckResNetBlock(nn.Module):
    filters: int
    conv: Any
    norm: Any
    act: Any
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        residual = x
        y = self.conv(self.filters, (1, 1))(x)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(self.filters, (3, 3), self.strides)(y)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(self.filters * 4, (1, 1))(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if residual.shape != y.shape:
            residual = self.conv(self.filters * 4, (1, 1), self.strides, name="conv_proj")(residual)
            residual = self.norm(name="norm_proj")(residual)
        return self.act(residual + y)


class ResNet(nn.Module):
    stage_sizes: tuple[int, ...]
    num_classes: int
    num_filters: int = 64
    dtype: Any = None
    act: Any = nn.relu
    conv: Any = nn.Conv
    block_cls: Any = BottleneckResNetBlock
    momentum: float = 0.9
    epsilon: float = 1e-5
    stem_padding: Any = ((3, 3), (3, 3))
    pool: Any = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME")

    @nn.compact
    def __call__(self, x, train=True):
        conv = partial(self.conv, use_bias=False, dtype=self.dtype)
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
        )
        x = conv(self.num_filters, (7, 7), (2, 2), padding=self.stem_padding, name="conv_init")(x)
        x = norm(name="bn_init")(x)
        x = nn.relu(x)
        x = self.pool(x)
        for i, block_size in enumerate(self.stage_sizes):
            for j in range(block_size):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = self.block_cls(self.num_filters * 2**i, strides=strides, conv=conv, norm=norm, act=self.act)(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)


class LinenCandidate:
    """A Linen network with an edit as a candidate.

    Args:
        edit: Takes the network and its variables, which it may change in place; may return another network.
    """

    capabilities = frozenset({Capability.TAP})

    def __init__(self, edit=lambda net, variables: None):
        self.edit = edit

    def prepare(self, device, precision):
        jax.config.update("jax_enable_x64", precision == "float64")
        self.dtype = precision
        return "cpu"

    def build(self, config, weights):
        self.config = config
        self.variables = {}
        for name, array in load(weights).to("flax-linen").arrays.items():
            *path, leaf = name.split(".")
            tree = self.variables
            for step in path:
                tree = tree.setdefault(step, {})
            tree[leaf] = np.asarray(array, self.dtype)
        self.net = ResNet(config.depths, config.num_classes, config.width)
        self.net = self.edit(self.net, self.variables) or self.net

    def canonical(self, variables):
        leaves = jax.tree_util.tree_leaves_with_path(variables)
        named = {".".join(step.key for step in path): np.array(leaf) for path, leaf in leaves}
        return canonical_arrays(named, "flax-linen")

    def parameters(self):
        return {name: array.shape for name, array in self.canonical(self.variables).items()}

    def names(self):
        """Canonical names by path of a layer or block, and the names of what enters the first block and the head."""
        blocks = [block.name for block in self.config.blocks()]
        outputs = {f"BottleneckResNetBlock_{number}": name for number, name in enumerate(blocks)} | {
            "Dense_0": "logits"
        }
        for name, (spelled, _) in DIALECT.write_names(expected_shapes(self.config)).items():
            layer, _, leaf = name.rpartition(".")
            if leaf == "weight" and is_layer(layer):
                outputs[spelled.removeprefix("params.").rpartition(".")[0]] = layer
        return outputs, {"BottleneckResNetBlock_0": "stem", "Dense_0": "pool"}

    def run_tapped(self, images, train, tap):
        outputs, inputs = self.names()

        def passed(name, value):
            replacement = tap(name, channels_first(np.asarray(value)))
            return value if replacement is None else jnp.asarray(channels_last(replacement))

        def intercept(call, arguments, keywords, context):
            path = ".".join(context.module.path)
            if context.method_name != "__call__":
                return call(*arguments, **keywords)
            if path in inputs:
                arguments = (passed(inputs[path], arguments[0]), *arguments[1:])
            value = call(*arguments, **keywords)
            return passed(outputs[path], value) if path in outputs else value

        x = jnp.asarray(channels_last(images), self.dtype)
        with nn.intercept_methods(intercept):
            _, updated = self.net.apply(copy.deepcopy(self.variables), x, train=train, mutable=["batch_stats"])
        return self.canonical({"batch_stats": updated["batch_stats"]}) if train else {}

    def record(self, images, train, layers):
        activations = {}
        statistics = self.run_tapped(images, train, activations.__setitem__)
        return {name: array for name, array in activations.items() if layers or not is_layer(name)} | dict(statistics)
