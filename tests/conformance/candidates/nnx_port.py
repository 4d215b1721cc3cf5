"""A small ResNet in NNX whose layers are named as in torchvision, as a port would have them."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx


class Block(nnx.Module):
    def __init__(self, entering, channels, stride, rngs):
        self.conv1 = nnx.Conv(entering, channels, (1, 1), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(channels, channels, (3, 3), stride, padding=1, use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        self.conv3 = nnx.Conv(channels, 4 * channels, (1, 1), use_bias=False, rngs=rngs)
        self.bn3 = nnx.BatchNorm(4 * channels, momentum=0.9, rngs=rngs)
        convolution = nnx.Conv(entering, 4 * channels, (1, 1), stride, use_bias=False, rngs=rngs)
        self.downsample = nnx.List([convolution, nnx.BatchNorm(4 * channels, momentum=0.9, rngs=rngs)])

    def __call__(self, x):
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        return nnx.relu(self.bn3(self.conv3(y)) + self.downsample[1](self.downsample[0](x)))


class Port(nnx.Module):
    def __init__(self, num_classes=10, width=8):
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(3, width, (7, 7), 2, padding=3, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        entering = width
        for number in range(4):
            channels = width * 2**number
            block = Block(entering, channels, 1 + (number > 0), rngs)
            setattr(self, f"layer{number + 1}", nnx.List([block]))
            entering = 4 * channels
        self.fc = nnx.Linear(entering, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = block(x)
        return self.fc(jnp.mean(x, (1, 2)))
