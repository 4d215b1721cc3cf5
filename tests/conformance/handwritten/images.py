"""Wrong images in front of torchvision's network: other numbers, other channels, other pixels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate, pad

from tests.conformance.handwritten.wrong_model import wrong

MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]


def prepare(net, function):
    """Let the network prepare its images otherwise; `function` takes them as they come, normalised."""
    net.register_forward_pre_hook(lambda _, inputs: (function(inputs[0]).contiguous(),))


def pixels(images):
    """The pixels in 0..1 behind normalised images."""
    return images * STD + MEAN


def normalised(images):
    return (images - MEAN) / STD


@wrong("conv1", "the images are BGR", "bgr|channels|order", rows="bgr stem-bgr")
def images_bgr(net):
    prepare(net, lambda x: x.flip(1))


@wrong("conv1", "the pixels were in 0..255 when they were normalised", "255", rows="scale-255")
def images_to_255(net):
    prepare(net, lambda x: normalised(pixels(x) * 255))


@wrong("conv1", "the pixels were divided by 256, not by 255", ("256|0?\\.996|factor|scal",))
def images_over_256(net):
    prepare(net, lambda x: normalised(pixels(x) * 255 / 256))


@wrong(
    "conv1",
    "mean and deviation are in the order BGR, and the pixels RGB",
    "mean|deviation|order|factor.*channel|per channel",
)
def means_in_another_order(net):
    prepare(net, lambda x: (pixels(x) - MEAN.flip(0)) / STD.flip(0))


@wrong("conv1", "the images are -1..1", "-1|around zero", rows="scaled-around-zero")
def images_around_zero(net):
    prepare(net, lambda x: (pixels(x) - 0.5) / 0.5)


@wrong("conv1", "the images are 0..1, not normalised", r"0\.\.1|not normalised|0 to 1", rows="not-normalised")
def images_not_normalised(net):
    prepare(net, pixels)


@wrong("conv1", "the images were normalised twice", "twice", rows="normalised-twice")
def images_normalised_twice(net):
    prepare(net, normalised)


@wrong("conv1", "the images were not divided by the deviation", "deviation|divided", rows="std-missing")
def images_centred_only(net):
    prepare(net, lambda x: pixels(x) - MEAN)


@wrong(
    "conv1",
    "the images were divided by the variance, not by the deviation",
    "variance|twice|factor|per channel|deviation",
)
def images_over_variance(net):
    prepare(net, lambda x: (pixels(x) - MEAN) / STD**2)


@wrong("conv1", "the images are moved by one pixel", ("shift|moved|crop", "1|one"))
def images_moved(net):
    """A crop whose offset is rounded down, not to nearest."""
    prepare(net, lambda x: pad(x, (1, -1, 0, 0)))


@wrong("conv1", "the images are mirrored left to right", "mirror|flip", rows="image-mirrored")
def images_mirrored(net):
    prepare(net, lambda x: x.flip(3))


@wrong("conv1", "the images are upside down", "upside|mirror|flip|bottom")
def images_upside_down(net):
    prepare(net, lambda x: x.flip(2))


@wrong("conv1", "the images are turned by 180 degrees", "180|turn|rotat|upside")
def images_turned_around(net):
    prepare(net, lambda x: x.flip(2, 3))


@wrong("conv1", "height and width are exchanged", "height|transpos|exchang|turn", rows="image-turned")
def images_transposed(net):
    prepare(net, lambda x: x.transpose(2, 3))


@wrong("conv1", "the images were reshaped to NHWC, not transposed", "reshap|nhwc", rows="nchw-reshaped")
def images_reshaped(net):
    prepare(net, lambda x: x.reshape(len(x), *x.shape[2:], 3).permute(0, 3, 1, 2))


@wrong("conv1", "the images are grey: every channel is the luma", "gr[ae]y|luma|channels|mix")
def images_grey(net):
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    prepare(net, lambda x: normalised((pixels(x) * luma).sum(1, keepdim=True).expand_as(x)))


@wrong("conv1", "the pixels are clipped to 0..1", "clip|clamp|cut|no linear|not linear|0..1")
def images_clipped(net):
    prepare(net, lambda x: normalised(pixels(x).clamp(0, 1)))


@wrong("conv1", "the images were rounded to bfloat16", "bfloat16|round")
def images_in_bfloat16(net):
    prepare(net, lambda x: x.bfloat16().to(x.dtype))


@wrong("conv1", "the images were rounded to float16", "float16|half", rows="image-half")
def images_in_half(net):
    prepare(net, lambda x: x.half().to(x.dtype))


@wrong(
    "conv1",
    "the images were shrunk to half and enlarged, bilinearly",
    "resiz|bilinear|blur|filter|smooth|half|interpol",
)
def images_resized(net):
    prepare(
        net, lambda x: interpolate(interpolate(x, scale_factor=0.5, mode="bilinear"), size=x.shape[2:], mode="bilinear")
    )


@wrong("conv1", "pixels were rounded to whole numbers of 0..255", "round|whole|8 bit|quanti|integer|255")
def images_in_eight_bits(net):
    prepare(net, lambda x: normalised((pixels(x) * 255).round() / 255))


@wrong("conv1", "one channel of each image is zero", "zero|channel")
def images_without_blue(net):
    class Channels(nn.Module):
        def forward(self, x):
            return x * torch.tensor([1.0, 1.0, 0.0], dtype=x.dtype)[:, None, None]

    prepare(net, Channels())


@wrong(
    "conv1", "the images are cropped by 4 pixels on each side, and padded with zeros", "crop|zero|border|margin|padd"
)
def images_cropped_and_padded(net):
    prepare(net, lambda x: pad(x[..., 4:-4, 4:-4], (4, 4, 4, 4)))
