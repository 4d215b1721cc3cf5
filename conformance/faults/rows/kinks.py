"""Kinks: the gradient of ReLU at zero and of the max pool at ties, which their values do not decide."""

from __future__ import annotations

from conformance.faults.edit import FrameworkEdits, by_framework, replaced
from conformance.faults.fault import gradient_fault
from conformance.faults.model_lines import MAX_POOL
from conformance.faults.place import NETWORK, WITH_CLASSES, at, networks
from conformance.faults.remedies import Remedies

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
STEM_OF_SYMMETRIC = at("stem") & WITH_CLASSES & networks(same_padding=False)

TORCH_RELU = "from torch.nn.functional import avg_pool2d, max_pool2d, relu"
SHIFTED = "[x[:, i : x.shape[1] - 2 + i : 2, j : x.shape[2] - 2 + j : 2] for i in range(3) for j in range(3)]"
"""The nine pixels of every window, as slices of an image with its channels last."""

NUMPY_TIES = "        dpadded[strided] += dy * (largest == position)"
TIED = "        tied = windows(padded, 3, 2) == windows(padded, 3, 2).max((4, 5), keepdims=True)\n"


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


ROWS = (
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
