"""ResNet-50 in Flax (NNX)."""

from impls.flax.resnet import Bottleneck, ResNet, resnet, resnet50
from impls.flax.state import read_weights, write_weights

__all__ = ["Bottleneck", "ResNet", "read_weights", "resnet", "resnet50", "write_weights"]
