"""ResNet-50 in Keras 3."""

from impls.keras.resnet import Bottleneck, ResNet, resnet, resnet50
from impls.keras.state import read_weights, write_weights
from impls.keras.training import Training, read_training, resume

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
