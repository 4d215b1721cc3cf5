"""The changes of numbers that a conversion makes on request: rounding, dropping a class, folding biases.

Each takes a checkpoint and returns another one, whose `changes` has one more line; files keep these lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from impls.config import VARIANTS
from weights_convert.checkpoint import Checkpoint
from weights_convert.errors import ConversionError
from weights_convert.fine_tuning import head_from

BACKGROUND_CLASSES = 1001
"""The classes of networks trained as in TF-Slim: one for the background, then the 1000 of ImageNet."""


def cast(checkpoint: Checkpoint, dtype: str) -> Checkpoint:
    """Round the numbers of a checkpoint to another dtype, to nearest, ties to even.

    Args:
        checkpoint: A checkpoint in any dialect.
        dtype: "float16", "bfloat16", "float32" or "float64".

    Returns:
        The rounded checkpoint. Its last change counts the numbers that changed and states the largest relative change.

    Example:
        >>> from impls.config import ResNetConfig
        >>> from weights_convert.dialects import find_dialect
        >>> bias = Checkpoint({"fc.bias": np.array([1.0, 0.1, 1e6])}, find_dialect("canonical"), ResNetConfig())
        >>> cast(bias, "float16").changes
        ('float64 to float16: 2 of 3 numbers changed, by at most 2.4e-04 of their value; 1 became infinite',)
    """
    target = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    arrays, largest = {}, 0.0
    numbers = changed = infinite = zero = 0
    for name, array in checkpoint.arrays.items():
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            arrays[name] = array.astype(target)
            if np.can_cast(array.dtype, target, "safe") or array.dtype == target:
                continue
            before, after = array.astype(np.float64), arrays[name].astype(np.float64)
        is_changed = (before != after) & np.isfinite(before)
        is_rounded = is_changed & np.isfinite(after) & (after != 0)
        numbers += array.size
        changed += is_changed.sum()
        infinite += (is_changed & np.isinf(after)).sum()
        zero += (is_changed & (after == 0)).sum()
        relative = np.abs((after[is_rounded] - before[is_rounded]) / before[is_rounded])
        largest = max(largest, float(relative.max(initial=0.0)))
    facts = [f"{changed:,} of {numbers:,} numbers changed, by at most {largest:.1e} of their value"] if changed else []
    facts += [f"{infinite:,} became infinite"] if infinite else []
    facts += [f"{zero:,} became zero"] if zero else []
    line = f"{', '.join(checkpoint.dtypes())} to {dtype}: {'; '.join(facts) or 'no number changed'}"
    return checkpoint.changed(line, arrays)


def drop_background(checkpoint: Checkpoint) -> Checkpoint:
    """Drop the first of 1001 classes, the background, which leaves the 1000 classes of ImageNet in their order.

    Raises:
        ConversionError: If there are not 1001 classes.
    """
    classes = checkpoint.config.num_classes
    if classes != BACKGROUND_CLASSES:
        problem = f"it has {classes} classes; a background class can only be dropped from {BACKGROUND_CLASSES}"
        raise ConversionError(checkpoint.where, [problem], "Convert it without --drop-background.")
    canonical = checkpoint.to("canonical")
    arrays = {name: array[1:] if name.startswith("fc.") else array for name, array in canonical.arrays.items()}
    smaller = canonical.changed("class 0, the background, dropped", arrays, num_classes=classes - 1)
    return smaller.to(checkpoint.dialect.name)


def fold_conv_bias(checkpoint: Checkpoint) -> Checkpoint:
    """Turn a network of variant keras into one of variant v1 that computes the same function in inference.

    A norm subtracts its running mean from the output of the convolution, so a bias b can be moved into the mean:
    mean' = mean - b. The eps of 1.001e-5 becomes 1e-5 in the same way: var' = var + (1.001e-5 - 1e-5). Both are
    computed in float64 and rounded to the checkpoint's dtype. In training the two networks differ, since norms then use
    the statistics of the batch.

    Returns:
        A checkpoint of variant v1, in the canonical dialect.

    Raises:
        ConversionError: If the convolutions have no biases.
    """
    config = checkpoint.config
    if not config.conv_bias:
        raise ConversionError(checkpoint.where, ["its convolutions have no biases to fold"])
    canonical = checkpoint.to("canonical")
    arrays = dict(canonical.arrays)
    eps = VARIANTS["v1"].norm_eps
    for name in [name for name in arrays if name.endswith("running_mean")]:
        bias = name.replace("bn", "conv").replace("running_mean", "bias")
        variance = name.replace("running_mean", "running_var")
        mean = arrays[name].astype(np.float64) - arrays.pop(bias).astype(np.float64)
        arrays[name] = mean.astype(arrays[name].dtype)
        wider = arrays[variance].astype(np.float64) + (config.norm_eps - eps)
        arrays[variance] = wider.astype(arrays[variance].dtype)
    line = f"biases of convolutions folded into running means, eps {config.norm_eps:g} into running variances"
    return canonical.changed(line, arrays, conv_bias=False, norm_eps=eps)


CHANGES: Mapping[str, Callable[..., Checkpoint]] = {
    "head_from": head_from,
    "drop_background": drop_background,
    "fold_conv_bias": fold_conv_bias,
    "dtype": cast,
}
"""Every change by the name of its option, in the order in which they are made."""


def apply(checkpoint: Checkpoint, requested: Mapping[str, Any]) -> Checkpoint:
    """Make every requested change; without a request, return the checkpoint itself.

    Args:
        checkpoint: A checkpoint in any dialect.
        requested: True, or the argument of the change, by the names of `CHANGES`; a false value requests nothing.

    Raises:
        ConversionError: If a change cannot be made.

    Example:
        >>> from impls.config import ResNetConfig
        >>> from weights_convert.dialects import find_dialect
        >>> bias = Checkpoint({"fc.bias": np.zeros(3)}, find_dialect("canonical"), ResNetConfig(num_classes=3))
        >>> apply(bias, {"drop_background": False, "dtype": "float16"}).changes
        ('float64 to float16: no number changed',)
    """
    for name, change in CHANGES.items():
        if value := requested.get(name):
            checkpoint = change(checkpoint) if value is True else change(checkpoint, value)
    return checkpoint
