"""Small ResNets in PyTorch as people write them, right and wrong, which `conformance check` is tried on.

`port` names its arrays as torchvision does; `renamed` has names of its own, which `renamed.toml` describes.
"""

from __future__ import annotations

import os
import time

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Block(nn.Module):
    def __init__(self, entering, channels, stride, inplace, dropout):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(entering, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = nn.Conv2d(channels, 4 * channels, 1, bias=False), nn.BatchNorm2d(4 * channels)
        self.relu, self.dropout = nn.ReLU(inplace), dropout
        self.downsample = None
        if stride > 1 or entering != 4 * channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(entering, 4 * channels, 1, stride, bias=False), nn.BatchNorm2d(4 * channels)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.dropout:
            y = nn.functional.dropout(y, self.dropout)  # also in inference mode
        y += shortcut
        return self.relu(y)


class Port(nn.Module):
    def __init__(self, num_classes=10, inplace=True, dropout=0.0, width=8, depths=(2, 2, 2, 2)):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace), nn.MaxPool2d(3, 2, 1)
        entering = width
        for number, depth in enumerate(depths):
            channels, stride = width * 2**number, 1 + (number > 0)
            first = Block(entering, channels, stride, inplace, dropout)
            others = (Block(4 * channels, channels, 1, inplace, 0.0) for _ in range(depth - 1))
            setattr(self, f"layer{number + 1}", nn.Sequential(first, *others))
            entering = 4 * channels
        self.fc = nn.Linear(entering, num_classes)

    def features(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(x.mean((2, 3)), 1)

    def forward(self, x):
        return self.fc(self.features(x))


def folded(state, **arguments):
    """A right port for inference: each norm, with its arrays, is folded into the convolution before it."""
    model = Port(**arguments).double()  # or folding would round to float32
    model.load_state_dict(state, strict=False)
    for module in [module for module in model.eval().modules() if not isinstance(module, nn.ModuleList)]:
        names = [name for name, child in module.named_children() if isinstance(child, nn.BatchNorm2d)]
        for name in names:
            before = "0" if name == "1" else name.replace("bn", "conv")
            setattr(module, before, fuse_conv_bn_eval(getattr(module, before), getattr(module, name)))
            setattr(module, name, nn.Identity())
    return model


def port(bug="", **arguments):
    """A right port, or one with a bug: a function of the model that plants it."""
    model = Port(**arguments)
    if bug:
        BUGS[bug](model)
    return model


def wrong_eps(model):
    model.layer3[0].bn2.eps = 1e-3


def frozen(model):
    model.conv1.weight.requires_grad_(False)
    model.bn1.weight.requires_grad_(False)


def always_training(model):
    model.train = lambda mode=True: nn.Module.train(model, True)


def without_gradient(model):
    forward = model.forward
    model.forward = torch.no_grad()(forward)


def single_inside(model):
    """Computes float32 whatever it is asked for, and says float64."""
    forward = model.forward
    model.to = lambda *args, **kwargs: model

    def converted(x):
        return forward(x.float()).to(x.dtype)

    model.forward = converted


def single_images(model):
    """Loses what float32 cannot hold, and computes float64 from there."""
    forward = model.forward
    model.forward = lambda x: forward(x.float().to(x.dtype))


def single_block(model):
    """Rounds to float32 what one block takes, in the middle of the network."""
    forward = model.layer3[0].forward
    model.layer3[0].forward = lambda x: forward(x.float().to(x.dtype))


def single_logits(model):
    forward = model.forward
    model.forward = lambda x: forward(x).float().to(x.dtype)


def counting(model):
    """Counts its calls, and computes the same at each."""
    forward = model.forward
    model.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def count(x):
        model.calls += 1
        return forward(x)

    model.forward = count


def fixed_pool(model):
    """Pools as for images of 224x224, and takes no smaller ones."""

    def features(x):
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        x = model.layer4(model.layer3(model.layer2(model.layer1(x))))
        return torch.flatten(nn.functional.avg_pool2d(x, 7), 1)

    model.features = features


def blind(model):
    """Computes the same of all images."""
    forward = model.forward
    model.forward = lambda x: forward(torch.ones_like(x))


def drawing_logits(model):
    forward = model.forward
    model.forward = lambda x: forward(x) + torch.rand(())


def talking(model):
    forward = model.forward

    def say(x):
        os.write(1, b'{"event": "done"}')
        return forward(x)

    model.forward = say


def crashing(model):
    model.forward = lambda x: os.abort()


def hanging(model):
    model.forward = lambda x: time.sleep(1000)


def not_a_number(model):
    forward = model.forward
    model.forward = lambda x: forward(x) / 0.0 * 0.0


def too_short(model):
    forward = model.forward
    model.forward = lambda x: forward(x)[:, :5]


def raising(model):
    def fail(x):
        raise RuntimeError("expected another input")

    model.forward = fail


def in_a_tuple(model):
    forward = model.forward
    model.forward = lambda x: (model.features(x), forward(x))


def channels_last(model):
    forward = model.forward
    model.forward = lambda x: forward(x.permute(0, 3, 1, 2))


def without_calling_modules(model):
    """Uses the classifier's arrays without calling its module."""
    model.forward = lambda x: nn.functional.linear(model.features(x), model.fc.weight, model.fc.bias)


BUGS = {
    bug.__name__: bug
    for bug in (
        *(
            wrong_eps,
            frozen,
            always_training,
            without_gradient,
            single_inside,
            single_images,
            single_block,
            counting,
            fixed_pool,
            single_logits,
            blind,
            drawing_logits,
            talking,
            crashing,
        ),
        *(hanging, not_a_number, too_short, raising, in_a_tuple, channels_last, without_calling_modules),
    )
}


class Renamed(nn.Module):
    """The port with its layers under names of its own."""

    def __init__(self):
        super().__init__()
        inner = Port()
        self.first, self.first_norm = inner.conv1, inner.bn1
        self.body = nn.ModuleList(inner.get_submodule(f"layer{n}") for n in (1, 2, 3, 4))
        self.head = inner.fc
        self.relu, self.pool = inner.relu, inner.maxpool

    def forward(self, x):
        x = self.pool(self.relu(self.first_norm(self.first(x))))
        for stage in self.body:
            x = stage(x)
        return self.head(x.mean((2, 3)))


def renamed():
    return Renamed()


def failing():
    raise ValueError("no such size")


def predict(images):
    return images


def nothing():
    return 3
