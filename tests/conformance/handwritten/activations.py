"""Wrong activations in torchvision's network: of another shape, missing, or in another place."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, relu
from torchvision.models.resnet import Bottleneck

from tests.conformance.handwritten.wrong_model import wrong


class Activated(Bottleneck):
    """A block with three activations of its own: after bn1, after bn2, after the addition."""

    def forward(self, x):
        first, second, last = self.activations
        out = first(self.bn1(self.conv1(x)))
        out = second(self.bn2(self.conv2(out)))
        return last(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


def activate(block, first=relu, second=relu, last=relu):
    block.__class__, block.activations = Activated, (first, second, last)


def identity(x):
    return x


@wrong("stage1.1.conv2", "the activation is ReLU6 everywhere", ("relu6|clip|cut|6",))
def relu6_everywhere(net):
    """ReLU6, as in a network that is meant to be quantised; nothing before bn1 of stage1.1 is above 6 here."""
    for module in net.modules():
        if isinstance(getattr(module, "relu", None), nn.ReLU):
            module.relu = nn.ReLU6()


@wrong("stage2.1.conv2", "the activation after bn1 is cut off at 1", ("clip|cut|relu1|hardtanh|saturat|1",))
def relu_clipped(net):
    activate(net.layer2[1], nn.Hardtanh(0.0, 1.0))


@wrong(
    "stem", "the activation is a leaky ReLU with slope 0.01 everywhere", ("leaky|slope", r"0?\.01"), rows="relu-leaky"
)
def leaky_everywhere(net):
    for module in net.modules():
        if isinstance(getattr(module, "relu", None), nn.ReLU):
            module.relu = nn.LeakyReLU()


@wrong(
    "stage1.1.conv3",
    "the activation after bn2 is a leaky ReLU with slope 0.01",
    ("leaky|slope", r"0?\.01"),
    rows="relu-leaky",
)
def leaky_after_bn2(net):
    activate(net.layer1[1], second=nn.LeakyReLU())


@wrong("stage3.1.conv2", "the activation after bn1 is a leaky ReLU with slope 0.2", ("leaky|slope", r"0?\.2"))
def leaky_after_bn1(net):
    activate(net.layer3[1], nn.LeakyReLU(0.2))


@wrong("stage2.0.conv3", "the activation after bn2 has the slope 0.25 below zero", ("leaky|slope|prelu", r"0?\.25"))
def parametric_relu(net):
    """PReLU with its initial slope; its parameter is not trained."""
    slope = torch.tensor([0.25], dtype=torch.float64)
    activate(net.layer2[0], second=lambda x: nn.functional.prelu(x, slope.to(x)))


@wrong("stem", "the activation is SiLU everywhere", "silu|swish")
def silu_everywhere(net):
    for module in net.modules():
        if isinstance(getattr(module, "relu", None), nn.ReLU):
            module.relu = nn.SiLU()


@wrong("stage4.0.conv2", "the activation after bn1 is GELU", "gelu")
def gelu_after_bn1(net):
    activate(net.layer4[0], gelu)


@wrong("stage2.1", "the activation after the addition is GELU by tanh", "gelu")
def gelu_by_tanh_after_the_addition(net):
    activate(net.layer2[1], last=lambda x: gelu(x, approximate="tanh"))


@wrong("stage1.0.conv3", "the activation after bn2 is ELU", "elu")
def elu_after_bn2(net):
    activate(net.layer1[0], second=nn.ELU())


@wrong("stage3.2.conv2", "the activation after bn1 is hard swish", "swish")
def hard_swish(net):
    activate(net.layer3[2], nn.Hardswish())


@wrong("stage4.1.conv3", "the activation after bn2 is softplus", "softplus")
def softplus(net):
    activate(net.layer4[1], second=nn.Softplus())


@wrong("stage3.0.conv2", "there is no ReLU after bn1", "relu|activation|identity", rows="relu-missing")
def relu_after_bn1_missing(net):
    activate(net.layer3[0], identity)


@wrong("stage3.0.conv3", "there is no ReLU after bn2", "relu|activation|identity", rows="relu-missing-2")
def relu_after_bn2_missing(net):
    activate(net.layer3[0], second=identity)


@wrong("stage4.1", "there is no ReLU after the last addition", "relu|activation|identity", rows="relu-after-missing")
def last_relu_missing(net):
    activate(net.layer4[1], last=identity)


@wrong("stem", "there is no ReLU in the stem", "relu|activation|identity", rows="stem-relu-missing")
def relu_of_the_stem_missing(net):
    net.relu = nn.Identity()


class ReluBeforeAddition(Bottleneck):
    def forward(self, x):
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        out = relu(self.bn3(self.conv3(out)))
        return relu(out + (x if self.downsample is None else self.downsample(x)))


@wrong(
    "stage1.0",
    "there is a ReLU before the addition, too, in every block",
    "relu.*(branch|before|bn3)|before the addition",
    rows="relu-before-add",
)
def relu_before_every_addition(net):
    for module in net.modules():
        if isinstance(module, Bottleneck):
            module.__class__ = ReluBeforeAddition


class ReluOnBranch(Bottleneck):
    def forward(self, x):
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        return relu(self.bn3(self.conv3(out))) + (x if self.downsample is None else self.downsample(x))


@wrong(
    "stage2.1", "the last ReLU is on the branch, not on the sum", "branch|before the addition", rows="relu-on-branch"
)
def relu_on_the_branch(net):
    net.layer2[1].__class__ = ReluOnBranch


class ReluFirst(Bottleneck):
    def forward(self, x):
        out = self.bn1(relu(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        return relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


@wrong("stage3.1.bn1", "the ReLU stands before bn1, not after it", ("relu", "before"), rows="relu-first")
def relu_before_the_norm(net):
    net.layer3[1].__class__ = ReluFirst


class ReluAtStart(Bottleneck):
    """The last ReLU at the start of the next block's branch, as in networks that activate first."""

    def forward(self, x):
        out = relu(self.bn1(self.conv1(relu(x))))
        out = relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x))


@wrong(
    "stage1.0",
    "the last ReLU of each block stands at the start of the next one's branch",
    ("relu|activation", "start|next|moved|before conv1|not after|input first"),
)
def relu_moved_to_the_next_branch(net):
    for module in net.modules():
        if isinstance(module, Bottleneck):
            module.__class__ = ReluAtStart


class Swapped(Bottleneck):
    def forward(self, x):
        out = relu(self.bn1(self.conv1(x)))
        out = self.conv2(out)
        out = self.bn2(relu(out))
        return relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


@wrong("stage2.1.bn2", "the ReLU stands before bn2, not after it", ("relu", "before"))
def relu_before_bn2(net):
    net.layer2[1].__class__ = Swapped


@wrong("stage4.0", "a ReLU is applied to the projected shortcut", ("relu", "shortcut|projection"), rows="shortcut-relu")
def relu_on_the_projection(net):
    class Rectified(nn.Sequential):
        def forward(self, x):
            return relu(super().forward(x))

    net.layer4[0].downsample.__class__ = Rectified


@wrong("stage3.1", "the activation after the addition takes absolute values", "absolute|slope|-1")
def absolute_values(net):
    activate(net.layer3[1], last=torch.abs)
