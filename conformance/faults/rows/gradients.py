"""Gradients: the forward pass is right, and only the way back is wrong.

The frameworks differentiate the text of the model, so that this text is wrong there (`model`). NumPy's gradients are
written out in its `training.py`, which is wrong instead (`training`). A gradient that does not reach an array is zero,
not absent. ReLU at zero and the max pool at equal values are here too: their values do not decide their gradients.
"""

from __future__ import annotations

from functools import partial

from conformance.faults.edit import HERE, FrameworkEdits, before, by_framework, replaced
from conformance.faults.fault import gradient_fault
from conformance.faults.model_lines import BN1, HEAD_POOL, LOGITS, MAX_POOL, NORM_CALL, SUM, torch_norm
from conformance.faults.place import NETWORK, WITH_CLASSES, at, networks
from conformance.faults.remedies import Remedies

PASSES = Remedies(
    torch="Let no detach(), torch.no_grad() or .data stand between the loss and what is trained.",
    flax="Let no jax.lax.stop_gradient stand between the loss and what is trained.",
    keras="Let no ops.stop_gradient stand between the loss and what is trained, and compute it inside the tape.",
)
TRAINED = Remedies(
    torch="Leave requires_grad True, and give the optimizer every parameter.",
    flax="Differentiate with respect to every nnx.Param, and let wrt of nnx.Optimizer be the same filter.",
    keras="Leave trainable True, and hand every trainable variable to the tape and to the optimizer.",
)
STATISTICS = Remedies(
    torch="Use nn.BatchNorm2d, whose batch statistics are differentiated; by hand, do not detach mean and variance.",
    flax="Use nnx.BatchNorm, whose batch statistics are differentiated; by hand, put no stop_gradient on them.",
    keras="Use BatchNormalization, whose batch statistics are differentiated; by hand, put no stop_gradient on them.",
)
AT_ZERO = Remedies(
    torch="Use torch.relu: torch.maximum passes half the gradient at zero, where(x < 0, 0, x) all of it.",
    flax="Use nnx.relu: jnp.maximum passes half the gradient at zero.",
    keras="Use ops.relu: ops.maximum passes the whole gradient at zero on TensorFlow.",
)
AT_TIES = Remedies(
    torch="Use max_pool2d, whose gradient goes to one pixel of a window; amax shares it among equal ones.",
    flax="Use nnx.max_pool, whose gradient goes to one pixel of a window; jnp.max shares it among equal ones.",
    keras="Use ops.max_pool, whose gradient goes to one pixel of a window; ops.max shares it among equal ones.",
)
BLOCKS = (at("block") | NETWORK) & WITH_CLASSES
NORMS = (at("norm") | NETWORK) & WITH_CLASSES
HEAD = at("head") & WITH_CLASSES
STEM_OF_SYMMETRIC = at("stem") & WITH_CLASSES & networks(same_padding=False)

STOP = {"torch": "Tensor.detach", "flax": "jax.lax.stop_gradient", "keras": "ops.stop_gradient"}
"""The function that passes no gradient on; rows write it `stop`."""

NOT_HERE = f"(not {HERE})"

NUMPY_BRANCHES = "    dx, dbranch = dy, dy\n"
NUMPY_BLOCK_END = "    return dx + dbranch"
NUMPY_NORM = "        dy = dy - doffset - normal * dscale"
NUMPY_NORM_END = "    return dy * layer.weight.reshape(shape) / deviation"
NUMPY_LINEAR = "    dx: Array = dy @ layer.weight"
"""Lines of NumPy's gradients: of a block, a norm in train mode, any norm, the classifier."""

TORCH_RELU = "from torch.nn.functional import avg_pool2d, max_pool2d, relu"
SHIFTED = "[x[:, i : x.shape[1] - 2 + i : 2, j : x.shape[2] - 2 + j : 2] for i in range(3) for j in range(3)]"
"""The nine pixels of every window, as slices of an image with its channels last."""

NUMPY_TIES = "        dpadded[strided] += dy * (largest == position)"
TIED = "        tied = windows(padded, 3, 2) == windows(padded, 3, 2).max((4, 5), keepdims=True)\n"


def stopping(edits: FrameworkEdits) -> FrameworkEdits:
    """Let `stop` in the new texts of the three models be each framework's function."""
    return {
        framework: tuple(edit._replace(new=edit.new.replace("stop(", f"{stop}(")) for edit in edits[framework])
        for framework, stop in STOP.items()
    }


def norm_by_hand(
    mean: str = "mean", variance: str = "variance", scale: str = "scale", offset: str = "offset"
) -> FrameworkEdits:
    """Write the batch norm out in the three models, with other terms for its mean, variance, scale or offset."""
    flax_and_keras = f"        y = (x - {mean}) / deviation\n        y = y * {scale} + {offset}"
    by_hand = by_framework(
        torch=torch_norm(
            "BatchNormByHand",
            "mean, variance, scale, offset = self.running_mean, self.running_var, self.weight, self.bias\n"
            "if self.training:\n"
            "    super().forward(x.detach())\n"
            "    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)\n"
            f"deviation = (({variance})[:, None, None] + self.eps).sqrt()\n"
            f"return (x - ({mean})[:, None, None]) / deviation * ({scale})[:, None, None] + ({offset})[:, None, None]",
        ),
        flax=(
            NORM_CALL["flax"],
            f"{NORM_CALL['flax']}\n"
            "        scale, offset = self.scale[...], self.bias[...]\n"
            "        mean, variance = self.mean[...], self.var[...]\n"
            "        if not self.use_running_average:\n"
            "            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))\n"
            f"        deviation = jnp.sqrt({variance} + self.epsilon)\n{flax_and_keras}",
        ),
        keras=(
            NORM_CALL["keras"],
            f"{NORM_CALL['keras']}\n"
            "        mean, variance, scale, offset = map(\n"
            "            ops.convert_to_tensor, (self.moving_mean, self.moving_variance, self.gamma, self.beta)\n"
            "        )\n"
            "        if training:\n"
            "            mean, variance = ops.mean(x, (0, 1, 2)), ops.var(x, (0, 1, 2))\n"
            f"        deviation = ops.sqrt({variance} + self.epsilon)\n{flax_and_keras}",
        ),
    )
    return stopping(by_hand)


def classifier_without_gradient(lost: str) -> FrameworkEdits:
    """Write the classifier out in the three models, and let no gradient reach its `kernel` or its `bias`."""
    stopped = f"        {lost} = stop({lost}) + 0 * {lost}\n"
    by_hand = replaced(
        LOGITS,
        torch=f"kernel, bias = self.fc.weight, self.fc.bias\n{stopped}"
        '        return tap("logits", nn.functional.linear(x, kernel, bias))',
        flax=f"kernel, bias = self.fc.kernel[...], self.fc.bias[...]\n{stopped}"
        '        return tap("logits", x @ kernel + bias)',
        keras=f"kernel, bias = self.fc.kernel, self.fc.bias\n{stopped}"
        '        return tap("logits", ops.matmul(x, kernel) + bias)',
    )
    return stopping(by_hand)


def torch_relu(formula: str) -> tuple[str, str]:
    """Replace PyTorch's ReLU by a formula of `x`."""
    return TORCH_RELU, f"{TORCH_RELU.removesuffix(', relu')}\n\n\ndef relu(x):\n    return {formula}\n\n"


def relu_at_zero(share: float) -> list[tuple[str, str]]:
    """Make ReLU's gradient at zero, in NumPy's gradients, a share of the one above zero."""
    return [
        (
            "dy = dy * (activations[name] > 0)",
            'branch = activations[f"{name}.bn3"]\n'
            "    branch = relu(branch) if block.relu_before_addition else branch\n"
            '    total = branch + (activations[f"{name}.downsample_bn"] if block.projects else x)\n'
            f"    dy = dy * ((total > 0) + {share} * (total == 0))",
        ),
        (
            'dbranch = dbranch * (activations[f"{name}.bn3"] > 0)',
            'leaving = activations[f"{name}.bn3"]\n'
            f"        dbranch = dbranch * ((leaving > 0) + {share} * (leaving == 0))",
        ),
        (
            "dbranch = dbranch * (inputs[number - 1] > 0)",
            'entering = activations[f"{name}.bn{number - 1}"]\n'
            f"            dbranch = dbranch * ((entering > 0) + {share} * (entering == 0))",
        ),
        ('* (activations["bn1"] > 0)', f'* ((activations["bn1"] > 0) + {share} * (activations["bn1"] == 0))'),
    ]


statistics_fault = partial(gradient_fault, where=NORMS, remedies=STATISTICS)
lost_fault = partial(gradient_fault, where=NORMS, remedies=TRAINED)
detached_fault = partial(gradient_fault, remedies=PASSES)
relu_fault = partial(gradient_fault, where=NETWORK & WITH_CLASSES, remedies=AT_ZERO)
ties_fault = partial(gradient_fault, where=STEM_OF_SYMMETRIC, line=MAX_POOL, remedies=AT_TIES)

ROWS = {
    "shortcut-detached": detached_fault(
        what="no gradient passes through the shortcut",
        where=BLOCKS,
        **stopping(replaced(SUM, "return relu(y + stop(x))")),
        numpy=(NUMPY_BRANCHES, f"{NUMPY_BRANCHES}    dx = dx * {NOT_HERE}\n"),
    ),
    "branch-detached": detached_fault(
        what="no gradient passes through the residual branch",
        where=BLOCKS,
        **stopping(replaced(SUM, "return relu(stop(y) + x)")),
        numpy=(NUMPY_BRANCHES, f"{NUMPY_BRANCHES}    dbranch = dbranch * {NOT_HERE}\n"),
    ),
    "layers-before-frozen": detached_fault(
        what="no gradient reaches the layers before a block, as if they ran without gradients",
        where=at("block") & WITH_CLASSES,
        **stopping(replaced(BN1, f"x = stop(x)\n        {BN1}")),
        numpy=before(NUMPY_BLOCK_END, f"dx, dbranch = dx * {NOT_HERE}, dbranch * {NOT_HERE}"),
    ),
    "features-frozen": detached_fault(
        what="no gradient reaches anything but the classifier, as if the features were computed without gradients",
        where=HEAD,
        **stopping(replaced(HEAD_POOL, HEAD_POOL.replace("pool(x", "pool(stop(x)"))),
        numpy=("return _average_pool(x, dy, model.config)", "return _average_pool(x, 0 * dy, model.config)"),
    ),
    "statistics-detached": statistics_fault(
        what="the batch's mean and variance are treated as constants by the gradient",
        **norm_by_hand(mean="stop(mean)", variance="stop(variance)"),
        numpy=before(NUMPY_NORM, f"dscale, doffset = dscale * {NOT_HERE}, doffset * {NOT_HERE}"),
    ),
    "mean-detached": statistics_fault(
        what="the batch's mean is treated as a constant by the gradient",
        **norm_by_hand(mean="stop(mean)"),
        numpy=before(NUMPY_NORM, f"doffset = doffset * {NOT_HERE}"),
    ),
    "variance-detached": statistics_fault(
        what="the batch's variance is treated as a constant by the gradient",
        **norm_by_hand(variance="stop(variance)"),
        numpy=before(NUMPY_NORM, f"dscale = dscale * {NOT_HERE}"),
    ),
    "kernel-gradient-lost": lost_fault(
        what="no gradient reaches the kernel",
        where=at("conv") & WITH_CLASSES,
        torch=(
            "return super().forward(pad_same(x, 3, 2, 0.0) if self.same else x)",
            "kernel = self.weight.detach() + 0 * self.weight\n"
            "        return self._conv_forward(pad_same(x, 3, 2, 0.0) if self.same else x, kernel, self.bias)",
        ),
        flax=(
            before(
                "def conv(\n",
                "def convolve(x, kernel, *arguments, **options):",
                "    kernel = jax.lax.stop_gradient(kernel) + 0 * kernel",
                "    return jax.lax.conv_general_dilated(x, kernel, *arguments, **options)\n\n",
            ),
            (
                "        use_bias=config.conv_bias,\n",
                "        use_bias=config.conv_bias,\n        conv_general_dilated=convolve,\n",
            ),
        ),
        keras=(
            "    layer.build((None, None, None, in_channels))\n    return layer",
            "    layer.build((None, None, None, in_channels))\n"
            "    convolve = layer.convolution_op\n"
            "    layer.convolution_op = lambda x, kernel: convolve(x, ops.stop_gradient(kernel) + 0 * kernel)\n"
            "    return layer",
        ),
        numpy=before('    grads[f"{name}.weight"] = dweight', f"dweight = dweight * {NOT_HERE}"),
    ),
    "scale-gradient-lost": lost_fault(
        what="no gradient reaches the norm's scale",
        **norm_by_hand(scale="(stop(scale) + 0 * scale)"),
        numpy=before(NUMPY_NORM_END, f'grads[f"{{name}}.weight"] = grads[f"{{name}}.weight"] * {NOT_HERE}'),
    ),
    "offset-gradient-lost": lost_fault(
        what="no gradient reaches the norm's offset",
        **norm_by_hand(offset="(stop(offset) + 0 * offset)"),
        numpy=before(NUMPY_NORM_END, f'grads[f"{{name}}.bias"] = grads[f"{{name}}.bias"] * {NOT_HERE}'),
    ),
    "classifier-gradient-lost": lost_fault(
        what="no gradient reaches the classifier's matrix",
        where=HEAD,
        **classifier_without_gradient("kernel"),
        numpy=before(NUMPY_LINEAR, 'grads[f"{name}.weight"] = 0 * grads[f"{name}.weight"]'),
    ),
    "classifier-bias-gradient-lost": lost_fault(
        what="no gradient reaches the classifier's bias",
        where=HEAD,
        **classifier_without_gradient("bias"),
        numpy=before(NUMPY_LINEAR, 'grads[f"{name}.bias"] = 0 * grads[f"{name}.bias"]'),
    ),
    "relu-grad-half": relu_fault(
        what="ReLU's gradient at zero is 0.5: relu written as maximum(x, 0)",
        torch=torch_relu("torch.maximum(x, torch.zeros_like(x))"),
        flax=(
            "from flax.nnx import avg_pool, relu",
            "from flax.nnx import avg_pool\n\n\ndef relu(x):\n    return jnp.maximum(x, 0)\n\n",
        ),
        numpy=relu_at_zero(0.5),
        source="jax#2342, pytorch#56734",
    ),
    "relu-grad-one": relu_fault(
        what="ReLU's gradient at zero is 1: relu written as where(x < 0, 0, x), in TensorFlow as maximum(x, 0)",
        torch=torch_relu("torch.where(x < 0, 0, x)"),
        keras=("from keras.ops import relu", "\n\ndef relu(x):\n    return ops.maximum(x, 0)\n\n"),
        numpy=relu_at_zero(1.0),
    ),
    "pool-ties-averaged": ties_fault(
        what="the max pool's gradient is shared among equal pixels, as by a maximum over slices",
        torch='x = nn.functional.pad(x, (1, 1, 1, 1), value=float("-inf"))\n'
        "    return x.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))",
        flax="x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)\n"
        f"    return jnp.stack({SHIFTED}).max(0)",
        keras=f'return (lambda x: ops.max(ops.stack({SHIFTED}), 0))(pad(x, 3, -float("inf")))',
        numpy=(NUMPY_TIES, f"{TIED}        dpadded[strided] += dy * tied[..., i, j] / tied.sum((4, 5))"),
        source="tensorflow#4886, tensorflow#51682",
    ),
    "pool-ties-all": ties_fault(
        what="the max pool's whole gradient goes to each of several equal pixels",
        torch="x = nn.functional.pad(x, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2)\n"
        "    largest = x.detach().amax((4, 5), keepdim=True)\n"
        "    return largest[..., 0, 0] + ((x - x.detach()) * (x == largest)).sum((4, 5))",
        flax="x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))\n"
        f"    x = jnp.stack({SHIFTED})\n"
        "    largest = jax.lax.stop_gradient(x).max(0)\n"
        "    return largest + ((x - jax.lax.stop_gradient(x)) * (x == largest)).sum(0)",
        keras="x = pad(x, 3, 0.0)\n"
        f"    x = ops.stack({SHIFTED})\n"
        "    largest = ops.max(ops.stop_gradient(x), 0)\n"
        "    return largest + ops.sum((x - ops.stop_gradient(x)) * ops.cast(x == largest, x.dtype), 0)",
        numpy=(NUMPY_TIES, f"{TIED}        dpadded[strided] += dy * tied[..., i, j]"),
        source="Theano#5404",
    ),
}
