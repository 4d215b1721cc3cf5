"""AdamW: its eps, its corrections, its betas, its decay.

The optimizers of PyTorch and optax are one call each; a row that changes what they compute first writes them out.
"""

from __future__ import annotations

from functools import partial

from conformance.faults.edit import FrameworkEdits, before, by_framework
from conformance.faults.fault import Parameter, step_fault
from conformance.faults.remedies import Remedies
from impls.recipe import Recipe

ADAM = Remedies(
    torch="torch.optim.AdamW corrects both means and adds eps (1e-8) after that to the root; set betas and eps.",
    flax="optax.adamw corrects both means and adds eps (1e-8) to the root; eps_root is inside it.",
    keras="keras.optimizers.AdamW has eps 1e-7, on the uncorrected root: override update_step.",
)
DECAY = Remedies(
    torch="Use torch.optim.AdamW, not Adam: its decay is rate * weight_decay * weight, outside the gradient's means.",
    flax="Use optax.adamw, not add_decayed_weights before adam: the decay comes after scale_by_adam, before the rate.",
    keras="Use keras.optimizers.AdamW, not an L2 regulariser with Adam; its decay is multiplied by the rate.",
)

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
OPTIMIZER = "def optimizer(model: ResNet"


def adam_update(formula: str) -> FrameworkEdits:
    """Let AdamW update the weights by another formula.

    Args:
        formula: Of the means `mean` and `square`, of `eps`, and of the corrections `first` and `second` that the means
            are divided by.
    """
    numpy = formula.replace("sqrt", "np.sqrt").replace("eps", "recipe.eps")
    torch = formula.replace("sqrt", "torch.sqrt").replace("sqrt(second)", "sqrt(torch.tensor(second))")
    flax = formula.replace("sqrt", "jnp.sqrt")
    keras = formula.replace("sqrt", "ops.sqrt").replace("eps", "self.epsilon")
    return by_framework(
        numpy=(
            (
                "mean, square = means[name] / (1 - recipe.beta1**self.steps), "
                "squares[name] / (1 - recipe.beta2**self.steps)",
                "mean, square = means[name], squares[name]\n"
                "        first, second = 1 - recipe.beta1**self.steps, 1 - recipe.beta2**self.steps",
            ),
            ("return mean / (np.sqrt(square) + recipe.eps) + decay", f"return {numpy} + decay"),
        ),
        torch=(
            (OPTIMIZER, TORCH_ADAMW.replace("UPDATE", torch) + OPTIMIZER),
            ("return optim.AdamW(", "return AdamW("),
        ),
        flax=(
            (OPTIMIZER, FLAX_ADAMW.replace("UPDATE", flax) + OPTIMIZER),
            ("update = optax.adamw(", "update = adamw("),
        ),
        keras=(
            "update = mean / corrected[0] / (ops.sqrt(square / corrected[1]) + self.epsilon)",
            f"first, second = corrected\n        update = {keras}",
        ),
    )


def decay_over_rate(recipe: Recipe, parameter: float) -> float:
    """The weight decay over the learning rate, which cancels out in AdamW's update; SGD's weight decay as it is."""
    return recipe.weight_decay / (recipe.learning_rate if recipe.optimizer == "adamw" else 1.0)


adam_fault = partial(step_fault, remedies=ADAM)

ROWS = {
    "adam-eps": adam_fault(
        what="Adam's eps is 1e-7, Keras's default, not 1e-8",
        recipe={"eps": 1e-7},
        source="benchmark_resnet_classif, keras.optimizers",
    ),
    "adam-eps-uncorrected": adam_fault(
        what="Adam's eps is added to the root before that is corrected: eps / sqrt(1 - beta2**t)",
        **adam_update("mean / first / (sqrt(square / second) + eps / second**0.5)"),
        source="keras#17391, tensorflow#35102, transformers#35504",
    ),
    "adam-eps-in-root": adam_fault(
        what="Adam's eps is inside the root",
        **adam_update("mean / first / sqrt(square / second + eps)"),
        source="keras-radam#29",
    ),
    "adam-uncorrected": adam_fault(
        what="Adam's means are not corrected for their start at zero (bias correction)",
        **adam_update("mean / (sqrt(square) + eps)"),
    ),
    "adam-beta2-099": adam_fault(what="Adam's beta2 is 0.99, not 0.999", recipe={"beta2": 0.99}),
    "adam-beta2-095": adam_fault(what="Adam's beta2 is 0.95, not 0.999", recipe={"beta2": 0.95}),
    "adam-l2": step_fault(
        what="weight decay enters Adam's means as an L2 penalty, where AdamW's decay is decoupled",
        numpy=(
            before("        recipe, means, squares = self.recipe", "gradient = gradient + decay * weight"),
            (" + recipe.eps) + decay * weight", " + recipe.eps)"),
        ),
        torch=("return optim.AdamW(", "return optim.Adam("),
        flax=(
            "optax.adamw(schedule(recipe), recipe.beta1, recipe.beta2, recipe.eps, weight_decay=decay, mask=decays)",
            "optax.chain(optax.add_decayed_weights(decay, decays), "
            "optax.adam(schedule(recipe), recipe.beta1, recipe.beta2, recipe.eps))",
        ),
        keras=(
            before(
                "        index = self._get_variable_index(variable)\n        mean, square",
                "if self.weight_decay and self._use_weight_decay(variable):",
                "    gradient = gradient + self.weight_decay * variable",
            ),
            ("update = update + self.weight_decay * variable", "pass"),
        ),
        source="pytorch#3740, nntrainer#3565",
        remedies=DECAY,
    ),
    "adamw-decay-not-times-rate": step_fault(
        what="AdamW's decay is multiplied by the schedule's factor only, not by the learning rate",
        recipe={"weight_decay": decay_over_rate},
        source="apex#1849",
        remedies=DECAY,
    ),
    "adam-eps-other": adam_fault(
        what="Adam's eps has an unusual value",
        recipe={"eps": Parameter("eps", injected=3e-6, starts=(1e-7, 1e-5, 1e-3))},
    ),
    "adam-beta1-other": adam_fault(
        what="Adam's beta1 has an unusual value",
        recipe={"beta1": Parameter("beta1", injected=0.8, starts=(0.5, 0.95), positive=False)},
    ),
    "adam-beta2-other": adam_fault(
        what="Adam's beta2 has an unusual value",
        recipe={"beta2": Parameter("beta2", injected=0.98, starts=(0.9, 0.99), positive=False)},
    ),
}
