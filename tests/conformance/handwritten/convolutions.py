"""Wrong convolutions in torchvision's network: padding, stride, dilation, groups, kernels of another layout."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import conv2d, pad

from tests.conformance.handwritten.wrong_model import wrong


def replace_conv(block, name, **arguments):
    """Put a convolution with other arguments in the place of one, with the same kernel."""
    old = getattr(block, name)
    kept = {"stride": old.stride, "padding": old.padding, "bias": False}
    new = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, **(kept | arguments)).to(old.weight)
    if new.weight.shape == old.weight.shape:
        new.weight.data = old.weight.data
    setattr(block, name, new)
    return new


class Computing(nn.Conv2d):
    """A convolution with a forward pass of its own; the class of an existing one is set to a subclass."""


def becomes(layer, cls):
    layer.__class__ = cls


@wrong("stage4.1.conv2", "a 3x3 convolution with dilation 2 and padding 2; 1 and 1 are expected", ("dilation", "2"))
def dilated_block(net):
    """A dilated block, as a segmentation backbone has it."""
    conv = net.layer4[1].conv2
    conv.dilation, conv.padding = (2, 2), (2, 2)


@wrong(
    "stage4.0.conv2",
    "stage 4 has stride 1, and its later blocks dilation 2, as in networks for segmentation",
    ("stride", "dilation", "2"),
    rows="stage4-stride",
)
def stride_replaced_by_dilation(net):
    """`replace_stride_with_dilation=[False, False, True]`, as torchvision's segmentation models are built."""
    first = net.layer4[0]
    first.conv2.stride = first.downsample[0].stride = (1, 1)
    for block in net.layer4[1:]:
        block.conv2.dilation, block.conv2.padding = (2, 2), (2, 2)


@wrong("stage2.1.conv2", "the border is reflected; zeros are expected", "reflect|border")
def padding_reflected(net):
    replace_conv(net.layer2[1], "conv2", padding_mode="reflect")


@wrong("stage3.1.conv2", "the border is replicated; zeros are expected", "replicat|repeat|edge|border")
def padding_replicated(net):
    replace_conv(net.layer3[1], "conv2", padding_mode="replicate")


@wrong("stage1.1.conv2", "the border is circular; zeros are expected", "circular|wrap|period|border")
def padding_circular(net):
    replace_conv(net.layer1[1], "conv2", padding_mode="circular")


@wrong("stage2.0.conv2", "the strided 3x3 pads right and bottom only", ("pad",), rows="pad-same")
def padding_of_tensorflow(net):
    """F.pad(0, 1, 0, 1) before the strided convolutions, as a port from TensorFlow does."""

    class Same(Computing):
        def forward(self, x):
            return conv2d(pad(x, (0, 1, 0, 1)), self.weight, None, self.stride)

    for stage in (net.layer2, net.layer3, net.layer4):
        becomes(stage[0].conv2, Same)


@wrong("conv1", "the 7x7 convolution pads by 2; 3 is expected", ("pad", "2"))
def stem_padding_two(net):
    net.conv1.padding = (2, 2)


@wrong("conv1", "the stem's 7x7 pads by two pixels and three", ("pad",), rows="pad-same-stem")
def stem_padding_of_tensorflow(net):
    class Same(Computing):
        def forward(self, x):
            return conv2d(pad(x, (2, 3, 2, 3)), self.weight, None, self.stride)

    becomes(net.conv1, Same)


@wrong("stage3.2.conv2", "the kernel is shifted by one pixel", "shift|offset|pad|moved")
def convolution_shifted(net):
    """Padding on one side only: (2, 0) for (1, 1)."""

    class Shifted(Computing):
        def forward(self, x):
            return conv2d(pad(x, (2, 0, 2, 0)), self.weight)

    becomes(net.layer3[2].conv2, Shifted)


@wrong("stage3.0.conv1", "the stride is on the first 1x1, not on the 3x3", ("stride",), rows="stride-1x1")
def stride_of_v1(net):
    """A block of He et al.'s original network."""
    block = net.layer3[0]
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


@wrong("stage2.0.conv1", "the stride is on the first 1x1 in every strided block", ("stride",), rows="stride-1x1")
def stride_of_v1_everywhere(net):
    for stage in (net.layer2, net.layer3, net.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)


@wrong(
    "stage2.1.conv2",
    "height and width of the kernel are exchanged",
    "transpos|exchang|height",
    rows="kernel-full-transpose",
)
def kernel_height_width_exchanged(net):
    conv = net.layer2[1].conv2
    conv.weight.data = conv.weight.data.transpose(2, 3).contiguous()


@wrong("conv1", "height and width of the kernel are exchanged", "transpos|exchang|height", rows="kernel-full-transpose")
def stem_loaded_from_whcn(net):
    net.conv1.weight.data = net.conv1.weight.data.permute(0, 1, 3, 2).contiguous()


@wrong("stage3.1.conv2", "the kernel is flipped: a true convolution", "flip|rotat|180", rows="kernel-flip")
def kernel_of_a_true_convolution(net):
    conv = net.layer3[1].conv2
    conv.weight.data = conv.weight.data.flip(2, 3)


@wrong("stage1.0.conv2", "the kernel is mirrored left to right", "mirror|flip", rows="kernel-mirrored")
def kernel_mirrored(net):
    conv = net.layer1[0].conv2
    conv.weight.data = conv.weight.data.flip(3)


@wrong(
    "stage2.1.conv2",
    "the kernel is rotated by 90 degrees: height and width are exchanged, and one of them is mirrored",
    ("rotat|turn", "90|270|quarter"),
    rows="kernel-full-transpose kernel-mirrored kernel-upside-down",
)
def kernel_rotated(net):
    conv = net.layer2[1].conv2
    conv.weight.data = conv.weight.data.rot90(1, (2, 3)).contiguous()


@wrong("stage4.0.conv2", "input and output channels are exchanged", "transpos|exchang|in.*out", rows="kernel-io-swap")
def kernel_in_and_out_exchanged(net):
    conv = net.layer4[0].conv2
    conv.weight.data = conv.weight.data.transpose(0, 1).contiguous()


@wrong("stage3.1.conv3", "output channels are shifted by one", "roll|shift|permut|order", rows="channels-rolled")
def output_channels_rolled(net):
    conv = net.layer3[1].conv3
    conv.weight.data = conv.weight.data.roll(1, 0)


@wrong("stage3.1.conv1", "input channels are shifted by two", ("input", "roll|shift|permut|order"))
def input_channels_rolled(net):
    conv = net.layer3[1].conv1
    conv.weight.data = conv.weight.data.roll(2, 1)


@wrong("stage2.0.conv3", "output channels are permuted", ("output", "permut|order"))
def output_channels_shuffled(net):
    """A channel shuffle of two groups, left over from another network."""
    conv = net.layer2[0].conv3
    out = conv.weight.shape[0]
    conv.weight.data = (
        conv.weight.data.view(2, out // 2, *conv.weight.shape[1:]).transpose(0, 1).reshape(conv.weight.shape)
    )


@wrong("stage4.1.conv1", "the halves of the input channels are exchanged", ("input", "halves|roll|shift|permut|order"))
def input_halves_exchanged(net):
    conv = net.layer4[1].conv1
    conv.weight.data = torch.cat(conv.weight.data.chunk(2, 1)[::-1], 1)


@wrong("stage2.1.conv1", "the convolution adds a bias; none is expected", "bias|offset|adds")
def convolution_with_bias(net):
    """`bias=True` left at PyTorch's default; its initial numbers stay when weights are loaded with strict=False."""
    conv = replace_conv(net.layer2[1], "conv1", bias=True)
    conv.bias.data = torch.linspace(-0.3, 0.3, len(conv.bias), dtype=conv.bias.dtype)


@wrong("stage3.1.conv2", "the convolution has 2 groups; 1 is expected", "group|zero")
def convolution_in_groups(net):
    """A ResNeXt's 3x3, with the first half of each filter's input channels."""
    old = net.layer3[1].conv2.weight.data
    conv = replace_conv(net.layer3[1], "conv2", groups=2)
    conv.weight.data = old[:, : old.shape[1] // 2].contiguous()


@wrong("stage3.1.conv1", "the kernel is that of stage3.2.conv1", r"stage3\.2\.conv1")
def kernel_of_another_block(net):
    """A name mapped twice: both blocks load the second one's array."""
    net.layer3[1].conv1.weight.data = net.layer3[2].conv1.weight.data.clone()


@wrong("stage1.0.conv3", "the kernel is that of the shortcut", r"downsample_conv")
def kernel_of_the_shortcut(net):
    net.layer1[0].conv3.weight.data = net.layer1[0].downsample[0].weight.data.clone()


@wrong(
    "stage3.1.conv2",
    "the kernels of stage3.1.conv2 and stage3.2.conv2 are exchanged",
    r"stage3\.2|exchang|place",
    rows="kernel-order",
)
def kernels_of_neighbours_exchanged(net):
    first, second = net.layer3[1].conv2, net.layer3[2].conv2
    first.weight.data, second.weight.data = second.weight.data, first.weight.data


@wrong(
    "stage2.0.conv2",
    "the kernels of stage2.0.conv2 and stage2.1.conv2 are exchanged",
    r"stage2\.1|exchang|place",
    rows="kernel-order",
)
def kernels_sorted_by_size(net):
    """Kernels of one shape, assigned from a list in the wrong order."""
    first, second = net.layer2[0].conv2, net.layer2[1].conv2
    first.weight.data, second.weight.data = second.weight.data.clone(), first.weight.data.clone()


@wrong("stage4.1.conv3", "each filter is standardised: mean 0, variance 1", "standardi|mean|per channel|scaled")
def weights_standardised(net):
    """The weight standardisation of BiT."""

    class Standardised(Computing):
        def forward(self, x):
            mean = self.weight.mean((1, 2, 3), keepdim=True)
            deviation = self.weight.std((1, 2, 3), keepdim=True, unbiased=False)
            return self._conv_forward(x, (self.weight - mean) / (deviation + 1e-5), None)

    becomes(net.layer4[1].conv3, Standardised)


@wrong(
    "stage2.1.conv3", "the kernel is multiplied by 0.5", ("scal|multipl|factor", r"0?\.5|half"), rows="kernel-scaled"
)
def kernel_scaled(net):
    """A learning-rate equaliser that is applied at run time, and again."""

    class Scaled(Computing):
        def forward(self, x):
            return self._conv_forward(x, self.weight * 0.5, None)

    becomes(net.layer2[1].conv3, Scaled)


@wrong(
    "stage2.1.conv2",
    "the kernel is none of the checkpoint's: it was not loaded",
    "not loaded|initial|no array|none of|unrelated|random",
)
def kernel_not_loaded(net):
    torch.manual_seed(0)
    nn.init.kaiming_normal_(net.layer2[1].conv2.weight, mode="fan_out", nonlinearity="relu")


@wrong("stage1.1.conv1", "the kernel was rounded to float16", "float16|half", rows="layer-half")
def kernel_in_half(net):
    conv = net.layer1[1].conv1
    conv.weight.data = conv.weight.data.half().to(conv.weight.dtype)


@wrong(
    "stage3.0.downsample_conv",
    "the layer computes in float16, with weights of the full precision",
    "float16|half|not linear|no linear|round",
)
def layer_computes_in_half(net):
    """A layer under autocast, or converted by hand to save time."""

    class Half(Computing):
        def forward(self, x):
            return conv2d(x.half().float(), self.weight.half().float(), None, self.stride).half().to(x.dtype)

    becomes(net.layer3[0].downsample[0], Half)


@wrong("conv1", "the layer computes in bfloat16", "bfloat16|float16|not linear|no linear|round")
def stem_under_autocast(net):
    class Autocast(Computing):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x.float()).to(x.dtype)

    becomes(net.conv1, Autocast)
    net.conv1.float()


@wrong(
    "stage4.0.conv1", "the kernel was quantised to 8 bits, one scale for each output channel", "quanti|8 bit|int8|round"
)
def kernel_quantised_per_channel(net):
    conv = net.layer4[0].conv1
    step = conv.weight.data.abs().amax((1, 2, 3), keepdim=True) / 127
    conv.weight.data = (conv.weight.data / step).round() * step


@wrong("stage2.1.conv2", "the smallest third of the kernel is zero: it was pruned", "zero|prun")
def kernel_pruned(net):
    weight = net.layer2[1].conv2.weight.data
    weight[weight.abs() < weight.abs().flatten().kthvalue(weight.numel() // 3).values] = 0


@wrong(
    "stage3.1.conv1",
    "the norm is folded into the convolution, and applied again",
    "fold|per channel|each channel|scal",
    rows="bn-folded-twice",
)
def norm_folded_and_kept(net):
    """A fused checkpoint in a network that still has its norms."""
    block = net.layer3[1]
    scale = block.bn1.weight.data / (block.bn1.running_var + block.bn1.eps).sqrt()
    block.conv1.weight.data = block.conv1.weight.data * scale[:, None, None, None]


@wrong(
    "stage2.0.downsample_conv",
    "the shortcut is averaged over 2x2 before its convolution, which has stride 1",
    "average|mean|2x2|pool|kernel|taps",
)
def shortcut_of_resnet_d(net):
    conv, norm = net.layer2[0].downsample
    conv.stride = (1, 1)
    net.layer2[0].downsample = Averaged(conv, norm)


class Averaged(nn.Sequential):
    """A projection whose input is averaged over 2x2 pixels, as in ResNet-D; layers keep their names."""

    def forward(self, x):
        return super().forward(nn.functional.avg_pool2d(x, 2, 2))
