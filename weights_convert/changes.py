"""Changes that a conversion makes only when it is asked to, since they touch numbers: each says what it did.

Each takes a checkpoint and gives another, with one more line in its `changes`, which its file keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from impls.config import VARIANTS
from weights_convert.checkpoint import Checkpoint
from weights_convert.errors import ConversionError

BACKGROUND_CLASSES = 1001
"""The classes of networks trained as TF-Slim's: ImageNet's 1000, after one for the background."""


def cast(checkpoint: Checkpoint, dtype: str) -> Checkpoint:
    """The numbers rounded to another dtype, to nearest, ties to even.

    Args:
        checkpoint: Of any dialect.
        dtype: "float16", "bfloat16", "float32" or "float64".

    Example:
        >>> from impls.config import ResNetConfig
        >>> from weights_convert.dialects import find_dialect
        >>> half = Checkpoint({"fc.bias": np.array([1.0, 0.1, 1e6])}, find_dialect("canonical"), ResNetConfig())
        >>> cast(half, "float16").changes
        ('float64 to float16: 2 of 3 numbers changed, by at most 2.4e-04 of their value; 1 became infinite',)
    """
    target = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    arrays, changed, numbers, worst, infinite, zero = {}, 0, 0, 0.0, 0, 0
    for name, array in checkpoint.arrays.items():
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            arrays[name] = array.astype(target)
            if np.can_cast(array.dtype, target, "safe") or array.dtype == target:
                continue
            before, after = array.astype(np.float64), arrays[name].astype(np.float64)
        other = (before != after) & np.isfinite(before)
        lost = other & np.isfinite(after) & (after != 0)
        numbers += array.size
        changed += int(other.sum())
        infinite += int((other & np.isinf(after)).sum())
        zero += int((other & (after == 0)).sum())
        if lost.any():
            worst = max(worst, float(np.max(np.abs((after[lost] - before[lost]) / before[lost]))))
    said = [f"{changed:,} of {numbers:,} numbers changed, by at most {worst:.1e} of their value"] if changed else []
    said += [f"{infinite:,} became infinite"] if infinite else []
    said += [f"{zero:,} became zero"] if zero else []
    line = f"{', '.join(checkpoint.dtypes())} to {dtype}: {'; '.join(said) or 'no number changed'}"
    return _changed(checkpoint, arrays, line)


def drop_background(checkpoint: Checkpoint) -> Checkpoint:
    """A classifier of 1001 classes without its first, the background: 1000 classes in ImageNet's order.

    Raises:
        ConversionError: If there are not 1001 classes.
    """
    classes = checkpoint.config.num_classes
    if classes != BACKGROUND_CLASSES:
        problem = f"it has {classes} classes, where {BACKGROUND_CLASSES} with a background are expected"
        raise ConversionError(checkpoint.where, [problem], "Convert it without --drop-background.")
    canonical = checkpoint.to("canonical")
    arrays = {name: array[1:] if name.startswith("fc.") else array for name, array in canonical.arrays.items()}
    smaller = replace(canonical, config=replace(checkpoint.config, num_classes=classes - 1))
    return _changed(smaller, arrays, "class 0, the background, dropped").to(checkpoint.dialect.name)


def fold_conv_bias(checkpoint: Checkpoint) -> Checkpoint:
    """A network of variant keras as one of v1, equal in function in inference: its convolutions lose their biases.

    A norm subtracts its running mean from what the convolution gives, so a bias b is as well subtracted from the mean:
    mean' = mean - b. Its eps of 1.001e-5 becomes 1e-5 likewise: var' = var + (1.001e-5 - 1e-5). Both are computed in
    float64 and rounded to the checkpoint's dtype. In training they differ: batch statistics take no part in it.

    Raises:
        ConversionError: If its convolutions have no biases.
    """
    config = checkpoint.config
    if not config.conv_bias:
        raise ConversionError(checkpoint.where, ["its convolutions have no biases to fold"])
    canonical = checkpoint.to("canonical")
    arrays = dict(canonical.arrays)
    folded = replace(config, conv_bias=False, norm_eps=VARIANTS["v1"].norm_eps)
    for name in [name for name in arrays if name.endswith("running_mean")]:
        bias = name.replace("bn", "conv").replace("running_mean", "bias")
        variance = name.replace("running_mean", "running_var")
        dtype = arrays[name].dtype
        arrays[name] = (arrays[name].astype(np.float64) - arrays.pop(bias).astype(np.float64)).astype(dtype)
        wider = arrays[variance].astype(np.float64) + (config.norm_eps - folded.norm_eps)
        arrays[variance] = wider.astype(arrays[variance].dtype)
    line = f"biases of convolutions folded into running means, eps {config.norm_eps:g} into running variances"
    return _changed(replace(canonical, config=folded), arrays, line)


CHANGES: Mapping[str, Callable[..., Checkpoint]] = {
    "drop_background": drop_background,
    "fold_conv_bias": fold_conv_bias,
    "dtype": cast,
}
"""What can be asked for, by the option's name, in the order in which it is done."""


def apply(checkpoint: Checkpoint, asked: Mapping[str, Any]) -> Checkpoint:
    """Make every change that is asked for; without one, it is the checkpoint itself.

    Args:
        checkpoint: Of any dialect.
        asked: By the names of `CHANGES`: True, or the change's argument; what is false or None is not asked for.

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
        if value := asked.get(name):
            checkpoint = change(checkpoint) if value is True else change(checkpoint, value)
    return checkpoint


def _changed(checkpoint: Checkpoint, arrays: dict[str, np.ndarray], line: str) -> Checkpoint:
    return replace(checkpoint, arrays=arrays, changes=(*checkpoint.changes, line))
