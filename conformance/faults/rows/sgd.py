"""SGD: weight decay, momentum, Nesterov's step, where the learning rate enters.

PyTorch's optimizer is one call; a row that changes what it computes first writes it out.
"""

from __future__ import annotations

from functools import partial

from conformance.faults.edit import VALUE, FrameworkEdits, by_framework
from conformance.faults.fault import Parameter, step_fault
from conformance.faults.remedies import Remedies

DECAY = Remedies(
    torch="weight_decay is an L2 penalty in torch.optim.SGD, decoupled in AdamW (default 0.01): set it and its groups.",
    flax="optax.sgd has no decay: put add_decayed_weights before it for an L2 penalty; optax.adamw's default is 1e-4.",
    keras="weight_decay of Keras's optimizers is decoupled, in SGD too: an L2 penalty has to be added to the gradient.",
)
DECAYED = Remedies(
    torch="Make two parameter groups: kernels (two or four axes) with weight_decay, all others with 0, or one for all.",
    flax="Give optax.add_decayed_weights or adamw a mask that says which parameters decay.",
    keras="Call exclude_from_weight_decay before the optimizer is built, with what is not to decay.",
)
MOMENTUM = Remedies(
    torch="Set momentum, nesterov and dampening of torch.optim.SGD (defaults 0, False, 0).",
    flax="Set momentum and nesterov of optax.sgd; optax.trace is a sum, optax.ema an average.",
    keras="Set momentum and nesterov of keras.optimizers.SGD (defaults 0, False); Keras rounds them to float32.",
)
VELOCITY = Remedies(
    torch="Let the rate multiply the velocity when the step is taken, as torch.optim.SGD does.",
    flax="Scale by the learning rate after optax.trace, as optax.sgd does.",
    keras="keras.optimizers.SGD keeps momentum * velocity - rate * gradient: override update_step.",
)

NUMPY_GRADIENT = "gradient = gradient + decay * weight"
NUMPY_VELOCITY = "velocities[name] = self.recipe.momentum * velocities[name] + gradient"
NUMPY_CHANGE = "return gradient + self.recipe.momentum * velocities[name] if self.recipe.nesterov else velocities[name]"
NUMPY_RATE = "self.recipe.rate(self.steps - 1)"
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
TORCH_GRADIENT = "gradient = weight.grad + decay * weight"
TORCH_VELOCITY = "velocity.mul_(momentum).add_(gradient)"
TORCH_CHANGE = "weight.sub_(rate * change)"
FLAX_UPDATE = "update = optax.chain(optax.add_decayed_weights(decay, decays), sgd)"
FLAX_TRACE = "optax.trace(recipe.momentum, recipe.nesterov)"
FLAX_DECAY = "optax.add_decayed_weights(decay, decays)"
FLAX_RATE = "optax.scale_by_learning_rate(schedule(recipe))"
KERAS_GRADIENT = "gradient = gradient + self.weight_decay * variable"
KERAS_VELOCITY = "velocity.assign(self.momentum * velocity + gradient)"
KERAS_CHANGE = "variable.assign(variable - rate * gradient)"


def torch_sgd(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """Write PyTorch's SGD out, with substitutions in what is written."""
    text = TORCH_SGD
    for old, new in pairs:
        text = text.replace(old, new)
    return [(TORCH_OPTIMIZER, text + TORCH_OPTIMIZER), ("return optim.SGD(", "return Sgd(")]


def rate_in_velocity(sign: str) -> FrameworkEdits:
    """Let the learning rate multiply what enters SGD's velocity, and not the step.

    Args:
        sign: "" for a velocity that points up the slope, "-" for one that points down.
    """
    scale = FLAX_RATE if sign else "optax.scale_by_schedule(schedule(recipe))"
    after = "" if sign else ", optax.scale(-1.0)"
    momentum = "        if self.momentum:\n            velocity = self.momentums"
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
            (momentum, f"        gradient = {sign}rate * gradient\n{momentum}"),
            (KERAS_CHANGE, f"variable.assign(variable - {sign or '1.0 * '}gradient)"),
        ),
    )


decay_fault = partial(step_fault, remedies=DECAY)
momentum_fault = partial(step_fault, remedies=MOMENTUM)
decayed_fault = partial(step_fault, source="flax examples/imagenet", remedies=DECAYED)

ROWS = {
    "wd-decoupled": decay_fault(
        what="SGD's weight decay is decoupled, where an L2 penalty passes through the momentum",
        numpy=(
            (f"        {NUMPY_GRADIENT}\n", ""),
            (
                NUMPY_CHANGE,
                NUMPY_CHANGE.replace("return ", "change = ") + "\n        return change + decay * weight",
            ),
        ),
        torch=torch_sgd(
            (TORCH_GRADIENT, "gradient = weight.grad"),
            (TORCH_CHANGE, "weight.sub_(rate * (change + decay * weight))"),
        ),
        flax=(FLAX_UPDATE, f"update = optax.chain({FLAX_TRACE}, {FLAX_DECAY}, {FLAX_RATE})"),
        keras=(KERAS_GRADIENT, "variable.assign(variable - rate * self.weight_decay * variable)"),
        source="benchmark_resnet_classif#30",
    ),
    "wd-on-norm": decayed_fault(
        what="weight decay acts on scales, offsets and biases too",
        recipe={"decayed": "all"},
    ),
    "wd-on-kernels-only": decayed_fault(
        what="weight decay acts on kernels only, not on scales, offsets and biases",
        recipe={"decayed": "kernels"},
    ),
    "wd-missing": decay_fault(what="there is no weight decay", recipe={"weight_decay": 0.0}),
    "nesterov-missing": momentum_fault(
        what="momentum is plain, without Nesterov's step ahead",
        recipe={"nesterov": False},
    ),
    "nesterov-added": momentum_fault(
        what="momentum takes Nesterov's step ahead, where plain momentum is meant",
        recipe={"nesterov": True},
    ),
    "lr-in-velocity": step_fault(
        what="the learning rate multiplies what enters the velocity, not the step: it shows when the rate changes",
        **rate_in_velocity(""),
        source="pytorch#1099, jax#1528",
        remedies=VELOCITY,
    ),
    "lr-in-velocity-negative": step_fault(
        what="the learning rate multiplies what enters the velocity, which points downhill, as in Keras's SGD",
        **rate_in_velocity("-"),
        source="keras.optimizers.SGD",
        remedies=VELOCITY,
    ),
    "wd-other": decay_fault(
        what="the weight decay has an unusual value",
        recipe={"weight_decay": Parameter("weight decay", injected=3e-4, starts=(1e-4, 0.1))},
    ),
    "sgd-momentum-other": momentum_fault(
        what="the momentum has an unusual value",
        recipe={"momentum": Parameter("momentum", injected=0.85, starts=(0.5, 0.95), positive=False)},
    ),
    "dampening": momentum_fault(
        what="a share of the gradient, 1 - dampening, enters the velocity; dampening = momentum makes it an average",
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
            f"        update = optax.chain({FLAX_DECAY}, velocity, {FLAX_RATE})",
        ),
        keras=(KERAS_VELOCITY, f"velocity.assign(self.momentum * velocity + (1 - {VALUE}) * gradient)"),
        unknown=Parameter("dampening", injected=0.9, starts=(0.5,), positive=False),
    ),
}
