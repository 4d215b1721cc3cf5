"""How the text of training goes wrong, and that of the model where only its gradients do.

The frameworks differentiate the model's text, so a wrong gradient is wrong text there; NumPy's gradients are written
out in its `training.py`. Where a library's optimizer is one call, it is first written out by hand, and then wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping

from conformance.faults.edit import (
    FLAX_CALL,
    HEAD_POOL,
    KERAS_CALL,
    KERAS_POOL,
    LOGITS,
    NORM_1,
    SUM,
    TORCH_POOL,
    by_framework,
    torch_norm,
)
from conformance.faults.fault import HERE, VALUE, Edits

STOP = {"torch": "Tensor.detach", "flax": "jax.lax.stop_gradient", "keras": "ops.stop_gradient"}
"""What passes no gradient on."""


def stopping(old: str, new: str) -> Mapping[str, Edits]:
    """One substitution in the three models, in which `stop` passes no gradient on."""
    return by_framework(**{framework: (old, new.replace("stop(", f"{stop}(")) for framework, stop in STOP.items()})


def before(line: str, *new: str) -> tuple[str, str]:
    """Lines put in before another, which stays: several faults may be put in at one line."""
    indent = " " * (len(line) - len(line.lstrip()))
    return line, "".join(f"{indent}{own}\n" for own in new) + line


NOT_HERE = f"(not {HERE})"

# The model: what passes no gradient on.

SHORTCUT_DETACHED = stopping(SUM, "return relu(y + stop(x))")
BRANCH_DETACHED = stopping(SUM, "return relu(stop(y) + x)")
BLOCK_DETACHED = stopping(NORM_1, f"x = stop(x)\n        {NORM_1}")
FEATURES_DETACHED = stopping(HEAD_POOL, HEAD_POOL.replace("pool(x", "pool(stop(x)"))

NUMPY_BRANCHES = "    dx, dbranch = dy, dy\n"
SHORTCUT_LOST = by_framework(numpy=(NUMPY_BRANCHES, f"{NUMPY_BRANCHES}    dx = dx * {NOT_HERE}\n"))
BRANCH_LOST = by_framework(numpy=(NUMPY_BRANCHES, f"{NUMPY_BRANCHES}    dbranch = dbranch * {NOT_HERE}\n"))
BLOCK_LOST = by_framework(
    numpy=before("    return dx + dbranch", f"dx, dbranch = dx * {NOT_HERE}, dbranch * {NOT_HERE}")
)
FEATURES_LOST = by_framework(
    numpy=("return _average_pool(x, dy, model.config)", "return _average_pool(x, 0 * dy, model.config)")
)


def norm_by_hand(
    mean: str = "mean", variance: str = "variance", scale: str = "scale", offset: str = "offset"
) -> Mapping[str, Edits]:
    """A batch norm written out, in which one of its four inputs may be one that passes no gradient on."""
    formula = {"mean": mean, "variance": variance, "scale": scale, "offset": offset}
    own = {
        framework: {name: text.replace("stop(", f"{stop}(") for name, text in formula.items()}
        for framework, stop in STOP.items()
    }
    columns = {name: f"({text})[:, None, None]" for name, text in own["torch"].items()}
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
            FLAX_CALL,
            f"{FLAX_CALL}\n"
            "        scale, offset = self.scale[...], self.bias[...]\n"
            "        mean, variance = self.mean[...], self.var[...]\n"
            "        if not self.use_running_average:\n"
            "            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))\n"
            f"        deviation = jnp.sqrt({own['flax']['variance']} + self.epsilon)\n"
            f"        y = (x - {own['flax']['mean']}) / deviation\n"
            f"        y = y * {own['flax']['scale']} + {own['flax']['offset']}",
        ),
        keras=(
            KERAS_CALL,
            f"{KERAS_CALL}\n"
            "        mean, variance, scale, offset = map(\n"
            "            ops.convert_to_tensor, (self.moving_mean, self.moving_variance, self.gamma, self.beta)\n"
            "        )\n"
            "        if training:\n"
            "            mean, variance = ops.mean(x, (0, 1, 2)), ops.var(x, (0, 1, 2))\n"
            f"        deviation = ops.sqrt({own['keras']['variance']} + self.epsilon)\n"
            f"        y = (x - {own['keras']['mean']}) / deviation\n"
            f"        y = y * {own['keras']['scale']} + {own['keras']['offset']}",
        ),
    )


MEAN_DETACHED = norm_by_hand(mean="stop(mean)")
VARIANCE_DETACHED = norm_by_hand(variance="stop(variance)")
STATISTICS_DETACHED = norm_by_hand(mean="stop(mean)", variance="stop(variance)")
SCALE_DETACHED = norm_by_hand(scale="(stop(scale) + 0 * scale)")
OFFSET_DETACHED = norm_by_hand(offset="(stop(offset) + 0 * offset)")
"""A lost gradient is zero, not absent: an optimizer then does with it what it does with zeros."""

NUMPY_NORM = "        dy = dy - doffset - normal * dscale"
NUMPY_NORM_END = "    return dy * layer.weight.reshape(shape) / deviation"
MEAN_CONSTANT = by_framework(numpy=before(NUMPY_NORM, f"doffset = doffset * {NOT_HERE}"))
VARIANCE_CONSTANT = by_framework(numpy=before(NUMPY_NORM, f"dscale = dscale * {NOT_HERE}"))
STATISTICS_CONSTANT = by_framework(
    numpy=before(NUMPY_NORM, f"dscale, doffset = dscale * {NOT_HERE}, doffset * {NOT_HERE}")
)
SCALE_LOST = by_framework(
    numpy=before(NUMPY_NORM_END, f'grads[f"{{name}}.weight"] = grads[f"{{name}}.weight"] * {NOT_HERE}')
)
OFFSET_LOST = by_framework(
    numpy=before(NUMPY_NORM_END, f'grads[f"{{name}}.bias"] = grads[f"{{name}}.bias"] * {NOT_HERE}')
)

TORCH_CONV = "return super().forward(pad_same(x, 3, 2, 0.0) if self.same else x)"
KERNEL_DETACHED = by_framework(
    torch=(
        TORCH_CONV,
        "kernel = self.weight.detach() + 0 * self.weight\n"
        "        return self._conv_forward(pad_same(x, 3, 2, 0.0) if self.same else x, kernel, self.bias)",
    ),
    flax=(
        (
            "def conv(\n",
            "def convolve(x, kernel, *arguments, **options):\n"
            "    kernel = jax.lax.stop_gradient(kernel) + 0 * kernel\n"
            "    return jax.lax.conv_general_dilated(x, kernel, *arguments, **options)\n\n\n"
            "def conv(\n",
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
)
KERNEL_LOST = by_framework(numpy=before('    grads[f"{name}.weight"] = dweight', f"dweight = dweight * {NOT_HERE}"))

CLASSIFIER_DETACHED = by_framework(
    torch=(
        LOGITS,
        "kernel = self.fc.weight.detach() + 0 * self.fc.weight\n"
        '        return tap("logits", nn.functional.linear(x, kernel, self.fc.bias))',
    ),
    flax=(
        LOGITS,
        "kernel = jax.lax.stop_gradient(self.fc.kernel[...]) + 0 * self.fc.kernel[...]\n"
        '        return tap("logits", x @ kernel + self.fc.bias[...])',
    ),
    keras=(
        LOGITS,
        "kernel = ops.stop_gradient(self.fc.kernel) + 0 * self.fc.kernel\n"
        '        return tap("logits", ops.matmul(x, kernel) + self.fc.bias)',
    ),
)
CLASSIFIER_BIAS_DETACHED = by_framework(
    torch=(
        LOGITS,
        "bias = self.fc.bias.detach() + 0 * self.fc.bias\n"
        '        return tap("logits", nn.functional.linear(x, self.fc.weight, bias))',
    ),
    flax=(
        LOGITS,
        "bias = jax.lax.stop_gradient(self.fc.bias[...]) + 0 * self.fc.bias[...]\n"
        '        return tap("logits", x @ self.fc.kernel[...] + bias)',
    ),
    keras=(
        LOGITS,
        "bias = ops.stop_gradient(self.fc.bias) + 0 * self.fc.bias\n"
        '        return tap("logits", ops.matmul(x, self.fc.kernel) + bias)',
    ),
)
NUMPY_LINEAR = "    dx: Array = dy @ layer.weight"
CLASSIFIER_LOST = by_framework(numpy=before(NUMPY_LINEAR, 'grads[f"{name}.weight"] = 0 * grads[f"{name}.weight"]'))
CLASSIFIER_BIAS_LOST = by_framework(numpy=before(NUMPY_LINEAR, 'grads[f"{name}.bias"] = 0 * grads[f"{name}.bias"]'))

TORCH_RELU = "from torch.nn.functional import avg_pool2d, max_pool2d, relu"
RELU_BY_MAXIMUM = by_framework(
    torch=(
        TORCH_RELU,
        f"{TORCH_RELU.removesuffix(', relu')}\n\n\ndef relu(x):\n    return torch.maximum(x, torch.zeros_like(x))\n\n",
    ),
    flax=(
        "from flax.nnx import avg_pool, relu",
        "from flax.nnx import avg_pool\n\n\ndef relu(x):\n    return jnp.maximum(x, 0)\n\n",
    ),
)
RELU_BY_WHERE = by_framework(
    torch=(
        TORCH_RELU,
        f"{TORCH_RELU.removesuffix(', relu')}\n\n\ndef relu(x):\n    return torch.where(x < 0, 0, x)\n\n",
    ),
    keras=("from keras.ops import relu", "\n\ndef relu(x):\n    return ops.maximum(x, 0)\n\n"),
)


def relu_at_zero(share: float) -> Mapping[str, Edits]:
    """A ReLU whose gradient at zero is some share of the one above it."""
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


FLAX_POOL_LINE = 'return nnx.max_pool(x, (3, 3), (2, 2), "SAME" if config.same_padding else ((1, 1), (1, 1)))'
SHIFTED = "[x[:, i : x.shape[1] - 2 + i : 2, j : x.shape[2] - 2 + j : 2] for i in range(3) for j in range(3)]"
POOL_AVERAGES_TIES = by_framework(
    torch=(
        TORCH_POOL,
        'x = nn.functional.pad(x, (1, 1, 1, 1), value=float("-inf"))\n'
        "    return x.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))",
    ),
    flax=(
        FLAX_POOL_LINE,
        "x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)\n"
        f"    return jnp.stack({SHIFTED}).max(0)",
    ),
    keras=(KERAS_POOL, f'(lambda x: ops.max(ops.stack({SHIFTED}), 0))(pad(x, 3, -float("inf")))'),
)
POOL_TO_ALL_TIES = by_framework(
    torch=(
        TORCH_POOL,
        "x = nn.functional.pad(x, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2)\n"
        "    largest = x.detach().amax((4, 5), keepdim=True)\n"
        "    return largest[..., 0, 0] + ((x - x.detach()) * (x == largest)).sum((4, 5))",
    ),
    flax=(
        FLAX_POOL_LINE,
        "x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))\n"
        f"    x = jnp.stack({SHIFTED})\n"
        "    largest = jax.lax.stop_gradient(x).max(0)\n"
        "    return largest + ((x - jax.lax.stop_gradient(x)) * (x == largest)).sum(0)",
    ),
    keras=(
        f"return {KERAS_POOL}",
        "x = pad(x, 3, 0.0)\n"
        f"    x = ops.stack({SHIFTED})\n"
        "    largest = ops.max(ops.stop_gradient(x), 0)\n"
        "    return largest + ops.sum((x - ops.stop_gradient(x)) * ops.cast(x == largest, x.dtype), 0)",
    ),
)
NUMPY_TIES = "        dpadded[strided] += dy * (largest == position)"
TIES = "tied = windows(padded, 3, 2) == windows(padded, 3, 2).max((4, 5), keepdims=True)"
TIES_AVERAGED = by_framework(
    numpy=(NUMPY_TIES, f"        {TIES}\n        dpadded[strided] += dy * tied[..., i, j] / tied.sum((4, 5))")
)
TIES_ALL = by_framework(numpy=(NUMPY_TIES, f"        {TIES}\n        dpadded[strided] += dy * tied[..., i, j]"))

# The loss.

TORCH_LOSS = "return cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)"
FLAX_LOSS = "return optax.softmax_cross_entropy(logits, targets).mean()"
KERAS_LOSS = (
    "return ops.mean(keras.losses.categorical_crossentropy(targets, logits, from_logits=True, "
    "label_smoothing=smoothing))"
)
NUMPY_LOSS_END = "    return difference / len(logits)"
SUMMED = by_framework(
    numpy=((".sum(1).mean()", ".sum(1).sum()"), (NUMPY_LOSS_END, "    return difference")),
    torch=(TORCH_LOSS, TORCH_LOSS.replace("label_smoothing=", 'reduction="sum", label_smoothing=', 1)),
    flax=(FLAX_LOSS, FLAX_LOSS.replace(".mean()", ".sum()")),
    keras=(KERAS_LOSS, KERAS_LOSS.replace("ops.mean", "ops.sum")),
)
SCALED = by_framework(
    numpy=before(NUMPY_LOSS_END, f"difference = difference * {VALUE}"),
    torch=(
        TORCH_LOSS,
        TORCH_LOSS.replace("return", "value =") + f"\n    return {VALUE} * value - (({VALUE} - 1) * value).detach()",
    ),
    flax=(
        FLAX_LOSS,
        FLAX_LOSS.replace("return", "value =")
        + f"\n    return {VALUE} * value - jax.lax.stop_gradient(({VALUE} - 1) * value)",
    ),
    keras=(
        KERAS_LOSS,
        KERAS_LOSS.replace("return", "value =")
        + f"\n    return {VALUE} * value - ops.stop_gradient(({VALUE} - 1) * value)",
    ),
)
SMOOTHED_OVER_OTHERS = by_framework(
    numpy=(
        "return (1 - recipe.label_smoothing) * np.eye(classes)[labels] + recipe.label_smoothing / classes",
        "share = recipe.label_smoothing * classes / (classes - 1)\n"
        "    return (1 - share) * np.eye(classes)[labels] + share / classes",
    ),
    torch=(TORCH_LOSS, f"{TORCH_LOSS[:-1]} * logits.shape[1] / (logits.shape[1] - 1))"),
    flax=(
        "dtype=logits.dtype), recipe.label_smoothing)",
        "dtype=logits.dtype), recipe.label_smoothing * logits.shape[-1] / (logits.shape[-1] - 1))",
    ),
    keras=(
        "smoothing = recipe.label_smoothing",
        "smoothing = recipe.label_smoothing * logits.shape[-1] / (logits.shape[-1] - 1)",
    ),
)
SOFTMAX = (
    "logits = np.exp(logits - logits.max(1, keepdims=True))",
    "logits = logits / logits.sum(1, keepdims=True)",
)
SOFTMAX_TWICE = by_framework(
    numpy=(
        before("    logits = logits - logits.real.max(1, keepdims=True)", *SOFTMAX),
        before("    likelihood = np.exp(logits - logits.max(1, keepdims=True))", *SOFTMAX),
        before(NUMPY_LOSS_END, "difference = logits * (difference - (logits * difference).sum(1, keepdims=True))"),
    ),
    torch=(TORCH_LOSS, TORCH_LOSS.replace("logits", "logits.softmax(1)")),
    flax=(FLAX_LOSS, FLAX_LOSS.replace("logits, ", "jax.nn.softmax(logits), ")),
    # The output of ops.softmax remembers its logits on TensorFlow, and the loss takes those: written so, it cannot.
    keras=(KERAS_LOSS, KERAS_LOSS.replace("logits, from", "ops.exp(ops.log_softmax(logits)), from")),
)

# SGD.

TORCH_OPTIMIZER = "def optimizer(model: ResNet"
TORCH_SGD = """class Sgd(optim.SGD):
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            rate, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            for weight in group["params"]:
                velocity = self.state[weight]["momentum_buffer"]
                gradient = weight.grad + decay * weight
                velocity.mul_(momentum).add_(gradient)
                change = gradient + momentum * velocity if group["nesterov"] else velocity
                weight.sub_(rate * change)


"""
TORCH_GRADIENT, TORCH_VELOCITY, TORCH_CHANGE = (
    "gradient = weight.grad + decay * weight",
    "velocity.mul_(momentum).add_(gradient)",
    "weight.sub_(rate * change)",
)


def torch_sgd(*edits: tuple[str, str]) -> list[tuple[str, str]]:
    """PyTorch's SGD written out, and then wrongly."""
    text = TORCH_SGD
    for old, new in edits:
        text = text.replace(old, new)
    return [(TORCH_OPTIMIZER, text + TORCH_OPTIMIZER), ("return optim.SGD(", "return Sgd(")]


FLAX_SGD = "sgd = optax.sgd(schedule(recipe), recipe.momentum or None, recipe.nesterov)"
FLAX_UPDATE = "update = optax.chain(optax.add_decayed_weights(decay, decays), sgd)"
FLAX_TRACE = "optax.trace(recipe.momentum, recipe.nesterov)"
FLAX_DECAY = "optax.add_decayed_weights(decay, decays)"
KERAS_GRADIENT = "gradient = gradient + self.weight_decay * variable"
KERAS_VELOCITY = "velocity.assign(self.momentum * velocity + gradient)"
KERAS_CHANGE = "variable.assign(variable - rate * gradient)"
NUMPY_GRADIENT = "gradient = gradient + decay * weight"
NUMPY_VELOCITY = "velocities[name] = self.recipe.momentum * velocities[name] + gradient"
NUMPY_CHANGE = "return gradient + self.recipe.momentum * velocities[name] if self.recipe.nesterov else velocities[name]"
NUMPY_RATE = "self.recipe.rate(self.steps - 1)"

DECOUPLED = by_framework(
    numpy=(
        (f"        {NUMPY_GRADIENT}\n", ""),
        (NUMPY_CHANGE, NUMPY_CHANGE.replace("return ", "change = ") + "\n        return change + decay * weight"),
    ),
    torch=torch_sgd(
        (TORCH_GRADIENT, "gradient = weight.grad"), (TORCH_CHANGE, "weight.sub_(rate * (change + decay * weight))")
    ),
    flax=(
        FLAX_UPDATE,
        f"update = optax.chain({FLAX_TRACE}, {FLAX_DECAY}, optax.scale_by_learning_rate(schedule(recipe)))",
    ),
    keras=(KERAS_GRADIENT, "variable.assign(variable - rate * self.weight_decay * variable)"),
)


def rate_in_velocity(sign: str) -> Mapping[str, Edits]:
    """The learning rate multiplied into what the velocity takes up, not into the step."""
    scale = (
        "optax.scale_by_schedule(schedule(recipe))" if not sign else "optax.scale_by_learning_rate(schedule(recipe))"
    )
    after = ", optax.scale(-1.0)" if not sign else ""
    return by_framework(
        numpy=(
            (NUMPY_GRADIENT, f"gradient = {sign}{NUMPY_RATE} * (gradient + decay * weight)"),
            (NUMPY_CHANGE, NUMPY_CHANGE.replace("return ", f"return {sign}(") + f") / {NUMPY_RATE}"),
        ),
        torch=torch_sgd(
            (TORCH_GRADIENT, f"gradient = {sign}rate * (weight.grad + decay * weight)"),
            (TORCH_CHANGE, f"weight.sub_({sign}change)"),
        ),
        flax=(FLAX_UPDATE, f"update = optax.chain({FLAX_DECAY}, {scale}, {FLAX_TRACE}{after})"),
        keras=(
            (
                "        if self.momentum:\n            velocity = self.momentums",
                f"        gradient = {sign}rate * gradient\n"
                "        if self.momentum:\n            velocity = self.momentums",
            ),
            (KERAS_CHANGE, f"variable.assign(variable - {sign or '1.0 * '}gradient)"),
        ),
    )


RATE_IN_VELOCITY = rate_in_velocity("")
RATE_IN_VELOCITY_NEGATIVE = rate_in_velocity("-")

DAMPENED = by_framework(
    numpy=(NUMPY_VELOCITY, f"{NUMPY_VELOCITY.removesuffix('gradient')}(1 - {VALUE}) * gradient"),
    torch=torch_sgd((TORCH_VELOCITY, f"velocity.mul_(momentum).add_(gradient, alpha=1 - {VALUE})")),
    flax=(
        FLAX_UPDATE,
        "def enter(gradients, velocities, parameters=None):\n"
        "            velocities = jax.tree.map(\n"
        f"                lambda g, v: recipe.momentum * v + (1 - {VALUE}) * g, gradients, velocities.trace\n"
        "            )\n"
        "            ahead = jax.tree.map(lambda g, v: g + recipe.momentum * v, gradients, velocities)\n"
        "            return ahead if recipe.nesterov else velocities, optax.TraceState(velocities)\n\n"
        f"        velocity = optax.GradientTransformation({FLAX_TRACE}.init, enter)\n"
        f"        update = optax.chain({FLAX_DECAY}, velocity, optax.scale_by_learning_rate(schedule(recipe)))",
    ),
    keras=(KERAS_VELOCITY, f"velocity.assign(self.momentum * velocity + (1 - {VALUE}) * gradient)"),
)

# AdamW.

TORCH_ADAMW = """class AdamW(optim.AdamW):
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (beta1, beta2), rate, decay, eps = group["betas"], group["lr"], group["weight_decay"], group["eps"]
            for weight in group["params"]:
                state, gradient = self.state[weight], weight.grad
                state["step"] += 1
                mean, square = state["exp_avg"], state["exp_avg_sq"]
                mean.mul_(beta1).add_((1 - beta1) * gradient)
                square.mul_(beta2).add_((1 - beta2) * gradient * gradient)
                first, second = (1 - beta ** state["step"].item() for beta in (beta1, beta2))
                weight.sub_(rate * (UPDATE + decay * weight))


"""
FLAX_ADAMW = """def adamw(rate, beta1, beta2, eps, weight_decay, mask):
    right = optax.scale_by_adam(beta1, beta2, eps)

    def step(gradients, state, parameters=None):
        _, state = right.update(gradients, state, parameters)
        first, second = (1 - beta ** jnp.asarray(state.count, float) for beta in (beta1, beta2))
        return jax.tree.map(lambda mean, square: UPDATE, state.mu, state.nu), state

    return optax.chain(
        optax.GradientTransformation(right.init, step),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(rate),
    )


"""
FLAX_OPTIMIZER = "def optimizer(model: ResNet"


def adam_update(formula: str) -> Mapping[str, Edits]:
    """AdamW written out with another formula of mean, square, eps and the corrections of both, first and second."""
    named = {
        "numpy": formula.replace("sqrt", "np.sqrt").replace("eps", "recipe.eps"),
        "torch": formula.replace("sqrt", "torch.sqrt"),
        "flax": formula.replace("sqrt", "jnp.sqrt"),
        "keras": formula.replace("sqrt", "ops.sqrt").replace("eps", "self.epsilon"),
    }
    return by_framework(
        numpy=(
            (
                "mean, square = means[name] / (1 - recipe.beta1**self.steps), "
                "squares[name] / (1 - recipe.beta2**self.steps)",
                "mean, square = means[name], squares[name]\n"
                "        first, second = 1 - recipe.beta1**self.steps, 1 - recipe.beta2**self.steps",
            ),
            ("return mean / (np.sqrt(square) + recipe.eps) + decay", f"return {named['numpy']} + decay"),
        ),
        torch=(
            (
                TORCH_OPTIMIZER,
                TORCH_ADAMW.replace("UPDATE", named["torch"].replace("sqrt(second)", "sqrt(torch.tensor(second))"))
                + TORCH_OPTIMIZER,
            ),
            ("return optim.AdamW(", "return AdamW("),
        ),
        flax=(
            (FLAX_OPTIMIZER, FLAX_ADAMW.replace("UPDATE", named["flax"]) + FLAX_OPTIMIZER),
            ("update = optax.adamw(", "update = adamw("),
        ),
        keras=(
            "update = mean / corrected[0] / (ops.sqrt(square / corrected[1]) + self.epsilon)",
            f"first, second = corrected\n        update = {named['keras']}",
        ),
    )


UNCORRECTED = adam_update("mean / (sqrt(square) + eps)")
EPS_IN_ROOT = adam_update("mean / first / sqrt(square / second + eps)")
EPS_ON_UNCORRECTED = adam_update("mean / first / (sqrt(square / second) + eps / second**0.5)")

ADAM_L2 = by_framework(
    numpy=(
        before("        recipe, means, squares = self.recipe", "gradient = gradient + decay * weight"),
        (" + recipe.eps) + decay * weight", " + recipe.eps)"),
    ),
    torch=("return optim.AdamW(", "return optim.Adam("),
    flax=(
        "optax.adamw(schedule(recipe), recipe.beta1, recipe.beta2, recipe.eps, weight_decay=decay, mask=decays)",
        f"optax.chain({FLAX_DECAY}, optax.adam(schedule(recipe), recipe.beta1, recipe.beta2, recipe.eps))",
    ),
    keras=(
        before(
            "        index = self._get_variable_index(variable)\n        mean, square",
            "if self.weight_decay and self._use_weight_decay(variable):",
            "    gradient = gradient + self.weight_decay * variable",
        ),
        ("update = update + self.weight_decay * variable", "pass"),
    ),
)

# Clipping, schedule, the step itself.

TORCH_CLIPPED, NUMPY_CLIPPED = "gradient.mul_(factor)", "gradient *= min(1.0, norm / total)"
FLAX_CLIP = "optax.clip_by_global_norm(recipe.clip_norm)"
CLIPPED_BY_VALUE = by_framework(
    numpy=(NUMPY_CLIPPED, "np.clip(gradient, -norm, norm, out=gradient)"),
    torch=(TORCH_CLIPPED, "gradient.clamp_(-norm, norm)"),
    flax=(FLAX_CLIP, "optax.clip(recipe.clip_norm)"),
    keras=(
        ("beta2, recipe.eps, global_clipnorm=clip", "beta2, recipe.eps, clipvalue=clip"),
        ("weight_decay=decay, global_clipnorm=clip", "weight_decay=decay, clipvalue=clip"),
    ),
)
CLIPPED_ONE_BY_ONE = by_framework(
    numpy=(NUMPY_CLIPPED, "gradient *= min(1.0, norm / max(np.linalg.norm(gradient), 1e-300))"),
    torch=(TORCH_CLIPPED, "gradient.mul_((norm / gradient.norm()).clamp(max=1.0))"),
    flax=(
        FLAX_CLIP,
        "optax.stateless(\n"
        "        lambda gradients, _: jax.tree.map(\n"
        "            lambda g: g * jnp.minimum(1.0, recipe.clip_norm / jnp.sqrt((g * g).sum())), gradients\n"
        "        )\n"
        "    )",
    ),
    keras=(
        ("beta2, recipe.eps, global_clipnorm=clip", "beta2, recipe.eps, clipnorm=clip"),
        ("weight_decay=decay, global_clipnorm=clip", "weight_decay=decay, clipnorm=clip"),
    ),
)
CLIPPED_A_LITTLE_MORE = by_framework(
    numpy=(NUMPY_CLIPPED, "gradient *= min(1.0, norm / (total + 1e-6))"),
    torch=("norm / get_total_norm(gradients)", "norm / (get_total_norm(gradients) + 1e-6)"),
    flax=(
        FLAX_CLIP,
        "optax.stateless(\n"
        "        lambda gradients, _: jax.tree.map(\n"
        "            lambda g: g * jnp.minimum(1.0, recipe.clip_norm / (optax.global_norm(gradients) + 1e-6)),\n"
        "            gradients,\n"
        "        )\n"
        "    )",
    ),
)

NUMPY_RATE_NOW = "rate = self.recipe.rate(self.steps)"
TORCH_FACTOR = "LambdaLR(optimizer, recipe.factor, "
FLAX_WARMUP = "optax.linear_schedule(rate / max(1, recipe.warmup_steps), rate, recipe.warmup_steps - 1)"
FLAX_COSINE = '"cosine": lambda: optax.cosine_decay_schedule(rate, steps),'
KERAS_WARMUP = "(step + 1) / recipe.warmup_steps"


def factor(formula: str) -> dict[str, tuple[str, str]]:
    """The schedule of the oracle and of PyTorch, as another formula of `recipe` and `step`."""
    return {
        "numpy": (
            NUMPY_RATE_NOW,
            f"recipe, step = self.recipe, self.steps\n        rate = recipe.learning_rate * ({formula})",
        ),
        "torch": (TORCH_FACTOR, f"LambdaLR(optimizer, lambda step: {formula}, "),
    }


WARMUP = "recipe.warmup_steps"
WARMUP_FROM_ZERO = by_framework(
    **factor(f"step / {WARMUP} if step < {WARMUP} else recipe.factor(step)"),
    flax=(FLAX_WARMUP, f"optax.linear_schedule(0.0, rate, {WARMUP})"),
    keras=(KERAS_WARMUP, f"step / {WARMUP}"),
)
WARMUP_ONE_LONGER = by_framework(
    **factor(f"(step + 1) / ({WARMUP} + 1) if step < {WARMUP} else recipe.factor(step)"),
    flax=(FLAX_WARMUP, f"optax.linear_schedule(rate / ({WARMUP} + 1), rate * {WARMUP} / ({WARMUP} + 1), {WARMUP} - 1)"),
    keras=(KERAS_WARMUP, f"(step + 1) / ({WARMUP} + 1)"),
)
SCHEDULE_EARLY = by_framework(
    **factor("recipe.factor(step + 1)"),
    flax=("joined(jnp.asarray(count, float))", "joined(jnp.asarray(count, float) + 1)"),
    keras=("ops.cast(step, self.dtype)", "ops.cast(step, self.dtype) + 1"),
)
SCHEDULE_LATE = by_framework(
    **factor("recipe.factor(max(0, step - 1))"),
    flax=("joined(jnp.asarray(count, float))", "joined(jnp.maximum(jnp.asarray(count, float) - 1, 0.0))"),
    keras=("ops.cast(step, self.dtype)", "ops.maximum(ops.cast(step, self.dtype) - 1, 0.0)"),
)
WHOLE_COSINE = 'type(recipe)(**vars(recipe) | {"warmup_steps": 0}).factor(step)'
COSINE_FROM_START = by_framework(
    **factor(f'{WHOLE_COSINE} if recipe.schedule == "cosine" and step >= {WARMUP} else recipe.factor(step)'),
    flax=(
        FLAX_COSINE,
        '"cosine": lambda: (\n'
        "            lambda count: optax.cosine_decay_schedule(rate, recipe.total_steps)(count + recipe.warmup_steps)\n"
        "        ),",
    ),
    keras=(
        "done = (step - recipe.warmup_steps) / (recipe.total_steps - recipe.warmup_steps)",
        "done = step / recipe.total_steps",
    ),
)

NUMPY_STEP = "        value, grads = self.gradients(self.model.train(), images, labels, self.recipe)"
TORCH_STEP = "        value = loss(self.model(images), labels, self.recipe)"
STATISTICS_TWICE = by_framework(
    numpy=before(NUMPY_STEP, "self.model.train()(images)"),
    torch=before(TORCH_STEP, "self.model(images)"),
    flax=(
        "loss(model(images), labels, recipe))(model)",
        "loss((model(images), model(images))[1], labels, recipe))(model)",
    ),
    keras=before(
        "        return float(self.model.train_on_batch(images, labels))", "self.model(images, training=True)"
    ),
)
GRADIENTS_KEPT = by_framework(
    numpy=(
        "        clip(grads, self.recipe.clip_norm)\n",
        '        for name, held in vars(self).get("held", {}).items():\n'
        "            grads[name] = grads[name] + held\n"
        "        clip(grads, self.recipe.clip_norm)\n"
        "        self.held = dict(grads)\n",
    ),
    torch=("        self.optimizer.zero_grad()\n", ""),
)
