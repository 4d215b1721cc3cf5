"""Hooks: where in a PyTorch module each activation of the network can be seen and replaced.

Convolutions, norms and the classifier are the modules that hold their arrays, and a block is the module that holds all
modules of the block. The stem's output is what the first block takes, and the pooled features are what the classifier
takes, however they are computed. Nothing here imports PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from conformance.cases.names import activation_names
from conformance.run.candidates.naming import Naming
from impls.config import ResNetConfig
from impls.taps import is_layer

Tap = Callable[[str, Any], Any]
"""Sees a tensor by canonical name; what it returns, unless None, takes the tensor's place."""


@dataclass(frozen=True)
class Hook:
    """Where one activation is seen.

    Attributes:
        name: The activation, by canonical name.
        path: The path of the module.
        module: The module that gives it or, with `takes`, takes it.
        takes: Whether the activation is the module's input.
        flat: Whether all axes behind the first are joined, as pooled features have them.
    """

    name: str
    path: str
    module: Any
    takes: bool = False
    flat: bool = False

    @property
    def inside(self) -> bool:
        """Whether the activation is of a convolution or norm, not of a segment."""
        return is_layer(self.name)

    def attach(self, tap: Tap) -> Any:
        """Let the activation pass a tap at each call of the module; returns the handle by which the hook is removed."""
        if self.takes:
            return self.module.register_forward_pre_hook(
                lambda module, args, kwargs: self.pass_input(tap, args, kwargs), with_kwargs=True
            )
        return self.module.register_forward_hook(lambda module, args, output: self.pass_output(tap, output))

    def pass_input(self, tap: Tap, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pass the first argument of a call through the tap; returns the arguments to go on with, or None."""
        key = next(iter(kwargs)) if not args else ""
        value = kwargs[key] if key else args[0]
        replacement = tap(self.name, value.flatten(1) if self.flat else value)
        if replacement is None:
            return None
        replacement = replacement.view_as(value)
        return (args, {**kwargs, key: replacement}) if key else ((replacement, *args[1:]), kwargs)

    def pass_output(self, tap: Tap, output: Any) -> Any:
        """Pass what a call returned, or the first of several values, through the tap; returns what to go on with."""
        several = isinstance(output, tuple | list)
        replacement = tap(self.name, output[0] if several else output)
        if replacement is None or not several:
            return replacement
        return type(output)((replacement, *output[1:]))


def find_hooks(module: Any, naming: Naming, config: ResNetConfig) -> tuple[list[Hook], dict[str, str]]:
    """Find where the activations of a network are seen in a module.

    Args:
        module: The module.
        naming: Its names, read.
        config: The network.

    Returns:
        The hooks in the order in which the network computes the activations, and the activations that have none, by
        canonical name, each with the reason.
    """
    layers = {canonical.rpartition(".")[0]: name.rpartition(".")[0] for name, canonical in canonical_names(naming)}
    modules = dict(module.named_modules())
    hooks = {name: Hook(name, path, modules[path]) for name, path in layers.items() if path in modules}
    hooks |= {
        name: Hook(name, path, modules[path]) for name, path in block_paths(layers, config).items() if path in modules
    }
    first = next(config.blocks()).name
    if first in hooks:
        hooks["stem"] = Hook("stem", hooks[first].path, hooks[first].module, takes=True)
    if "fc" in hooks:
        classifier = hooks.pop("fc")
        hooks["pool"] = Hook("pool", classifier.path, classifier.module, takes=True, flat=True)
    names = activation_names(config, layers=True)
    output = "logits" if config.num_classes else "pool"
    missing = {name: "it has no module of its own" for name in names if name not in hooks and name != output}
    return [hooks[name] for name in names if name in hooks and name != output], missing


def canonical_names(naming: Naming) -> Sequence[tuple[str, str]]:
    """List the model's name and the canonical name of each array."""
    return list(naming.canonical_names().items())


def block_paths(layers: Mapping[str, str], config: ResNetConfig) -> dict[str, str]:
    """Find the path of each block: of the module that holds all layers of the block, and of no other one.

    A block without projection may keep its layers in a module of its own, without the addition; so all blocks are
    taken at the depth of the least deep.

    Args:
        layers: Path of each layer's module by canonical name.
        config: The network.

    Example:
        >>> names = {"stage1.0.conv1": "layer1.0.conv1", "stage1.0.downsample_bn": "layer1.0.downsample.1"}
        >>> block_paths(names, ResNetConfig(depths=(1, 1, 1, 1)))
        {'stage1.0': 'layer1.0'}
    """
    steps: dict[str, list[str]] = {}
    for block in config.blocks():
        paths = [path.split(".") for name, path in layers.items() if name.startswith(f"{block.name}.")]
        steps[block.name] = shared_steps(paths) if len(paths) > 1 else []
    depth = min((len(path) for path in steps.values() if path), default=0)
    found = {name: ".".join(path[:depth]) for name, path in steps.items() if path}
    return found if depth and len(set(found.values())) == len(found) else {}


def shared_steps(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return the steps that all paths begin with.

    Example:
        >>> shared_steps([["layer1", "0", "conv1"], ["layer1", "0", "bn1"]])
        ['layer1', '0']
    """
    alike = takewhile(lambda steps: len(set(steps)) == 1, zip(*paths, strict=False))  # up to the end of the shortest
    return [steps[0] for steps in alike]
