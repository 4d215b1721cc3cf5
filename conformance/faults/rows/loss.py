"""The loss: label smoothing, the softmax, what is averaged; gradients multiplied by some factor."""

from __future__ import annotations

from functools import partial

from conformance.faults.edit import VALUE, before
from conformance.faults.fault import Parameter, loss_fault
from conformance.faults.remedies import Remedies

AVERAGED = Remedies(
    torch="Average the loss over the whole batch: cross_entropy's reduction is 'mean'; divide by the micro-batches.",
    flax="Average the loss over the whole batch: .mean(), and lax.pmean, not psum, over devices.",
    keras="Average the loss over the whole batch: reduction='sum_over_batch_size'; divide by replicas too.",
)
LOGITS = Remedies(
    torch="Give cross_entropy the logits: it holds the softmax.",
    flax="Give optax.softmax_cross_entropy the logits: it holds the softmax.",
    keras="Give the loss the logits and from_logits=True, or probabilities and from_logits=False.",
)
SMOOTHING = Remedies(
    torch="Set label_smoothing of cross_entropy: it spreads the share over all classes, the right one among them.",
    flax="Use optax.smooth_labels: it spreads the share over all classes, the right one among them.",
    keras="Set label_smoothing of CategoricalCrossentropy: it spreads the share over all classes.",
)

TORCH = "return cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)"
FLAX = "return optax.softmax_cross_entropy(logits, targets).mean()"
KERAS = (
    "return ops.mean(keras.losses.categorical_crossentropy(targets, logits, from_logits=True, "
    "label_smoothing=smoothing))"
)
NUMPY_END = "    return difference / len(logits)"
NUMPY_SOFTMAX = (
    "logits = np.exp(logits - logits.max(1, keepdims=True))",
    "logits = logits / logits.sum(1, keepdims=True)",
)


def with_gradient_scaled(line: str, stop: str) -> tuple[str, str]:
    """A loss whose value stays, and whose gradient is multiplied by the parameter."""
    value = line.replace("return", "value =")
    return line, f"{value}\n    return {VALUE} * value - {stop.format(f'({VALUE} - 1) * value')}"


smoothing_fault = partial(loss_fault, remedies=SMOOTHING)

ROWS = {
    "loss-sum": loss_fault(
        what="the loss is summed over the batch, not averaged",
        numpy=((".sum(1).mean()", ".sum(1).sum()"), (NUMPY_END, "    return difference")),
        torch=(TORCH, TORCH.replace("label_smoothing=", 'reduction="sum", label_smoothing=', 1)),
        flax=(FLAX, FLAX.replace(".mean()", ".sum()")),
        keras=(KERAS, KERAS.replace("ops.mean", "ops.sum")),
        remedies=AVERAGED,
    ),
    "label-smoothing-missing": smoothing_fault(
        what="there is no label smoothing",
        recipe={"label_smoothing": 0.0},
    ),
    "label-smoothing-over-others": smoothing_fault(
        what="label smoothing spreads its share over the wrong classes only, not over all",
        numpy=(
            "return (1 - recipe.label_smoothing) * np.eye(classes)[labels] + recipe.label_smoothing / classes",
            "share = recipe.label_smoothing * classes / (classes - 1)\n"
            "    return (1 - share) * np.eye(classes)[labels] + share / classes",
        ),
        torch=(TORCH, f"{TORCH[:-1]} * logits.shape[1] / (logits.shape[1] - 1))"),
        flax=(
            "dtype=logits.dtype), recipe.label_smoothing)",
            "dtype=logits.dtype), recipe.label_smoothing * logits.shape[-1] / (logits.shape[-1] - 1))",
        ),
        keras=(
            "smoothing = recipe.label_smoothing",
            "smoothing = recipe.label_smoothing * logits.shape[-1] / (logits.shape[-1] - 1)",
        ),
    ),
    "softmax-twice": loss_fault(
        what="a softmax is applied before a loss that applies one itself",
        numpy=(
            before("    logits = logits - logits.real.max(1, keepdims=True)", *NUMPY_SOFTMAX),
            before("    likelihood = np.exp(logits - logits.max(1, keepdims=True))", *NUMPY_SOFTMAX),
            before(NUMPY_END, "difference = logits * (difference - (logits * difference).sum(1, keepdims=True))"),
        ),
        torch=(TORCH, TORCH.replace("logits", "logits.softmax(1)")),
        flax=(FLAX, FLAX.replace("logits, ", "jax.nn.softmax(logits), ")),
        # The output of ops.softmax remembers its logits on TensorFlow, and the loss takes those: exp hides them.
        keras=(KERAS, KERAS.replace("logits, from", "ops.exp(ops.log_softmax(logits)), from")),
        source="lightning-bolts#654, tflearn#562",
        remedies=LOGITS,
    ),
    "label-smoothing-other": smoothing_fault(
        what="the share of label smoothing has an unusual value",
        recipe={"label_smoothing": Parameter("share", injected=0.06, starts=(0.05, 0.3), positive=False)},
    ),
    "gradient-scaled": loss_fault(
        what="gradients are multiplied by some factor: a sum over devices or micro-batches, or a loss scale not undone",
        numpy=before(NUMPY_END, f"difference = difference * {VALUE}"),
        torch=with_gradient_scaled(TORCH, "({}).detach()"),
        flax=with_gradient_scaled(FLAX, "jax.lax.stop_gradient({})"),
        keras=with_gradient_scaled(KERAS, "ops.stop_gradient({})"),
        unknown=Parameter("factor", injected=2.0, starts=(0.5, 8.0)),
        source="fairseq#5256, e2e_sae#70",
        remedies=AVERAGED,
    ),
}
