"""Wrong ResNet-50s, made by torchvision's own function at its full size."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from tests.conformance.handwritten.activations import ReluAtStart
from tests.conformance.handwritten.blocks import Summing
from tests.conformance.handwritten.images import pixels, prepare
from tests.conformance.handwritten.wrong_model import wrong


def wrong_whole(layer, fact, says, *, rows="", modes=("inference", "train")):
    return wrong(layer, fact, says, rows=rows, modes=modes, full=True)


@wrong_whole(
    "stage4.1.conv2", "a 3x3 convolution with dilation 2 and padding 2; 1 and 1 are expected", ("dilation", "2")
)
def whole_dilated_block(net):
    net.layer4[1].conv2.dilation = net.layer4[1].conv2.padding = (2, 2)


@wrong_whole(
    "stage3.4.conv2",
    "the kernel is rotated by 90 degrees",
    ("rotat|turn", "90|270|quarter"),
    rows="kernel-full-transpose kernel-mirrored kernel-upside-down",
)
def whole_kernel_rotated(net):
    conv = net.layer3[4].conv2
    conv.weight.data = conv.weight.data.rot90(1, (2, 3)).contiguous()


@wrong_whole("stage3.2.bn2", "eps is 3.7e-4", ("eps", r"3\.7e-0?4|0?\.00037"), rows="eps-other")
def whole_eps_of_one_norm(net):
    net.layer3[2].bn2.eps = 3.7e-4


@wrong_whole("bn1", "eps is 1e-3 in every norm", ("eps", r"1e-0?3|0?\.001"), rows="eps-keras")
def whole_eps_of_keras(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3


@wrong_whole(
    "stage1.0",
    "the last ReLU of each block stands at the start of the next one's branch",
    ("relu|activation", "start|next|moved|before conv1|not after|input first"),
)
def whole_relu_moved_to_the_next_branch(net):
    for module in net.modules():
        if isinstance(module, Bottleneck):
            module.__class__ = ReluAtStart


@wrong_whole("stage2.3", "the branch has the weight 0.5", ("branch", r"0?\.5|half"))
def whole_residual_scaled(net):
    class Scaled(Summing):
        def add(self, branch, shortcut):
            return 0.5 * branch + shortcut

    net.layer2[3].__class__ = Scaled


@wrong_whole("stage3.5.conv1", "stage3.5 is missing: 15 arrays", (r"stage3\.5", "missing"))
def whole_block_missing(net):
    net.layer3 = net.layer3[:5]


@wrong_whole("stage3.1.conv1", "the blocks stage3.1 and stage3.4 are exchanged", r"stage3\.4|exchang|place|order")
def whole_blocks_exchanged(net):
    """Exchange blocks that are no neighbours, as where names were sorted by another key."""
    net.layer3[1], net.layer3[4] = net.layer3[4], net.layer3[1]


@wrong_whole("stage4.0.bn2", "a group norm of 32 groups stands where a batch norm should", "group|per image|each image")
def whole_group_norm(net):
    old = net.layer4[0].bn2
    net.layer4[0].bn2 = nn.GroupNorm(32, old.num_features).to(old.weight)
    net.layer4[0].bn2.weight.data, net.layer4[0].bn2.bias.data = old.weight.data, old.bias.data


@wrong_whole(
    "conv1",
    "mean and deviation are in the order BGR, and the pixels RGB",
    "mean|deviation|order|factor.*channel|per channel",
)
def whole_means_in_another_order(net):
    mean = torch.tensor([0.406, 0.456, 0.485], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.225, 0.224, 0.229], dtype=torch.float64)[:, None, None]
    prepare(net, lambda x: (pixels(x) - mean) / std)


@wrong_whole("stage2.0.conv1", "the stride is on the first 1x1 in every strided block", ("stride",), rows="stride-1x1")
def whole_stride_of_v1(net):
    for stage in (net.layer2, net.layer3, net.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)


@wrong_whole("logits", "the classifier is as initialised", "initial|not loaded|no array|none of|unrelated|random")
def whole_classifier_not_loaded(net):
    torch.manual_seed(1)
    net.fc.reset_parameters()
