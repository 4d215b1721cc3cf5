"""Wrong sums and structures in torchvision's network: weights of the sum, blocks missing, shared, exchanged."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.functional import dropout, relu
from torchvision.models.resnet import Bottleneck
from torchvision.ops import stochastic_depth

from tests.conformance.handwritten.wrong_model import wrong


class Summing(Bottleneck):
    """torchvision's block with its parts apart; subclasses override the sum."""

    def branch(self, x):
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out))

    def shortcut(self, x):
        return x if self.downsample is None else self.downsample(x)

    def add(self, branch, shortcut):
        return branch + shortcut

    def forward(self, x):
        return relu(self.add(self.branch(x), self.shortcut(x)))


def blocks(net):
    return [module for module in net.modules() if isinstance(module, Bottleneck)]


@wrong("stage2.1", "the shortcut is not added", "shortcut", rows="shortcut-missing")
def shortcut_not_added(net):
    class Plain(Summing):
        def add(self, branch, shortcut):
            return branch

    net.layer2[1].__class__ = Plain


@wrong("stage1.0", "the branch has the weight 0.5, in every block", ("branch", r"0?\.5|half"))
def residual_scaled_everywhere(net):
    """The residual scaling of Inception-ResNet."""

    class Scaled(Summing):
        def add(self, branch, shortcut):
            return 0.5 * branch + shortcut

    for block in blocks(net):
        block.__class__ = Scaled


@wrong("stage3.1", "branch and shortcut have the weight 0.5 each", ("branch|sum", r"0?\.5|half"))
def mean_for_sum(net):
    class Mean(Summing):
        def add(self, branch, shortcut):
            return torch.stack([branch, shortcut]).mean(0)

    net.layer3[1].__class__ = Mean


@wrong("stage2.0", "the branch has the weight -1", ("branch", "-1|subtract|sign"))
def branch_subtracted(net):
    class Difference(Summing):
        def add(self, branch, shortcut):
            return shortcut - branch

    net.layer2[0].__class__ = Difference


@wrong(
    "stage4.1",
    "the larger of branch and shortcut is taken, not their sum",
    "maximum|larger|no linear|not linear|not a sum|no sum",
)
def maximum_for_sum(net):
    class Maximum(Summing):
        def add(self, branch, shortcut):
            return torch.maximum(branch, shortcut)

    net.layer4[1].__class__ = Maximum


@wrong("stage1.1.bn3", "the shortcut is added before bn3, not after it", ("shortcut", "before|bn3"))
def shortcut_added_before_the_norm(net):
    class BeforeNorm(Summing):
        def forward(self, x):
            out = relu(self.bn1(self.conv1(x)))
            out = relu(self.bn2(self.conv2(out)))
            return relu(self.bn3(self.conv3(out) + self.shortcut(x)))

    net.layer1[1].__class__ = BeforeNorm


@wrong("stage2.1", "the shortcut is added twice", ("shortcut", r"2|twice"))
def shortcut_added_twice(net):
    """`out += identity` left in after `out = out + identity`."""

    class Twice(Summing):
        def add(self, branch, shortcut):
            out = branch + shortcut
            out += shortcut
            return out

    net.layer2[1].__class__ = Twice


@wrong("stage3.2", "the shortcut is that of the block before: the input of stage3.1", ("shortcut", r"stage3\.(0|1)"))
def shortcut_of_the_block_before(net):
    """A variable that is not set anew in a loop over blocks."""
    first, second = net.layer3[1], net.layer3[2]

    class Keeping(Summing):
        def shortcut(self, x):
            self.kept = x
            return x

    class Stale(Summing):
        def shortcut(self, x):
            return first.kept

    first.__class__, second.__class__ = Keeping, Stale


@wrong(
    "stage4.1",
    "the branch has the weight 0.8 in inference: the survival of stochastic depth",
    ("branch", r"0?\.8"),
    modes=("inference",),
)
def survival_in_inference(net):
    class Survival(Summing):
        def add(self, branch, shortcut):
            return branch * (1.0 if self.training else 0.8) + shortcut

    net.layer4[1].__class__ = Survival


@wrong(
    "stage1.0",
    "branches are dropped at random in training: stochastic depth",
    "stochastic|random|two runs|dropped|dropout",
    modes=("train",),
)
def stochastic_depth_in_training(net):
    class Stochastic(Summing):
        def add(self, branch, shortcut):
            return stochastic_depth(branch, 0.5, "row", self.training) + shortcut

    for block in blocks(net):
        block.__class__ = Stochastic


@wrong(
    "stage2.1.conv3",
    "there is dropout after the activation behind bn2 in training",
    "dropout|random|two runs|dropped",
    modes=("train",),
)
def dropout_in_a_block(net):
    """The dropout of a wide residual network."""

    class Dropped(Summing):
        def branch(self, x):
            out = relu(self.bn1(self.conv1(x)))
            out = dropout(relu(self.bn2(self.conv2(out))), 0.3, self.training)
            return self.bn3(self.conv3(out))

    net.layer2[1].__class__ = Dropped


@wrong(
    "stage2.0",
    "the channels of the branch are weighted by squeeze and excitation",
    "per channel|each channel|each image|gate|no linear|not linear|not a sum|no sum|scal",
)
def squeeze_and_excitation(net):
    class Gated(Summing):
        def add(self, branch, shortcut):
            return branch * torch.sigmoid(branch.mean((2, 3), keepdim=True)) + shortcut

    net.layer2[0].__class__ = Gated


@wrong("stage3.2.conv1", "stage3.2 is missing", (r"stage3\.2", "missing"))
def block_missing(net):
    """A depth of two where three are meant."""
    net.layer3 = net.layer3[:2]


@wrong("stage3.2.conv1", "stage3.2 is stage3.1: one block is used twice", r"stage3\.1")
def block_shared(net):
    """nn.Sequential(*[block] * 2), whose arrays were then written apart."""

    for name in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"):
        setattr(net.layer3[2], name, copy.deepcopy(getattr(net.layer3[1], name)))


@wrong("stage3.1.conv1", "stage3.1 and stage3.2 are exchanged", "exchang|place|order", rows="block-order")
def blocks_exchanged(net):
    net.layer3[1], net.layer3[2] = net.layer3[2], net.layer3[1]


@wrong("stage2.0.conv1", "there is a block too many after stage1.1", "too many|extra|another block|no linear|stage1.1")
def block_too_many(net):
    """A stage one block deeper than the checkpoint, whose last block keeps the numbers of the one before."""
    net.layer2 = Behind(copy.deepcopy(net.layer1[1]), net.layer2)


class Behind(nn.Sequential):
    """A stage behind an unnamed block; blocks keep their names."""

    def __init__(self, extra, stage):
        super().__init__(*stage)
        object.__setattr__(self, "extra", extra)

    def forward(self, x):
        self.extra.train(self.training)
        return super().forward(self.extra(x))


@wrong(
    "stage1.0.conv3",
    "the kernels of conv3 and of the shortcut are exchanged",
    "downsample_conv|exchang|place",
    rows="layer-order",
)
def projection_and_conv3_exchanged(net):
    block = net.layer1[0]
    block.conv3, block.downsample[0] = block.downsample[0], block.conv3


@wrong("stage4.0", "the halves of the shortcut's channels are exchanged", "halves|roll|permut|shortcut|order")
def shortcut_channels_rolled(net):
    """A concatenation of two halves in the wrong order."""

    class Rolled(Summing):
        def shortcut(self, x):
            return torch.cat(super().shortcut(x).chunk(2, 1)[::-1], 1)

    net.layer4[0].__class__ = Rolled


@wrong(
    "stage2.1.conv1",
    "the branch takes the output of stage2.0 before its last ReLU",
    ("relu|activation|input", "before|missing|not"),
)
def branch_of_the_unrectified_sum(net):
    first = net.layer2[0]

    class Keeping(Summing):
        def forward(self, x):
            self.kept = self.add(self.branch(x), self.shortcut(x))
            return relu(self.kept)

    class Unrectified(Summing):
        def forward(self, x):
            return relu(self.add(self.branch(first.kept), x))

    first.__class__, net.layer2[1].__class__ = Keeping, Unrectified
