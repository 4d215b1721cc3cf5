"""Hooks: where in a model each activation of the network can be seen and replaced.

Convolutions, norms and the classifier are the layers that hold their arrays, and a block is the layer that holds all
layers of the block. The stem's output is what the first block takes, and the pooled features are what the classifier
takes, however they are computed. Nothing here knows a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from conformance.cases.names import activation_names
from conformance.run.candidates.naming import Naming
from impls.config import ResNetConfig
from impls.taps import is_layer
from weights_convert.naming import shared_steps

ValueTap = Callable[[str, Any], Any]
"""Sees a framework's tensor by canonical name; what it returns, unless None, takes the tensor's place."""


def untapped(name: str, value: Any) -> None:
    """See an activation, and let it be: a `ValueTap`."""


@dataclass(frozen=True)
class Hook:
    """A place in a model where an activation is seen.

    Attributes:
        name: The activation, by canonical name.
        path: The path of the layer.
        takes: Whether the activation is what the layer takes, not what it returns.
    """

    name: str
    path: str
    takes: bool = False

    @property
    def inside(self) -> bool:
        """Tell whether the activation is of a convolution or norm, not of a segment."""
        return is_layer(self.name)

    def pass_input(self, tap: ValueTap, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pass the first argument of a call through the tap; returns the arguments to go on with."""
        key = next(iter(kwargs)) if not args else ""
        replacement = tap(self.name, kwargs[key] if key else args[0])
        if replacement is None:
            return args, kwargs
        return (args, {**kwargs, key: replacement}) if key else ((replacement, *args[1:]), kwargs)

    def pass_output(self, tap: ValueTap, output: Any) -> Any:
        """Pass what a call returned, or the first of several values, through the tap; returns what to go on with."""
        several = isinstance(output, tuple | list)
        replacement = tap(self.name, output[0] if several else output)
        if replacement is None:
            return output
        return type(output)((replacement, *output[1:])) if several else replacement

    def around(self, tap: ValueTap, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call of the layer in which the activation passes the tap."""

        def tapped(*args: Any, **kwargs: Any) -> Any:
            if self.takes:
                args, kwargs = self.pass_input(tap, args, kwargs)
                return call(*args, **kwargs)
            return self.pass_output(tap, call(*args, **kwargs))

        return tapped


def find_hooks(paths: Collection[str], naming: Naming, config: ResNetConfig) -> tuple[list[Hook], dict[str, str]]:
    """Find where the activations of a network are seen in a model.

    Args:
        paths: Path of every layer of the model.
        naming: Names of its arrays, read.
        config: The network.

    Returns:
        The hooks in the order in which the network computes the activations, and the activations that have none, by
        canonical name, each with the reason.
    """
    layers = naming.layers()
    found = {name: Hook(name, path) for name, path in (layers | block_paths(layers, config)).items() if path in paths}
    first = next(config.blocks()).name
    if first in found:
        found["stem"] = Hook("stem", found[first].path, takes=True)
    if "fc" in found:
        found["pool"] = Hook("pool", found.pop("fc").path, takes=True)
    return in_order(found, config)


def in_order(found: Mapping[str, Hook], config: ResNetConfig) -> tuple[list[Hook], dict[str, str]]:
    """Sort hooks as the network computes their activations, and say which activations have none."""
    output = "logits" if config.num_classes else "pool"
    names = [name for name in activation_names(config, layers=True) if name != output]
    missing = {name: "it is no layer of its own in the model" for name in names if name not in found}
    return [found[name] for name in names if name in found], missing


def block_paths(layers: Mapping[str, str], config: ResNetConfig) -> dict[str, str]:
    """Find the path of each block: of the layer that holds all layers of the block, and of no other one.

    A block without projection may keep its layers in one of its own, without the addition; so all blocks are taken at
    the depth of the least deep.

    Args:
        layers: Path of each layer by canonical name.
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
