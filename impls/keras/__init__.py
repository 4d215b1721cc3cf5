"""ResNet-50 in Keras 3."""

from impls.keras.resnet import Bottleneck, ResNet, resnet, resnet50
from impls.keras.state import read_weights, write_weights

__all__ = ["Bottleneck", "ResNet", "read_weights", "resnet", "resnet50", "write_weights"]
