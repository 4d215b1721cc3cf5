"""ResNet-50 in plain NumPy: the executable specification that the frameworks are held to."""

from impls.numpy.initial import initial_weights
from impls.numpy.resnet import Bottleneck, ResNet, resnet, resnet50
from impls.numpy.state import read_weights, write_weights
from impls.numpy.training import Training, read_training, resume

__all__ = [
    "Bottleneck",
    "ResNet",
    "Training",
    "initial_weights",
    "read_training",
    "read_weights",
    "resnet",
    "resnet50",
    "resume",
    "write_weights",
]
