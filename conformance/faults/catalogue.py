"""The catalogue: every porting bug that is known, as a row. Ids are those of the list of bugs that people met.

Within a scope the likelier and cheaper rows come first: that is the order in which the diagnosis names them.
"""

from __future__ import annotations

from collections.abc import Callable

from conformance.faults import edit as edits
from conformance.faults import images, weights
from conformance.faults.edit import by_framework, replaced
from conformance.faults.fault import PARAMETER, Fault, Parameter, Place, Remedies
from conformance.faults.initial_catalogue import INITIAL
from conformance.faults.training_catalogue import TRAINING, has_classes
from impls.config import ResNetConfig

KERNEL = Remedies(
    torch="Make weight (out, in, height, width): from (height, width, in, out) that is permute(3, 2, 0, 1).",
    flax="Make kernel (height, width, in, out): from (out, in, height, width) that is transpose(2, 3, 1, 0).",
    keras="Make kernel (height, width, in, out): from (out, in, height, width) that is transpose(2, 3, 1, 0).",
)
NAMES = Remedies(
    torch="Copy by name, and load with load_state_dict(strict=True), never by the order of the state_dict.",
    flax="Copy by path in nnx.state, never by the order of its leaves.",
    keras="Copy by attribute path, never by the order of model.weights, nor by auto-generated names.",
)
LOADED = Remedies(
    torch="Load with strict=True, so that a missing weight, bias, running_mean or running_var is an error.",
    flax="Restore nnx.BatchStat (mean, var) as well as nnx.Param (scale, bias), and compare the paths of both.",
    keras="Set gamma, beta, moving_mean and moving_variance of every norm, and use no skip_mismatch.",
)
NORM_NAMES = Remedies(
    torch="weight is the scale, bias the offset, running_mean and running_var the statistics: map each by name.",
    flax="scale and bias are nnx.Param, mean and var nnx.BatchStat: map each by name.",
    keras="Keras orders gamma, beta, moving_mean, moving_variance: map each by name.",
)
EPS = Remedies(
    torch="Set eps of nn.BatchNorm2d to the eps that the weights were trained with (its default is 1e-5).",
    flax="Set epsilon of nnx.BatchNorm to the eps that the weights were trained with (its default is 1e-5).",
    keras="Set epsilon of BatchNormalization to the eps that the weights were trained with (its default is 1e-3).",
)
DECAY = Remedies(
    torch="momentum of nn.BatchNorm2d is the share of the new statistic: 0.1 where the others say 0.9.",
    flax="momentum of nnx.BatchNorm is the share of the old statistic: 0.9 where PyTorch says 0.1 (default 0.99).",
    keras="momentum of BatchNormalization is the share of the old one: 0.9 where PyTorch says 0.1 (default 0.99).",
)
VARIANCE = Remedies(
    torch="nn.BatchNorm2d stores the unbiased variance already: do not correct it again.",
    flax="nnx.BatchNorm stores the biased variance: multiply the batch's by n / (n - 1) in a subclass.",
    keras="BatchNormalization stores the biased variance: multiply the batch's by n / (n - 1) in a subclass.",
)
MODE = Remedies(
    torch="Call model.train() to train and model.eval() to infer, and freeze no norm in between.",
    flax="Call model.train() to train and model.eval() to infer: both set use_running_average.",
    keras="Hand training=True or False down to every BatchNormalization, and leave its trainable True.",
)
FOLDED = Remedies(
    torch="Fold a norm into its convolution, or keep it, not both: a folded norm becomes nn.Identity().",
    flax="Fold a norm into its convolution, or keep it, not both: drop the folded norm from the module.",
    keras="Fold a norm into its convolution, or keep it, not both: drop the folded layer.",
)
BIAS = Remedies(
    torch="Give nn.Conv2d and nn.Linear bias=True where the checkpoint has biases, and load them.",
    flax="Give nnx.Conv and nnx.Linear use_bias=True where the checkpoint has biases, and load them.",
    keras="Give Conv2D and Dense use_bias=True where the checkpoint has biases, and load them.",
)
DTYPE = Remedies(
    torch="Keep the array in its own dtype: no .half(), .bfloat16() or quantisation on the way.",
    flax="Keep param_dtype and the checkpoint's dtype: no cast to bfloat16 or float16 on the way.",
    keras="Keep the layer's dtype policy and the checkpoint's dtype: no mixed policy while converting.",
)
PADDING = Remedies(
    torch="Use padding=kernel // 2 for symmetric padding; for TensorFlow's SAME, pad right and bottom by hand first.",
    flax="Use padding=kernel // 2, or ((1, 1), (1, 1)), for symmetric padding; 'SAME' is TensorFlow's.",
    keras="Pad by hand and use padding='valid' for symmetric padding; 'same' is TensorFlow's.",
)
POOLING = Remedies(
    torch="Use max_pool2d(x, 3, 2, padding=1), with ceil_mode=False, after the ReLU.",
    flax="Use nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), after the ReLU.",
    keras="Pad by one pixel of minus infinity, then ops.max_pool(x, 3, 2, 'valid'), after the ReLU.",
)
STRIDE = Remedies(
    torch="Give stride to the convolution that the weights were trained with: conv2 in torchvision, conv1 in Caffe.",
    flax="Give strides to the convolution that the weights were trained with: conv2 in torchvision, conv1 in Caffe.",
    keras="Give strides to the one that the weights want it on: conv1 in keras.applications, conv2 in torchvision.",
)
RELU = Remedies(
    torch="Put relu after bn1, bn2 and the addition, and nowhere else; a shared nn.ReLU is easily left out of forward.",
    flax="Put nnx.relu after bn1, bn2 and the addition, and nowhere else.",
    keras="Put ops.relu after bn1, bn2 and the addition, and nowhere else.",
)
RELU_EACH = Remedies(
    torch="These weights belong to a network with relu after bn3 too, before the addition.",
    flax="These weights belong to a network with nnx.relu after bn3 too, before the addition.",
    keras="These weights belong to a network with ops.relu after bn3 too, before the addition.",
)
PROJECTION = Remedies(
    torch="Add the shortcut: downsample_conv and downsample_bn, without a relu, where shapes differ; else x itself.",
    flax="Add the shortcut: downsample_conv and downsample_bn, without a relu, where shapes differ; else x itself.",
    keras="Add the shortcut: downsample_conv and downsample_bn, without a relu, where shapes differ; else x itself.",
)
CLASSIFIER = Remedies(
    torch="fc.weight is (classes, features): transpose a dense kernel of (features, classes), and keep all rows.",
    flax="fc.kernel is (features, classes): transpose a Linear weight of (classes, features), and keep all columns.",
    keras="fc.kernel is (features, classes): transpose a Linear weight of (classes, features), and keep all columns.",
)
BACKGROUND = Remedies(
    torch="Drop the background class, row 0 of 1001, from fc.weight and fc.bias.",
    flax="Drop the background class, column 0 of 1001, from fc.kernel and entry 0 of fc.bias.",
    keras="Drop the background class, column 0 of 1001, from fc.kernel and entry 0 of fc.bias.",
)
LOGITS = Remedies(
    torch="Return logits: softmax belongs to the loss (cross_entropy) or to the caller.",
    flax="Return logits: softmax belongs to the loss (optax's with logits) or to the caller.",
    keras="Return logits: classifier_activation=None, and from_logits=True in the loss.",
)
HEAD = Remedies(
    torch="Average over the whole map: x.mean((2, 3)), or AdaptiveAvgPool2d(1).",
    flax="Average over the whole map: x.mean((1, 2)).",
    keras="Average over the whole map: GlobalAveragePooling2D, pooling='avg'.",
)
PRECISION = Remedies(
    torch="Set fp32_precision of torch.backends.cudnn.conv and torch.backends.cuda.matmul to 'ieee'.",
    flax="Set JAX_DEFAULT_MATMUL_PRECISION=highest.",
    keras="Call tf.config.experimental.enable_tensor_float_32_execution(False).",
)
PIXELS = Remedies(
    torch="Prepare images once as the weights want it: RGB, 0..1, minus mean, over deviation.",
    flax="Prepare images once as the weights want it: RGB, 0..1, minus mean, over deviation; not in the model too.",
    keras="Prepare images once as the weights want it: preprocess_input's mode is 'torch' for these weights.",
)
LAYOUT = Remedies(
    torch="Turn NHWC into NCHW with permute(0, 3, 1, 2), never with reshape or view.",
    flax="Turn NCHW into NHWC with transpose(0, 2, 3, 1), never with reshape.",
    keras="Turn NCHW into NHWC with transpose(0, 2, 3, 1), never with reshape.",
)
RESIZING = Remedies(
    torch="Resize with antialias=True to 256 and crop the centre 224, as the weights were evaluated.",
    flax="Resize with jax.image.resize(antialias=True) to 256 and crop the centre 224.",
    keras="Resize with antialias=True (tf.image's default is False) to 256 and crop the centre 224.",
)


def is_spatial(place: Place, config: ResNetConfig) -> bool:
    """A kernel of more than one pixel."""
    return place.kernel > 1


def is_square(place: Place, config: ResNetConfig) -> bool:
    """As many input as output channels: exchanging them fits."""
    return place.in_channels == place.out_channels


def is_first(place: Place, config: ResNetConfig) -> bool:
    """The stem's convolution."""
    return place.name == "conv1"


def strides_by_three(place: Place, config: ResNetConfig) -> bool:
    """A strided 3x3 convolution, or the whole network."""
    return place.scope == "network" or (place.kernel == 3 and place.stride == 2)


def pads_alike(place: Place, config: ResNetConfig) -> bool:
    """Both sides padded alike, where the bug would not."""
    return not config.same_padding


def pads_same(place: Place, config: ResNetConfig) -> bool:
    """SAME padding, where the bug would pad both sides alike."""
    return config.same_padding


def pads_alike_by_three(place: Place, config: ResNetConfig) -> bool:
    """Both of the above."""
    return pads_alike(place, config) and strides_by_three(place, config)


def pads_same_by_three(place: Place, config: ResNetConfig) -> bool:
    """Both of the above."""
    return pads_same(place, config) and strides_by_three(place, config)


def takes_any_map(place: Place, config: ResNetConfig) -> bool:
    """A head that takes a map of any size, so that a bug may change it."""
    return config.head_pool is None


def takes_any_map_alike(place: Place, config: ResNetConfig) -> bool:
    """Such a head, and both sides padded alike."""
    return takes_any_map(place, config) and pads_alike(place, config)


def has_conv_bias(place: Place, config: ResNetConfig) -> bool:
    """Convolutions have biases."""
    return config.conv_bias


def has_following(place: Place, config: ResNetConfig) -> bool:
    """The next block has arrays of the same shapes."""
    return bool(place.following)


def projects(place: Place, config: ResNetConfig) -> bool:
    """The shortcut has a convolution and a norm."""
    return place.projects


def projects_somewhere(place: Place, config: ResNetConfig) -> bool:
    """The same, or the whole network."""
    return place.scope == "network" or place.projects


def projects_unlike(place: Place, config: ResNetConfig) -> bool:
    """The shortcut's convolution has the shape of the third: as in the first block."""
    return place.projects and place.in_channels * 4 == place.out_channels


def is_colour(place: Place, config: ResNetConfig) -> bool:
    """Images of three channels."""
    return config.in_channels == 3


def strides_late(place: Place, config: ResNetConfig) -> bool:
    """The stride is on the 3x3, of a strided block or of the network."""
    return config.strided_layer == "conv2" and (place.scope == "network" or place.stride == 2)


def strides_early(place: Place, config: ResNetConfig) -> bool:
    """The stride is on the first 1x1, of a strided block or of the network."""
    return config.strided_layer == "conv1" and (place.scope == "network" or place.stride == 2)


def adds_plainly(place: Place, config: ResNetConfig) -> bool:
    """No ReLU before the addition."""
    return not config.relu_before_addition


def adds_rectified(place: Place, config: ResNetConfig) -> bool:
    """A ReLU before the addition."""
    return config.relu_before_addition


def adds_positive(place: Place, config: ResNetConfig) -> bool:
    """A ReLU before the addition, in a block that passes its input on: that is positive, too."""
    return config.relu_before_addition and place.scope == "block" and not place.projects


def eps_is_not(value: float) -> Callable[[Place, ResNetConfig], bool]:
    """The network's eps is another."""
    return lambda place, config: config.norm_eps != value


CONVOLUTIONS = (
    Fault(
        "kernel-full-transpose",
        "a plain transpose() of the kernel: height and width exchanged",
        ("conv",),
        "F",
        "tf_texture_net#1",
        KERNEL,
        weights=weights.on_leaf("weight", weights.turned),
        where=is_spatial,
    ),
    Fault(
        "kernel-io-swap",
        "input and output channels of a kernel exchanged, where they are as many",
        ("conv",),
        "F",
        "-",
        KERNEL,
        weights=weights.on_leaf("weight", weights.channels_exchanged),
        where=is_square,
    ),
    Fault(
        "kernel-flip",
        "kernel rotated by 180 degrees: a true convolution, where networks cross-correlate",
        ("conv",),
        "F",
        "-",
        KERNEL,
        weights=weights.on_leaf("weight", weights.rotated),
        where=is_spatial,
    ),
    Fault(
        "kernel-mirrored",
        "kernel mirrored, left for right",
        ("conv",),
        "F",
        "-",
        KERNEL,
        weights=weights.on_leaf("weight", weights.mirrored),
        where=is_spatial,
    ),
    Fault(
        "kernel-upside-down",
        "kernel mirrored, top for bottom",
        ("conv",),
        "F",
        "-",
        KERNEL,
        weights=weights.on_leaf("weight", weights.upside_down),
        where=is_spatial,
    ),
    Fault(
        "kernel-reshaped",
        "kernel reshaped into the other order of axes, not transposed",
        ("conv",),
        "F",
        "-",
        KERNEL,
        weights=weights.on_leaf("weight", weights.reshaped_from_channels_last),
    ),
    Fault(
        "kernel-order",
        "kernel in the place of the next block's, which has the same shape",
        ("conv",),
        "F",
        "tensorflow#33459",
        NAMES,
        weights=weights.exchanged_with_following,
        where=has_following,
    ),
    Fault(
        "channels-rolled",
        "output channels of a kernel moved by one",
        ("conv",),
        "F",
        "-",
        KERNEL,
        weights=weights.on_leaf("weight", weights.outputs_rolled),
    ),
    Fault(
        "stem-bgr",
        "the first kernel's input channels are in the order BGR",
        ("conv",),
        "F",
        "keras#10279",
        PIXELS,
        weights=weights.on_leaf("weight", weights.inputs_reversed),
        where=is_first,
    ),
    Fault(
        "layer-half",
        "one layer's weights went through float16",
        ("conv",),
        "F",
        "-",
        DTYPE,
        weights=weights.on_leaf("weight", weights.through_float16),
    ),
    Fault(
        "layer-bfloat16",
        "one layer's weights went through bfloat16",
        ("conv",),
        "F",
        "-",
        DTYPE,
        weights=weights.on_leaf("weight", weights.through_bfloat16),
    ),
    Fault(
        "layer-int8",
        "one layer's weights are those of an 8-bit quantised file",
        ("conv",),
        "F",
        "-",
        DTYPE,
        weights=weights.on_leaf("weight", weights.through_int8),
    ),
    Fault(
        "bn-folded-twice",
        "the norm folded into the convolution, and applied again",
        ("conv",),
        "F",
        "tf2onnx#1494",
        FOLDED,
        weights=weights.norm_folded,
    ),
    Fault(
        "conv-bias-dropped",
        "a convolution's bias left out",
        ("conv",),
        "F",
        "keras.applications",
        BIAS,
        weights=weights.filled(bias=0.0),
        where=has_conv_bias,
    ),
    Fault(
        "conv-bias-kept",
        "the convolution's bias folded into the running mean, and still added",
        ("norm",),
        "F",
        "-",
        FOLDED,
        weights=weights.bias_folded,
        where=has_conv_bias,
    ),
    Fault(
        "pad-same",
        "SAME padding of the strided 3x3: one-sided at even sizes, hidden at odd ones",
        ("conv", "network"),
        "F",
        "keras#16363, flax examples/imagenet, tensornets#25",
        PADDING,
        config={"same_padding": True},
        where=pads_alike_by_three,
    ),
    Fault(
        "pad-symmetric",
        "both sides padded alike where the weights want SAME",
        ("conv", "network"),
        "F",
        "flax examples/imagenet",
        PADDING,
        config={"same_padding": False},
        where=pads_same_by_three,
    ),
    Fault(
        "pad-same-stem",
        "SAME padding of the 7x7 stem: two pixels and three, not three and three",
        ("conv",),
        "F",
        "tensornets#25, tensorflow#10747",
        PADDING,
        sources=edits.STEM_SAME,
        where=is_first,
    ),
    Fault(
        "kernel-scaled",
        "a kernel multiplied by some factor",
        ("conv",),
        "F",
        "-",
        FOLDED,
        weights=weights.scaled("weight"),
        parameter=Parameter("factor", 1.25, (0.5, 1.1, 2.0, 30.0)),
    ),
)

NORMS = (
    Fault(
        "mean-offset-swap",
        "running mean and offset exchanged",
        ("norm",),
        "F",
        "-",
        NORM_NAMES,
        weights=weights.exchanged("running_mean", "bias"),
    ),
    Fault(
        "scale-var-swap",
        "scale and running variance exchanged",
        ("norm",),
        "F",
        "-",
        NORM_NAMES,
        weights=weights.exchanged("weight", "running_var"),
    ),
    Fault(
        "scale-offset-swap",
        "scale and offset exchanged",
        ("norm",),
        "F",
        "-",
        NORM_NAMES,
        weights=weights.exchanged("weight", "bias"),
    ),
    Fault(
        "var-is-deviation",
        "a standard deviation loaded as the running variance",
        ("norm",),
        "F",
        "-",
        NORM_NAMES,
        weights=weights.on_leaf("running_var", weights.square_root),
    ),
    Fault(
        "var-is-inverse",
        "an inverse standard deviation loaded as the running variance",
        ("norm",),
        "F",
        "-",
        NORM_NAMES,
        weights=weights.inverse_deviation,
    ),
    Fault(
        "norm-not-loaded",
        "running mean and variance left at 0 and 1",
        ("norm",),
        "F",
        "-",
        LOADED,
        weights=weights.filled(running_mean=0.0, running_var=1.0),
    ),
    Fault(
        "mean-not-loaded",
        "running mean left at 0",
        ("norm",),
        "F",
        "-",
        LOADED,
        weights=weights.filled(running_mean=0.0),
    ),
    Fault(
        "var-not-loaded",
        "running variance left at 1",
        ("norm",),
        "F",
        "-",
        LOADED,
        weights=weights.filled(running_var=1.0),
    ),
    Fault(
        "scale-not-loaded",
        "scale left at 1: scale=False, or a name that did not match",
        ("norm",),
        "F",
        "-",
        LOADED,
        weights=weights.filled(weight=1.0),
    ),
    Fault(
        "offset-not-loaded",
        "offset left at 0: center=False, or a name that did not match",
        ("norm",),
        "F",
        "-",
        LOADED,
        weights=weights.filled(bias=0.0),
    ),
    Fault(
        "norm-order-following",
        "a norm in the place of the next block's, which has the same shapes",
        ("norm",),
        "F",
        "tensorflow#33459",
        NAMES,
        weights=weights.exchanged_with_following,
        where=has_following,
    ),
    Fault(
        "eps-keras",
        "eps 1e-3, Keras's default",
        ("norm", "network"),
        "F",
        "nn-transfer#3, keras-yolo3#451",
        EPS,
        config={"norm_eps": 1e-3},
    ),
    Fault(
        "eps-1.001",
        "eps 1.001e-5, that of keras.applications, for 1e-5",
        ("norm", "network"),
        "F64",
        "keras.applications",
        EPS,
        config={"norm_eps": 1.001e-5},
        where=eps_is_not(1.001e-5),
    ),
    Fault(
        "eps-1e-5",
        "eps 1e-5, the usual default, for another",
        ("norm", "network"),
        "F64",
        "keras.applications",
        EPS,
        config={"norm_eps": 1e-5},
        where=eps_is_not(1e-5),
    ),
    Fault(
        "eps-zero",
        "no eps: forgotten when the norm was folded or written by hand",
        ("norm", "network"),
        "F64",
        "-",
        EPS,
        sources=replaced("config.norm_eps", "1e-30"),
    ),
    Fault(
        "eps-outside-root",
        "eps added to the standard deviation, not to the variance",
        ("norm",),
        "F64",
        "-",
        EPS,
        weights=weights.eps_outside_root,
    ),
    Fault(
        "momentum-inverted",
        "the decay of running statistics 0.1 where 0.9 is meant",
        ("norm", "network"),
        "S",
        "transformers#19454, flaxmodels, EfficientNet-PyTorch#3",
        DECAY,
        config={"norm_decay": 0.1},
    ),
    Fault(
        "momentum-099",
        "the default decay 0.99 kept",
        ("norm", "network"),
        "S",
        "bonsai, keras.applications",
        DECAY,
        config={"norm_decay": 0.99},
    ),
    Fault(
        "var-biased",
        "running variance not corrected by n / (n - 1)",
        ("norm", "network"),
        "S",
        "pytorch#1410, keras#16363, tensorflow#55545",
        VARIANCE,
        config={"norm_variance": "biased"},
    ),
    Fault(
        "bn-frozen",
        "batch norm in inference mode while training",
        ("norm", "network"),
        "TS",
        "pytorch2keras#13",
        MODE,
        sources=edits.NORM_FROZEN,
    ),
    Fault(
        "bn-batch-stats",
        "batch statistics used in inference",
        ("norm", "network"),
        "F",
        "xla#806, flax#2279",
        MODE,
        sources=edits.NORM_BY_BATCH,
    ),
    Fault(
        "bn-fast-variance",
        "variance computed as E[x^2] - E[x]^2",
        ("norm", "network"),
        "T",
        "keras#18795",
        VARIANCE,
        sources=edits.VARIANCE_FAST,
        harmless="equal in exact arithmetic; it loses digits only where a mean is large beside its deviation",
    ),
    Fault(
        "eps-other",
        "an eps that is no known one",
        ("norm", "network"),
        "F",
        "-",
        EPS,
        config={"norm_eps": PARAMETER},
        parameter=Parameter("eps", 3.7e-4, (1e-6, 1e-4, 1e-2)),
    ),
    Fault(
        "momentum-other",
        "a decay of running statistics that is no known one",
        ("norm", "network"),
        "S",
        "-",
        DECAY,
        config={"norm_decay": PARAMETER},
        parameter=Parameter("decay", 0.73, (0.5, 0.95), positive=False),
    ),
    Fault(
        "caffe-factor",
        "running statistics not divided by the factor that Caffe's files store beside them",
        ("norm",),
        "F",
        "-",
        NORM_NAMES,
        weights=weights.scaled("running_mean", "running_var"),
        parameter=Parameter("factor", 999.982, (0.5, 2.0, 1000.0)),
    ),
    Fault(
        "scale-scaled",
        "a norm's scale multiplied by some factor",
        ("norm",),
        "F",
        "-",
        FOLDED,
        weights=weights.scaled("weight"),
        parameter=Parameter("factor", 0.8, (0.5, 1.1, 2.0, 30.0)),
    ),
)

BLOCKS = (
    Fault(
        "stride-1x1",
        "stride on the first 1x1, where the weights want it on the 3x3",
        ("block", "network"),
        "F",
        "vision#191, mxnet#8740, mlcommons/training#432",
        STRIDE,
        config={"strided_layer": "conv1"},
        where=strides_late,
    ),
    Fault(
        "stride-3x3",
        "stride on the 3x3, where the weights want it on the first 1x1",
        ("block", "network"),
        "F",
        "vision#191, mxnet#8740",
        STRIDE,
        config={"strided_layer": "conv2"},
        where=strides_early,
    ),
    Fault(
        "relu-missing",
        "no ReLU after bn1",
        ("block", "network"),
        "F",
        "-",
        RELU,
        sources=replaced(edits.NORM_1, edits.NORM_1.replace("relu(", "(", 1)),
    ),
    Fault(
        "relu-missing-2",
        "no ReLU after bn2",
        ("block", "network"),
        "F",
        "-",
        RELU,
        sources=replaced(edits.NORM_2, edits.NORM_2.replace("relu(", "(", 1)),
    ),
    Fault(
        "relu-before-add",
        "a ReLU too many, before the addition",
        ("block", "network"),
        "F",
        "the tutorial; benchmark_resnet_classif PR#29",
        RELU,
        config={"relu_before_addition": True},
        where=adds_plainly,
    ),
    Fault(
        "relu-before-add-missing",
        "no ReLU before the addition, in a network that has one there",
        ("block", "network"),
        "F",
        "the tutorial",
        RELU_EACH,
        config={"relu_before_addition": False},
        where=adds_rectified,
    ),
    Fault(
        "relu-after-missing",
        "no ReLU after the addition",
        ("block", "network"),
        "F",
        "-",
        RELU,
        sources=replaced(edits.SUM, "return y + x"),
        harmless="both sides of the addition passed a ReLU, so the sum is never negative; a projected shortcut may be",
        harmless_where=adds_positive,
    ),
    Fault(
        "relu-on-branch",
        "the last ReLU on the branch, not on the sum",
        ("block", "network"),
        "F",
        "-",
        RELU,
        sources=replaced(edits.SUM, "return relu(y) + x"),
        harmless="both sides of the addition passed a ReLU, so the sum is never negative; a projected shortcut may be",
        harmless_where=adds_positive,
    ),
    Fault(
        "relu-first",
        "ReLU before the norm, not after it",
        ("block", "network"),
        "F",
        "-",
        RELU,
        sources=replaced(edits.NORM_1, 'y = tap("bn1", self.bn1(relu(tap("conv1", self.conv1(x)))))'),
    ),
    Fault(
        "relu-leaky",
        "leaky ReLU (slope 0.01) after bn2",
        ("block", "network"),
        "F",
        "-",
        RELU,
        sources=replaced(
            edits.NORM_2, f"{edits.NORM_2.replace('relu(', '(', 1)}\n        y = relu(y) - 0.01 * relu(-y)"
        ),
    ),
    Fault(
        "shortcut-missing",
        "no shortcut",
        ("block", "network"),
        "F",
        "-",
        PROJECTION,
        sources=replaced(edits.SUM, "return relu(y)"),
    ),
    Fault(
        "shortcut-bn-missing",
        "the projection's batch norm left out",
        ("block", "network"),
        "F",
        "-",
        PROJECTION,
        sources=replaced(edits.SHORTCUT, 'x = tap("downsample_conv", self.downsample_conv(x))'),
        where=projects_somewhere,
    ),
    Fault(
        "shortcut-relu",
        "a ReLU on the projected shortcut",
        ("block", "network"),
        "F",
        "-",
        PROJECTION,
        sources=replaced(edits.SHORTCUT, f"{edits.SHORTCUT}\n            x = relu(x)"),
        where=projects_somewhere,
    ),
    Fault(
        "layer-order",
        "copied by index: the shortcut's kernel and the third one in each other's place",
        ("block",),
        "F",
        "tensorflow#33459",
        NAMES,
        weights=weights.exchanged("conv3.weight", "downsample_conv.weight"),
        where=projects_unlike,
    ),
    Fault(
        "norm-order",
        "the shortcut's norm and the third one in each other's place",
        ("block",),
        "F",
        "tensorflow#33459",
        NAMES,
        weights=weights.norms_exchanged("bn3", "downsample_bn"),
        where=projects,
    ),
    Fault(
        "norm-order-inner",
        "the first and the second norm in each other's place",
        ("block",),
        "F",
        "-",
        NAMES,
        weights=weights.norms_exchanged("bn1", "bn2"),
    ),
    Fault(
        "block-order",
        "a block in the place of the next one: names sorted as text put 10 before 2",
        ("block",),
        "F",
        "-",
        NAMES,
        weights=weights.exchanged_with_following,
        where=has_following,
    ),
    Fault(
        "tf32-leak",
        "TF32 in force where float32 was asked for: products see 10 bits of an activation",
        ("block", "network"),
        "F",
        "pytorch#58434, jax#12008, zea#607",
        PRECISION,
        sources=edits.TF32,
        precision="float32",
    ),
)

WHOLE = (
    Fault(
        "stem-relu-missing",
        "no ReLU in the stem",
        ("stem",),
        "F",
        "-",
        RELU,
        sources=replaced(edits.STEM, edits.STEM.replace("relu(", "(", 1)),
    ),
    Fault(
        "pool-same",
        "SAME padding of the max pool: one-sided at even sizes",
        ("stem",),
        "F",
        "simclr#26, flax examples/imagenet",
        POOLING,
        sources=replaced(edits.POOL, 'x = tap("stem", max_pool(x, replace(self.config, same_padding=True)))'),
        where=pads_alike,
    ),
    Fault(
        "pool-symmetric",
        "the max pool padded on both sides alike where the weights want SAME",
        ("stem",),
        "F",
        "flax examples/imagenet",
        POOLING,
        sources=replaced(edits.POOL, 'x = tap("stem", max_pool(x, replace(self.config, same_padding=False)))'),
        where=pads_same,
    ),
    Fault(
        "pool-valid",
        "max pool without padding: 55x55",
        ("stem",),
        "F",
        "tensorflow/benchmarks#134",
        POOLING,
        sources=edits.POOL_VALID,
        where=takes_any_map_alike,
    ),
    Fault(
        "pool-ceil",
        "ceil instead of floor in the max pool",
        ("stem",),
        "F",
        "nn_tools#5, PytorchToCaffe#16",
        POOLING,
        sources=edits.POOL_CEIL,
        where=takes_any_map_alike,
    ),
    Fault(
        "pool-average",
        "the stem averages where it should take the largest",
        ("stem",),
        "F",
        "-",
        POOLING,
        sources=edits.POOL_AVERAGE,
        where=pads_alike,
    ),
    Fault(
        "pool-missing",
        "no max pool, as networks for small images have it",
        ("stem",),
        "F",
        "-",
        POOLING,
        sources=replaced(edits.POOL, 'x = tap("stem", x)'),
        where=takes_any_map,
    ),
    Fault(
        "pool-zero",
        "zeros, not minus infinity, around the max pool",
        ("stem",),
        "F",
        "tensorflow#48105, onnx-to-keras#31",
        POOLING,
        sources=edits.POOL_ZERO,
        where=pads_alike,
        harmless="the pool's input passed a ReLU, so zero is never above its largest; before a ReLU it would matter",
    ),
    Fault(
        "pool-before-relu",
        "the max pool before the stem's ReLU",
        ("stem",),
        "F",
        "-",
        POOLING,
        sources=by_framework(
            **{
                framework: (
                    (edits.STEM, edits.STEM.replace("relu(", "(", 1)),
                    (edits.POOL, 'x = tap("stem", relu(max_pool(x, self.config)))'),
                )
                for framework in ("numpy", "torch", "flax", "keras")
            }
        ),
        harmless="ReLU keeps the order of numbers, so the largest stays it; with zeros around the pool it would not",
    ),
    Fault(
        "stage1-stride",
        "stage 1 with stride 2",
        ("network",),
        "F",
        "tinygrad#770",
        STRIDE,
        sources=replaced("STAGE_STRIDES[0]", "2"),
        where=takes_any_map,
    ),
    Fault(
        "stage4-stride",
        "stage 4 with stride 1, as networks for detection have it",
        ("network",),
        "F",
        "-",
        STRIDE,
        sources=replaced("STAGE_STRIDES[3]", "1"),
        where=takes_any_map,
    ),
    Fault(
        "head-max",
        "the largest value of the map, not its mean",
        ("head",),
        "F",
        "keras.applications",
        HEAD,
        sources=edits.HEAD_MAX,
    ),
    Fault(
        "fc-bias-dropped",
        "the classifier's bias left out",
        ("head",),
        "F",
        "-",
        BIAS,
        weights=weights.filled(bias=0.0),
        where=has_classes,
    ),
    Fault(
        "classes-1001",
        "a background class first: logits moved by one",
        ("head",),
        "F",
        "mlcommons/inference",
        BACKGROUND,
        weights=weights.classes_rolled,
        where=has_classes,
    ),
    Fault(
        "fc-reshaped",
        "the classifier's matrix reshaped, not transposed",
        ("head",),
        "F",
        "-",
        CLASSIFIER,
        weights=weights.on_leaf("weight", weights.reshaped_matrix),
        where=has_classes,
    ),
    Fault(
        "fc-half",
        "the classifier's weights went through float16",
        ("head",),
        "F",
        "-",
        DTYPE,
        weights=weights.on_leaf("weight", weights.through_float16),
        where=has_classes,
    ),
    Fault(
        "softmax-included",
        "probabilities instead of logits",
        ("head",),
        "F",
        "keras.applications",
        LOGITS,
        sources=edits.SOFTMAX,
        where=has_classes,
    ),
    Fault(
        "flatten-order",
        "NCHW against NHWC order of the features before the classifier",
        ("head",),
        "F",
        "keras#9696, MMdnn#595",
        CLASSIFIER,
        weights=weights.pooled_map_reordered,
        where=has_classes,
        harmless="the pooled map is one pixel, and both orders of it are the same; a larger map would be out of order",
    ),
    Fault(
        "logits-scaled",
        "logits multiplied by some factor: a temperature",
        ("head",),
        "F",
        "-",
        LOGITS,
        weights=weights.scaled("weight", "bias"),
        where=has_classes,
        parameter=Parameter("factor", 1.5, (0.5, 1.1, 2.0)),
    ),
)

PIXELS_ROWS = (
    ("bgr", "BGR for RGB", "keras#10279, keras-io#1185", PIXELS, images.plainly(images.channels_reversed)),
    (
        "caffe-means",
        "Caffe's means and BGR in 0..255, not mean and standard deviation",
        "classification_models#4",
        PIXELS,
        images.on_pixels(images.caffe),
    ),
    ("scale-255", "0..255 for 0..1", "-", PIXELS, images.on_pixels(images.bytes_normalised)),
    ("scale-255-twice", "divided by 255 twice", "-", PIXELS, images.on_pixels(images.divided_twice)),
    (
        "normalised-twice",
        "normalised in the loader and in the model",
        "flaxmodels normalises inside",
        PIXELS,
        images.on_pixels(images.twice),
    ),
    ("not-normalised", "0..1, not normalised", "-", PIXELS, images.on_pixels(images.never)),
    ("scaled-around-zero", "-1..1, as keras's mode 'tf' has it", "-", PIXELS, images.on_pixels(images.around_zero)),
    ("std-missing", "the mean subtracted alone", "-", PIXELS, images.on_pixels(images.centred_only)),
    ("nchw-reshaped", "NCHW reshaped, not transposed, to NHWC", "-", LAYOUT, images.plainly(images.reshaped)),
    ("image-turned", "height and width of the image exchanged", "-", LAYOUT, images.plainly(images.turned)),
    ("image-mirrored", "the image left for right", "-", LAYOUT, images.plainly(images.mirrored)),
    ("image-half", "the image went through float16", "-", DTYPE, images.plainly(images.through_float16)),
    (
        "resize-antialias",
        "resized without antialiasing (here: by picking pixels)",
        "vision#2950, vision#6506",
        RESIZING,
        images.plainly(images.aliased),
    ),
    (
        "crop-pct",
        "another crop fraction (here: 7/8 of the image, enlarged)",
        "keras-hub's timm loader ignores it",
        RESIZING,
        images.plainly(images.zoomed),
    ),
)

PREPROCESSING = (
    *(
        Fault(id, what, ("input",), "P", source, remedies, images=change, where=is_colour)
        for id, what, source, remedies, change in PIXELS_ROWS
    ),
    Fault(
        "image-scaled",
        "the image multiplied by some factor",
        ("input",),
        "P",
        "-",
        PIXELS,
        images=images.scaled,
        parameter=Parameter("factor", 0.3, (0.5, 2.0, 255.0)),
    ),
    Fault(
        "image-shifted",
        "some number added to the image",
        ("input",),
        "P",
        "-",
        PIXELS,
        images=images.shifted,
        parameter=Parameter("number", 0.4, (-0.5, 0.5), positive=False),
    ),
)

ROWS = (*CONVOLUTIONS, *NORMS, *BLOCKS, *WHOLE, *PREPROCESSING, *TRAINING, *INITIAL)

FAULTS: dict[str, Fault] = {fault.id: fault for fault in ROWS}
"""Every fault by its id; whether one is harmless, it says itself."""


def find_fault(id: str) -> Fault:
    """The fault of an id.

    Raises:
        ValueError: If there is none.
    """
    if id not in FAULTS:
        raise ValueError(f"there is no fault {id!r}; the faults are {', '.join(FAULTS)}")
    return FAULTS[id]
