"""Wrong networks in Linen, edits of Flax's ImageNet example."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from tests.conformance.handwritten import linen_networks
from tests.conformance.handwritten.wrong_model import wrong


def wrong_linen(layer, fact, says, *, rows="", modes=("inference", "train")):
    return wrong(layer, fact, says, rows=rows, modes=modes, library="linen")


@wrong_linen(
    "bn1.running_mean",
    "running statistics keep a share of 0.99, Linen's default",
    r"0?\.99|momentum|decay|share",
    rows="momentum-099",
    modes=("train",),
)
def linen_default_momentum(net, variables):
    return net.clone(momentum=0.99)


@wrong_linen("bn1", "eps is 1e-3 in every norm", ("eps", r"1e-0?3|0?\.001"), rows="eps-keras")
def linen_eps_of_keras(net, variables):
    return net.clone(epsilon=1e-3)


@wrong_linen(
    "stage2.0.conv2", "the strided 3x3 convolutions pad both sides alike", "pad|symmetric", rows="pad-symmetric"
)
def linen_symmetric_padding(net, variables):
    """A port of PyTorch's padding."""

    def conv(features, kernel, strides=(1, 1), **arguments):
        side = (kernel[0] - 1) // 2
        return nn.Conv(features, kernel, strides, **({"padding": ((side, side), (side, side))} | arguments))

    return net.clone(conv=conv)


@wrong_linen("stem", "the max pool pads both sides alike", "pad|symmetric", rows="pool-symmetric")
def linen_symmetric_pool(net, variables):
    return net.clone(pool=partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1))))


@wrong_linen("stem", "the stem's pool takes the mean", "mean|average")
def linen_average_pool(net, variables):
    return net.clone(pool=partial(nn.avg_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME"))


@wrong_linen("conv1", "the stem's 7x7 pads as SAME does: by two pixels and three", "pad", rows="pad-same-stem")
def linen_stem_padded_same(net, variables):
    return net.clone(stem_padding="SAME")


@wrong_linen("stage1.0.conv2", "the activation in blocks is SiLU", "silu|swish")
def linen_silu(net, variables):
    return net.clone(act=nn.silu)


@wrong_linen("stage1.0.conv2", "the activation in blocks is GELU by tanh, jax.nn's default", "gelu")
def linen_gelu(net, variables):
    return net.clone(act=nn.gelu)


@wrong_linen("conv1", "the network computes in bfloat16", "bfloat16|round|no linear|not linear")
def linen_in_bfloat16(net, variables):
    return net.clone(dtype=jnp.bfloat16)


@wrong_linen("stage1.0", "a ReLU is applied to the shortcut, and none to the sum", ("relu|activation", "shortcut|sum"))
def linen_relu_on_the_shortcut(net, variables):
    class BottleneckResNetBlock(linen_networks.BottleneckResNetBlock):
        @nn.compact
        def __call__(self, x):
            residual = x
            y = self.act(self.norm()(self.conv(self.filters, (1, 1))(x)))
            y = self.act(self.norm()(self.conv(self.filters, (3, 3), self.strides)(y)))
            y = self.norm()(self.conv(self.filters * 4, (1, 1))(y))
            if residual.shape != y.shape:
                residual = self.conv(self.filters * 4, (1, 1), self.strides, name="conv_proj")(residual)
                residual = self.norm(name="norm_proj")(residual)
            return self.act(residual) + y

    return net.clone(block_cls=BottleneckResNetBlock)


@wrong_linen("stage3.0.conv2", "the 3x3 convolutions of stage 3 have dilation 2", ("dilation", "2"))
def linen_dilated_stage(net, variables):
    """kernel_dilation for a part of the network, by its number of filters."""

    def conv(features, kernel, *arguments, **keywords):
        dilated = kernel == (3, 3) and features == 4 * net.num_filters
        return nn.Conv(features, kernel, *arguments, kernel_dilation=2 if dilated else 1, **keywords)

    return net.clone(conv=conv)


@wrong_linen(
    "stage2.1.conv2",
    "the kernel was reshaped from (out, in, height, width) to (height, width, in, out)",
    "reshap|permut|order|no array|none of",
)
def linen_kernel_reshaped(net, variables):
    kernel = variables["params"]["BottleneckResNetBlock_3"]["Conv_1"]
    oihw = kernel["kernel"].transpose(3, 2, 0, 1)
    kernel["kernel"] = oihw.reshape(kernel["kernel"].shape)


@wrong_linen(
    "stage3.0.conv2",
    "height and width of the kernel are exchanged",
    "transpos|exchang|height",
    rows="kernel-full-transpose",
)
def linen_kernel_from_whio(net, variables):
    kernel = variables["params"]["BottleneckResNetBlock_4"]["Conv_1"]
    kernel["kernel"] = kernel["kernel"].transpose(1, 0, 2, 3)


@wrong_linen(
    "bn1", "the norms use the batch's statistics in inference", "batch", rows="bn-batch-stats", modes=("inference",)
)
def linen_train_by_default(net, variables):
    """The default of `train` is never changed."""

    class Trained(linen_networks.ResNet):
        @nn.compact
        def __call__(self, x, train=True):
            return super().__call__(x, train=True)

    return Trained(net.stage_sizes, net.num_classes, net.num_filters)
