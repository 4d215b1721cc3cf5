"""Wrong networks in Keras, edits of keras.applications' ResNet."""

from __future__ import annotations

import keras
import numpy as np

from conformance.cases.pictures import IMAGENET_MEAN, IMAGENET_STD
from tests.conformance.handwritten.wrong_model import wrong


def wrong_keras(layer, fact, says, *, rows="", modes=("inference", "train")):
    return wrong(layer, fact, says, rows=rows, modes=modes, library="keras")


def norms(net):
    return [layer for layer in net.layers if isinstance(layer, keras.layers.BatchNormalization)]


@wrong_keras("logits", "the network returns probabilities", "softmax|probabilit", rows="softmax-included")
def keras_softmax(net):
    """The default of `classifier_activation`."""
    net.get_layer("predictions").activation = keras.activations.softmax


@wrong_keras("bn1", "eps is 1e-3 in every norm, the layer's default", ("eps", r"1e-0?3|0?\.001"), rows="eps-keras")
def keras_default_eps(net):
    for norm in norms(net):
        norm.epsilon = 1e-3


@wrong_keras("bn1", "eps is 1e-5 in every norm, as elsewhere", ("eps", r"1e-0?5|0?\.00001"), rows="eps-1e-5")
def keras_eps_of_torch(net):
    for norm in norms(net):
        norm.epsilon = 1e-5


@wrong_keras(
    "bn1.running_mean",
    "running statistics keep a share of 0.9, as elsewhere",
    r"0?\.9\b|momentum|decay|share",
    rows="momentum-other",
    modes=("train",),
)
def keras_momentum_of_torch(net):
    for norm in norms(net):
        norm.momentum = 0.9


@wrong_keras("stage2.0.conv1", "the stride is on the 3x3, not on the first 1x1", "stride", rows="stride-3x3")
def keras_stride_on_the_3x3(net):
    for stage in (3, 4, 5):
        net.get_layer(f"conv{stage}_block1_1_conv").strides = (1, 1)
        net.get_layer(f"conv{stage}_block1_2_conv").strides = (2, 2)


@wrong_keras("pool", "the head takes the largest value of the map", "max|largest", rows="head-max")
def keras_pooling_max(net):
    """pooling="max"."""
    net.get_layer("avg_pool").__class__ = keras.layers.GlobalMaxPooling2D


@wrong_keras("conv1", "the stem's 7x7 pads by two pixels and three", "pad", rows="pad-same-stem")
def keras_stem_padded_same(net):
    net.get_layer("conv1_pad").padding = ((2, 3), (2, 3))


@wrong_keras("stem", "the max pool pads right and bottom only", "pad|same", rows="pool-same")
def keras_pool_padded_same(net):
    net.get_layer("pool1_pad").padding = ((0, 1), (0, 1))


@wrong_keras(
    "stage2.1.conv2",
    "height and width of the kernel are exchanged",
    "transpos|exchang|height",
    rows="kernel-full-transpose",
)
def keras_kernel_from_whio(net):
    layer = net.get_layer("conv3_block2_2_conv")
    layer.kernel.assign(layer.kernel.numpy().transpose(1, 0, 2, 3))


@wrong_keras("stage3.0.conv1", "the convolution's bias is zero", "bias", rows="conv-bias-dropped")
def keras_bias_not_loaded(net):
    """A checkpoint without biases, loaded by name."""
    bias = net.get_layer("conv4_block1_1_conv").bias
    bias.assign(np.zeros(bias.shape))


@wrong_keras("stage2.0.bn1", "running mean and variance are exchanged", ("mean", "variance"))
def keras_statistics_exchanged(net):
    """set_weights takes gamma, beta, mean, variance; made positive so that a root can be taken."""
    layer = net.get_layer("conv3_block1_1_bn")
    gamma, beta, mean, variance = layer.get_weights()
    layer.set_weights([gamma, beta, variance, np.abs(mean)])


@wrong_keras("stage2.1", "branch and shortcut have the weight 0.5 each", ("branch|sum", r"0?\.5|half"))
def keras_average_for_add(net):
    net.get_layer("conv3_block2_add").__class__ = keras.layers.Average


@wrong_keras("stage4.0.conv3", "the activation after bn2 is GELU", "gelu")
def keras_gelu(net):
    net.get_layer("conv5_block1_2_relu").activation = keras.activations.gelu


@wrong_keras("stage3.0.conv2", "the 3x3 convolution has dilation 2", ("dilation", "2"))
def keras_dilated(net):
    net.get_layer("conv4_block1_2_conv").dilation_rate = (2, 2)


@wrong_keras(
    "stage1.0.bn1",
    "the norm uses the running statistics in training",
    "running|frozen|inference",
    rows="bn-frozen",
    modes=("train",),
)
def keras_norm_not_trainable(net):
    """trainable = False is inference mode to a Keras batch norm."""
    net.get_layer("conv2_block1_1_bn").trainable = False


@wrong_keras("conv1", "the images are BGR minus Caffe's means, not normalised", "caffe|bgr|means", rows="caffe-means")
def keras_preprocessed(net):
    """keras.applications.resnet.preprocess_input, for weights that were trained otherwise."""
    return lambda images: keras.applications.resnet.preprocess_input((images * IMAGENET_STD + IMAGENET_MEAN) * 255)
