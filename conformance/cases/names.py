"""Names of arrays: which a network has, in which order it computes them, and which a case promises."""

from __future__ import annotations

import re
from collections.abc import Callable

from conformance.cases.case import Case
from conformance.cases.recipes import RECIPES
from impls.config import ResNetConfig
from impls.taps import is_layer
from weights_convert.shapes import expected_shapes
from weights_convert.table import RUNNING_STATISTICS


def activation_names(config: ResNetConfig, layers: bool = False) -> list[str]:
    """List the activations of a network in the order it computes them; with `layers`, those inside the blocks too.

    Example:
        >>> from impls.config import VARIANTS
        >>> activation_names(VARIANTS["v1.5"])[:3], activation_names(VARIANTS["v1.5"], layers=True)[:4]
        (['stem', 'stage1.0', 'stage1.1'], ['conv1', 'bn1', 'stem', 'stage1.0.conv1'])
    """
    names = ["conv1", "bn1", "stem"]
    for block in config.blocks():
        inside = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3"]
        if block.projects:
            inside += ["downsample_conv", "downsample_bn"]
        names += [*(f"{block.name}.{layer}" for layer in inside), block.name]
    names += ["pool", *["logits"] * bool(config.num_classes)]
    return [name for name in names if layers or not is_layer(name)]


def statistic_names(config: ResNetConfig) -> list[str]:
    """List the running statistics of a network in the order of its norms; a run in train mode updates them."""
    layers = activation_names(config, layers=True)
    norms = [name for name in layers if name.rpartition(".")[2].startswith(("bn", "downsample_bn"))]
    return [f"{norm}.{leaf}" for norm in norms for leaf in ("running_mean", "running_var")]


def parameter_names(config: ResNetConfig) -> list[str]:
    """List the arrays that have a gradient, in the order the network runs."""
    return [name for name in expected_shapes(config) if not name.endswith(RUNNING_STATISTICS)]


KEPT_STATES = ("first", "last")
"""Prefixes of the state that is kept: after the first and after the last step."""


def forward_names(case: Case, config: ResNetConfig) -> list[str]:
    """List activations and, in train mode, the running statistics after the run."""
    return [*activation_names(config, case.layers), *(statistic_names(config) if case.mode == "train" else [])]


def gradient_names(case: Case, config: ResNetConfig) -> list[str]:
    """List the loss and the gradients, from the output to the input, as they are computed."""
    return ["loss", *(f"gradient.{name}" for name in reversed(parameter_names(config))), "gradient.input"]


def step_names(case: Case, config: ResNetConfig) -> list[str]:
    """List the state after the first step, the losses of all steps, and the state after the last."""
    parameters = parameter_names(config)
    state = [*statistic_names(config), *parameters]
    state += [f"{slot}.{name}" for slot in RECIPES[case.recipe].slots for name in parameters]
    first, last = ([f"{moment}.{name}" for name in state] for moment in KEPT_STATES)
    return [*first, "losses", *last]


def initial_names(case: Case, config: ResNetConfig) -> list[str]:
    """List the arrays of a network, of which the moments are kept."""
    return [f"initial.{name}" for name in expected_shapes(config)]


NAMES: dict[str, Callable[[Case, ResNetConfig], list[str]]] = {
    "forward": forward_names,
    "gradients": gradient_names,
    "backward": gradient_names,
    "steps": step_names,
    "initialisation": initial_names,
}
"""Task to the arrays that a case of it promises."""


def expected_names(case: Case, config: ResNetConfig) -> list[str]:
    """List the arrays that a case promises, in the order in which a fault in it would show.

    Example:
        >>> from impls.config import VARIANTS
        >>> expected_names(Case("v1.5", "noise", "train", task="gradients"), VARIANTS["v1.5"])[:2]
        ['loss', 'gradient.fc.bias']
    """
    return NAMES[case.task](case, config)


OFFSET = re.compile(r"(.*conv\d?|([a-z_]+\.)?bn1)\.bias")
"""Arrays whose gradient is noise in train mode, wholly or for some channels, and so is what an optimizer keeps of it.

A convolution's bias moves all that the norm behind it subtracts the mean of. The bias of the stem's norm does so for a
channel that every window of the max pool sees above zero.
"""
