"""The stem and the stages: the max pool's padding, function and place, the strides of stages."""

from __future__ import annotations

from functools import partial

from conformance.faults.edit import replaced, together
from conformance.faults.fault import model_fault
from conformance.faults.model_lines import MAX_POOL, STEM, STEM_POOL, without_relu
from conformance.faults.place import NETWORK, at, networks
from conformance.faults.remedies import RELU, STRIDE, Remedies

POOLING = Remedies(
    torch="Use max_pool2d(x, 3, 2, padding=1), with ceil_mode=False, after the ReLU.",
    flax="Use nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), after the ReLU.",
    keras="Pad by one pixel of minus infinity, then ops.max_pool(x, 3, 2, 'valid'), after the ReLU.",
)
STEM_OF_SYMMETRIC = at("stem") & networks(same_padding=False)
FREE_SIZE = networks(head_pool=None)
"""Heads that take a map of any size, so that a fault may change it."""
pool_fault = partial(model_fault, where=STEM_OF_SYMMETRIC, remedies=POOLING)
max_pool_fault = partial(pool_fault, line=MAX_POOL)
stage_fault = partial(model_fault, where=NETWORK & FREE_SIZE, remedies=STRIDE)

ROWS = {
    "stem-relu-missing": model_fault(
        what="there is no ReLU in the stem",
        where=at("stem"),
        **replaced(STEM, without_relu(STEM)),
        remedies=RELU,
    ),
    "pool-same": pool_fault(
        what="the max pool pads as TensorFlow's SAME does: one-sided at even sizes",
        **replaced(STEM_POOL, 'x = tap("stem", max_pool(x, replace(self.config, same_padding=True)))'),
        source="simclr#26, flax examples/imagenet",
    ),
    "pool-symmetric": pool_fault(
        what="the max pool pads both sides alike, where the weights were trained with TensorFlow's SAME",
        where=at("stem") & networks(same_padding=True),
        **replaced(STEM_POOL, 'x = tap("stem", max_pool(x, replace(self.config, same_padding=False)))'),
        source="flax examples/imagenet",
    ),
    "pool-valid": max_pool_fault(
        what="the max pool does not pad: 55x55 pixels leave it, not 56x56",
        where=at("stem") & networks(head_pool=None, same_padding=False),
        numpy="return windows(x, 3, 2).max((4, 5))",
        torch="return max_pool2d(x, 3, 2)",
        flax='return nnx.max_pool(x, (3, 3), (2, 2), "SAME" if config.same_padding else ((0, 0), (0, 0)))',
        keras='return ops.max_pool(x, 3, 2, "valid", "channels_last")',
        source="tensorflow/benchmarks#134",
    ),
    "pool-ceil": max_pool_fault(
        what="the max pool rounds the size of its map up, not down",
        where=at("stem") & networks(head_pool=None, same_padding=False),
        numpy=(
            "return windows(np.pad(x, [(0, 0), (0, 0), (1, 2), (1, 2)], constant_values=-np.inf), 3, 2).max((4, 5))"
        ),
        torch="return max_pool2d(x, 3, 2, padding=1, ceil_mode=True)",
        flax='return nnx.max_pool(x, (3, 3), (2, 2), "SAME" if config.same_padding else ((1, 2), (1, 2)))',
        keras=(
            'return ops.max_pool(ops.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)), constant_values=-float("inf")), '
            '3, 2, "valid", "channels_last")'
        ),
        source="nn_tools#5, PytorchToCaffe#16",
    ),
    "pool-average": max_pool_fault(
        what="the stem's pool takes the mean of a window, not its maximum",
        numpy="return windows(pad(x, 3, 2, config.same_padding), 3, 2).mean((4, 5))",
        torch="return avg_pool2d(x, 3, 2, padding=1)",
        flax="return avg_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))",
        keras='return ops.average_pool(pad(x, 3, 0.0), 3, 2, "valid", "channels_last")',
    ),
    "pool-missing": pool_fault(
        what="there is no max pool, as in networks for small images",
        where=at("stem") & FREE_SIZE,
        **replaced(STEM_POOL, 'x = tap("stem", x)'),
    ),
    "pool-zero": max_pool_fault(
        what="the max pool pads with zeros, not with minus infinity",
        numpy="return windows(pad(x, 3, 2, config.same_padding, 0.0), 3, 2).max((4, 5))",
        torch="return max_pool2d(nn.functional.pad(x, (1, 1, 1, 1)), 3, 2)",
        flax='return nnx.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2), "VALID")',
        keras='return ops.max_pool(pad(x, 3, 0.0), 3, 2, "valid", "channels_last")',
        source="tensorflow#48105, onnx-to-keras#31",
        harmless="the pool's input passed a ReLU, so zero is never above the largest value; without a ReLU it might be",
    ),
    "pool-before-relu": pool_fault(
        what="the max pool is before the stem's ReLU",
        where=at("stem"),
        **together(
            replaced(STEM, without_relu(STEM)),
            replaced(STEM_POOL, 'x = tap("stem", relu(max_pool(x, self.config)))'),
        ),
        harmless="ReLU keeps the order of numbers, so the largest stays the largest; with an average it would matter",
    ),
    "stage1-stride": stage_fault(
        what="the first block of stage 1 has stride 2",
        **replaced("STAGE_STRIDES[0]", "2"),
        source="tinygrad#770",
    ),
    "stage4-stride": stage_fault(
        what="the first block of stage 4 has stride 1, as in networks for detection",
        **replaced("STAGE_STRIDES[3]", "1"),
    ),
}
