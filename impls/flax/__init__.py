"""ResNet-50 in Flax (NNX)."""

from impls.flax.resnet import Bottleneck, ResNet, resnet, resnet50
from impls.flax.state import read_training, read_weights, resume, write_weights
from impls.flax.training import Training

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
