"""Synthetic weights that expose bugs: every norm away from 1, 0, 0, 1, every layer's output of a healthy scale.

Freshly initialised weights hide most porting bugs: with a running mean of 0 and a variance of 1 an exchanged pair, a
wrong epsilon or a missing norm changes nothing or little. Here scales and offsets are random, and the running
statistics are those of real activations, so that signals keep their scale through the depth, as in a trained network.
And as in a trained network some channels are dead: only there does a ReLU meet an exact zero, at which its gradient is
a convention.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from conformance.cases.inputs import noise
from conformance.cases.pictures import photograph
from impls.config import ResNetConfig
from impls.numpy import read_weights, resnet
from impls.numpy.resnet import BatchNorm, Convolution
from weights_convert import Checkpoint

CALIBRATION_SIDE = 112
RESIDUAL_SCALE = 0.4
"""Factor on the scales of bn3, so that a sum of up to six residual branches grows by less than twofold."""

DEAD, SPARSE, LIT = 0, 1, 2
"""Channels: in every norm, one whose output is zero; in the stem's, one that is seldom above zero, and one that is
above zero where the image is zero. Without the second every window of the max pool may, in a small network, see every
channel above zero: then the norm behind it takes the stem's offset away again, whose gradient is zero with and without
a bug. Without the third no positive numbers may be equal within a window, and the pool's gradient at ties not show."""


def synthetic_weights(config: ResNetConfig, seed: int) -> Checkpoint:
    """Draw weights with calibrated statistics: the same for the same seed, exact in float32.

    Example:
        >>> from impls.config import VARIANTS
        >>> config = replace(VARIANTS["v1.5"], depths=(1, 1, 1, 1), width=4, num_classes=10)
        >>> synthetic_weights(config, seed=0).arrays["bn1.weight"].dtype
        dtype('float32')
    """
    random = np.random.default_rng(seed)
    model = resnet(replace(config, head_pool=None), seed=seed)
    for path, layer in model.layers():
        if isinstance(layer, BatchNorm):
            factor = RESIDUAL_SCALE if path.endswith("bn3") else 1.0
            layer.weight = random.uniform(0.5, 1.5, layer.weight.shape) * factor
            layer.bias = random.normal(0.0, 0.2, layer.bias.shape)
            layer.weight[DEAD] = layer.bias[DEAD] = 0.0
            layer.decay = 0.0  # the running statistics become those of the one calibrating run
        elif isinstance(layer, Convolution):
            layer.bias = None if layer.bias is None else random.normal(0.0, 0.1, layer.bias.shape)
        else:
            layer.bias = random.normal(0.0, 0.1, layer.bias.shape)
    model.bn1.bias[SPARSE] = -2.0 * model.bn1.weight[SPARSE]
    model.bn1.bias[LIT] = 0.5 * model.bn1.weight[LIT]
    model.train()(calibration_images(config, seed))
    model.config = config
    return Checkpoint(
        {name: array.astype(np.float32) for name, array in read_weights(model).arrays.items()},
        read_weights(model).dialect,
        config,
        where=f"synthetic weights (seed {seed})",
        recognised_by="made for it",
    )


def calibration_images(config: ResNetConfig, seed: int) -> np.ndarray:
    """Make a batch of a photograph, where the network takes colour, and noise: (batch, channels, 112, 112)."""
    side = CALIBRATION_SIDE
    photographs = [photograph(side).images] if config.in_channels == 3 else []
    images = np.concatenate([*photographs, noise(side, side, 2, seed, config.in_channels).images])
    return images.astype(np.float64)
