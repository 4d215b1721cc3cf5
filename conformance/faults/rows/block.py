"""Residual blocks: the stride's layer, ReLUs too many or too few, the shortcut, layers in each other's place, TF32."""

from __future__ import annotations

from functools import partial

from conformance.faults.array_changes import exchanged, exchanged_with_following, norms_exchanged
from conformance.faults.edit import replaced, together
from conformance.faults.fault import Fault, model_fault
from conformance.faults.model_lines import BN1, BN2, SHORTCUT, SUM, without_relu
from conformance.faults.place import NETWORK, Where, at, networks
from conformance.faults.remedies import NAMES, RELU, STRIDE, Remedies
from impls.config import EXPANSION

RELU_EACH = Remedies(
    torch="Put relu after bn3 too, before the addition: the weights were trained with it.",
    flax="Put nnx.relu after bn3 too, before the addition: the weights were trained with it.",
    keras="Put ops.relu after bn3 too, before the addition: the weights were trained with it.",
)
PROJECTION = Remedies(
    torch="Add the shortcut: downsample_conv and downsample_bn, without a relu, where shapes differ; else x itself.",
    flax="Add the shortcut: downsample_conv and downsample_bn, without a relu, where shapes differ; else x itself.",
    keras="Add the shortcut: downsample_conv and downsample_bn, without a relu, where shapes differ; else x itself.",
)
PRECISION = Remedies(
    torch="Set fp32_precision of torch.backends.cudnn.conv and torch.backends.cuda.matmul to 'ieee'.",
    flax="Set JAX_DEFAULT_MATMUL_PRECISION=highest.",
    keras="Call tf.config.experimental.enable_tensor_float_32_execution(False).",
)
ONE_OR_ALL = at("block") | NETWORK
STRIDED = at("block", stride=2) | NETWORK
PROJECTING = at("block", projects=True) | NETWORK
LIKE_SHAPES = Where(
    "whose conv3 and downsample_conv have kernels of the same shape",
    lambda place, config: place.in_channels * EXPANSION == place.out_channels,
)
IDENTITY_AFTER_RELU = at("block", projects=False) & networks(relu_before_addition=True)
NEVER_NEGATIVE = "both sides of the addition passed a ReLU, so the sum is never negative; a projected shortcut may be"


def in_ten_bits(layer: str) -> tuple[str, str]:
    """The call of a layer on `y`, and its call on `y` with ten bits of fraction, as TF32 has them.

    Dekker's splitting keeps exactly 24 - 13 = 11 significant bits of a float32 number: what a TF32 unit sees of it.
    """
    return f"self.{layer}(y)", f"self.{layer}(y * 8193 - (y * 8193 - y))"


relu_fault = partial(model_fault, where=ONE_OR_ALL, remedies=RELU)
shortcut_fault = partial(model_fault, where=PROJECTING, remedies=PROJECTION)
order_fault = partial(Fault, where=at("block", projects=True), remedies=NAMES)
stride_fault = partial(Fault, where=STRIDED, remedies=STRIDE)
last_relu_fault = partial(relu_fault, harmless=NEVER_NEGATIVE, harmless_where=IDENTITY_AFTER_RELU)

ROWS = {
    "stride-1x1": stride_fault(
        what="the stride is on the first 1x1, where the weights were trained with it on the 3x3",
        config={"strided_layer": "conv1"},
        source="vision#191, mxnet#8740, mlcommons/training#432",
    ),
    "stride-3x3": stride_fault(
        what="the stride is on the 3x3, where the weights were trained with it on the first 1x1",
        config={"strided_layer": "conv2"},
        source="vision#191, mxnet#8740",
    ),
    "relu-missing": relu_fault(what="there is no ReLU after bn1", **replaced(BN1, without_relu(BN1))),
    "relu-missing-2": relu_fault(what="there is no ReLU after bn2", **replaced(BN2, without_relu(BN2))),
    "relu-before-add": relu_fault(
        what="there is a ReLU before the addition, too",
        config={"relu_before_addition": True},
        source="the tutorial; benchmark_resnet_classif PR#29",
    ),
    "relu-before-add-missing": Fault(
        what="there is no ReLU before the addition, where the weights were trained with one",
        where=ONE_OR_ALL,
        config={"relu_before_addition": False},
        source="the tutorial",
        remedies=RELU_EACH,
    ),
    "relu-after-missing": last_relu_fault(
        what="there is no ReLU after the addition",
        **replaced(SUM, "return y + x"),
    ),
    "relu-on-branch": last_relu_fault(
        what="the last ReLU is on the residual branch, not on the sum",
        **replaced(SUM, "return relu(y) + x"),
    ),
    "relu-first": relu_fault(
        what="the ReLU is before bn1, not after it",
        **replaced(BN1, 'y = tap("bn1", self.bn1(relu(tap("conv1", self.conv1(x)))))'),
    ),
    "relu-leaky": relu_fault(
        what="a leaky ReLU (slope 0.01) stands after bn2",
        **replaced(BN2, f"{without_relu(BN2)}\n        y = relu(y) - 0.01 * relu(-y)"),
    ),
    "shortcut-missing": shortcut_fault(
        what="the shortcut is not added",
        where=ONE_OR_ALL,
        **replaced(SUM, "return relu(y)"),
    ),
    "shortcut-bn-missing": shortcut_fault(
        what="the batch norm of the projected shortcut was left out",
        **replaced(SHORTCUT, 'x = tap("downsample_conv", self.downsample_conv(x))'),
    ),
    "shortcut-relu": shortcut_fault(
        what="a ReLU is applied to the projected shortcut",
        **replaced(SHORTCUT, f"{SHORTCUT}\n            x = relu(x)"),
    ),
    "layer-order": order_fault(
        what="the kernels of conv3 and of the shortcut, which have the same shape, are in each other's place",
        where=at("block", projects=True) & LIKE_SHAPES,
        weights=exchanged(("conv3.weight", "downsample_conv.weight")),
        source="tensorflow#33459",
    ),
    "norm-order": order_fault(
        what="the norms of conv3 and of the shortcut are in each other's place",
        weights=norms_exchanged("bn3", "downsample_bn"),
        source="tensorflow#33459",
    ),
    "norm-order-inner": order_fault(
        what="bn1 and bn2 are in each other's place",
        where=at("block"),
        weights=norms_exchanged("bn1", "bn2"),
    ),
    "block-order": order_fault(
        what="the block and the next one are in each other's place, as when names are sorted as text: 10 before 2",
        where=at("block", followed=True),
        weights=exchanged_with_following,
    ),
    "tf32-leak": model_fault(
        what="TF32 is in force where float32 was asked for: products see 10 bits of an activation's fraction",
        where=ONE_OR_ALL,
        **together(replaced(*in_ten_bits("conv2")), replaced(*in_ten_bits("conv3"))),
        precision="float32",
        source="pytorch#58434, jax#12008, zea#607",
        remedies=PRECISION,
    ),
}
