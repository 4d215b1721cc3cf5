"""ResNet-50 in PyTorch."""

from impls.torch.resnet import Bottleneck, ResNet, resnet, resnet50
from impls.torch.state import read_weights, write_weights

__all__ = ["Bottleneck", "ResNet", "read_weights", "resnet", "resnet50", "write_weights"]
