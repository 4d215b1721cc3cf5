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


def stopping(old: str, new: str) -> FrameworkEdits:
    """Replace one line of the three models, in which `stop` passes no gradient on."""
    return by_framework(**{framework: (old, new.replace("stop(", f"{stop}(")) for framework, stop in STOP.items()})


def numpy_before(line: str, new: str) -> FrameworkEdits:
    """Put a line before another in NumPy's gradients."""
    return by_framework(numpy=before(line, new))


def norm_by_hand(
    mean: str = "mean", variance: str = "variance", scale: str = "scale", offset: str = "offset"
) -> FrameworkEdits:
    """Write the batch norm out in the three models, with other terms for its mean, variance, scale or offset."""
    formula = {"mean": mean, "variance": variance, "scale": scale, "offset": offset}
    terms = {
        framework: {name: text.replace("stop(", f"{stop}(") for name, text in formula.items()}
        for framework, stop in STOP.items()
    }
    columns = {name: f"({text})[:, None, None]" for name, text in terms["torch"].items()}
    return by_framework(
        torch=torch_norm(
            "BatchNormByHand",
            "mean, variance, scale, offset = self.running_mean, self.running_var, self.weight, self.bias\n"
            "if self.training:\n"
            "    super().forward(x.detach())\n"
            "    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)\n"
            f"deviation = ({columns['variance']} + self.eps).sqrt()\n"
            f"return (x - {columns['mean']}) / deviation * {columns['scale']} + {columns['offset']}",
        ),
        flax=(
            NORM_CALL["flax"],
            f"{NORM_CALL['flax']}\n"
            "        scale, offset = self.scale[...], self.bias[...]\n"
            "        mean, variance = self.mean[...], self.var[...]\n"
            "        if not self.use_running_average:\n"
            "            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))\n"
            f"        deviation = jnp.sqrt({terms['flax']['variance']} + self.epsilon)\n"
            f"        y = (x - {terms['flax']['mean']}) / deviation\n"
            f"        y = y * {terms['flax']['scale']} + {terms['flax']['offset']}",
        ),
        keras=(
            NORM_CALL["keras"],
            f"{NORM_CALL['keras']}\n"
            "        mean, variance, scale, offset = map(\n"
            "            ops.convert_to_tensor, (self.moving_mean, self.moving_variance, self.gamma, self.beta)\n"
            "        )\n"
            "        if training:\n"
            "            mean, variance = ops.mean(x, (0, 1, 2)), ops.var(x, (0, 1, 2))\n"
            f"        deviation = ops.sqrt({terms['keras']['variance']} + self.epsilon)\n"
            f"        y = (x - {terms['keras']['mean']}) / deviation\n"
            f"        y = y * {terms['keras']['scale']} + {terms['keras']['offset']}",
        ),
    )


def torch_relu(formula: str) -> tuple[str, str]:
    """Replace PyTorch's ReLU by a formula of `x`."""
    return TORCH_RELU, f"{TORCH_RELU.removesuffix(', relu')}\n\n\ndef relu(x):\n    return {formula}\n\n"


def relu_at_zero(share: float) -> FrameworkEdits:
    """Make ReLU's gradient at zero, in NumPy's gradients, a share of the one above zero."""
    return by_framework(
        numpy=(
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
        )
    )


statistics_fault = partial(gradient_fault, where=NORMS, remedies=STATISTICS)
lost_fault = partial(gradient_fault, where=NORMS, remedies=TRAINED)

ROWS = (
    gradient_fault(
        id="shortcut-detached",
        what="no gradient passes through the shortcut",
        where=BLOCKS,
        model=stopping(SUM, "return relu(y + stop(x))"),
        training=by_framework(numpy=(NUMPY_BRANCHES, f"{NUMPY_BRANCHES}    dx = dx * {NOT_HERE}\n")),
        remedies=PASSES,
    ),
    gradient_fault(
        id="branch-detached",
        what="no gradient passes through the residual branch",
        where=BLOCKS,
        model=stopping(SUM, "return relu(stop(y) + x)"),
        training=by_framework(numpy=(NUMPY_BRANCHES, f"{NUMPY_BRANCHES}    dbranch = dbranch * {NOT_HERE}\n")),
        remedies=PASSES,
    ),
    gradient_fault(
        id="layers-before-frozen",
        what="no gradient reaches the layers before a block, as if they ran without gradients",
        where=at("block") & WITH_CLASSES,
        model=stopping(BN1, f"x = stop(x)\n        {BN1}"),
        training=numpy_before(NUMPY_BLOCK_END, f"dx, dbranch = dx * {NOT_HERE}, dbranch * {NOT_HERE}"),
        remedies=PASSES,
    ),
    gradient_fault(
        id="features-frozen",
        what="no gradient reaches anything but the classifier, as if the features were computed without gradients",
        where=HEAD,
        model=stopping(HEAD_POOL, HEAD_POOL.replace("pool(x", "pool(stop(x)")),
        training=by_framework(
            numpy=("return _average_pool(x, dy, model.config)", "return _average_pool(x, 0 * dy, model.config)")
        ),
        remedies=PASSES,
    ),
    statistics_fault(
        id="statistics-detached",
        what="the batch's mean and variance are treated as constants by the gradient",
        model=norm_by_hand(mean="stop(mean)", variance="stop(variance)"),
        training=numpy_before(NUMPY_NORM, f"dscale, doffset = dscale * {NOT_HERE}, doffset * {NOT_HERE}"),
    ),
    statistics_fault(
        id="mean-detached",
        what="the batch's mean is treated as a constant by the gradient",
        model=norm_by_hand(mean="stop(mean)"),
        training=numpy_before(NUMPY_NORM, f"doffset = doffset * {NOT_HERE}"),
    ),
    statistics_fault(
        id="variance-detached",
        what="the batch's variance is treated as a constant by the gradient",
        model=norm_by_hand(variance="stop(variance)"),
        training=numpy_before(NUMPY_NORM, f"dscale = dscale * {NOT_HERE}"),
    ),
    lost_fault(
        id="kernel-gradient-lost",
        what="no gradient reaches the kernel",
        where=at("conv") & WITH_CLASSES,
        model=by_framework(
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
        ),
        training=numpy_before('    grads[f"{name}.weight"] = dweight', f"dweight = dweight * {NOT_HERE}"),
    ),
    lost_fault(
        id="scale-gradient-lost",
        what="no gradient reaches the norm's scale",
        model=norm_by_hand(scale="(stop(scale) + 0 * scale)"),
        training=numpy_before(NUMPY_NORM_END, f'grads[f"{{name}}.weight"] = grads[f"{{name}}.weight"] * {NOT_HERE}'),
    ),
    lost_fault(
        id="offset-gradient-lost",
        what="no gradient reaches the norm's offset",
        model=norm_by_hand(offset="(stop(offset) + 0 * offset)"),
        training=numpy_before(NUMPY_NORM_END, f'grads[f"{{name}}.bias"] = grads[f"{{name}}.bias"] * {NOT_HERE}'),
    ),
    lost_fault(
        id="classifier-gradient-lost",
        what="no gradient reaches the classifier's matrix",
        where=HEAD,
        model=replaced(
            LOGITS,
            torch="kernel = self.fc.weight.detach() + 0 * self.fc.weight\n"
            '        return tap("logits", nn.functional.linear(x, kernel, self.fc.bias))',
            flax="kernel = jax.lax.stop_gradient(self.fc.kernel[...]) + 0 * self.fc.kernel[...]\n"
            '        return tap("logits", x @ kernel + self.fc.bias[...])',
            keras="kernel = ops.stop_gradient(self.fc.kernel) + 0 * self.fc.kernel\n"
            '        return tap("logits", ops.matmul(x, kernel) + self.fc.bias)',
        ),
        training=numpy_before(NUMPY_LINEAR, 'grads[f"{name}.weight"] = 0 * grads[f"{name}.weight"]'),
    ),
    lost_fault(
        id="classifier-bias-gradient-lost",
        what="no gradient reaches the classifier's bias",
        where=HEAD,
        model=replaced(
            LOGITS,
            torch="bias = self.fc.bias.detach() + 0 * self.fc.bias\n"
            '        return tap("logits", nn.functional.linear(x, self.fc.weight, bias))',
            flax="bias = jax.lax.stop_gradient(self.fc.bias[...]) + 0 * self.fc.bias[...]\n"
            '        return tap("logits", x @ self.fc.kernel[...] + bias)',
            keras="bias = ops.stop_gradient(self.fc.bias) + 0 * self.fc.bias\n"
            '        return tap("logits", ops.matmul(x, self.fc.kernel) + bias)',
        ),
        training=numpy_before(NUMPY_LINEAR, 'grads[f"{name}.bias"] = 0 * grads[f"{name}.bias"]'),
    ),
    gradient_fault(
        id="relu-grad-half",
        what="ReLU's gradient at zero is 0.5: relu written as maximum(x, 0)",
        where=NETWORK & WITH_CLASSES,
        model=by_framework(
            torch=torch_relu("torch.maximum(x, torch.zeros_like(x))"),
            flax=(
                "from flax.nnx import avg_pool, relu",
                "from flax.nnx import avg_pool\n\n\ndef relu(x):\n    return jnp.maximum(x, 0)\n\n",
            ),
        ),
        training=relu_at_zero(0.5),
        source="jax#2342, pytorch#56734",
        remedies=AT_ZERO,
    ),
    gradient_fault(
        id="relu-grad-one",
        what="ReLU's gradient at zero is 1: relu written as where(x < 0, 0, x), in TensorFlow as maximum(x, 0)",
        where=NETWORK & WITH_CLASSES,
        model=by_framework(
            torch=torch_relu("torch.where(x < 0, 0, x)"),
            keras=("from keras.ops import relu", "\n\ndef relu(x):\n    return ops.maximum(x, 0)\n\n"),
        ),
        training=relu_at_zero(1.0),
        remedies=AT_ZERO,
    ),
    gradient_fault(
        id="pool-ties-averaged",
        what="the max pool's gradient is shared among equal pixels, as by a maximum over slices",
        where=STEM_OF_SYMMETRIC,
        model=replaced(
            MAX_POOL,
            torch='x = nn.functional.pad(x, (1, 1, 1, 1), value=float("-inf"))\n'
            "    return x.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))",
            flax="x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)\n"
            f"    return jnp.stack({SHIFTED}).max(0)",
            keras=f'return (lambda x: ops.max(ops.stack({SHIFTED}), 0))(pad(x, 3, -float("inf")))',
        ),
        training=by_framework(
            numpy=(NUMPY_TIES, f"{TIED}        dpadded[strided] += dy * tied[..., i, j] / tied.sum((4, 5))")
        ),
        source="tensorflow#4886, tensorflow#51682",
        remedies=AT_TIES,
    ),
    gradient_fault(
        id="pool-ties-all",
        what="the max pool's whole gradient goes to each of several equal pixels",
        where=STEM_OF_SYMMETRIC,
        model=replaced(
            MAX_POOL,
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
        ),
        training=by_framework(numpy=(NUMPY_TIES, f"{TIED}        dpadded[strided] += dy * tied[..., i, j]")),
        source="Theano#5404",
        remedies=AT_TIES,
    ),
)
