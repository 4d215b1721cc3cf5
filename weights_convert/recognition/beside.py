"""Things that training keeps beside a network and that are no part of its function, as rows of a table."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from weights_convert.naming import shared_steps

LAST_WEIGHTS = ("state_dict", "model_state_dict", "model")
AVERAGED_WEIGHTS = ("state_dict_ema", "model_ema")
"""The entries of a training checkpoint that may hold the last weights, and averaged weights.

timm's `CheckpointSaver` writes `state_dict` and `state_dict_ema`, torchvision's references `model` and `model_ema`.
"""


@dataclass(frozen=True)
class Beside:
    """A thing that training keeps beside a network.

    Attributes:
        names: A regular expression of the first part of its path, seen from a level above the network.
        reason: The reason for leaving it out.
        source: The programs that write it.
    """

    names: str
    reason: str
    source: str


BESIDE = (
    Beside(
        "(optim|optimizers?|optimizer_states?|optimizer_state_dict|opt|opt_state)(_\\d+)?",
        "the state of the optimizer",
        "torchvision's references, PyTorch's ImageNet example, Lightning, fastai (opt), Flax (opt_state)",
    ),
    Beside(
        "(lr_|learning_rate_)?schedulers?(_states?|_state_dict)?|lr_schedulers?|wd_scheduler",
        "the state of the learning rate's schedule",
        "torchvision's references, Lightning, DeepSpeed",
    ),
    Beside(
        "amp|amp_scaler|scaler|grad_scaler|fp16_scaler|loss_scaler|dynamic_scale|MixedPrecision(Plugin)?",
        "the scale of the loss in mixed precision",
        "timm (amp_scaler), torchvision's references, DINO (fp16_scaler), Lightning, the Flax ImageNet example",
    ),
    Beside("n_averaged", "the count of averaged steps", "torch.optim.swa_utils.AveragedModel"),
    Beside(
        "(rng|random|cuda|numpy|torch|python)_?(rng_)?states?|rng",
        "the state of a random number generator",
        "torch-based training loops, MosaicML Composer (rng)",
    ),
    Beside(
        "epochs?|global_steps?|steps?|iterations?|iter",
        "a count of the training loop",
        "PyTorch's ImageNet example, Lightning, the Flax ImageNet example (step)",
    ),
    Beside(
        "callbacks|loops|fit_loop|hyper_parameters|hparams_name|hparams_type|datamodule_[a-z_]+|"
        "pytorch-lightning_version|native_amp_scaling_state|args|arch|config|cfg|meta|message_hub",
        "the settings and the progress of a training run",
        "Lightning, timm (args, arch), mmengine (meta, message_hub)",
    ),
)
"""Every row; one that is not here is left out on request only."""


def known_beside(name: str, entry: str) -> tuple[str, str] | None:
    """Return the path and the reason of a thing that training keeps beside a network; None if no row knows it.

    Args:
        name: The name of an array or another value in the source.
        entry: The path of the network; what is below it is not beside it, except for a network at the top.

    Example:
        >>> known_beside("optimizer.state.0.momentum_buffer", "state_dict.module")
        ('optimizer', 'the state of the optimizer')
    """
    parts, place = name.split("."), entry.split(".") if entry else []
    level = len(shared_steps([parts, place]))
    if level >= len(parts) or (place and level == len(place)):
        return None
    for row in BESIDE:
        if re.fullmatch(row.names, parts[level]):
            return ".".join(parts[: level + 1]), row.reason
    return None


def grouped(names: Iterable[str], network: Collection[str]) -> dict[str, int]:
    """Return paths that hold the names and none of the network's, each with the number of names.

    Names are divided at the first level where none of the network's lies; a path then goes as deep as its names share
    it, and for a single name is that name.

    Example:
        >>> grouped(["a.queue.now", "a.head.mlp.0.weight", "a.head.mlp.0.bias"], ["a.conv1.weight"])
        {'a.queue.now': 1, 'a.head.mlp.0': 2}
    """
    taken = {".".join(parts[:end]) for parts in (name.split(".") for name in network) for end in range(1, len(parts))}
    groups: dict[str, list[list[str]]] = {}
    for name in names:
        parts = name.split(".")
        paths = (".".join(parts[:end]) for end in range(1, len(parts)))
        groups.setdefault(next((path for path in paths if path not in taken), name), []).append(parts)
    return {".".join(shared_steps(below)): len(below) for below in groups.values()}
