"""ResNet-50 in PyTorch."""

from impls.torch.resnet import Bottleneck, ResNet, resnet, resnet50
from impls.torch.state import read_weights, write_weights
from impls.torch.training import Training, read_training, resume

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
