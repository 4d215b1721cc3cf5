"""ResNet-50 in Flax (NNX)."""

from impls.flax.resnet import Bottleneck, ResNet, resnet, resnet50
from impls.flax.state import read_weights, write_weights
from impls.flax.training import Training, read_training, resume

__all__ = [
    "Bottleneck",
    "ResNet",
    "Training",
    "read_training",
    "read_weights",
    "resnet",
    "resnet50",
    "resume",
    "write_weights",
]
