"""How the text of a model or of its training goes wrong: substitutions in a file, and the module that this makes.

The four model files are line for line alike, so most structural bugs are one substitution in all of them. Where helpers
differ, a row carries a substitution for each framework; one that it lacks is a bug that this framework cannot have.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from conformance.faults.fault import Edits, Substitution, in_all

QUARANTINE = Substitution("@registered\n", '@keras.saving.register_keras_serializable(package="resnet_parity_fault")\n')
"""Keras keeps a register of classes by name: the wrong ones must not take the right ones' place in it."""


class EditError(ValueError):
    """A substitution that does not match the text it was written for."""


def edited(text: str, edits: Sequence[Substitution], where: str) -> str:
    """The text with the substitutions made, one after the other.

    Raises:
        EditError: If one does not match as often as it says.

    Example:
        >>> edited("return relu(y + x)", [Substitution("relu(y + x)", "y + x")], "a model")
        'return y + x'
    """
    for edit in edits:
        found = text.count(edit.old)
        if found != edit.count:
            raise EditError(f"{where}: {edit.old!r} stands there {found} times, where {edit.count} are expected")
        text = text.replace(edit.old, edit.new)
    return text


def framework_of(module: str) -> str:
    """The framework of a model's module.

    Example:
        >>> framework_of("impls.torch.resnet")
        'torch'
    """
    return module.split(".")[1]


def model_text(module: str) -> str:
    """The text of a model's file, or of its training's; nothing is imported."""
    package, _, name = module.rpartition(".")
    spec = importlib.util.find_spec("impls")
    if spec is None or spec.origin is None:
        raise EditError("the package impls has no files")
    return (Path(spec.origin).parent / package.rpartition(".")[2] / f"{name}.py").read_text()


@cache
def edited_module(module: str, edits: tuple[Substitution, ...]) -> ModuleType:
    """A fresh module from a model's text with the substitutions made; without any, the model's own module.

    Raises:
        EditError: If a substitution does not match.
    """
    if not edits:
        return importlib.import_module(module)
    text = model_text(module)
    text = edited(text, edits, module).replace(QUARANTINE.old, QUARANTINE.new)
    wrong = ModuleType(f"{module}_with_fault_{len(_WRONG)}")
    _WRONG.append(wrong)
    sys.modules[wrong.__name__] = wrong  # classes are looked up there by their module's name
    exec(compile(text, f"<{module} with a fault>", "exec"), wrong.__dict__)
    return wrong


_WRONG: list[ModuleType] = []


def replaced(old: str, new: str, count: int = 1) -> Mapping[str, Edits]:
    """One substitution, the same in all four files."""
    return in_all(Substitution(old, new, count))


def by_framework(**edits: tuple[str, str] | Sequence[tuple[str, str]]) -> Mapping[str, Edits]:
    """Substitutions of their own for each framework: one pair (old, new), or several."""
    return {framework: tuple(_substitutions(own)) for framework, own in edits.items()}


def _substitutions(edits: tuple[str, str] | Sequence[tuple[str, str]]) -> Iterator[Substitution]:
    """One pair of texts, or several, as substitutions."""
    pairs: Any = [edits] if isinstance(edits[0], str) else edits
    for old, new in pairs:
        yield Substitution(old, new)


NORM_1 = 'y = relu(tap("bn1", self.bn1(tap("conv1", self.conv1(x)))))'
NORM_2 = 'y = relu(tap("bn2", self.bn2(tap("conv2", self.conv2(y)))))'
NORM_3 = 'y = tap("bn3", self.bn3(tap("conv3", self.conv3(y))))'
SHORTCUT = 'x = tap("downsample_bn", self.downsample_bn(tap("downsample_conv", self.downsample_conv(x))))'
SUM = "return relu(y + x)"
STEM = 'x = relu(tap("bn1", self.bn1(tap("conv1", self.conv1(x)))))'
POOL = 'x = tap("stem", max_pool(x, self.config))'
HEAD_POOL = 'x = tap("pool", average_pool(x, self.config))'
LOGITS = 'return tap("logits", self.fc(x))'
"""The lines of the forward pass."""

NUMPY_POOL = "windows(pad(x, 3, 2, config.same_padding, -np.inf), 3, 2).max((4, 5))"
TORCH_POOL = "return max_pool2d(x, 3, 2, padding=1)"
FLAX_POOL = "((1, 1), (1, 1)))"
KERAS_POOL = 'ops.max_pool(pad(x, 3, -float("inf")), 3, 2, "valid", "channels_last")'
NUMPY_STATISTICS = "mean, variance = self.running_mean, self.running_var"
TORCH_NORM = "layer = BatchNorm("
TORCH_NORM_HEAD = "def norm(channels"
FLAX_CALL = "y = super().__call__(x)"
KERAS_CALL = "y = super().call(x, training=training, mask=mask)"
"""Those of the helpers, which are each framework's own."""


def torch_norm(name: str, body: str) -> list[tuple[str, str]]:
    """A subclass of the model's own batch norm that does otherwise, and its use in `norm`."""
    forward = "".join(f"        {line}\n" for line in body.splitlines())
    text = f"class {name}(BatchNorm):\n    def forward(self, x):\n{forward}\n\n"
    return [(TORCH_NORM_HEAD, text + TORCH_NORM_HEAD), (TORCH_NORM, f"layer = {name}(")]


POOL_VALID = by_framework(
    numpy=(NUMPY_POOL, "windows(x, 3, 2).max((4, 5))"),
    torch=(TORCH_POOL, "return max_pool2d(x, 3, 2)"),
    flax=(FLAX_POOL, "((0, 0), (0, 0)))"),
    keras=(KERAS_POOL, 'ops.max_pool(x, 3, 2, "valid", "channels_last")'),
)
POOL_CEIL = by_framework(
    numpy=(
        NUMPY_POOL,
        "windows(np.pad(x, [(0, 0), (0, 0), (1, 2), (1, 2)], constant_values=-np.inf), 3, 2).max((4, 5))",
    ),
    torch=(TORCH_POOL, "return max_pool2d(x, 3, 2, padding=1, ceil_mode=True)"),
    flax=(FLAX_POOL, "((1, 2), (1, 2)))"),
    keras=(
        KERAS_POOL,
        'ops.max_pool(ops.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)), constant_values=-float("inf")), 3, 2, "valid", '
        '"channels_last")',
    ),
)
POOL_ZERO = by_framework(
    numpy=("-np.inf", "0.0"),
    torch=(TORCH_POOL, "return max_pool2d(nn.functional.pad(x, (1, 1, 1, 1)), 3, 2)"),
    flax=(
        'return nnx.max_pool(x, (3, 3), (2, 2), "SAME" if config.same_padding else ((1, 1), (1, 1)))',
        'return nnx.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2), "VALID")',
    ),
    keras=('-float("inf")', "0.0"),
)
POOL_AVERAGE = by_framework(
    numpy=(NUMPY_POOL, "windows(pad(x, 3, 2, config.same_padding), 3, 2).mean((4, 5))"),
    torch=(TORCH_POOL, "return avg_pool2d(x, 3, 2, padding=1)"),
    flax=(
        'return nnx.max_pool(x, (3, 3), (2, 2), "SAME" if config.same_padding else ((1, 1), (1, 1)))',
        "return avg_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))",
    ),
    keras=(KERAS_POOL, 'ops.average_pool(pad(x, 3, 0.0), 3, 2, "valid", "channels_last")'),
)
HEAD_MAX = by_framework(
    numpy=(HEAD_POOL, 'x = tap("pool", x.max((2, 3)))'),
    torch=(HEAD_POOL, 'x = tap("pool", x.amax((2, 3)))'),
    flax=(HEAD_POOL, 'x = tap("pool", x.max((1, 2)))'),
    keras=(HEAD_POOL, 'x = tap("pool", ops.max(x, (1, 2)))'),
)
SOFTMAX = by_framework(
    numpy=(LOGITS, 'x = np.exp(self.fc(x))\n        return tap("logits", x / x.sum(1, keepdims=True))'),
    torch=(LOGITS, 'return tap("logits", self.fc(x).softmax(1))'),
    flax=(LOGITS, 'return tap("logits", jax.nn.softmax(self.fc(x)))'),
    keras=(LOGITS, 'return tap("logits", ops.softmax(self.fc(x)))'),
)
STEM_SAME = by_framework(
    numpy=("config.same_padding and kernel == 3", "kernel == 7"),
    torch=(
        ("config.same_padding and kernel == 3", "kernel == 7"),
        ("pad_same(x, 3, 2, 0.0)", "pad_same(x, self.kernel_size[0], 2, 0.0)"),
    ),
    flax=("config.same_padding and kernel == 3", "kernel == 7"),
    keras=("config.same_padding and kernel == 3", "kernel == 7"),
)
NORM_FROZEN = by_framework(
    numpy=("if self.training:", "if False:"),
    torch=torch_norm("FrozenBatchNorm", "self.training = False\nreturn super().forward(x)"),
    flax=(
        (FLAX_CALL, "y = super().__call__(x, use_running_average=True)"),
        ("if not self.use_running_average:", "if False:"),
    ),
    keras=(
        (KERAS_CALL, "y = super().call(x, training=False, mask=mask)"),
        ("if training and self.trainable:", "if False:"),
    ),
)
NORM_BY_BATCH = by_framework(
    numpy=(NUMPY_STATISTICS, "mean, variance = self.moments(x)"),
    torch=torch_norm(
        "BatchNormByBatch",
        "if self.training:\n"
        "    return super().forward(x)\n"
        "return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)",
    ),
    flax=(
        FLAX_CALL,
        "if self.use_running_average:\n"
        "            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))\n"
        "            y = (x - mean) / jnp.sqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]\n"
        "        else:\n"
        "            y = super().__call__(x)",
    ),
    keras=(
        KERAS_CALL,
        "if not training:\n"
        "            mean, variance = ops.mean(x, (0, 1, 2)), ops.var(x, (0, 1, 2))\n"
        "            return (x - mean) / ops.sqrt(variance + self.epsilon) * self.gamma + self.beta\n"
        "        y = super().call(x, training=training, mask=mask)",
    ),
)
VARIANCE_FAST = by_framework(
    numpy=("values.var(1)", "(values**2).mean(1) - values.mean(1) ** 2"),
    flax=("use_fast_variance=False", "use_fast_variance=True"),
)


def in_ten_bits(layer: str, value: str) -> tuple[str, str]:
    """A layer whose input keeps 10 bits behind the point, as TF32 has them, by Dekker's splitting.

    Exact in float32 (24 - 13 = 11 significant bits), and so what a TF32 unit sees of an activation.
    """
    return f"self.{layer}({value})", f"self.{layer}({value} * 8193 - ({value} * 8193 - {value}))"


TF32 = in_all(*(Substitution(*in_ten_bits(layer, value)) for layer, value in (("conv2", "y"), ("conv3", "y"))))
