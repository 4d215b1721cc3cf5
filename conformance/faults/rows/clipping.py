"""Gradient clipping: the largest norm, and which gradients are measured together."""

from __future__ import annotations

from functools import partial

from conformance.faults.fault import Parameter, step_fault
from conformance.faults.remedies import Remedies

CLIPPING = Remedies(
    torch="Scale all gradients by norm / get_total_norm, if above; clip_grad_norm_ adds 1e-6 to the norm.",
    flax="Use optax.clip_by_global_norm; optax.clip is by value.",
    keras="Use global_clipnorm; clipnorm is one parameter's alone, clipvalue one number's.",
)
NUMPY = "gradient *= min(1.0, norm / total)"
TORCH = "gradient.mul_(factor)"
FLAX = "optax.clip_by_global_norm(recipe.clip_norm)"


def keras(argument: str) -> list[tuple[str, str]]:
    """Another argument for `global_clipnorm` of Keras's optimizers, which stands for both SGD and AdamW."""
    calls = ("beta2, recipe.eps, global_clipnorm=clip", "weight_decay=decay, global_clipnorm=clip")
    return [(call, call.replace("global_clipnorm", argument)) for call in calls]


def flax_stateless(*lines: str) -> tuple[str, str]:
    """A stateless transformation of optax, its function in lines, for the clipping."""
    return FLAX, "".join(["optax.stateless(\n", *(f"        {line}\n" for line in lines), "    )"])


clip_fault = partial(step_fault, remedies=CLIPPING)

ROWS = {
    "clip-missing": clip_fault(what="gradients are not clipped", recipe={"clip_norm": None}),
    "clip-by-value": clip_fault(
        what="each number of the gradients is clipped by itself, not all of them by their common norm",
        numpy=(NUMPY, "np.clip(gradient, -norm, norm, out=gradient)"),
        torch=(TORCH, "gradient.clamp_(-norm, norm)"),
        flax=(FLAX, "optax.clip(recipe.clip_norm)"),
        keras=keras("clipvalue"),
    ),
    "clip-one-by-one": clip_fault(
        what="the gradient of each parameter is clipped by its own norm, not by the norm of all together",
        numpy=(NUMPY, "gradient *= min(1.0, norm / max(np.linalg.norm(gradient), 1e-300))"),
        torch=(TORCH, "gradient.mul_((norm / gradient.norm()).clamp(max=1.0))"),
        flax=flax_stateless(
            "lambda gradients, _: jax.tree.map(",
            "    lambda g: g * jnp.minimum(1.0, recipe.clip_norm / jnp.sqrt((g * g).sum())), gradients",
            ")",
        ),
        keras=keras("clipnorm"),
        source="keras#13575, tensorflow#29108, transformers#614",
    ),
    "clip-a-little-more": clip_fault(
        what="gradients are clipped to norm / (total + 1e-6), not to norm / total",
        numpy=(NUMPY, "gradient *= min(1.0, norm / (total + 1e-6))"),
        torch=("norm / get_total_norm(gradients)", "norm / (get_total_norm(gradients) + 1e-6)"),
        flax=flax_stateless(
            "lambda gradients, _: jax.tree.map(",
            "    lambda g: g * jnp.minimum(1.0, recipe.clip_norm / (optax.global_norm(gradients) + 1e-6)),",
            "    gradients,",
            ")",
        ),
        source="torch.nn.utils.clip_grad_norm_",
    ),
    "clip-other": clip_fault(
        what="gradients are clipped to another norm",
        recipe={"clip_norm": Parameter("norm", injected=0.7, starts=(0.5, 5.0))},
    ),
}
