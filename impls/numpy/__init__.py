"""ResNet-50 in plain NumPy: the executable specification that the frameworks are held to."""

from impls.numpy.resnet import Bottleneck, ResNet, resnet, resnet50
from impls.numpy.state import read_weights, write_weights

__all__ = ["Bottleneck", "ResNet", "read_weights", "resnet", "resnet50", "write_weights"]
