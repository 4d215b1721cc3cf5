"""Right ResNets of torchvision whose modules return something else than what the network goes on with."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

SMALL = {"layers": [1, 1, 1, 1], "num_classes": 10}


def stages(model):
    """All blocks, in order."""
    return [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]


class WithoutLastReLU(Bottleneck):
    """Returns the sum; its caller applies the last ReLU, in place."""

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.bn3(self.conv3(y)) + shortcut


class ReLUOutside(ResNet):
    """Applies the last ReLU of each block to the tensor that the block has returned."""

    def __init__(self, block=WithoutLastReLU, **size):
        super().__init__(block, **SMALL | size)

    def _forward_impl(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for block in stages(self):
            x = nn.functional.relu_(block(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Branch(Bottleneck):
    """Computes the branch alone; its caller adds the shortcut."""

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.bn3(self.conv3(y))


class ShortcutOutside(ResNet):
    """Adds the shortcut outside of the module that holds the layers of a block."""

    def __init__(self, **size):
        super().__init__(Branch, **SMALL | size)

    def _forward_impl(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for block in stages(self):
            shortcut = x if block.downsample is None else block.downsample(x)
            x = self.relu(block(x) + shortcut)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def wrong_eps(model):
    model.layer3[0].bn2.eps = 1e-3
    return model


def relu_outside(wrong=False):
    return wrong_eps(ReLUOutside()) if wrong else ReLUOutside()


def shortcut_outside(wrong=False):
    return wrong_eps(ShortcutOutside()) if wrong else ShortcutOutside()


def norm_with_relu(wrong=False):
    """Norms that are followed by a ReLU apply it themselves, as timm's do."""
    from timm.layers import BatchNormAct2d

    model = ResNet(Bottleneck, **SMALL)
    for block in stages(model):
        for name in ("bn1", "bn2"):
            setattr(block, name, BatchNormAct2d(getattr(block, name).num_features))
    return wrong_eps(model) if wrong else model


def flipped_at_the_end():
    """A wrong network: its last map is flipped, of which its classifier sees the mean alone."""
    model = ResNet(Bottleneck, **SMALL)
    forward = model.layer4[0].forward
    model.layer4[0].forward = lambda x: forward(x).flip(-1)
    return model
